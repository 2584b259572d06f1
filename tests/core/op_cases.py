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

CASES = [*ARITHMETIC, *NO_GRADIENT, *ACTIVATION]
