"""What a backward pass gives to leaves: contributions, their sum, and ``leaf.grad``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .backend import Array, as_array
from .broadcasting import unbroadcast
from .errors import ShapeError
from .mode import mode
from .node import bindings


class Pending:
    """A reachable leaf during one walk: contributions still to come, and their sum so far if there are several."""

    __slots__ = ("remaining", "source", "summed", "told", "total")

    def __init__(self, source: Any = None) -> None:
        self.remaining = 1
        self.source = source
        """The node that gives to it, if there is only one, by one of its inputs."""
        self.total: Array | None = None
        self.summed: tuple[int, ...] | None = None
        """The shape of ``total`` if that was made here, so that it may be added to in place."""
        self.told = True
        """Whether its listener hears that its gradient is final."""


def contribute(leaf: Any, pending: Pending, gradient: Array | None) -> None:
    """Take one contribution to a leaf; after the last one the sum goes into ``leaf.grad``."""
    pending.remaining -= 1
    last = pending.remaining == 0
    if gradient is not None:
        if gradient is leaf._slot and pending.source is not None and leaf._grad is None and leaf._hooks is None:
            leaf._grad = bindings.make(gradient)
        elif last and pending.total is None and leaf._grad is None and leaf._hooks is None:
            first_write(leaf, gradient)
        else:
            array = leaf.array
            if gradient.shape != array.shape:
                gradient = unbroadcast(gradient, array.shape)
            total = pending.total
            if total is None:
                pending.total = gradient
            elif pending.summed is not None:
                total += gradient
            else:
                pending.total = as_array(total + gradient)
                pending.summed = array.shape
    if not last:
        return
    total = pending.total
    if total is not None:
        if leaf._hooks is not None:
            total = run_hooks(leaf._hooks, total)
        if leaf._grad is None:
            first_write(leaf, total)
        else:
            leaf._grad.array += total
        if leaf._hooks is not None and leaf._hooks.after:
            _run_after(leaf)
    listener = leaf._listener
    if listener is not None and pending.told:
        listener.gradient_final(leaf)


def first_write(leaf: Any, gradient: Array) -> None:
    """Make ``gradient`` the leaf's: in its slot, or else in an array of its own (others may hold ``gradient`` too)."""
    slot = leaf._slot
    if slot is None:
        slot = np.empty_like(leaf.array)
    if gradient is not slot:
        if gradient.shape == slot.shape:
            slot[...] = gradient
        else:
            total = unbroadcast(gradient, slot.shape, slot)
            if total is not slot:
                slot[...] = total
    leaf._grad = bindings.make(slot)


def run_hooks(hooks: dict[int, Callable[..., Any]], gradient: Array) -> Array:
    """Show ``gradient`` to the hooks as a Tensor; each may return another one."""
    enabled, mode.enabled = mode.enabled, False
    try:
        for hook in list(hooks.values()):
            changed = hook(bindings.make(gradient))
            if changed is not None:
                if changed.array.shape != gradient.shape:
                    raise ShapeError(
                        f"a hook returned a gradient of shape {changed.array.shape}, {gradient.shape} expected"
                    )
                gradient = changed.array
    finally:
        mode.enabled = enabled
    return gradient


def _run_after(leaf: Any) -> None:
    """Call the hooks that want to know that ``leaf.grad`` was added to."""
    enabled, mode.enabled = mode.enabled, False
    try:
        for hook in list(leaf._hooks.after.values()):
            hook(leaf)
    finally:
        mode.enabled = enabled
