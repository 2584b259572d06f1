"""One table of cases for every op: sample inputs, attributes, what NumPy and PyTorch compute.

``test_ops.py`` runs each case forward in float32 and float64, its gradient against differences, both against PyTorch, with
inputs that are not contiguous, and with slots. A new op needs a line here (or in ``op_cases_nn.py``), or a test fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

try:
    import torch
except ImportError:
    torch = None


@dataclass(frozen=True, eq=False)
class Case:
    """One call of one op."""

    op: str
    inputs: tuple[Any, ...]
    """float64 arrays (cast to float32 for that run), other arrays (as they are), numbers, None."""
    attributes: dict[str, Any] = field(default_factory=dict)
    numpy: Callable[..., Any] | None = None
    """``numpy(*inputs)`` -> expected output, or a tuple of them; None where only PyTorch knows (say why beside it)."""
    torch: Callable[..., Any] | None = None
    """``torch(*inputs as tensors)`` -> output or tuple; None where PyTorch has no such function."""
    name: str = ""
    """What is special about the case."""
    gradient: bool = True
    """Whether to compare the gradient with differences (not at a kink)."""
    rtol: float = 2e-5
    """Relative and absolute tolerance in float32; in float64 it is 1e-10."""
    with_gradient: tuple[int, ...] | None = None
    """Which inputs get a gradient; None: every float64 array."""

    def __str__(self) -> str:
        shapes = "x".join("-".join(map(str, np.shape(x))) or "scalar" for x in self.inputs if x is not None)
        return f"{self.op}:{self.name or shapes}"

    def wanted(self) -> tuple[int, ...]:
        """Positions of the inputs that get a gradient."""
        if self.with_gradient is not None:
            return self.with_gradient
        return tuple(i for i, x in enumerate(self.inputs) if isinstance(x, np.ndarray) and x.dtype == np.float64)


RANDOM = np.random.default_rng(2024)


def draw(*shape: int) -> np.ndarray:
    """Normal numbers, none close to 0 or to each other's kinks."""
    values = RANDOM.normal(size=shape)
    return np.asarray(values + np.sign(values) * 0.1)


def positive(*shape: int) -> np.ndarray:
    """Numbers in [0.5, 2.5)."""
    return np.asarray(RANDOM.random(shape) * 2.0 + 0.5)


def integers(*shape: int, low: int = 0, high: int = 5) -> np.ndarray:
    """int64 in [low, high)."""
    return RANDOM.integers(low, high, shape)


def booleans(*shape: int) -> np.ndarray:
    """Random truth values."""
    return np.asarray(RANDOM.random(shape) < 0.5)


def broadcasting(op: str, numpy: Any, torch: Any, make: Any = draw, **options: Any) -> list[Case]:
    """An op of two inputs over equal, broadcast, 0-d, scalar and empty operands."""
    pairs = [
        (make(3, 4), make(3, 4)), (make(3, 4), make(4)), (make(2, 1, 4), make(3, 1)), (make(3, 1), make(2, 3, 4)),
        (make(), make(3)), (make(3), make()), (make(), make()), (make(0, 3), make(3)), (make(2, 1), make(2, 0)),
        (make(3, 4), 1.5), (1.5, make(3, 4)),
    ]  # fmt: skip
    return [Case(op, pair, {}, numpy, torch, **options) for pair in pairs]


def elementwise(op: str, numpy: Any, torch: Any, make: Any = draw, **options: Any) -> list[Case]:
    """An op of one input over shapes."""
    return [Case(op, (make(*shape),), {}, numpy, torch, **options) for shape in [(3, 4), (2, 3, 2), (), (0, 3), (1,)]]


def _math(x: Any, function: Callable[[float], float]) -> Any:
    return np.vectorize(function, otypes=[np.float64])(x) if np.size(x) else np.zeros(np.shape(x))


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _gelu(x: Any) -> Any:
    return x * 0.5 * (1 + _math(x / math.sqrt(2), math.erf))


