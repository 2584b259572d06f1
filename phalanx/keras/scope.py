"""What a call of a model knows while it is under way: who called, and the masks of the sequences that pass through."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Scope(threading.local):
    depth: int = 0
    engine: bool = False
    """Whether the Trainer runs the model: it says whether this is training, and what is recorded."""
    masks: dict[int, tuple[Any, Any]] | None = None
    """id of a Tensor -> (the Tensor, its mask)."""
    of_outputs: list[Any] | None = None
    """The masks of what the model gave last, one for each output."""


_scope = _Scope()


@contextmanager
def entered() -> Iterator[bool]:
    """One call deeper; gives whether it is the outermost."""
    outermost = _scope.depth == 0
    _scope.depth += 1
    if outermost:
        _scope.masks = {}
    try:
        yield outermost
    finally:
        _scope.depth -= 1
        if outermost:
            _scope.masks = None


@contextmanager
def of_engine() -> Iterator[None]:
    """Within, models do as their mode says."""
    before = _scope.engine
    _scope.engine = True
    try:
        yield
    finally:
        _scope.engine = before


def is_engine() -> bool:
    """Whether the Trainer runs the model."""
    return _scope.engine


def mask_of(value: Any) -> Any:
    """The mask (N, L) of a Tensor, None if it has none; of a list of Tensors a list."""
    if isinstance(value, list | tuple):
        return [mask_of(part) for part in value]
    found = None if _scope.masks is None else _scope.masks.get(id(value))
    return None if found is None else found[1]


def set_mask(value: Any, mask: Any) -> None:
    """From here on ``value`` has ``mask``."""
    if _scope.masks is not None and mask is not None:
        _scope.masks[id(value)] = (value, mask)


def keep_masks(outputs: list[Any]) -> None:
    """For the loss and the metrics of these outputs, which this thread computes next."""
    _scope.of_outputs = [mask_of(output) for output in outputs]


def kept_mask(index: int) -> Any:
    """The mask of output number ``index`` of what the model gave last."""
    kept = _scope.of_outputs
    return None if kept is None or index >= len(kept) else kept[index]
