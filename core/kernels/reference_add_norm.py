"""Reference kernels: a norm of a residual sum, which is wanted as well: ``h = x + residual``, ``y = norm(h)``.

They are made of the kernels for the parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..op import Array
from .reference_norm import layer_norm_backward, layer_norm_forward, rms_norm_backward, rms_norm_forward


def with_sum(forward: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
    """A norm of the sum of its first two inputs: the sum comes first of what it gives, then what ``forward`` gives."""

    def add_forward(x: Array, residual: Array, *options: Any) -> tuple[Array, ...]:
        h = x + residual
        return (h, *forward(h, *options))

    return add_forward


def with_sum_gradient(backward: Callable[..., tuple[Array | None, ...]]) -> Callable[..., tuple[Array | None, ...]]:
    """Its gradient: that of the sum (None: nothing) is added to what comes through the norm, which is both inputs' gradient."""

    def add_backward(sum_gradient: Array | None, *arguments: Any) -> tuple[Array | None, ...]:
        dx, *others = backward(*arguments)
        if dx is not None and sum_gradient is not None:
            dx = dx + sum_gradient
        return (dx, *others)

    return add_backward


KERNELS: dict[str, Callable[..., Any]] = {
    "add_layer_norm_forward": with_sum(layer_norm_forward),
    "add_layer_norm_backward": with_sum_gradient(layer_norm_backward),
    "add_rms_norm_forward": with_sum(rms_norm_forward),
    "add_rms_norm_backward": with_sum_gradient(rms_norm_backward),
}