def _gelu_tanh(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _both(a: Any, b: Any) -> tuple[Any, Any]:
    """Numbers as tensors of the other one's dtype, for functions of PyTorch that take tensors only."""
    dtype = next(x.dtype for x in (a, b) if hasattr(x, "dtype"))
    return torch.as_tensor(a, dtype=dtype), torch.as_tensor(b, dtype=dtype)


ARITHMETIC = [
    *broadcasting("add", np.add, lambda a, b: a + b),
    *broadcasting("sub", np.subtract, lambda a, b: a - b),
    *broadcasting("mul", np.multiply, lambda a, b: a * b),
    *broadcasting("div", np.divide, lambda a, b: a / b, make=positive),
    *broadcasting("pow", np.power, lambda a, b: a**b, make=positive),
    Case("pow", (draw(3, 4), 2), {}, np.power, lambda a, b: a**b, name="int square"),
    Case("pow", (draw(3, 4), 3), {}, np.power, lambda a, b: a**b, name="int cube of negatives"),
    Case("pow", (draw(3, 4), 0), {}, np.power, lambda a, b: a**b, name="power 0"),
    Case("pow", (positive(3), -2), {}, lambda a, b: a ** float(b), lambda a, b: a**b, name="negative power"),
    Case(
        "pow", (np.array([0.0, 0.0, 2.0]), np.array([2.0, 1.0, 0.0])), {}, np.power, lambda a, b: a**b,
        name="zero base", gradient=False,
    ),
    *broadcasting("maximum", np.maximum, lambda a, b: torch.maximum(*_both(a, b))),
    *broadcasting("minimum", np.minimum, lambda a, b: torch.minimum(*_both(a, b))),
    Case(
        "maximum", (np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 4.0])), {}, np.maximum,
        lambda a, b: torch.maximum(a, b), name="ties share", gradient=False,
    ),
    Case(
        "minimum", (np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 4.0])), {}, np.minimum,
        lambda a, b: torch.minimum(a, b), name="ties share", gradient=False,
    ),
    *[
        Case("where", parts, {}, np.where, lambda c, a, b: torch.where(c, a, b))
        for parts in [
            (booleans(3, 4), draw(3, 4), draw(3, 4)), (booleans(3, 1), draw(4), draw(2, 1, 1)),
            (booleans(0, 2), draw(0, 2), draw(2)),
        ]
    ],
    *elementwise("neg", np.negative, lambda x: -x),
    *elementwise("abs", np.abs, lambda x: x.abs()),
    Case("abs", (np.array([0.0, 1.0]),), {}, np.abs, lambda x: x.abs(), name="kink", gradient=False),
    *[
        Case("clamp", (draw(3, 5),), {"low": low, "high": high}, lambda x, low=low, high=high: np.clip(x, low, high),
             lambda x, low=low, high=high: x.clamp(low, high), name=f"{low} to {high}")
        for low, high in [(-0.5, 0.5), (None, 0.5), (-0.5, None), (0, None)]
    ],
    Case("clamp", (np.array([-1.0, 0.0, 1.0]),), {"low": -1.0, "high": 1.0}, lambda x: x, lambda x: x.clamp(-1, 1),
         name="bounds pass the gradient", gradient=False),
    Case("clamp", (draw(0, 2),), {"low": 0.0}, lambda x: x, lambda x: x.clamp(0), name="empty"),
    *elementwise("exp", np.exp, lambda x: x.exp()),
    *elementwise("expm1", np.expm1, lambda x: x.expm1()),
    *elementwise("log", np.log, lambda x: x.log(), positive),
    *elementwise("log2", np.log2, lambda x: x.log2(), positive),
    *elementwise("log10", np.log10, lambda x: x.log10(), positive),
    *elementwise("log1p", np.log1p, lambda x: x.log1p(), positive),
    *elementwise("sqrt", np.sqrt, lambda x: x.sqrt(), positive),
    *elementwise("rsqrt", lambda x: 1 / np.sqrt(x), lambda x: x.rsqrt(), positive),
    *elementwise("reciprocal", lambda x: 1 / x, lambda x: x.reciprocal()),
    *elementwise("sin", np.sin, lambda x: x.sin()),
    *elementwise("cos", np.cos, lambda x: x.cos()),
    *elementwise("tan", np.tan, lambda x: x.tan(), lambda *shape: np.asarray(draw(*shape) * 0.3)),
    *elementwise("atan", np.arctan, lambda x: x.atan()),
    *elementwise("erf", lambda x: _math(x, math.erf), lambda x: torch.erf(x)),
    *elementwise("sign", np.sign, lambda x: x.sign()),
    *elementwise("floor", np.floor, lambda x: x.floor()),
    *elementwise("ceil", np.ceil, lambda x: x.ceil()),
    *elementwise("round", np.round, lambda x: x.round()),
    *elementwise("trunc", np.trunc, lambda x: x.trunc()),
    *broadcasting("remainder", np.remainder, lambda a, b: torch.remainder(*_both(a, b)), positive),
    *broadcasting("floor_divide", np.floor_divide, lambda a, b: (a // b).detach(), positive),
    *elementwise("clone", lambda x: x, lambda x: x.clone()),
    *elementwise("to_device", lambda x: x, lambda x: x.to("cpu")),
    *[
        Case("cast", (make,), {"dtype": np.dtype(dtype)}, lambda x, d=dtype: np.asarray(x).astype(d),
             lambda x, d=dtype: x.to(getattr(torch, d)), name=f"to {dtype} {np.shape(make)}", rtol=1e-3, gradient=dtype == "float64")
        for make, dtype in [(draw(3, 4), "float64"), (draw(3, 4), "float32"), (draw(3, 4), "float16"), (draw(0, 2), "float64"), (integers(3), "float32")]
    ],
]  # fmt: skip

for _case in ARITHMETIC:
    if _case.op == "to_device":
        _case.attributes["device"] = "cpu"

NO_GRADIENT = [
    case
    for name, function in {
        "eq": np.equal,
        "ne": np.not_equal,
        "lt": np.less,
        "le": np.less_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
    }.items()
    for case in [
        *broadcasting(name, function, lambda a, b, n=name: getattr(torch, n)(*_both(a, b))),
        Case(
            name,
            (integers(4, 5), integers(5)),
            {},
            function,
            lambda a, b, n=name: getattr(torch, n)(a, b),
            name="integers",
        ),
    ]
]
NO_GRADIENT += [
    Case(name, pair, {}, getattr(np, name), lambda a, b, n=name: getattr(torch, n)(a, b))
    for name in ("logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor")
    for pair in [(booleans(3, 4), booleans(4)), (booleans(0, 3), booleans(3)), (booleans(), booleans(2))]
]
NO_GRADIENT += [
    Case("bitwise_and", (integers(3, 4), integers(4)), {}, np.bitwise_and, lambda a, b: a & b, name="integers"),
    *[
        Case(op, (x,), {}, np.logical_not, lambda x: torch.logical_not(x))
        for op in ("logical_not", "bitwise_not")
        for x in (booleans(3, 4), booleans(0), booleans())
    ],
    *[
        Case(op, (x,), {}, getattr(np, op), lambda x, n=op: getattr(torch, n)(x), name=str(np.shape(x)))
        for op in ("isnan", "isinf", "isfinite")
        for x in (np.array([1.0, np.nan, np.inf, -np.inf]), draw(0, 2), np.array(np.nan))
    ],
]

ACTIVATION = [
    *elementwise("relu", lambda x: np.maximum(x, 0), lambda x: torch.relu(x)),
    Case("relu", (np.array([-1.0, 0.0, 1.0]),), {}, lambda x: np.maximum(x, 0), lambda x: torch.relu(x), name="kink", gradient=False),
    *elementwise("sigmoid", _sigmoid, lambda x: torch.sigmoid(x)),
    Case("sigmoid", (np.array([-80.0, -30.0, 30.0, 80.0]),), {}, _sigmoid, lambda x: torch.sigmoid(x), name="far out"),
    *elementwise("tanh", np.tanh, lambda x: torch.tanh(x)),
    *elementwise("gelu", _gelu, lambda x: torch.nn.functional.gelu(x)),
    *[
        Case("gelu", (draw(*shape),), {"approximate": "tanh"}, _gelu_tanh,
             lambda x: torch.nn.functional.gelu(x, approximate="tanh"), name=f"tanh {shape}")
        for shape in [(3, 4), (), (0, 3)]
    ],
    *elementwise("silu", lambda x: x * _sigmoid(x), lambda x: torch.nn.functional.silu(x)),
    *elementwise("softplus", lambda x: np.log1p(np.exp(x)), lambda x: torch.nn.functional.softplus(x)),
    Case("softplus", (draw(4) * 4,), {"beta": 2.0, "threshold": 3.0}, lambda x: np.where(2 * x > 3, x, np.log1p(np.exp(2 * x)) / 2),
         lambda x: torch.nn.functional.softplus(x, 2.0, 3.0), name="beta"),
    *elementwise("leaky_relu", lambda x: np.where(x > 0, x, 0.01 * x), lambda x: torch.nn.functional.leaky_relu(x)),
    Case("leaky_relu", (draw(4),), {"negative_slope": 0.3}, lambda x: np.where(x > 0, x, 0.3 * x),
         lambda x: torch.nn.functional.leaky_relu(x, 0.3), name="slope"),
    *elementwise("elu", lambda x: np.where(x > 0, x, np.expm1(x)), lambda x: torch.nn.functional.elu(x)),
    Case("elu", (draw(4),), {"alpha": 2.0}, lambda x: np.where(x > 0, x, 2 * np.expm1(x)),
         lambda x: torch.nn.functional.elu(x, 2.0), name="alpha"),
]  # fmt: skip

_AXES: list[tuple[tuple[int, ...], Any, bool]] = [
    ((3, 4), None, False), ((3, 4), 0, False), ((3, 4), -1, True), ((2, 3, 4), (0, 2), False), ((2, 3, 4), (0, 2), True),
    ((2, 3), None, True), ((), None, False), ((0, 3), 0, False), ((0, 3), 1, False), ((0, 3), None, False),
]  # fmt: skip


def _torch_reduce(name: str, axis: Any, keepdims: bool) -> Any:
    def call(x: Any) -> Any:
        if axis is None:
            axes = tuple(range(x.ndim))
            return getattr(torch, name)(x, dim=axes, keepdim=keepdims) if x.ndim else getattr(torch, name)(x)
        return getattr(torch, name)(x, dim=axis, keepdim=keepdims)

    return call


def _reductions(
    op: str, numpy: Any, torch: str, make: Any = draw, empty: bool = True, lone: bool = False
) -> list[Case]:
    """An op that reduces; ``empty``: also over nothing; ``lone``: over one axis or all."""
    return [
        Case(
            op, (make(*shape),), {"axis": axis, "keepdims": keep},
            lambda x, a=axis, k=keep: numpy(x, axis=a, keepdims=k), None if lone and axis is None else _torch_reduce(torch, axis, keep),
            name=f"{shape} over {axis}{' kept' if keep else ''}",
        )
        for shape, axis, keep in _AXES
        if (empty or 0 not in shape or axis == 1) and not (lone and (isinstance(axis, tuple)))
    ]  # fmt: skip


def _norm(x: Any, axis: Any, keepdims: bool) -> Any:
    return np.sqrt((x * x).sum(axis=axis, keepdims=keepdims))


def _quiet_mean(x: Any, axis: Any, keepdims: bool) -> Any:
    with np.errstate(invalid="ignore"):
        count = np.size(x) / max(np.size(x.sum(axis=axis)), 1) if np.size(x) else 0.0
        return x.sum(axis=axis, keepdims=keepdims) / count if count else x.sum(axis=axis, keepdims=keepdims) * np.nan


def _best(find: Any) -> Any:
    def reference(x: Any, axis: int, keepdims: bool = False) -> tuple[Any, Any]:
        indices = find(x, axis=axis, keepdims=True)
        values = np.take_along_axis(x, indices, axis)
        return (values, indices) if keepdims else (values.squeeze(axis), indices.squeeze(axis))

    return reference


REDUCE = [
    *_reductions("sum", np.sum, "sum"),
    *_reductions("mean", _quiet_mean, "mean"),
    *_reductions("amax", np.max, "amax", empty=False),
    *_reductions("amin", np.min, "amin", empty=False),
    Case("amax", (np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]),), {"axis": 1}, lambda x: x.max(1), lambda x: x.amax(1),
         name="ties share", gradient=False),
    *_reductions("prod", np.prod, "prod", lone=True),
    Case("prod", (np.array([[1.0, 0.0, 3.0], [0.0, 2.0, 0.0]]),), {"axis": 1}, lambda x: x.prod(1), lambda x: x.prod(1), name="zeros"),
    *_reductions("norm", _norm, "norm", lone=True),
    Case("norm", (np.zeros((2, 3)),), {"axis": 1}, lambda x: x.sum(1), lambda x: x.norm(dim=1), name="of zeros", gradient=False),
    *[
        Case(op, (draw(*shape),), {"axis": axis, "keepdims": keep}, lambda x, f=find, a=axis, k=keep: _best(f)(x, a, k),
             lambda x, n=op, a=axis, k=keep: tuple(getattr(torch, n)(x, a, k)), name=f"{shape} over {axis}{' kept' if keep else ''}")
        for op, find in (("max", np.argmax), ("min", np.argmin))
        for shape, axis, keep in [((3, 4), 0, False), ((3, 4), 1, True), ((2, 3, 4), 1, False), ((0, 3), 1, False)]
    ],
    *[
        Case(op, (draw(),), {"axis": 0}, lambda x: (x, 0), lambda x, n=op: tuple(getattr(torch, n)(x, 0)), name="0-d") for op in ("max", "min")
    ],
    *[
        Case("cumsum", (draw(*shape),), {"axis": axis}, lambda x, a=axis: np.cumsum(x, a), lambda x, a=axis: torch.cumsum(x, a))
        for shape, axis in [((3, 4), 0), ((3, 4), 1), ((0, 3), 0), ((2, 3, 2), 1)]
    ],
    Case("cumsum", (draw(),), {"axis": 0}, lambda x: x, lambda x: torch.cumsum(x, 0), name="0-d"),
    *[
        Case(op, (draw(*shape),), {"axis": axis, "keepdims": keep}, lambda x, n=op, a=axis, k=keep: getattr(np, n)(x, axis=a, keepdims=k),
             lambda x, n=op, a=axis, k=keep: getattr(torch, n)(x, a, keepdim=k), name=f"{shape} over {axis}{' kept' if keep else ''}")
        for op in ("argmax", "argmin")
        for shape, axis, keep in [((3, 4), 0, False), ((3, 4), 1, True), ((3, 4), None, False), ((0, 3), 1, False)]
    ],
    *[
        Case(op, (booleans(*shape),), {"axis": axis, "keepdims": keep}, lambda x, n=op, a=axis, k=keep: getattr(np, n)(x, axis=a, keepdims=k),
             _torch_reduce(op, axis, keep) if axis is not None else None, name=f"{shape} over {axis}")
        for op in ("any", "all")
        for shape, axis, keep in _AXES
    ],
    *[
        Case("argsort", (draw(*shape),), {"axis": axis, "descending": down},
             lambda x, a=axis, d=down: np.argsort(-x if d else x, axis=a, kind="stable"),
             lambda x, a=axis, d=down: torch.argsort(x, dim=a, descending=d, stable=True), name=f"{shape} {axis} {down}")
        for shape, axis in [((3, 4), 0), ((3, 4), 1), ((0, 3), 0)] for down in (False, True)
    ],
    Case("argsort", (np.array([2.0, 1.0, 2.0, 1.0]),), {"descending": True}, lambda x: np.array([0, 2, 1, 3]),
         lambda x: torch.argsort(x, descending=True, stable=True), name="stable downwards"),
]  # fmt: skip

