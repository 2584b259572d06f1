"""Ops on bfloat16 arrays: computed in float32 and rounded once.

What NumPy does with bfloat16 is not what training needs: sums are rounded at each addition (ten thousand ones give 256), a Python number
turns the result into float32 or float64, products are no BLAS calls. So from the first use of bfloat16 on the forwards and vjps of the
op table are exchanged for ones that look at their arrays. On the CPU everything but moving elements is computed in float32. On
a GPU the ops that kernels serve take bfloat16 as it is; what NumPy's functions compute there takes the way of the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import op as table
from .bfloat16 import load
from .broadcasting import unbroadcast
from .op import Op
from .part import Part

_LETTER = "E"
"""NumPy's character for bfloat16; quicker to compare than dtypes."""
_FLOAT32 = np.dtype(np.float32)

MOVE = frozenset(
    "reshape permute transpose expand cat stack flip diagonal cast clone to_device take_rows put_rows lower".split()  # noqa: SIM905
)
"""Ops that move elements, forward and backward; among them all whose outputs are views."""
PICK = frozenset(["index", "index_select", "gather"])
"""Ops that pick elements, whose gradients are sums."""
SERVED = frozenset(
    """
    add sub mul relu gelu silu sigmoid tanh linear linear_gelu linear_relu feed_forward matmul attention packed_attention softmax
    log_softmax cross_entropy nll_loss linear_cross_entropy dropout dropout_draw embedding layer_norm rms_norm add_layer_norm
    add_rms_norm batch_norm_train batch_norm_eval batch_norm_relu batch_norm_add_relu batch_norm_relu_pool relu_pool conv1d conv2d
    conv3d conv_transpose1d conv_transpose2d conv_transpose3d max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d rnn lstm gru index index_select
    """.split()  # noqa: SIM905
)
"""Ops that a GPU's kernels take bfloat16 for, or whose plain array code is right for it there."""


class _Saved:
    """What an op saved, and the dtypes and shapes of its inputs."""

    __slots__ = ("forms", "saved")

    def __init__(self, saved: Any, arrays: Sequence[Any]) -> None:
        self.saved = saved
        self.forms = [(x.dtype, x.shape) if hasattr(x, "dtype") else None for x in arrays]


def _is_low(x: Any) -> bool:
    dtype = getattr(x, "dtype", None)
    return dtype is not None and dtype.char == _LETTER


def _wide(x: Any) -> Any:
    return x.astype(_FLOAT32) if _is_low(x) else x


def _forward(each: Op, forward: Callable[..., Any]) -> Callable[..., Any]:
    moves = each.name in MOVE or each.name in PICK
    served = each.name in SERVED

    def looking(*arrays: Any, **attributes: Any) -> Any:
        for x in arrays:
            if x.__class__ is not float and _is_low(x):
                break
        else:
            return forward(*arrays, **attributes)
        if moves:
            output, saved = forward(*arrays, **attributes)
        elif served and x.__class__ is not np.ndarray:
            output, saved = forward(*arrays, **attributes)
            output = _narrowed(each, output, arrays, attributes)
        else:
            output, saved = forward(*map(_wide, arrays), **attributes)
            output = _narrowed(each, output, arrays, attributes)
        if each.differentiable == () or each.name in MOVE:
            return output, saved
        return output, _Saved(saved, arrays)

    return _marked(looking, forward, lambda own: _forward(each, own))


def _narrowed(each: Op, output: Any, arrays: Sequence[Any], attributes: dict[str, Any]) -> Any:
    """Outputs that carry gradients, in bfloat16 where the first floating input is; others (statistics, counts) as they are.

    So are those of an op that was told their ``dtype``.
    """
    if attributes.get("dtype") is not None:
        return output
    first = next(x.dtype for x in arrays if getattr(x, "dtype", None) is not None and x.dtype.kind in "fV")
    if first.char != _LETTER:
        return output
    if not isinstance(output, tuple):
        return _low(output)
    graded = range(len(output)) if each.differentiable is None else each.differentiable
    return tuple(_low(part) if index in graded else part for index, part in enumerate(output))


def _low(x: Any) -> Any:
    return x.astype(load()) if x.dtype.kind == "f" else x


def _vjp(each: Op, vjp: Callable[..., Any]) -> Callable[..., Any]:
    served = each.name in SERVED and each.name not in PICK

    def looking(saved: Any, gradient: Any, needs: Any, slots: Any) -> Any:
        if saved.__class__ is not _Saved:
            return vjp(saved, gradient, needs, slots)
        native = served and _any(gradient).__class__ is not np.ndarray
        if not native:
            gradient = tuple(map(_wide, gradient)) if gradient.__class__ is tuple else _wide(gradient)
            slots = [None if slot is not None and _is_low(slot) else slot for slot in slots]
        found = vjp(saved.saved, gradient, needs, slots)
        return tuple(
            g if g is None or g is slot or form is None else _as_input(g, *form)
            for g, slot, form in zip(found, slots, saved.forms, strict=False)
        )

    return _marked(looking, vjp, lambda own: _vjp(each, own))


def _marked(looking: Any, own: Any, look: Callable[[Any], Any]) -> Any:
    """``looking`` with what it stands around. What a profile left there and somebody put back is passed by as it would be alone."""
    looking.as_defined = own
    untimed = getattr(own, "untimed", None)
    if untimed is not None:
        looking.untimed = untimed if hasattr(untimed, "as_defined") else look(untimed)
    return looking


def _any(gradient: Any) -> Any:
    return next(g for g in gradient if g is not None) if gradient.__class__ is tuple else gradient


def _as_input(gradient: Any, dtype: Any, shape: tuple[int, ...]) -> Any:
    """A gradient in the dtype of what it is the gradient of; where it must be summed down, that comes before rounding."""
    if gradient.dtype == dtype:
        return gradient
    if gradient.__class__ is Part:
        return Part(gradient.shape, [(key, piece.astype(dtype)) for key, piece in gradient.pieces])
    return (gradient if gradient.shape == shape else unbroadcast(gradient, shape)).astype(dtype)


def exchange() -> None:
    """Let every op of the table look at its arrays; those that do already are left alone."""
    for each in table.TABLE.values():
        if not hasattr(each.forward, "as_defined"):
            object.__setattr__(each, "forward", _forward(each, each.forward))
        if not hasattr(each.vjp, "as_defined"):
            object.__setattr__(each, "vjp", _vjp(each, each.vjp))
