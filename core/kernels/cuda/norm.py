"""Layer norm and root mean square norm on the device: rows of any length, held in registers where they fit.

Weights may be floats beside rows of half the size; what is derived of them is then float too. float64 and empty inputs go to the
reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ...backend import Array, array_module
from .. import reference_add_norm, reference_norm
from .dense import FLOAT32, contiguous, filled
from .launch import launch, suffix
from .rows import HELD_BYTES, geometry

PART_THREADS = 256
PART_BLOCKS = 264
"""Blocks that share the rows of a weight's gradient, twice as many as an H100 has multiprocessors. It decides the order of sums, so
that it is the same everywhere."""
PART_ROWS = 64
"""Rows of a part where columns have a thread each."""


def _served(x: Array, *parameters: Array | None) -> bool:
    """Whether rows are of our types, and weights of theirs or floats."""
    return filled(x) and all(p is None or p.dtype in (x.dtype, FLOAT32) for p in parameters)


def _is_wide(x: Array, *parameters: Array | None) -> bool | None:
    """Whether parameters are floats beside smaller elements; None if some are and some are not."""
    kinds = {p.dtype != x.dtype for p in parameters if p is not None}
    return None if len(kinds) > 1 else kinds == {True}


def _flat(values: Array | None) -> Array | None:
    return None if values is None else contiguous(values)


def _normed(
    name: str, x: Array, residual: Array | None, weight: Array | None, bias: Array | None, features: int, eps: float
) -> tuple[Array | None, Array, Array | None, Array]:
    """What is normed if that is a sum, the result, means and inverse roots (M, 1)."""
    xp, rows = array_module(x), x.size // features
    x = contiguous(x)
    sums = None if residual is None else xp.empty_like(x)
    y, inverses = xp.empty_like(x), xp.empty((rows, 1), FLOAT32)
    means = xp.empty((rows, 1), FLOAT32) if name == "layer_norm" else None
    launch(
        "norm", f"{name}_forward_{suffix(x.dtype)}", *geometry(rows, features, x.itemsize),
        x, _flat(residual), sums, _flat(weight), _flat(bias), bool(_is_wide(x, weight, bias)), y, means, inverses,
        rows, features, float(eps),
    )  # fmt: skip
    return sums, y, means, inverses


def _serves(x: Array, weight: Array | None, bias: Array | None, residual: Array | None = None) -> bool:
    alike = residual is None or (residual.dtype == x.dtype and residual.shape == x.shape)
    return alike and _served(x, weight, bias) and _is_wide(x, weight, bias) is not None


def layer_norm_forward(
    x: Array, weight: Array | None, bias: Array | None, features: int, eps: float
) -> tuple[Array, Array, Array]:
    """As ``reference_norm.layer_norm_forward``."""
    if not _serves(x, weight, bias):
        return reference_norm.layer_norm_forward(x, weight, bias, features, eps)
    _, y, means, inverses = _normed("layer_norm", x, None, weight, bias, features, eps)
    return y, means, inverses


def rms_norm_forward(x: Array, weight: Array | None, features: int, eps: float) -> tuple[Array, Array]:
    """As ``reference_norm.rms_norm_forward``."""
    if not _serves(x, weight, None):
        return reference_norm.rms_norm_forward(x, weight, features, eps)
    _, y, _, inverses = _normed("rms_norm", x, None, weight, None, features, eps)
    return y, inverses


def add_layer_norm_forward(
    x: Array, residual: Array, weight: Array | None, bias: Array | None, features: int, eps: float
) -> tuple[Array, Array, Array, Array]:
    """As the reference's ``add_layer_norm_forward``, in one pass."""
    if not _serves(x, weight, bias, residual):
        return reference_add_norm.KERNELS["add_layer_norm_forward"](x, residual, weight, bias, features, eps)
    return _normed("layer_norm", x, residual, weight, bias, features, eps)  # type: ignore[return-value]


def add_rms_norm_forward(
    x: Array, residual: Array, weight: Array | None, features: int, eps: float
) -> tuple[Array, Array, Array]:
    """As the reference's ``add_rms_norm_forward``, in one pass."""
    if not _serves(x, weight, None, residual):
        return reference_add_norm.KERNELS["add_rms_norm_forward"](x, residual, weight, features, eps)
    sums, y, _, inverses = _normed("rms_norm", x, residual, weight, None, features, eps)
    return sums, y, inverses  # type: ignore[return-value]


# ---- backward --------------------------------------------------------------------------------------------------------


def _in_packs(features: int, *arrays: Array | None) -> bool:
    """Whether all rows start on 16 bytes."""
    return all(a is None or (a.data.ptr % 16 == 0 and features * a.itemsize % 16 == 0) for a in arrays)