SHAPE = [
    *[
        Case("reshape", (draw(*old),), {"shape": new}, lambda x, s=new: x.reshape(s), lambda x, s=new: x.reshape(s), name=f"{old} to {new}")
        for old, new in [((3, 4), (12,)), ((3, 4), (2, -1)), ((), (1, 1)), ((1,), ()), ((0, 3), (3, 0)), ((2, 3, 4), (6, 4))]
    ],
    *[
        Case("permute", (draw(*shape),), {"axes": axes}, lambda x, a=axes: x.transpose(a), lambda x, a=axes: x.permute(a))
        for shape, axes in [((2, 3, 4), (2, 0, 1)), ((2, 3), (1, 0)), ((), ()), ((0, 3), (1, 0)), ((2, 3, 4, 2), (3, 1, 0, 2))]
    ],
    *[
        Case("transpose", (draw(*shape),), {"dim0": a, "dim1": b}, lambda x, a=a, b=b: x.swapaxes(a, b), lambda x, a=a, b=b: x.transpose(a, b))
        for shape, a, b in [((2, 3, 4), 0, 2), ((2, 3), -1, -2), ((0, 3), 0, 1)]
    ],
    *[
        Case("expand", (draw(*old),), {"shape": new}, lambda x, s=full: np.broadcast_to(x, s), lambda x, s=new: x.expand(s), name=f"{old} to {new}")
        for old, new, full in [((3, 1), (3, 4), (3, 4)), ((3,), (2, 3), (2, 3)), ((2, 1), (5, -1, 4), (5, 2, 4)), ((), (2,), (2,)), ((1,), (0,), (0,))]
    ],
    *[
        Case("cat", tuple(draw(*s) for s in shapes), {"axis": axis}, lambda *xs, a=axis: np.concatenate(xs, a),
             lambda *xs, a=axis: torch.cat(xs, a), name=f"{shapes} {axis}")
        for shapes, axis in [([(2, 3), (4, 3)], 0), ([(2, 3), (2, 1), (2, 2)], -1), ([(0, 3), (2, 3)], 0), ([(2, 3)], 1)]
    ],
    Case("cat", (draw(0), draw(2, 3)), {"axis": 1}, lambda a, b: b, lambda a, b: torch.cat([a, b], 1), name="nothing joins anything"),
    *[
        Case("stack", tuple(draw(*shape) for _ in range(count)), {"axis": axis}, lambda *xs, a=axis: np.stack(xs, a),
             lambda *xs, a=axis: torch.stack(xs, a), name=f"{count} {shape} {axis}")
        for shape, count, axis in [((2, 3), 3, 0), ((2, 3), 2, -1), ((), 2, 0), ((0, 2), 2, 1)]
    ],
    *[
        Case("flip", (draw(*shape),), {"axes": axes}, lambda x, a=axes: np.flip(x, a), lambda x, a=axes: x.flip(a))
        for shape, axes in [((2, 3), (0,)), ((2, 3, 4), (0, 2)), ((0, 3), (0,))]
    ],
]  # fmt: skip

