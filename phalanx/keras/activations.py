"""Activation functions by Keras's names, with Keras's defaults."""

from __future__ import annotations

from typing import Any

from ..core import functions as T
from ..core.nn import functional as F
from ..core.tensor import Tensor
from .names import by_name


def linear(x: Tensor) -> Tensor:
    """The input itself.

    >>> from phalanx import keras
    >>> keras.activations.linear(phalanx.tensor([-1.0])).tolist()
    [-1.0]
    """
    return x


def relu(x: Tensor, negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0) -> Tensor:
    """``max(x, 0)``, with a slope below, a ceiling and a threshold if wanted.

    >>> from phalanx import keras
    >>> keras.activations.relu(phalanx.tensor([-1.0, 9.0]), max_value=6.0).tolist()
    [0.0, 6.0]
    """
    if threshold:
        y = T.where(x > threshold, x, negative_slope * (x - threshold))
    else:
        y = F.leaky_relu(x, negative_slope) if negative_slope else F.relu(x)
    return y if max_value is None else y.clamp(max=max_value)


def leaky_relu(x: Tensor, negative_slope: float = 0.2) -> Tensor:
    """``x`` where positive, ``negative_slope * x`` elsewhere.

    >>> from phalanx import keras
    >>> round(keras.activations.leaky_relu(phalanx.tensor([-1.0])).item(), 2)
    -0.2
    """
    return F.leaky_relu(x, negative_slope)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """``exp(x) / sum(exp(x))`` along ``axis``.

    >>> from phalanx import keras
    >>> keras.activations.softmax(phalanx.tensor([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    return F.softmax(x, dim=axis)


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """The logarithm of softmax.

    >>> from phalanx import keras
    >>> round(keras.activations.log_softmax(phalanx.zeros(1, 2))[0, 0].item(), 4)
    -0.6931
    """
    return F.log_softmax(x, dim=axis)


def sigmoid(x: Tensor) -> Tensor:
    """``1 / (1 + exp(-x))``.

    >>> from phalanx import keras
    >>> keras.activations.sigmoid(phalanx.zeros(1)).item()
    0.5
    """
    return T.sigmoid(x)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent.

    >>> from phalanx import keras
    >>> keras.activations.tanh(phalanx.zeros(1)).item()
    0.0
    """
    return T.tanh(x)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """``x`` where positive, ``alpha * (exp(x) - 1)`` elsewhere.

    >>> from phalanx import keras
    >>> keras.activations.elu(phalanx.ones(1)).item()
    1.0
    """
    return F.elu(x, alpha)


def selu(x: Tensor) -> Tensor:
    """Scaled elu, which keeps mean 0 and variance 1. Klambauer et al., 2017.

    >>> from phalanx import keras
    >>> round(keras.activations.selu(phalanx.ones(1)).item(), 4)
    1.0507
    """
    return F.selu(x)


def gelu(x: Tensor, approximate: bool = False) -> Tensor:
    """``x * P(X <= x)`` for a standard normal X.

    >>> from phalanx import keras
    >>> round(keras.activations.gelu(phalanx.ones(1)).item(), 4)
    0.8413
    """
    return F.gelu(x, approximate="tanh" if approximate else "none")


def silu(x: Tensor) -> Tensor:
    """``x * sigmoid(x)``, also called swish.

    >>> from phalanx import keras
    >>> round(keras.activations.silu(phalanx.ones(1)).item(), 4)
    0.7311
    """
    return F.silu(x)


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``.

    >>> from phalanx import keras
    >>> round(keras.activations.softplus(phalanx.zeros(1)).item(), 4)
    0.6931
    """
    return F.softplus(x)


def softsign(x: Tensor) -> Tensor:
    """``x / (1 + |x|)``.

    >>> from phalanx import keras
    >>> keras.activations.softsign(phalanx.ones(1)).item()
    0.5
    """
    return F.softsign(x)


def exponential(x: Tensor) -> Tensor:
    """``exp(x)``.

    >>> from phalanx import keras
    >>> keras.activations.exponential(phalanx.zeros(1)).item()
    1.0
    """
    return T.exp(x)


def hard_sigmoid(x: Tensor) -> Tensor:
    """``clip(x / 6 + 1 / 2, 0, 1)``.

    >>> from phalanx import keras
    >>> keras.activations.hard_sigmoid(phalanx.zeros(1)).item()
    0.5
    """
    return F.hardsigmoid(x)


def hard_silu(x: Tensor) -> Tensor:
    """``x * hard_sigmoid(x)``.

    >>> from phalanx import keras
    >>> keras.activations.hard_silu(phalanx.zeros(1)).item()
    0.0
    """
    return F.hardswish(x)


def relu6(x: Tensor) -> Tensor:
    """``min(max(x, 0), 6)``.

    >>> from phalanx import keras
    >>> keras.activations.relu6(phalanx.tensor([9.0])).item()
    6.0
    """
    return F.relu6(x)


def mish(x: Tensor) -> Tensor:
    """``x * tanh(softplus(x))``.

    >>> from phalanx import keras
    >>> round(keras.activations.mish(phalanx.ones(1)).item(), 4)
    0.8651
    """
    return F.mish(x)


swish, hard_swish = silu, hard_silu

_KNOWN = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and name.islower() and name[0] != "_" and name != "by_name"
}


def get(identifier: Any) -> Any:
    """The function of that name; None is ``linear``; callables as they are.

    >>> from phalanx import keras
    >>> keras.activations.get(None).__name__
    'linear'
    """
    if identifier is None:
        return linear
    found = by_name("activation", identifier, _KNOWN)
    if not callable(found):
        raise ValueError(f"an activation is a name or a function, got {identifier!r}")
    return found


__all__ = [*_KNOWN, "get"]  # pyright: ignore[reportUnsupportedDunderAll]
