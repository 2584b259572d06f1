"""Smooth activations and the softmax family as functions. ``inplace`` is accepted and means nothing: results are always new."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from ..backend import array_module
from ..errors import RangeError, ShapeError
from ..graph import apply
from ..ops.activation import ELU, GELU, LOG_SIGMOID, MISH, RELU, SIGMOID, SILU, SOFTPLUS, TANH
from ..ops.arithmetic import ABS
from ..ops.softmax import LOG_SOFTMAX, SOFTMAX
from ..rng import next_key
from ..tensor import Tensor
from ..tensor_math import checked_dim

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
"""Klambauer et al., "Self-Normalizing Neural Networks", 2017, equation 14."""


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """``max(x, 0)``.

    >>> F.relu(phalanx.tensor([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return apply(RELU, input)


def sigmoid(input: Tensor) -> Tensor:
    """``1 / (1 + exp(-x))``.

    >>> F.sigmoid(phalanx.tensor([0.0])).tolist()
    [0.5]
    """
    return apply(SIGMOID, input)


def logsigmoid(input: Tensor) -> Tensor:
    """``log(sigmoid(x)) = -log(1 + exp(-x))`` without overflow.

    >>> F.logsigmoid(phalanx.tensor([-1000.0])).tolist()
    [-1000.0]
    """
    return apply(LOG_SIGMOID, input)


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent.

    >>> F.tanh(phalanx.tensor([0.0])).tolist()
    [0.0]
    """
    return apply(TANH, input)


def tanhshrink(input: Tensor) -> Tensor:
    """``x - tanh(x)``.

    >>> F.tanhshrink(phalanx.tensor([0.0])).tolist()
    [0.0]
    """
    return input - apply(TANH, input)


def softsign(input: Tensor) -> Tensor:
    """``x / (1 + |x|)``.

    >>> F.softsign(phalanx.tensor([1.0, -3.0])).tolist()
    [0.5, -0.75]
    """
    return input / (apply(ABS, input) + 1.0)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """``x * Phi(x)``; with ``approximate="tanh"`` ``0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))``.

    Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.

    >>> round(F.gelu(phalanx.tensor(1.0)).item(), 4)
    0.8413
    """
    if approximate not in ("none", "tanh"):
        raise RangeError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return apply(GELU, input, approximate=approximate)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * sigmoid(x)``, also called swish. Elfwing et al., 2017.

    >>> F.silu(phalanx.tensor([0.0])).tolist()
    [0.0]
    """
    return apply(SILU, input)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * tanh(log(1 + exp(x)))``. Misra, "Mish", 2019.

    >>> round(F.mish(phalanx.tensor(1.0)).item(), 4)
    0.8651
    """
    return apply(MISH, input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """``log(1 + exp(beta x)) / beta``; x itself where ``beta x > threshold``.

    >>> round(F.softplus(phalanx.tensor(0.0)).item(), 4)
    0.6931
    """
    return apply(SOFTPLUS, input, beta=float(beta), threshold=float(threshold))


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, else ``alpha * (exp(x) - 1)``. Clevert et al., 2015.

    >>> round(F.elu(phalanx.tensor(-1.0)).item(), 4)
    -0.6321
    """
    return apply(ELU, input, alpha=float(alpha))


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """``1.0507 * elu(x, 1.6733)``: keeps mean 0 and variance 1. Klambauer et al., 2017.

    >>> round(F.selu(phalanx.tensor(1.0)).item(), 4)
    1.0507
    """
    return apply(ELU, input, alpha=SELU_ALPHA) * SELU_SCALE


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, else ``alpha * (exp(x / alpha) - 1)``. Barron, 2017.

    >>> round(F.celu(phalanx.tensor(-1.0), 2.0).item(), 4)
    -0.7869
    """
    if alpha == 0:
        raise RangeError("celu: alpha must not be 0")
    return apply(ELU, input / float(alpha), alpha=1.0) * float(alpha) if alpha != 1 else elu(input)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """``a * sigmoid(b)`` where a and b are the halves of the input along ``dim``. Dauphin et al., 2016.

    Raises ShapeError for an odd size along ``dim``.

    >>> F.glu(phalanx.tensor([2.0, 0.0])).tolist()
    [1.0]
    """
    axis = checked_dim("glu", dim, input.ndim)
    size = input.shape[axis] if input.ndim else 1
    if size % 2:
        raise ShapeError(f"glu: dimension {dim} must have an even size, got shape {input.shape}")
    return input.narrow(axis, 0, size // 2) * apply(SIGMOID, input.narrow(axis, size // 2, size // 2))


# ---- softmax ---------------------------------------------------------------------------------------------------------


def _dimension(op: str, input: Tensor, dim: int | None) -> int:
    """``dim``, or what PyTorch picks without one, with its warning."""
    if dim is not None:
        return dim
    warnings.warn(f"{op} without dim guesses one; say dim=...", stacklevel=3)
    return 0 if input.array.ndim in (0, 1, 3) else 1


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """``exp(x) / sum(exp(x))`` along ``dim``; any shape to the same shape.

    >>> F.softmax(phalanx.zeros(1, 4), dim=1).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    input = input if dtype is None else input.to(dtype)
    return apply(SOFTMAX, input, axis=_dimension("softmax", input, dim))


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """``softmax(-x)``.

    >>> F.softmin(phalanx.zeros(2), dim=0).tolist()
    [0.5, 0.5]
    """
    input = input if dtype is None else input.to(dtype)
    return apply(SOFTMAX, -input, axis=_dimension("softmin", input, dim))


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """``x - log(sum(exp(x)))`` along ``dim``; any shape to the same shape.

    >>> round(F.log_softmax(phalanx.zeros(4), dim=0)[0].item(), 4)
    -1.3863
    """
    input = input if dtype is None else input.to(dtype)
    return apply(LOG_SOFTMAX, input, axis=_dimension("log_softmax", input, dim))


def gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """``softmax((logits + g) / tau)`` with Gumbel noise g: a differentiable draw of one class.

    With ``hard`` the value is one-hot and the gradient that of the soft draw. The noise is keyed by (seed, step, shard, call);
    ``eps`` is PyTorch's and means nothing. Jang et al., "Categorical Reparameterization with Gumbel-Softmax", 2016.

    >>> F.gumbel_softmax(phalanx.zeros(3, 5), hard=True).sum(dim=-1).tolist()
    [1.0, 1.0, 1.0]
    """
    if not tau > 0:
        raise RangeError(f"gumbel_softmax: tau must be positive, got {tau}")
    array = logits.array
    words = next_key("dropout").bits(math.prod(array.shape))
    noise = -np.log(-np.log((words + 0.5) * 2.0**-32)).reshape(array.shape).astype(array.dtype)
    xp = array_module(array)
    soft = softmax((logits + Tensor(xp.asarray(noise))) / tau, dim=dim)
    if not hard:
        return soft
    best = xp.expand_dims(soft.array.argmax(axis=dim), dim)
    classes = xp.arange(soft.shape[dim]).reshape((-1,) + (1,) * ((soft.ndim - 1 - dim) % soft.ndim))
    return soft + Tensor((best == classes).astype(array.dtype) - soft.array)