def _gradients(
    name: str, gradient: Array, x: Array, more: Array | None, means: Array | None, inverses: Array, weight: Array | None,
    shape: tuple[int, ...], needs: Sequence[bool], slots: Sequence[Array | None],
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    """Gradients of input (``more`` added to it), weight and bias."""
    xp, features, rows = array_module(x), math.prod(shape), len(inverses)
    end, itemsize = suffix(x.dtype), x.itemsize
    gradient, x, weight = contiguous(gradient), contiguous(x), _flat(weight)
    more = None if more is None else contiguous(more)
    dx = xp.empty_like(x) if needs[0] else None
    wide, moments = bool(_is_wide(x, weight)), (means, inverses)
    wanted = needs[1] or needs[2]
    held = _in_packs(features, gradient, x, more, dx, weight) and features * itemsize <= PART_THREADS * HELD_BYTES
    parts, count = None, 0
    if held:
        blocks, block = geometry(rows, features, itemsize, PART_THREADS)
        count = min(blocks, PART_BLOCKS * PART_THREADS // (block[0] * block[1]))
        parts = xp.empty((count, 2, features), FLOAT32) if wanted else None
        launch(
            "norm", f"{name}_backward_{end}", count, block, gradient, x, more, *moments, weight, wide, dx, parts, rows,
            features,
        )  # fmt: skip
    else:
        if dx is not None:
            launch(
                "norm", f"{name}_backward_long_{end}", *geometry(rows, features, itemsize), gradient, x, more, *moments,
                weight, wide, dx, rows, features,
            )  # fmt: skip
        if wanted:
            count = min(-(-rows // PART_ROWS), PART_BLOCKS)
            parts = xp.empty((count, 2, features), FLOAT32)
            launch(
                "norm", f"{name}_parts_{end}", (-(-features // PART_THREADS), count), PART_THREADS, gradient, x, *moments,
                parts, rows, features,
            )  # fmt: skip
    if not wanted:
        return dx, None, None
    dtype = x.dtype if weight is None else weight.dtype
    found = [
        (slot if slot is not None and slot.dtype == dtype else xp.empty(shape, dtype)) if need else None
        for need, slot in zip(needs[1:], slots[1:], strict=True)
    ]
    launch(
        "norm",
        f"norm_fold_{end}",
        (-(-features // 32), 2),
        (32, 8),
        parts,
        count,
        features,
        *found,
        bool(dtype != x.dtype),
    )
    return dx, found[0], found[1]


def _serves_back(gradient: Array, x: Array, weight: Array | None, more: Array | None = None) -> bool:
    return _served(x, weight) and all(
        g is None or (g.dtype == x.dtype and g.shape == x.shape) for g in (gradient, more)
    )


def layer_norm_backward(
    gradient: Array, x: Array, mean: Array, inverse_std: Array, weight: Array | None, shape: tuple[int, ...],
    needs: Sequence[bool], slots: Sequence[Array | None],
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    """As ``reference_norm.layer_norm_backward``."""
    if not _serves_back(gradient, x, weight):
        return reference_norm.layer_norm_backward(gradient, x, mean, inverse_std, weight, shape, needs, slots)
    return _gradients("layer_norm", gradient, x, None, mean, inverse_std, weight, shape, needs, slots)


def rms_norm_backward(
    gradient: Array, x: Array, inverse: Array, weight: Array | None, shape: tuple[int, ...],
    needs: Sequence[bool], slots: Sequence[Array | None],
) -> tuple[Array | None, Array | None]:  # fmt: skip
    """As ``reference_norm.rms_norm_backward``."""
    if not _serves_back(gradient, x, weight):
        return reference_norm.rms_norm_backward(gradient, x, inverse, weight, shape, needs, slots)
    needs, slots = (*needs, False), (*slots, None)
    return _gradients("rms_norm", gradient, x, None, None, inverse, weight, shape, needs, slots)[:2]


def add_layer_norm_backward(
    sum_gradient: Array | None, gradient: Array, h: Array, mean: Array, inverse_std: Array, weight: Array | None,
    shape: tuple[int, ...], needs: Sequence[bool], slots: Sequence[Array | None],
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    """As the reference's ``add_layer_norm_backward``, in one pass."""
    if not _serves_back(gradient, h, weight, sum_gradient):
        return reference_add_norm.KERNELS["add_layer_norm_backward"](
            sum_gradient, gradient, h, mean, inverse_std, weight, shape, needs, slots
        )
    return _gradients("layer_norm", gradient, h, sum_gradient, mean, inverse_std, weight, shape, needs, slots)


def add_rms_norm_backward(
    sum_gradient: Array | None, gradient: Array, h: Array, inverse: Array, weight: Array | None, shape: tuple[int, ...],
    needs: Sequence[bool], slots: Sequence[Array | None],
) -> tuple[Array | None, Array | None]:  # fmt: skip
    """As the reference's ``add_rms_norm_backward``, in one pass."""
    if not _serves_back(gradient, h, weight, sum_gradient):
        return reference_add_norm.KERNELS["add_rms_norm_backward"](
            sum_gradient, gradient, h, inverse, weight, shape, needs, slots
        )
    needs, slots = (*needs, False), (*slots, None)
    return _gradients("rms_norm", gradient, h, sum_gradient, None, inverse, weight, shape, needs, slots)[:2]


KERNELS: dict[str, Callable[..., Any]] = {
    "layer_norm_forward": layer_norm_forward,
    "layer_norm_backward": layer_norm_backward,
    "rms_norm_forward": rms_norm_forward,
    "rms_norm_backward": rms_norm_backward,
    "add_layer_norm_forward": add_layer_norm_forward,
    "add_layer_norm_backward": add_layer_norm_backward,
    "add_rms_norm_forward": add_rms_norm_forward,
    "add_rms_norm_backward": add_rms_norm_backward,
}
