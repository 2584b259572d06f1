"""Activations as functions. ``inplace`` is accepted and means nothing: results are always new."""

from __future__ import annotations

import warnings
from typing import Any

from ..errors import RangeError
from ..graph import apply
from ..ops.activation import ELU, GELU, LEAKY_RELU, RELU, SIGMOID, SILU, SOFTPLUS, TANH
from ..ops.softmax import LOG_SOFTMAX, SOFTMAX
from ..tensor import Tensor


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """``max(x, 0)``."""
    return apply(RELU, input)


def sigmoid(input: Tensor) -> Tensor:
    """``1 / (1 + exp(-x))``."""
    return apply(SIGMOID, input)


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return apply(TANH, input)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """``x * Phi(x)``; with ``approximate="tanh"`` ``0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))``.

    Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.
    """
    if approximate not in ("none", "tanh"):
        raise RangeError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return apply(GELU, input, approximate=approximate)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * sigmoid(x)``."""
    return apply(SILU, input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """``log(1 + exp(beta x)) / beta``; x itself where ``beta x > threshold``."""
    return apply(SOFTPLUS, input, beta=float(beta), threshold=float(threshold))


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where x > 0, else ``negative_slope * x``."""
    return apply(LEAKY_RELU, input, negative_slope=float(negative_slope))


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, else ``alpha * (exp(x) - 1)``. Clevert et al., 2015."""
    return apply(ELU, input, alpha=float(alpha))


def _dimension(op: str, input: Tensor, dim: int | None) -> int:
    """``dim``, or what PyTorch picks without one, with its warning."""
    if dim is not None:
        return dim
    warnings.warn(f"{op} without dim guesses one; say dim=...", stacklevel=3)
    return 0 if input.array.ndim in (0, 1, 3) else 1


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """``exp(x) / sum(exp(x))`` along ``dim``; any shape to the same shape.

    >>> import phalanx
    >>> softmax(phalanx.zeros(1, 4), dim=1).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    input = input if dtype is None else input.to(dtype)
    return apply(SOFTMAX, input, axis=_dimension("softmax", input, dim))


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """``x - log(sum(exp(x)))`` along ``dim``; any shape to the same shape."""
    input = input if dtype is None else input.to(dtype)
    return apply(LOG_SOFTMAX, input, axis=_dimension("log_softmax", input, dim))
