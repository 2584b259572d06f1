"""Activations of straight pieces as functions. ``inplace`` is accepted and means nothing: results are always new."""

from __future__ import annotations

import math

from ..backend import array_module
from ..errors import RangeError, ShapeError
from ..graph import apply
from ..ops.activation import HARDSWISH, HARDTANH, LEAKY_RELU
from ..ops.arithmetic import CLAMP, GE, GT, LE, LOGICAL_AND, WHERE
from ..rng import next_key, uniform
from ..tensor import Tensor


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """``min(max(x, 0), 6)``.

    >>> F.relu6(phalanx.tensor([-1.0, 3.0, 8.0])).tolist()
    [0.0, 3.0, 6.0]
    """
    return apply(HARDTANH, input, low=0.0, high=6.0)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x cut to [min_val, max_val]; its gradient is 0 at the bounds.

    >>> F.hardtanh(phalanx.tensor([-2.0, 0.5, 2.0])).tolist()
    [-1.0, 0.5, 1.0]
    """
    if min_val > max_val:
        raise RangeError(f"hardtanh: min_val must not be above max_val, got {min_val} and {max_val}")
    return apply(HARDTANH, input, low=float(min_val), high=float(max_val))


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """``relu6(x + 3) / 6``.

    >>> F.hardsigmoid(phalanx.tensor([-4.0, 0.0, 4.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return apply(HARDTANH, input + 3.0, low=0.0, high=6.0) / 6.0


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * relu6(x + 3) / 6``. Howard et al., "Searching for MobileNetV3", 2019.

    >>> F.hardswish(phalanx.tensor([-4.0, 3.0])).tolist()
    [-0.0, 3.0]
    """
    return apply(HARDSWISH, input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where x > 0, else ``negative_slope * x``.

    >>> F.leaky_relu(phalanx.tensor([-2.0, 2.0]), 0.5).tolist()
    [-1.0, 2.0]
    """
    return apply(LEAKY_RELU, input, negative_slope=float(negative_slope))


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where x > 0, else ``weight * x``: one learned slope, or one for each channel (dimension 1). He et al., 2015.

    >>> F.prelu(phalanx.tensor([-2.0, 2.0]), phalanx.tensor([0.25])).tolist()
    [-0.5, 2.0]
    """
    if weight.array.size != 1:
        channels = input.shape[1] if input.ndim > 1 else 1
        if weight.ndim != 1 or weight.shape[0] != channels:
            raise ShapeError(
                f"prelu: weight must have 1 element or one for each of the {channels} channels (dimension 1) of the input of "
                f"shape {input.shape}, got shape {weight.shape}"
            )
        weight = weight.reshape(-1, *(1,) * (input.ndim - 2))
    elif weight.ndim > input.ndim:
        weight = weight.reshape(())
    return apply(WHERE, apply(GT, input, 0), input, input * weight)


def rrelu(
    input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """x where x > 0, else a * x: a drawn from [lower, upper) for each element in training, else their mean.

    The draw is keyed by (seed, step, shard, call). Xu et al., 2015.

    >>> F.rrelu(phalanx.tensor([-2.0, 2.0]), 0.25, 0.75).tolist()
    [-1.0, 2.0]
    """
    if not lower <= upper:
        raise RangeError(f"rrelu: lower must not be above upper, got {lower} and {upper}")
    if not training:
        return apply(LEAKY_RELU, input, negative_slope=(lower + upper) / 2)
    array = input.array
    slopes = uniform(array.shape, next_key("dropout")) * (upper - lower) + lower
    given = array_module(array).asarray(slopes.astype(array.dtype, copy=False))
    return apply(WHERE, array > 0, input, input * Tensor(given))


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where x > threshold, else ``value``.

    >>> F.threshold(phalanx.tensor([0.5, 2.0]), 1.0, -1.0).tolist()
    [-1.0, 2.0]
    """
    return apply(WHERE, apply(LE, input, threshold), input.dtype.type(value), input)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x where |x| > lambd, else 0.

    >>> F.hardshrink(phalanx.tensor([-1.0, 0.25])).tolist()
    [-1.0, 0.0]
    """
    near = apply(LOGICAL_AND, apply(GE, input, -lambd), apply(LE, input, lambd))
    return apply(WHERE, near, input.dtype.type(0), input)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x moved towards 0 by ``lambd``, and 0 where |x| <= lambd.

    >>> F.softshrink(phalanx.tensor([-1.0, 0.25, 2.0])).tolist()
    [-0.5, 0.0, 1.5]
    """
    if not 0 <= lambd < math.inf:
        raise RangeError(f"softshrink: lambd must be at least 0, got {lambd}")
    return input - apply(CLAMP, input, low=-float(lambd), high=float(lambd))
