"""One direction of one layer of an RNN, LSTM or GRU over a whole sequence, and the rows of packed sequences.

Inputs x (T, N, I), or rows (S, I) with ``sizes``: how many sequences have a step t, never more than the step before. The output
has x's form. Each direction has its own op call; ``reverse`` reads from the last step to the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..backend import array_module, device_kind
from ..errors import RangeError, ShapeError
from ..kernels.reference import wide
from ..kernels.table import kernel
from ..op import Array, define
from . import expect

Sizes = tuple[int, ...]
Gradients = tuple[Array | None, ...]
Walk = tuple[Array, Array, Array, tuple[Array | None, ...]]
"""What a walk back through time gives: gradients of the gates' two shares, the input's and the state's (S, gates * H), h before each
row (S, H), and the gradients of the first states."""


def _check(op: str, x: Array, sizes: Sequence[int] | None, gates: int, **arrays: Array | None) -> Sizes:
    """All shapes fit; returns the sizes."""
    expect.one_float_dtype(op, input=x, **arrays)
    h, w_ih, w_hh = (arrays[name] for name in ("h", "w_ih", "w_hh"))
    assert h is not None and w_ih is not None and w_hh is not None
    if x.ndim != (3 if sizes is None else 2):
        form = "(steps, batch, features)" if sizes is None else "(rows, features) with sizes"
        raise ShapeError(f"{op}: input must be {form}, got shape {x.shape}")
    sizes = (x.shape[1],) * x.shape[0] if sizes is None else tuple(sizes)
    count, units = h.shape[0], w_ih.shape[0] // gates
    if x.ndim == 2 and (
        sum(sizes) != len(x) or list(sizes) != sorted(sizes, reverse=True) or max(sizes, default=0) > count
    ):
        raise RangeError(
            f"{op}: sizes must fall from at most {count} (the batch of h) and add up to the input's {len(x)} rows, got {sizes}"
        )
    if x.ndim == 3 and x.shape[1] != count:
        raise ShapeError(
            f"{op}: a batch of {x.shape[1]} (dimension 1 of the input {x.shape}) expects h (batch, units), got {h.shape}"
        )
    expected: dict[str, tuple[int, ...]] = {
        "w_ih": (gates * units, x.shape[-1]),
        "w_hh": (gates * units, h.shape[1]),
        "b_ih": (gates * units,),
        "b_hh": (gates * units,),
        "c": (count, units),
        "w_hr": (h.shape[1], units),
    }
    if arrays.get("w_hr") is None:
        expected["h"] = (count, units)
    for name, array in arrays.items():
        if array is not None and name in expected and tuple(array.shape) != expected[name]:
            raise ShapeError(
                f"{op}: {name} must have shape {expected[name]} for an input of shape {x.shape}, got {array.shape}"
            )
    return sizes


def _rows(x: Array) -> Array:
    """(T, N, F) -> (S, F)."""
    return x.reshape(x.shape[0] * x.shape[1], x.shape[2]) if x.ndim == 3 else x


def _share(x: Array, w_ih: Array, b_ih: Array | None, b_hh: Array | None = None) -> Array:
    """The input's share of the gates (S, gates * H), with the biases that stand outside of every gate; widened."""
    bias = b_ih if b_hh is None or b_ih is None else wide(b_ih) + wide(b_hh)
    return kernel("linear_forward", device_kind(x))(wide(_rows(x)), wide(w_ih), None if bias is None else wide(bias))


def _out(array: Array, x: Array) -> Array:
    """An output's rows in x's form and dtype."""
    array = array.astype(x.dtype, copy=False)
    return array.reshape(x.shape[:2] + array.shape[1:]) if x.ndim == 3 else array


def _seed(gradient: Array | None, shape: tuple[int, ...], like: Array) -> Array:
    """The gradient of a last state; zeros where nobody used it."""
    if gradient is None:
        return array_module(like).zeros(shape, like.dtype)
    return gradient.astype(like.dtype, copy=False)


def _output_gradient(gradient: Array | None) -> Array | None:
    if gradient is None:
        return None
    return wide(_rows(gradient))


def weights(
    x: Array, w_ih: Array, inputs: Array, hidden: Array, before: Array, needs: Sequence[bool], slots: Sequence[Any]
) -> list[Array | None]:
    """Gradients of x, w_ih, w_hh, b_ih, b_hh; ``needs`` and ``slots`` are theirs. ``inputs`` and ``hidden``: of the gates' two shares."""
    device = device_kind(inputs)
    weight, bias = kernel("linear_weight_gradient", device), kernel("bias_gradient", device)
    found: list[Array | None] = [None] * 5
    if needs[0]:
        dx = kernel("linear_input_gradient", device)(inputs, wide(w_ih))
        found[0] = dx.reshape(x.shape)
    if needs[1]:
        found[1] = weight(inputs, _rows(x), out=slots[1])
    if needs[2]:
        found[2] = weight(hidden, before, out=slots[2])
    if needs[3]:
        found[3] = bias(inputs, out=slots[3])
    if needs[4]:
        shared = hidden is inputs and needs[3]  # the same sum
        found[4] = found[3].copy() if shared else bias(hidden, out=slots[4])  # type: ignore[union-attr]
    return [None if g is None else g.astype(x.dtype, copy=False) for g in found]


