"""Cases of the special functions, running reductions, writes to positions and linear algebra."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.core.op_cases import Case, _both, broadcasting, draw, elementwise, integers, positive

try:
    import torch
except ImportError:
    torch = None

INF = math.inf


def _scalar(function: Any) -> Any:
    """A function of one number over an array."""
    return lambda x: np.vectorize(function, otypes=[np.float64])(x) if np.size(x) else np.zeros(np.shape(x))


def within(*shape: int) -> np.ndarray:
    """Numbers in (-0.8, 0.8), none close to 0."""
    return np.asarray(np.tanh(draw(*shape)) * 0.8)


def above_one(*shape: int) -> np.ndarray:
    return np.asarray(positive(*shape) + 1.0)


_UNARY: list[tuple[str, Any, Any]] = [
    ("sinh", np.sinh, draw), ("cosh", np.cosh, draw), ("asin", np.arcsin, within), ("acos", np.arccos, within),
    ("asinh", np.arcsinh, draw), ("acosh", np.arccosh, above_one), ("atanh", np.arctanh, within), ("exp2", np.exp2, draw),
    ("sinc", np.sinc, draw), ("erfc", _scalar(math.erfc), draw), ("lgamma", _scalar(math.lgamma), positive),
]  # fmt: skip
_BINARY: list[tuple[str, Any, Any]] = [
    ("atan2", np.arctan2, draw), ("hypot", np.hypot, draw), ("logaddexp", np.logaddexp, draw), ("fmod", np.fmod, positive),
    ("copysign", np.copysign, draw), ("fmax", np.fmax, draw), ("fmin", np.fmin, draw),
    ("xlogy", lambda a, b: a * np.log(b), positive),
]  # fmt: skip

ELEMENTARY = [
    *[
        case for name, function, make in _UNARY
        for case in elementwise(name, function, lambda x, n=name: getattr(torch, n)(x), make)
    ],
    *[
        case for name, function, make in _BINARY
        for case in broadcasting(name, function, lambda a, b, n=name: getattr(torch, n)(*_both(a, b)), make)
    ],
    # NumPy has neither: what is known of them is that they undo erf and are the slope of lgamma, which PyTorch's are, too
    *elementwise("erfinv", None, lambda x: torch.erfinv(x), within),
    *elementwise("digamma", None, None, positive),
    *elementwise("digamma", None, lambda x: torch.digamma(x), positive, with_gradient=()),  # PyTorch's slope is off by 3e-10
    Case("erfinv", (np.array([-1.0, 1.0, 0.0, 1.5, 0.999999]),), {}, None, lambda x: torch.erfinv(x), name="ends", gradient=False, rtol=1e-4, with_gradient=()),
    Case("erfc", (np.array([-INF, -3.0, 0.5, 1.6, 5.0, INF]),), {}, _scalar(math.erfc), lambda x: torch.erfc(x), name="tails", gradient=False),
    Case("lgamma", (np.array([-2.5, -0.3, 0.2, 1.0, 2.0, 9.5, 120.0]),), {}, _scalar(math.lgamma), lambda x: torch.lgamma(x), name="wide"),
    Case("digamma", (np.array([-2.5, -0.3, 0.2, 1.0, 9.5, 120.0]),), {}, None, lambda x: torch.digamma(x), name="wide", rtol=1e-4, with_gradient=()),
    Case("sinc", (np.array([0.0, 1.0]),), {}, np.sinc, lambda x: torch.sinc(x), name="zero"),
    Case("atan2", (np.array([0.0, 1.0]), np.array([0.0, -2.0])), {}, np.arctan2, lambda a, b: torch.atan2(a, b), name="origin", gradient=False),
    Case("hypot", (np.array([0.0, 3.0]), np.array([0.0, 4.0])), {}, np.hypot, None, name="origin", gradient=False),
    Case("logaddexp", (np.array([-INF, 1.0, 800.0]), np.array([0.0, -INF, 900.0])), {}, np.logaddexp,
         lambda a, b: torch.logaddexp(a, b), name="far", gradient=False),
    Case("xlogy", (np.array([0.0, 0.0, 2.0]), np.array([0.0, 3.0, 2.0])), {}, lambda a, b: np.array([0.0, 0.0, 2 * math.log(2)]),
         lambda a, b: torch.xlogy(a, b), name="nothing", gradient=False),
    Case("fmax", (np.array([math.nan, 1.0, 2.0]), np.array([1.0, math.nan, 2.0])), {}, np.fmax, lambda a, b: torch.fmax(a, b), name="nan", gradient=False),
    Case("fmin", (np.array([math.nan, 1.0, 2.0]), np.array([1.0, math.nan, 2.0])), {}, np.fmin, lambda a, b: torch.fmin(a, b), name="nan", gradient=False),
    Case("fmod", (draw(3, 4) * 3, np.array([1.5, -1.5, 0.7, -0.7])), {}, np.fmod, lambda a, b: torch.fmod(a, b), name="signs"),
    *broadcasting("heaviside", np.heaviside, lambda a, b: torch.heaviside(*_both(a, b)).detach()),
    Case("heaviside", (np.array([0.0, -1.0]), np.array(0.5)), {}, np.heaviside, lambda a, b: torch.heaviside(a, b.expand(2)), name="step", with_gradient=()),
    # as many steps of float32 as of float64: the two libraries in turn
    *[Case("nextafter", (make, np.asarray(9.0)), {}, None, lambda a, b: torch.nextafter(a, b), with_gradient=()) for make in (draw(3), draw(0, 2))],
    *[
        Case(op, (x,), {}, function, lambda x, n=op: getattr(torch, n)(x), name=str(np.shape(x)))
        for op, function in (("signbit", np.signbit), ("isposinf", np.isposinf), ("isneginf", np.isneginf))
        for x in (np.array([1.0, -0.0, INF, -INF]), draw(0, 2), np.array(-INF))
    ],
    *[
        Case(op, pair, {}, function, lambda a, b, n=op: getattr(torch, n)(a, b), name=f"{np.shape(pair[0])}")
        for op, function in (("bitwise_left_shift", np.left_shift), ("bitwise_right_shift", np.right_shift), ("gcd", np.gcd), ("lcm", np.lcm))
        for pair in [(integers(3, 4, high=60), integers(4)), (integers(0, 3), integers(3)), (integers(), integers(2))]
    ],
]  # fmt: skip

# ---- running ---------------------------------------------------------------------------------------------------------


def _last_seen(function: Any) -> Any:
    def reference(x: Any, axis: int) -> tuple[Any, Any]:
        values, moved = function(x, axis=axis), np.moveaxis(x, axis, -1)
        found = np.zeros(moved.shape, np.int64)
        for place in np.ndindex(moved.shape):
            before = moved[(*place[:-1], slice(place[-1] + 1))]
            found[place] = np.flatnonzero(before == np.moveaxis(values, axis, -1)[place])[-1]
        return values, np.moveaxis(found, -1, axis)

    return reference


_LANES = [((3, 4), 0), ((3, 4), 1), ((0, 3), 0), ((2, 3, 2), 1), ((3, 0), 1)]
RUNNING = [
    *[
        Case("cumprod", (draw(*shape),), {"axis": axis}, lambda x, a=axis: np.cumprod(x, a), lambda x, a=axis: torch.cumprod(x, a))
        for shape, axis in _LANES
    ],
    Case("cumprod", (np.array([[2.0, 0.0, 3.0, 4.0], [0.0, 2.0, 0.0, 5.0], [1.0, 2.0, 3.0, 0.0]]),), {"axis": 1},
         lambda x: np.cumprod(x, 1), lambda x: torch.cumprod(x, 1), name="zeros"),
    Case("cumprod", (integers(3, 4),), {"axis": 1}, lambda x: np.cumprod(x, 1), lambda x: torch.cumprod(x, 1), name="integers"),
    *[
        Case("logcumsumexp", (draw(*shape) * 3,), {"axis": axis}, lambda x, a=axis: np.log(np.cumsum(np.exp(x), a)),
             lambda x, a=axis: torch.logcumsumexp(x, a))
        for shape, axis in _LANES
    ],
    Case("logcumsumexp", (np.array([-INF, -INF, 1.0, 900.0, 1.0]),), {"axis": 0}, lambda x: np.logaddexp.accumulate(x),
         lambda x: torch.logcumsumexp(x, 0), name="far", with_gradient=()),
    *[
        Case(op, (draw(*shape),), {"axis": axis}, lambda x, f=function, a=axis: _last_seen(f)(x, a),
             lambda x, n=op, a=axis: tuple(getattr(torch, n)(x, a)), name=f"{shape} {axis}")
        for op, function in (("cummax", np.maximum.accumulate), ("cummin", np.minimum.accumulate)) for shape, axis in _LANES
    ],
    *[
        Case(op, (np.array([1.0, 3.0, 3.0, 1.0, 0.0, 0.0]),), {"axis": 0}, lambda x, f=function: _last_seen(f)(x, 0),
             lambda x, n=op: tuple(getattr(torch, n)(x, 0)), name="ties", gradient=False)
        for op, function in (("cummax", np.maximum.accumulate), ("cummin", np.minimum.accumulate))
    ],
    *[
        Case(op, (draw(),), {"axis": 0}, (lambda x: (x, 0)) if "m" in op[3:] else (lambda x: x),
             lambda x, n=op: tuple(getattr(torch, n)(x, 0)) if n in ("cummax", "cummin") else getattr(torch, n)(x, 0), name="0-d")
        for op in ("cummax", "cummin", "cumprod")
    ],
    Case("logcumsumexp", (draw(),), {"axis": 0}, lambda x: x, lambda x: torch.logcumsumexp(x, 0), name="0-d"),
    *[
        Case("p_norm", (draw(*shape),), {"axis": axis, "keepdims": keep, "p": p},
             lambda x, a=axis, k=keep, p=p: (np.abs(x) ** p).sum(axis=a, keepdims=k) ** (1 / p),
             lambda x, a=axis, k=keep, p=p: torch.linalg.vector_norm(x, p, a, k), name=f"{p} of {shape} over {axis}", rtol=1e-4)
        for shape, axis, keep in [((3, 4), 1, False), ((2, 3, 4), (0, 2), True), ((3,), None, False), ((0, 3), 1, False)] for p in (1, 3, 2.5, 0.5, -1)
    ],
    Case("p_norm", (np.array([[0.0, 0.0], [0.0, 2.0]]),), {"axis": 1, "p": 3}, lambda x: np.abs(x).sum(1), lambda x: x.norm(3, 1),
         name="3 of zeros", gradient=False),
]  # fmt: skip

# ---- positions -------------------------------------------------------------------------------------------------------


def _put(x: Any, values: Any, key: Any, accumulate: bool = False) -> Any:
    y = x.copy()
    if accumulate:
        np.add.at(y, key, values)
    else:
        y[key] = values
    return y


def _torch_put(x: Any, values: Any, key: Any, accumulate: bool = False) -> Any:
    given = tuple(torch.as_tensor(part) for part in (key if isinstance(key, tuple) else (key,)))
    return x.index_put(given, values, accumulate)


_PLACES = np.array([0, 2, 2, 1])
PLACING = [
    *[
        Case("index_put", (draw(*shape), draw(*values)), {"key": key, "accumulate": add},
             lambda x, v, k=key, a=add: _put(x, v, k, a), lambda x, v, k=key, a=add: _torch_put(x, v, k, a), name=f"{shape} {values} {add}",
             gradient=add or twice is False)
        for add in (False, True)
        for shape, values, key, twice in [
            ((3, 4), (4, 4), _PLACES, True), ((3, 4), (4,), (_PLACES, np.array([0, 1, 3, 2])), False),
            ((3, 4), (), np.array([2, 0]), False), ((3, 2), (3,), np.array([[True, False], [True, True], [False, False]]), False),
            ((0, 3), (0, 3), np.array([], np.int64), False), ((3, 4), (1, 4), np.array([1, 1]), True),
        ]
        if add or not twice
    ],
    *[
        Case("scatter_reduce", (draw(3, 4), draw(2, 4)), {"key": tuple(np.broadcast_arrays(np.array([[0, 2, 0, 1], [0, 1, 1, 1]]), np.arange(4)[None])), "reduce": reduce},
             lambda x, v, f=function: _reduced(x, v, f),
             lambda x, v, r=reduce: x.scatter_reduce(0, torch.tensor([[0, 2, 0, 1], [0, 1, 1, 1]]), v, r), name=reduce)
        for reduce, function in (("prod", np.multiply), ("amax", np.maximum), ("amin", np.minimum))
    ],
    Case("scatter_reduce", (np.array([0.0, 2.0, 0.0, 3.0]), np.array([2.0, 0.0, 0.0, 5.0, 0.0])), {"key": (np.array([0, 1, 2, 3, 3]),), "reduce": "prod"},
         lambda x, v: np.zeros(4), lambda x, v: x.scatter_reduce(0, torch.tensor([0, 1, 2, 3, 3]), v, "prod"), name="zeros"),
    Case("scatter_reduce", (np.array([3.0, 2.0]), np.array([3.0, 3.0, 1.0])), {"key": (np.array([0, 0, 1]),), "reduce": "amax"},
         lambda x, v: x, lambda x, v: x.scatter_reduce(0, torch.tensor([0, 0, 1]), v, "amax"), name="ties", gradient=False),
    Case("scatter_reduce", (draw(3), draw(0)), {"key": (np.array([], np.int64),), "reduce": "amin"}, lambda x, v: x, None, name="empty"),
    *[
        Case("diagonal", (draw(*shape),), {"offset": offset, "axis1": a, "axis2": b}, lambda x, o=offset, a=a, b=b: np.diagonal(x, o, a, b),
             lambda x, o=offset, a=a, b=b: torch.diagonal(x, o, a, b), name=f"{shape} {offset} {a} {b}")
        for shape, offset, a, b in [((3, 4), 0, 0, 1), ((3, 4), 1, 0, 1), ((2, 3, 4), -1, 1, 2), ((2, 3, 4), 0, 2, 0), ((0, 3), 0, 0, 1), ((2, 2), 5, 0, 1)]
    ],
]  # fmt: skip


def _reduced(x: Any, values: Any, function: Any) -> Any:
    y = x.copy()
    for row, places in enumerate([[0, 2, 0, 1], [0, 1, 1, 1]]):
        for column, place in enumerate(places):
            y[place, column] = function(y[place, column], values[row, column])
    return y


# ---- linear algebra --------------------------------------------------------------------------------------------------


def definite(*shape: int) -> np.ndarray:
    """Symmetric matrices with eigenvalues that differ, none close to 0."""
    a = draw(*shape) * 0.2
    return np.asarray(a + a.swapaxes(-1, -2) + np.diag(np.arange(shape[-1]) + 2.0))


def regular(*shape: int) -> np.ndarray:
    """Square matrices far from singular."""
    return np.asarray(draw(*shape) * 0.3 + np.diag(np.arange(shape[-1]) + 1.0))


LINALG = [
    *[
        Case(op, (make(*shape),), {}, function, lambda x, n=op: _tuple(getattr(torch.linalg, n)(x)), name=f"{shape}", rtol=1e-3)
        for op, function, make in (
            ("inv", np.linalg.inv, regular), ("cholesky", np.linalg.cholesky, definite), ("det", np.linalg.det, regular),
            ("slogdet", lambda x: tuple(np.linalg.slogdet(x)), regular),
            ("eigh", lambda x: tuple(np.linalg.eigh(x)), definite),
        )
        for shape in [(3, 3), (2, 3, 3), (1, 1), (0, 3, 3)]
    ],
    # PyTorch's gradient of this one is 0; its differences are not
    Case("det", (np.array([[1.0, 2.0], [2.0, 4.0]]),), {}, lambda x: np.zeros(()), None, name="singular"),
    Case("slogdet", (-np.eye(3),), {}, lambda x: (-1.0, 0.0), lambda x: tuple(torch.linalg.slogdet(x)), name="negative"),
    *[
        Case("solve", (regular(*a), draw(*b)), {}, np.linalg.solve, lambda a, b: torch.linalg.solve(a, b), name=f"{a} {b}", rtol=1e-3)
        for a, b in [((3, 3), (3, 2)), ((2, 3, 3), (2, 3, 1)), ((3, 3), (2, 3, 2)), ((2, 1, 3, 3), (4, 3, 2)), ((0, 3, 3), (0, 3, 2))]
    ],
    *[
        # of a wide matrix PyTorch's signs are others
        Case("svd", (draw(*shape),), {}, lambda x: tuple(np.linalg.svd(x, full_matrices=False)),
             (lambda x: tuple(torch.linalg.svd(x, full_matrices=False))) if shape[-2] >= shape[-1] else None, name=f"{shape}", rtol=1e-3)
        for shape in [(3, 3), (4, 2), (2, 4), (2, 3, 2), (0, 3, 2)]
    ],
    *[
        Case("qr", (regular(*shape) if shape[-1] == shape[-2] else draw(*shape),), {}, lambda x: tuple(np.linalg.qr(x)),
             (lambda x: tuple(torch.linalg.qr(x))) if shape[-2] >= shape[-1] else None, name=f"{shape}", rtol=1e-3)
        for shape in [(3, 3), (4, 2), (2, 4), (2, 3, 2), (0, 3, 2)]
    ],
]  # fmt: skip


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, tuple) else value


CASES = [*ELEMENTARY, *RUNNING, *PLACING, *LINALG]
