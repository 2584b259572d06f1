"""What a checkpoint holds beside models, optimizers and the loader: schedules, averages, a Trainer, whatever the user names.

Such a thing has ``state_dict()`` and ``load_state_dict(state)``. A state is made of dicts, lists, texts, numbers, arrays and
Tensors. Arrays become tensors ``state/NAME.key.key`` of the checkpoint; the rest goes into the manifest, with a mark where each
array was. The order of a dict's keys is not kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from ..core.backend import is_array
from ..core.bfloat16 import of_word
from ..core.checkpoint.format import plain
from ..core.checkpoint.manifest import TensorEntry
from ..core.errors import CheckpointError, RangeError, StateError
from ..core.tensor import Tensor

FAMILY, OWNER = "state/", "state."
_ARRAY, _TENSOR, _NUMBER, _ITEMS = "array", "tensor", "number", "items"
_MARK = "of a state: "
"""Begins the only key of a dict that stands for what JSON has no word for."""


class Stateful(Protocol):
    """What can be given a name in a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that must survive; equal on all ranks, which all call."""

    def load_state_dict(self, state: Any) -> Any:
        """Take what :meth:`state_dict` gave."""


def check(objects: Mapping[str, Any] | None) -> dict[str, Any]:
    """The named things, when they can be saved and restored."""
    for name, thing in (objects or {}).items():
        if not (isinstance(name, str) and name.isidentifier()):
            raise RangeError(f"Checkpointer expects names of state that are identifiers, got {name!r}")
        if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
            raise TypeError(
                f"Checkpointer: state {name!r} needs state_dict() and load_state_dict(), {type(thing).__name__} lacks them"
            )
    return dict(objects or {})


def take_apart(objects: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(scalars by owner, arrays by name in the checkpoint) of the state of all ``objects``.

    >>> class Schedule:
    ...     def state_dict(self): return {"best": float("inf"), "mean": np.zeros(2)}
    >>> scalars, arrays = take_apart({"schedule": Schedule()})
    >>> scalars["state.schedule"]["mean"], list(arrays)
    ({'of a state: array': 'state/schedule.mean'}, ['state/schedule.mean'])
    """
    scalars: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for name, thing in objects.items():
        scalars[OWNER + name] = _describe(thing.state_dict(), FAMILY + name, arrays)
    return scalars, arrays


def _describe(value: Any, path: str, arrays: dict[str, Any]) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor) or is_array(value):
        if path in arrays:
            raise CheckpointError(f"two arrays of the state would be called {path}: give them other keys")
        arrays[path] = value.array if isinstance(value, Tensor) else value
        return {_MARK + (_TENSOR if isinstance(value, Tensor) else _ARRAY): path}
    if isinstance(value, float) and not math.isfinite(value):
        return {_MARK + _NUMBER: repr(value)}
    if isinstance(value, list | tuple):
        return [_describe(item, f"{path}.{number}", arrays) for number, item in enumerate(value)]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: _describe(item, f"{path}.{key}", arrays) for key, item in value.items()}
        items = [[key, _describe(item, f"{path}.{key}", arrays)] for key, item in value.items()]
        return {_MARK + _ITEMS: plain(items, path)}
    return plain(value, path)


def _rebuild(value: Any, arrays: Mapping[str, Any]) -> Any:
    of: Any
    if isinstance(value, list):
        return [_rebuild(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    kind, of = next(iter(value.items())) if value else ("", "")
    if len(value) != 1 or not kind.startswith(_MARK):
        return {key: _rebuild(item, arrays) for key, item in value.items()}
    kind = kind.removeprefix(_MARK)
    if kind == _NUMBER:
        return float(of)
    if kind == _ITEMS:
        return {key: _rebuild(item, arrays) for key, item in of}
    return Tensor(arrays[of]) if kind == _TENSOR else arrays[of]


def require_saved(objects: Mapping[str, Any], scalars: Mapping[str, Any], where: Any) -> None:
    """Raises StateError naming those of ``objects`` of which the checkpoint has no state."""
    missing = sorted(name for name in objects if OWNER + name not in scalars)
    if missing:
        there = sorted(owner.removeprefix(OWNER) for owner in scalars if owner.startswith(OWNER))
        raise StateError(
            f"checkpoint {where} has no state of {', '.join(missing)} (it has: {', '.join(there) or 'none'}); give the "
            'Checkpointer what it was saved with, or name the difference: resume(..., allow=("state",))'
        )


class Reading:
    """State on its way from a checkpoint: read into ``arrays``, then call :meth:`finish`."""

    def __init__(self, objects: Mapping[str, Any], scalars: Mapping[str, Any], tensors: Iterable[TensorEntry]) -> None:
        self._described = {name: scalars[OWNER + name] for name in objects if OWNER + name in scalars}
        self._objects = objects
        self.arrays = {
            entry.name: np.empty(entry.shape, of_word(entry.dtype))
            for entry in tensors
            if any(entry.name == FAMILY + name or entry.name.startswith(f"{FAMILY}{name}.") for name in self._described)
        }

    def finish(self) -> None:
        """Everything was read."""
        for name, described in self._described.items():
            self._objects[name].load_state_dict(_rebuild(described, self.arrays))