def _picked(values: Sequence[Any], order: Sequence[int], default: Any) -> list[Any]:
    """The values at ``order``; inputs that were not given have the default."""
    return [values[i] if i < len(values) else default for i in order]


# ---- Elman's network ---------------------------------------------------------------------------------------------------


def _rnn(
    x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None, *,
    nonlinearity: str = "tanh", reverse: bool = False, sizes: Sizes | None = None,
) -> tuple[tuple[Array, Array], Any]:  # fmt: skip
    """``h_t = f(x_t w_ih^T + b_ih + h_{t-1} w_hh^T + b_hh)``, f tanh or relu: -> outputs (..., H), last h (N, H).

    x, h (N, H), w_ih (H, I), w_hh (H, H), perhaps b_ih and b_hh (H,).
    """
    steps = _check("rnn", x, sizes, 1, h=h, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh)
    x = array_module(x).ascontiguousarray(x)  # both passes read it row by row
    y, last, before = kernel("rnn_forward", device_kind(x))(
        _share(x, w_ih, b_ih, b_hh), wide(h), wide(w_hh), steps, reverse, nonlinearity
    )
    return (_out(y, x), last.astype(x.dtype, copy=False)), (
        x,
        w_ih,
        w_hh,
        y,
        before,
        h.shape,
        steps,
        reverse,
        nonlinearity,
    )


def rnn_back(saved: Any, gradient: Any, first: bool = True) -> Walk:
    """The walk back; nobody wants the first state's gradient without ``first``."""
    x, _, w_hh, y, before, shape, steps, reverse, nonlinearity = saved
    dy, dh = _output_gradient(gradient[0]), _seed(gradient[1], shape, y)
    gates, state = kernel("rnn_backward", device_kind(y))(dy, dh, y, wide(w_hh), steps, reverse, nonlinearity)
    return gates, gates, before, (state.astype(x.dtype, copy=False),)


def _rnn_vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> Gradients:
    inputs, hidden, before, states = rnn_back(saved, gradient)
    order = (0, 2, 3, 4, 5)
    found = weights(
        saved[0], saved[1], inputs, hidden, before, _picked(needs, order, False), _picked(slots, order, None)
    )
    return (found[0], *states, *found[1:])[: len(needs)]


RNN = define("rnn", _rnn, _rnn_vjp)


# ---- LSTM --------------------------------------------------------------------------------------------------------------


def _lstm(
    x: Array, h: Array, c: Array, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None,
    w_hr: Array | None = None, *, reverse: bool = False, sizes: Sizes | None = None,
) -> tuple[tuple[Array, Array, Array], Any]:  # fmt: skip
    """``c_t = f c_{t-1} + i g``, ``h_t = o tanh(c_t)``, projected by w_hr if there is one: -> outputs (..., R), last h and c.

    x, h (N, R), c (N, H), w_ih (4H, I), w_hh (4H, R), rows i, f, g, o, perhaps b_ih and b_hh (4H,), perhaps w_hr (R, H).
    """
    steps = _check("lstm", x, sizes, 4, h=h, c=c, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh, w_hr=w_hr)
    x = array_module(x).ascontiguousarray(x)  # both passes read it row by row
    gates = _share(x, w_ih, b_ih, b_hh)
    projection = None if w_hr is None else wide(w_hr)
    y, last, cell, before_h, before_c, squashed = kernel("lstm_forward", device_kind(x))(
        gates, wide(h), wide(c), wide(w_hh), projection, steps, reverse
    )
    given = (x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr)
    kept = _Walked(given, {"reverse": reverse, "sizes": sizes}, (gates, before_h, before_c, squashed), steps)
    return (_out(y, x), last.astype(x.dtype, copy=False), cell.astype(x.dtype, copy=False)), kept


class _Walked:
    """What an LSTM's forward saved. Backward may write over the gates: a second one (``retain_graph``) walks forward again."""

    __slots__ = ("arrays", "attributes", "given", "steps")

    def __init__(
        self, given: tuple[Any, ...], attributes: dict[str, Any], arrays: tuple[Array, ...], steps: Sizes
    ) -> None:
        self.given, self.attributes, self.steps = given, attributes, steps
        self.arrays: tuple[Array, ...] | None = arrays

    def take(self) -> tuple[Array, ...]:
        """Gates, h and c before each row, tanh of c: for the caller to write over."""
        arrays = self.arrays
        if arrays is None:
            arrays = _lstm(*self.given, **self.attributes)[1].arrays
        self.arrays = None
        return arrays


def lstm_back(saved: _Walked, gradient: Any, first: bool = True) -> Walk:
    """As :func:`rnn_back`."""
    return _lstm_walk_back(saved, gradient, first)[0]


