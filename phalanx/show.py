"""What ``phalanx ckpt`` prints."""

from __future__ import annotations

import sys
from pathlib import Path

from .core.checkpoint.parts import read_manifest, verify
from .core.checkpoint.store import Store, step_of
from .core.errors import CheckpointError


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
