"""The Op record and the op table.

An op is data: a name, a forward and a vector-Jacobian product that stand side by side in ``core/ops``. Both see
arrays, never Tensors, so that arrays -> op -> ops -> graph -> tensor has no circle. Operations that can be composed
from others are composed (in ``tensor.py`` or ``nn/functional.py``) and have no entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Array = Any
"""A NumPy or CuPy array. Which of them is known to ``backend.py`` alone."""


@dataclass(frozen=True, slots=True)
class Op:
    """One differentiable operation.

    ``forward(*arrays, **attributes) -> (output, saved)``
        ``output`` is an array, or a tuple of arrays for an op with several outputs. ``saved`` is whatever ``vjp``
        needs and nothing else (it lives until backward has passed). Inputs are never written to.
    ``vjp(saved, gradient, needs, slots) -> gradients``
        ``gradient`` is that of the output (a tuple with None holes when there are several outputs). ``needs[i]`` says
        whether input i wants a gradient; ``slots[i]`` is None or a C-contiguous array of input i's shape and dtype
        into which that gradient may be written: return ``slots[i]`` itself to say that it was. A rule that does not
        know slots ignores them. Returns one array or None for each array input; never ``gradient`` written in place.
        A returned gradient may have the broadcast output's shape: the graph alone undoes broadcasting.
    """

    name: str
    forward: Callable[..., tuple[Any, Any]]
    vjp: Callable[..., tuple[Array | None, ...]]
    differentiable: tuple[int, ...] | None = None
    """Which outputs carry a gradient; None means all (indices of ``max`` over a dimension do not)."""
    bind: Callable[..., Op | None] | None = None
    """``bind(shapes, **attributes)``: the same op for a replay on the CPU, whose arrays have these shapes (None where there is no array),
    are float32 (labels: int64) and lie densely in the order of their dimensions. It looks at no more than decides whether that is still
    so, hands all else on, and its forward takes the arrays alone. None where nothing is gained.
    """


TABLE: dict[str, Op] = {}
"""Every op by its name, in the order of definition. ``phalanx ops`` and the tests read it."""


def define(
    name: str,
    forward: Callable[..., Any],
    vjp: Callable[..., Any],
    *,
    differentiable: tuple[int, ...] | None = None,
    bind: Callable[..., Op | None] | None = None,
) -> Op:
    """Enter an op into the table and return it; a second op of the same name is a mistake of ours."""
    assert name not in TABLE, f"op {name!r} is defined twice"
    TABLE[name] = entry = Op(name, forward, vjp, differentiable, bind)
    return entry