def _lstm_walk_back(saved: _Walked, gradient: Any, first: bool) -> tuple[Walk, Any]:
    """The walk, and gradient and value of what a projection was given, if there is one."""
    x, h, _, _, w_hh, _, _, w_hr = saved.given
    kept = saved.take()
    gates, before_h, before_c, squashed = kept
    dy = None if gradient[0] is None else wide(gradient[0])
    units = squashed.shape[1]
    dh, dc = _seed(gradient[1], h.shape, gates), _seed(gradient[2], (h.shape[0], units), gates)
    projection, reverse = None if w_hr is None else wide(w_hr), saved.attributes["reverse"]
    turned, state, memory, hidden = kernel("lstm_backward", device_kind(gates))(
        dy, dh, dc, gates, before_c, squashed, wide(w_hh), projection, saved.steps, reverse, first, True
    )
    if turned is not gates:
        saved.arrays = kept
    states = (None if state is None else state.astype(x.dtype, copy=False), memory.astype(x.dtype, copy=False))
    projected = None if hidden is None else (hidden, gates[:, 3 * units :] * squashed)
    return (turned, turned, before_h, states), projected


def _lstm_vjp(saved: _Walked, gradient: Any, needs: Any, slots: Any) -> Gradients:
    x, w_ih = saved.given[0], saved.given[3]
    (inputs, hidden, before, states), projected = _lstm_walk_back(saved, gradient, needs[1])
    order = (0, 3, 4, 5, 6)
    found = weights(x, w_ih, inputs, hidden, before, _picked(needs, order, False), _picked(slots, order, None))
    dw_hr = None
    if projected is not None and needs[7]:
        dw_hr = kernel("linear_weight_gradient", device_kind(projected[0]))(*projected, out=slots[7])
        dw_hr = dw_hr.astype(x.dtype, copy=False)
    return (found[0], *states, *found[1:], dw_hr)[: len(needs)]


LSTM = define("lstm", _lstm, _lstm_vjp)


# ---- GRU ---------------------------------------------------------------------------------------------------------------


def _gru(
    x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None, *,
    reverse: bool = False, sizes: Sizes | None = None,
) -> tuple[tuple[Array, Array], Any]:  # fmt: skip
    """``h_t = (1 - z) n + z h_{t-1}`` with the reset gate behind the product: -> outputs (..., H), last h (N, H).

    x, h (N, H), w_ih (3H, I), w_hh (3H, H), rows r, z, n, perhaps b_ih and b_hh (3H,).
    """
    steps = _check("gru", x, sizes, 3, h=h, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh)
    x = array_module(x).ascontiguousarray(x)  # both passes read it row by row
    gates = _share(x, w_ih, b_ih)
    y, last, before, shares = kernel("gru_forward", device_kind(x))(
        gates, wide(h), wide(w_hh), None if b_hh is None else wide(b_hh), steps, reverse
    )
    kept = (x, w_ih, w_hh, gates, before, shares, h.shape, steps, reverse)
    return (_out(y, x), last.astype(x.dtype, copy=False)), kept


def gru_back(saved: Any, gradient: Any, first: bool = True) -> Walk:
    """As :func:`rnn_back`."""
    x, _, w_hh, gates, before, shares, shape, steps, reverse = saved
    dy, dh = _output_gradient(gradient[0]), _seed(gradient[1], shape, gates)
    inputs, hidden, state = kernel("gru_backward", device_kind(gates))(
        dy, dh, gates, before, shares, wide(w_hh), steps, reverse
    )
    return inputs, hidden, before, (state.astype(x.dtype, copy=False),)


def _gru_vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> Gradients:
    inputs, hidden, before, states = gru_back(saved, gradient)
    order = (0, 2, 3, 4, 5)
    found = weights(
        saved[0], saved[1], inputs, hidden, before, _picked(needs, order, False), _picked(slots, order, None)
    )
    return (found[0], *states, *found[1:])[: len(needs)]


GRU = define("gru", _gru, _gru_vjp)


# ---- rows of packed sequences ------------------------------------------------------------------------------------------


def _take_rows(x: Array, *, rows: Array) -> tuple[Array, Any]:
    """Rows of x (M, ...) in the order of ``rows`` (S,), each at most once: index_select without a sum in its gradient."""
    return x[rows], (x.shape, rows)


def _take_rows_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> Gradients:
    shape, rows = saved
    dx = array_module(gradient).zeros(shape, gradient.dtype)
    dx[rows] = gradient
    return (dx,)


TAKE_ROWS = define("take_rows", _take_rows, _take_rows_vjp)


def _put_rows(x: Array, *, rows: Array, count: int, fill: float = 0.0) -> tuple[Array, Any]:
    """Row i of x (S, ...) becomes row ``rows[i]`` of ``count``, the others are ``fill``: the reverse of take_rows."""
    y = array_module(x).full((count, *x.shape[1:]), fill, x.dtype)
    y[rows] = x
    return y, rows


def _put_rows_vjp(rows: Any, gradient: Array, needs: Any, slots: Any) -> Gradients:
    return (gradient[rows],)


PUT_ROWS = define("put_rows", _put_rows, _put_rows_vjp)
