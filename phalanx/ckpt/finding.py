"""Which checkpoint a person means."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..core.checkpoint.manifest import Manifest
from ..core.checkpoint.parts import MANIFEST, read_manifest
from ..core.checkpoint.store import SUPERSEDED, TEMPORARY, Store, step_of
from ..core.errors import CheckpointError


def one(folder: str) -> tuple[Path, Manifest]:
    """The checkpoint that ``folder`` is, or the newest in it. Raises CheckpointError that says what is wrong."""
    path = _folder(folder)
    if not _is_checkpoint(path):
        found = Store(path).list()
        if not found:
            raise CheckpointError(f"{folder} is no checkpoint and holds none")
        path = found[-1]
    try:
        return path, read_manifest(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def several(folder: str) -> list[Path]:
    """The checkpoints in ``folder``, oldest first, or the one that it is; says so when there is none."""
    path = _folder(folder)
    found = [path] if _is_checkpoint(path) else Store(path).list()
    if not found:
        print(f"phalanx ckpt: {folder} holds no checkpoint", file=sys.stderr)
    return found


def leftovers(folder: str) -> list[Path]:
    """What is no checkpoint of the run: unfinished saves, and those that were set aside."""
    path = Path(folder)
    return [path / name for name in sorted(os.listdir(path)) if name.startswith((TEMPORARY, SUPERSEDED))]


def _folder(folder: str) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    return path


def _is_checkpoint(path: Path) -> bool:
    return step_of(path.absolute()) is not None or (path / MANIFEST).is_file()
