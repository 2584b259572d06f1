"""Initial values in place, with the names and distributions of ``torch.nn.init``.

Numbers are keyed: the key of a draw counts draws in order of construction (``rng.init_key``), so that equal seeds and equal
code give equal models, and two layers of one shape differ.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np

from .. import rng
from ..backend import array_module
from ..errors import RangeError, ShapeError
from ..tensor import Tensor

T = TypeVar("T", bound=Tensor)

__all__ = [
    "calculate_gain",
    "constant_",
    "eye_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]


def _fill(tensor: T, values: np.ndarray) -> T:
    tensor.array[...] = array_module(tensor.array).asarray(values)
    return tensor


def _draw_dtype(tensor: Tensor) -> np.dtype:
    """Half precision draws in float32 and is rounded once."""
    return np.dtype(np.float64) if tensor.dtype == np.float64 else np.dtype(np.float32)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a nonlinearity shrinks the standard deviation, inverted.

    linear, conv*, sigmoid 1; tanh 5/3; relu sqrt(2); leaky_relu sqrt(2 / (1 + slope^2)) with slope 0.01; selu 3/4.

    >>> round(calculate_gain("relu"), 4)
    1.4142
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else float(param)
        return math.sqrt(2.0 / (1.0 + slope * slope))
    convolutions = [f"conv{kind}{count}d" for kind in ("", "_transpose") for count in (1, 2, 3)]
    gains = dict.fromkeys(("linear", "sigmoid", *convolutions), 1.0) | {
        "tanh": 5.0 / 3.0,
        "relu": math.sqrt(2.0),
        "selu": 0.75,
    }
    if nonlinearity not in gains:
        raise RangeError(f"calculate_gain knows {', '.join(gains)} and leaky_relu, not {nonlinearity!r}")
    return gains[nonlinearity]


def fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out): how many inputs feed an output of a weight (out, in, *kernel), and the reverse."""
    if tensor.ndim < 2:
        raise ShapeError(f"fan in and fan out need a tensor of 2 or more dimensions, got shape {tuple(tensor.shape)}")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def constant_(tensor: T, val: float) -> T:
    """Fill with ``val``."""
    tensor.array[...] = val
    return tensor


def zeros_(tensor: T) -> T:
    """Fill with 0."""
    return constant_(tensor, 0)


def ones_(tensor: T) -> T:
    """Fill with 1."""
    return constant_(tensor, 1)


def eye_(tensor: T) -> T:
    """Fill a matrix with the identity."""
    if tensor.ndim != 2:
        raise ShapeError(f"eye_ expects a matrix, got shape {tuple(tensor.shape)}")
    return _fill(tensor, np.eye(tensor.shape[0], tensor.shape[1]))


def uniform_(tensor: T, a: float = 0.0, b: float = 1.0) -> T:
    """Uniform in [a, b)."""
    dtype = _draw_dtype(tensor)
    draw = rng.uniform(tuple(tensor.shape), rng.init_key(), dtype)
    return _fill(tensor, draw * dtype.type(b - a) + dtype.type(a))


def normal_(tensor: T, mean: float = 0.0, std: float = 1.0) -> T:
    """Normal of ``mean`` and standard deviation ``std``."""
    dtype = _draw_dtype(tensor)
    draw = rng.normal(tuple(tensor.shape), rng.init_key(), dtype)
    return _fill(tensor, draw * dtype.type(std) + dtype.type(mean))


def trunc_normal_(tensor: T, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> T:
    """Normal of ``mean`` and ``std`` on condition of lying in [a, b], by the inverse of its distribution function."""

    def below(x: float) -> float:
        return (1.0 + math.erf((x - mean) / std / math.sqrt(2.0))) / 2.0

    low, high = below(a), below(b)
    draw = rng.uniform(tuple(tensor.shape), rng.init_key(), np.float64)
    return _fill(tensor, np.clip(_normal_quantile(low + draw * (high - low)) * std + mean, a, b))


def _normal_quantile(p: np.ndarray) -> np.ndarray:
    """Inverse of the normal distribution function, relative error below 1.2e-9.

    Rational approximations of P. J. Acklam, "An algorithm for computing the inverse normal cumulative distribution function".
    """
    a = [-3.969683028665376e01, 2.209460984245205e02, -2.759285104469687e02, 1.383577518672690e02]
    a += [-3.066479806614716e01, 2.506628277459239e00]
    b = [-5.447609879822406e01, 1.615858368580409e02, -1.556989798598866e02, 6.680131188771972e01]
    b += [-1.328068155288572e01, 1.0]
    c = [-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e00, -2.549732539343734e00]
    c += [4.374664141464968e00, 2.938163982698783e00]
    d = [7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e00, 3.754408661907416e00, 1.0]
    p = np.clip(p, 1e-300, 1.0 - 1e-16)
    near, side = p - 0.5, np.minimum(p, 1.0 - p)
    middle = near * np.polyval(a, near * near) / np.polyval(b, near * near)
    far = np.sqrt(-2.0 * np.log(side))
    tail = np.polyval(c, far) / np.polyval(d, far)
    return np.where(side < 0.02425, np.where(p < 0.5, tail, -tail), middle)


def xavier_uniform_(tensor: T, gain: float = 1.0) -> T:
    """Uniform in +-gain * sqrt(6 / (fan_in + fan_out)). Glorot and Bengio, 2010."""
    bound = gain * math.sqrt(6.0 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: T, gain: float = 1.0) -> T:
    """Normal of standard deviation gain * sqrt(2 / (fan_in + fan_out)). Glorot and Bengio, 2010."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(fans(tensor))))


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise RangeError(f"kaiming: mode is 'fan_in' or 'fan_out', got {mode!r}")
    fan = fans(tensor)[0 if mode == "fan_in" else 1]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(tensor: T, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> T:
    """Uniform in +-gain * sqrt(3 / fan), ``a`` the slope of leaky_relu. He et al., 2015."""
    if 0 in tensor.shape:
        return tensor
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: T, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> T:
    """Normal of standard deviation gain / sqrt(fan), ``a`` the slope of leaky_relu. He et al., 2015."""
    if 0 in tensor.shape:
        return tensor
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


def orthogonal_(tensor: T, gain: float = 1) -> T:
    """Rows (or columns, whichever are fewer) orthonormal, times ``gain``. Saxe et al., 2013."""
    if tensor.ndim < 2:
        raise ShapeError(f"orthogonal_ expects 2 or more dimensions, got shape {tuple(tensor.shape)}")
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    if rows * columns == 0:
        return tensor
    draw = rng.normal((max(rows, columns), min(rows, columns)), rng.init_key(), np.float64)
    q, r = np.linalg.qr(draw)
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # makes the factorisation unique, hence the draw uniform
    return _fill(tensor, gain * (q if rows >= columns else q.T).reshape(tensor.shape))
