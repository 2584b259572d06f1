"""Initial values in place, with the names and distributions of ``torch.nn.init``, and those of Keras at the end.

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
from ..generator import Generator
from ..tensor import Tensor
from .quantile import normal_quantile

T = TypeVar("T", bound=Tensor)

__all__ = [
    "calculate_gain",
    "constant_",
    "dirac_",
    "eye_",
    "glorot_normal_",
    "glorot_uniform_",
    "he_normal_",
    "he_uniform_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "lecun_normal_",
    "lecun_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "sparse_",
    "trunc_normal_",
    "uniform_",
    "variance_scaling_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]


def _fill(tensor: T, values: np.ndarray) -> T:
    tensor.array[...] = array_module(tensor.array).asarray(values)
    return tensor


def _key(generator: Generator | None) -> rng.Key:
    """The key of the next draw: the seed's, or that of a generator of one's own."""
    return rng.init_key() if generator is None else generator.next_key()


def _draw_dtype(tensor: Tensor) -> np.dtype:
    """Half precision draws in float32 and is rounded once."""
    return np.dtype(np.float64) if tensor.dtype == np.float64 else np.dtype(np.float32)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a nonlinearity shrinks the standard deviation, inverted.

    linear, conv*, sigmoid 1; tanh 5/3; relu sqrt(2); leaky_relu sqrt(2 / (1 + slope^2)) with slope 0.01; selu 3/4.

    >>> round(nn.init.calculate_gain("relu"), 4)
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
    """Fill with ``val``; returns the tensor, as all of these.

    >>> nn.init.constant_(phalanx.empty(2), 3.0).tolist()
    [3.0, 3.0]
    """
    tensor.array[...] = val
    return tensor


def zeros_(tensor: T) -> T:
    """Fill with 0.

    >>> nn.init.zeros_(phalanx.ones(2)).tolist()
    [0.0, 0.0]
    """
    return constant_(tensor, 0)


def ones_(tensor: T) -> T:
    """Fill with 1.

    >>> nn.init.ones_(phalanx.zeros(2)).tolist()
    [1.0, 1.0]
    """
    return constant_(tensor, 1)


def eye_(tensor: T) -> T:
    """Fill a matrix with the identity.

    >>> nn.init.eye_(phalanx.empty(2, 2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if tensor.ndim != 2:
        raise ShapeError(f"eye_ expects a matrix, got shape {tuple(tensor.shape)}")
    return _fill(tensor, np.eye(tensor.shape[0], tensor.shape[1]))


def uniform_(tensor: T, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> T:
    """Uniform in [a, b). Keyed by the seed and the number of draws before, as all draws here, or by ``generator``.

    >>> nn.init.uniform_(phalanx.empty(100), 2.0, 3.0).min().item() >= 2.0
    True
    """
    dtype = _draw_dtype(tensor)
    draw = rng.uniform(tuple(tensor.shape), _key(generator), dtype)
    return _fill(tensor, draw * dtype.type(b - a) + dtype.type(a))


def normal_(tensor: T, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> T:
    """Normal of ``mean`` and standard deviation ``std``.

    >>> abs(nn.init.normal_(phalanx.empty(10_000), std=2.0).std().item() - 2.0) < 0.1
    True
    """
    dtype = _draw_dtype(tensor)
    draw = rng.normal(tuple(tensor.shape), _key(generator), dtype)
    return _fill(tensor, draw * dtype.type(std) + dtype.type(mean))


def trunc_normal_(
    tensor: T,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> T:
    """Normal of ``mean`` and ``std`` on condition of lying in [a, b], by the inverse of its distribution function.

    >>> nn.init.trunc_normal_(phalanx.empty(1000)).abs().max().item() <= 2.0
    True
    """

    def below(x: float) -> float:
        return (1.0 + math.erf((x - mean) / std / math.sqrt(2.0))) / 2.0

    low, high = below(a), below(b)
    draw = rng.uniform(tuple(tensor.shape), _key(generator), np.float64)
    return _fill(tensor, np.clip(normal_quantile(low + draw * (high - low)) * std + mean, a, b))


def xavier_uniform_(tensor: T, gain: float = 1.0, generator: Generator | None = None) -> T:
    """Uniform in +-gain * sqrt(6 / (fan_in + fan_out)). Glorot and Bengio, 2010.

    >>> nn.init.xavier_uniform_(phalanx.empty(3, 3)).abs().max().item() <= 1.0
    True
    """
    bound = gain * math.sqrt(6.0 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: T, gain: float = 1.0, generator: Generator | None = None) -> T:
    """Normal of standard deviation gain * sqrt(2 / (fan_in + fan_out)). Glorot and Bengio, 2010.

    >>> abs(nn.init.xavier_normal_(phalanx.empty(100, 100)).std().item() - 0.1) < 0.01
    True
    """
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(fans(tensor))), generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise RangeError(f"kaiming: mode is 'fan_in' or 'fan_out', got {mode!r}")
    fan = fans(tensor)[0 if mode == "fan_in" else 1]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(
    tensor: T,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> T:
    """Uniform in +-gain * sqrt(3 / fan), ``a`` the slope of leaky_relu. He et al., 2015.

    >>> nn.init.kaiming_uniform_(phalanx.empty(8, 6)).abs().max().item() <= 1.0
    True
    """
    if 0 in tensor.shape:
        return tensor
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: T,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> T:
    """Normal of standard deviation gain / sqrt(fan), ``a`` the slope of leaky_relu. He et al., 2015.

    >>> abs(nn.init.kaiming_normal_(phalanx.empty(100, 200)).std().item() - 0.1) < 0.01
    True
    """
    if 0 in tensor.shape:
        return tensor
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def orthogonal_(tensor: T, gain: float = 1, generator: Generator | None = None) -> T:
    """Rows (or columns, whichever are fewer) orthonormal, times ``gain``. Saxe et al., 2013.

    >>> q = nn.init.orthogonal_(phalanx.empty(2, 5))
    >>> phalanx.allclose(q @ q.T, phalanx.eye(2), atol=1e-5)
    True
    """
    if tensor.ndim < 2:
        raise ShapeError(f"orthogonal_ expects 2 or more dimensions, got shape {tuple(tensor.shape)}")
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    if rows * columns == 0:
        return tensor
    draw = rng.normal((max(rows, columns), min(rows, columns)), _key(generator), np.float64)
    q, r = np.linalg.qr(draw)
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # makes the factorisation unique, hence the draw uniform
    return _fill(tensor, gain * (q if rows >= columns else q.T).reshape(tensor.shape))


def dirac_(tensor: T, groups: int = 1) -> T:
    """Weights (out, in / groups, *kernel) of a convolution that passes its input's channels on, as many as there are.

    >>> conv = nn.Conv1d(2, 2, 3, padding=1, bias=False)
    >>> _ = nn.init.dirac_(conv.weight)
    >>> conv(phalanx.tensor([[[1.0, 2.0], [3.0, 4.0]]])).tolist()
    [[[1.0, 2.0], [3.0, 4.0]]]
    """
    if tensor.ndim not in (3, 4, 5):
        raise ShapeError(
            f"dirac_ expects the weight of a convolution, 3 to 5 dimensions, got shape {tuple(tensor.shape)}"
        )
    rows, columns = tensor.shape[:2]
    if groups < 1 or rows % groups:
        raise RangeError(f"dirac_: groups must divide out_channels={rows}, got {groups}")
    each, middle = rows // groups, tuple(size // 2 for size in tensor.shape[2:])
    values = np.zeros(tuple(tensor.shape))
    for group in range(groups):
        for channel in range(min(each, columns)):
            values[(group * each + channel, channel, *middle)] = 1.0
    return _fill(tensor, values)


def sparse_(tensor: T, sparsity: float, std: float = 0.01, generator: Generator | None = None) -> T:
    """Normal of ``std``, with the fraction ``sparsity`` of each column's rows (rounded up) set to 0. Martens, 2010.

    >>> (nn.init.sparse_(phalanx.empty(10, 4), 0.25) == 0).sum(dim=0).tolist()
    [3, 3, 3, 3]
    """
    if tensor.ndim != 2:
        raise ShapeError(f"sparse_ expects a matrix, got shape {tuple(tensor.shape)}")
    if not 0.0 <= sparsity <= 1.0:
        raise RangeError(f"sparse_: sparsity must be in [0, 1], got {sparsity}")
    rows = tensor.shape[0]
    normal_(tensor, 0.0, std, generator)
    order = np.argsort(rng.uniform(tuple(tensor.shape), _key(generator), np.float64), axis=0, kind="stable")
    ranks = np.argsort(order, axis=0, kind="stable")  # a random order of each column's rows
    tensor.array[array_module(tensor.array).asarray(ranks < math.ceil(sparsity * rows))] = 0
    return tensor


# ---- names that Keras uses -------------------------------------------------------------------------------------------

_TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal cut at +-2."""


def variance_scaling_(tensor: T, scale: float = 1.0, mode: str = "fan_in", distribution: str = "truncated_normal") -> T:
    """Random values of variance ``scale / fan``, in place.

    ``mode`` is "fan_in", "fan_out" or "fan_avg"; ``distribution`` "truncated_normal" (cut at two standard deviations, which are
    corrected for it), "untruncated_normal" or "uniform".

    >>> abs(nn.init.variance_scaling_(phalanx.empty(100, 100)).std().item() - 0.1) < 0.01
    True
    """
    inward, outward = fans(tensor)
    fan = {"fan_in": inward, "fan_out": outward, "fan_avg": (inward + outward) / 2}.get(mode)
    if fan is None:
        raise RangeError(f"variance_scaling_: mode must be fan_in, fan_out or fan_avg, got {mode!r}")
    if not scale > 0:
        raise RangeError(f"variance_scaling_: scale must be positive, got {scale}")
    std = math.sqrt(scale / max(1.0, fan))
    if distribution == "truncated_normal":
        std /= _TRUNCATED_STD
        return trunc_normal_(tensor, 0.0, std, -2.0 * std, 2.0 * std)
    if distribution == "untruncated_normal":
        return normal_(tensor, 0.0, std)
    if distribution == "uniform":
        return uniform_(tensor, -math.sqrt(3.0) * std, math.sqrt(3.0) * std)
    raise RangeError(
        f"variance_scaling_: distribution must be truncated_normal, untruncated_normal or uniform, got {distribution!r}"
    )


def glorot_uniform_(tensor: T) -> T:
    """xavier_uniform_ by Keras's name: variance 1 / mean fan.

    >>> nn.init.glorot_uniform_(phalanx.empty(3, 3)).abs().max().item() <= 1.0
    True
    """
    return variance_scaling_(tensor, 1.0, "fan_avg", "uniform")


def glorot_normal_(tensor: T) -> T:
    """Truncated normal of variance 1 / mean fan. Glorot and Bengio, 2010.

    >>> nn.init.glorot_normal_(phalanx.empty(3, 3)).abs().max().item() < 1.4
    True
    """
    return variance_scaling_(tensor, 1.0, "fan_avg", "truncated_normal")


def he_uniform_(tensor: T) -> T:
    """Uniform of variance 2 / fan_in. He et al., 2015.

    >>> nn.init.he_uniform_(phalanx.empty(3, 6)).abs().max().item() <= 1.0
    True
    """
    return variance_scaling_(tensor, 2.0, "fan_in", "uniform")


def he_normal_(tensor: T) -> T:
    """Truncated normal of variance 2 / fan_in. He et al., 2015.

    >>> nn.init.he_normal_(phalanx.empty(3, 8)).abs().max().item() < 1.2
    True
    """
    return variance_scaling_(tensor, 2.0, "fan_in", "truncated_normal")


def lecun_uniform_(tensor: T) -> T:
    """Uniform of variance 1 / fan_in. LeCun et al., "Efficient BackProp", 1998.

    >>> nn.init.lecun_uniform_(phalanx.empty(2, 3)).abs().max().item() <= 1.0
    True
    """
    return variance_scaling_(tensor, 1.0, "fan_in", "uniform")


def lecun_normal_(tensor: T) -> T:
    """Truncated normal of variance 1 / fan_in, what SELU wants. Klambauer et al., 2017.

    >>> nn.init.lecun_normal_(phalanx.empty(2, 4)).abs().max().item() < 1.2
    True
    """
    return variance_scaling_(tensor, 1.0, "fan_in", "truncated_normal")
