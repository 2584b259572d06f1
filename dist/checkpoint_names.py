"""How things are called in a checkpoint, and where checkpoints are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.checkpoint.store import Store
from ..core.errors import CheckpointError, RangeError

MODEL, OPTIMIZER = "model/", "optimizer/"


def named(given: Any, what: str) -> dict[str, Any]:
    """One thing or several by name, as a dict; one alone has the name ""."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        return {"": given}
    for name in given:
        if not (isinstance(name, str) and name.isidentifier()):
            raise RangeError(f"Checkpointer expects names of {what}s that are identifiers, got {name!r}")
    return dict(given)


def owner(name: str) -> str:
    """The key of an optimizer's scalars in the manifest."""
    return f"optimizer.{name}" if name else "optimizer"


def dot(prefix: str) -> str:
    return f"{prefix}." if prefix else ""


def candidates(where: Store | Path, since: float) -> list[Path]:
    """The checkpoints to try, newest first: those of a run, saved after ``since``, or the one that was named."""
    if isinstance(where, Store):
        return [path for path in where.list()[::-1] if path.stat().st_mtime >= since]
    if not where.is_dir():
        raise CheckpointError(f"cannot resume from {where}: there is no such folder")
    run = Store(where).list()
    return run[::-1] or [where.absolute()]
