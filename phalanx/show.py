"""What ``phalanx ops`` and ``phalanx ckpt`` print."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from pathlib import Path

from .core import ops
from .core.checkpoint.parts import read_manifest, verify
from .core.checkpoint.store import Store, step_of
from .core.errors import CheckpointError
from .core.op import TABLE


def print_ops() -> int:
    """One line for each operation: its name, where it stands, what it does."""
    for module in pkgutil.iter_modules(ops.__path__):
        importlib.import_module(f"{ops.__name__}.{module.name}")
    width = max((len(name) for name in TABLE), default=0)
    for name, op in TABLE.items():
        words = (inspect.getdoc(op.forward) or "").partition("\n")[0]
        place = op.forward.__module__.removeprefix("phalanx.")
        print(f"{name:{width}}  {place:24}  {words}".rstrip())
    print(f"{len(TABLE)} operations")
    return 0


def list_checkpoints(folder: str) -> int:
    """One line for each committed checkpoint, oldest first."""
    found = _checkpoints(folder)
    for path in found:
        try:
            manifest = read_manifest(path)
        except CheckpointError as error:
            print(f"{path.name}  damaged: {error}")
            continue
        nbytes = sum(entry.nbytes for entry in manifest.files)
        print(f"{path.name}  step {manifest.step}, {len(manifest.tensors)} tensors, {nbytes / 1e6:.1f} MB")
    return 0


def verify_checkpoints(folder: str) -> int:
    """Read every byte of every checkpoint; 1 when one is damaged."""
    damaged = 0
    for path in _checkpoints(folder):
        try:
            verify(path)
        except CheckpointError as error:
            damaged += 1
            print(f"{path.name}  damaged: {error}")
        else:
            print(f"{path.name}  good")
    return int(damaged > 0)


def _checkpoints(folder: str) -> list[Path]:
    """The checkpoints in ``folder``, or the one that it is."""
    path = Path(folder)
    if not path.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    found = [path] if step_of(path.absolute()) is not None else Store(path).list()
    if not found:
        print(f"phalanx ckpt: {folder} holds no checkpoint", file=sys.stderr)
    return found