_KEYS: list[tuple[tuple[int, ...], Any]] = [
    ((4, 5), 1), ((4, 5), -1), ((4, 5), slice(1, 3)), ((4, 5), (slice(None), 2)), ((4, 5), (Ellipsis, slice(None, None, 2))),
    ((4, 5), (None, slice(2), None)), ((4, 5, 3), (1, Ellipsis, 2)), ((4,), ()), ((4, 5), np.array([0, 2, 2])),
    ((4, 5), np.array([[0, 3], [-1, 0]])), ((4, 5), (np.array([0, 1, 1]), np.array([2, 2, 2]))), ((4,), np.array([3, 3, 0])),
    ((4, 5), (slice(None), np.array([1, 1, 4]))), ((4, 5, 3), (np.array([0, 0]), slice(1, 3), np.array([2, 2]))),
    ((4, 5), np.array([True, False, True, True])), ((2, 2), np.array([[True, False], [True, True]])),
    ((4, 5), np.array([], np.int64)), ((0, 3), slice(None)), ((4, 5), np.zeros(4, bool)), ((4, 5), (np.array([1, 2]), None, slice(2))),
]  # fmt: skip


def _torch_key(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(_torch_key(part) for part in key)
    return torch.as_tensor(key) if isinstance(key, np.ndarray) else key


INDEXING = [
    *[
        Case("index", (draw(*shape),), {"key": key}, lambda x, k=key: x[k],
             lambda x, k=key: x[_torch_key(k)], name=f"{shape}[{number}]")
        for number, (shape, key) in enumerate(_KEYS)
    ],
    *[
        Case("index_select", (draw(*shape),), {"axis": axis, "index": index}, lambda x, a=axis, i=index: np.take(x, i, a),
             lambda x, a=axis, i=index: torch.index_select(x, a, torch.as_tensor(i)), name=f"{shape} {axis} {index.tolist()}")
        for shape, axis, index in [
            ((4, 5), 0, np.array([0, 2, 2])), ((4, 5), 1, np.array([4, 4, 0])), ((2, 3, 4), 1, np.array([1, 1])),
            ((4,), 0, np.array([1, 1, 3])), ((4, 5), 0, np.array([], np.int64)), ((4, 0), 0, np.array([1])),
        ]
    ],
    *[
        Case("gather", (draw(*shape),), {"axis": axis, "index": index}, lambda x, a=axis, i=index: np.take_along_axis(x, i, a) if i.shape[1 - a] == x.shape[1 - a] else None,
             lambda x, a=axis, i=index: torch.gather(x, a, torch.as_tensor(i)), name=f"{shape} {axis} {index.shape}")
        for shape, axis, index in [
            ((3, 4), 0, integers(5, 4, high=3)), ((3, 4), 1, integers(3, 2, high=4)), ((3, 4), 1, integers(2, 6, high=4)),
            ((3, 4), 0, integers(0, 4, high=3)),
        ]
    ],
]  # fmt: skip

MATMUL = [
    Case("matmul", (draw(*a), draw(*b)), {}, np.matmul, lambda a, b: a @ b, rtol=1e-4)
    for a, b in [
        ((3, 4), (4, 5)), ((4,), (4,)), ((3, 4), (4,)), ((4,), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (5, 4, 2)), ((3, 4), (2, 4, 5)), ((2, 3, 4), (4,)), ((4,), (2, 4, 5)), ((0, 4), (4, 5)),
        ((3, 0), (0, 5)), ((2, 0, 4), (4, 5)), ((3, 4), (4, 0)), ((0, 3, 4), (4, 2)), ((1, 3, 4), (2, 4, 5)),
    ]
]  # fmt: skip


def _frame(x: Any, widths: Any, value: float) -> Any:
    cut = x[tuple(slice(max(0, -lo), size - max(0, -hi)) for (lo, hi), size in zip(widths, x.shape, strict=True))]
    return np.pad(cut, [(max(0, lo), max(0, hi)) for lo, hi in widths], constant_values=value)


PAD = [
    Case("pad", (draw(*shape),), {"widths": widths, "value": value}, lambda x, w=widths, v=value: _frame(x, w, v),
         lambda x, w=widths, v=value: torch.nn.functional.pad(x, [n for pair in w[::-1] for n in pair], value=v),
         name=f"{shape} by {widths} of {value}")
    for shape, widths, value in [
        ((2, 3), ((0, 0), (1, 2)), 0.0), ((2, 3), ((1, 0), (0, 1)), 1.5), ((3, 4), ((-1, 0), (2, -1)), 0.0),
        ((0, 3), ((0, 0), (1, 1)), 0.0), ((2, 2, 2), ((0, 0), (1, 1), (1, 1)), -np.inf),
    ]
]  # fmt: skip

EMPTY = [
    Case("adaptive_avg_pool2d", (draw(0, 3, 4, 4),), {"output_size": (2, 2)}, lambda x: x[:, :, :2, :2],
         lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 2), name="no samples"),
    Case("batch_norm_train", (draw(0, 3, 4, 4), positive(3), draw(3)), {}, lambda x, *_: x, None, name="no samples"),
    Case("expand", (draw(0, 1),), {"shape": (0, 3)}, lambda x: np.zeros((0, 3)), lambda x: x.expand(0, 3), name="empty"),
    Case("gather", (draw(0, 3),), {"axis": 1, "index": np.zeros((0, 2), np.int64)}, lambda x: x[:, :2],
         lambda x: torch.gather(x, 1, torch.zeros(0, 2, dtype=torch.int64)), name="empty"),
]  # fmt: skip

CASES = [*PAD, *EMPTY, *ARITHMETIC, *NO_GRADIENT, *ACTIVATION, *REDUCE, *SHAPE, *INDEXING, *MATMUL]
