"""Dropout and its kin as functions. Masks are keyed by (seed, step, shard, call): equal on any rank that draws them."""

from __future__ import annotations

import math

import numpy as np

from ..backend import array_module, device_kind
from ..errors import RangeError, ShapeError
from ..graph import apply
from ..kernels.reference_random import philox_bits
from ..kernels.table import kernel
from ..live import feeds, live
from ..op import Array
from ..ops.arithmetic import WHERE
from ..ops.dropout import DROPOUT, DROPOUT_DRAW
from ..rng import drop_threshold, keep_mask, next_key
from ..tensor import Tensor
from .functional_activation import SELU_ALPHA, SELU_SCALE


def _probability(op: str, p: float) -> None:
    if not 0.0 <= p <= 1.0:
        raise RangeError(f"{op}: p must be a probability in [0, 1], got {p}")


@live
def _host_mask(array: Array, shape: tuple[int, ...], p: float) -> Array:
    """True for what is kept; drawn only where the outcome is open."""
    keep = np.zeros(shape, bool) if p == 1.0 else keep_mask(shape, p, next_key("dropout"))
    return array_module(array).asarray(keep)


@live
@feeds
def _device_mask(shape: tuple[int, ...], p: float) -> Array:
    return keep_mask(shape, p, next_key("dropout"), "cuda")


@live
@feeds
def _draw(p: float) -> Array:
    """The words of a draw on the device, where the mask is drawn when it is applied, and never written."""
    return kernel("keep_draw", "cuda")(next_key("dropout").draw(drop_threshold(p)))


def _drawn_there(array: Array) -> bool:
    """Whether random words are drawn on the device that ``array`` lies on."""
    return device_kind(array) == "cuda" and kernel("philox_bits", "cuda") is not philox_bits


def _mask(array: Array, shape: tuple[int, ...], p: float) -> Array:
    return _device_mask(shape, p) if p < 1.0 and _drawn_there(array) else _host_mask(array, shape, p)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero each element with probability ``p`` and scale the others by ``1 / (1 - p)``; without ``training`` the input.

    The mask is keyed by (seed, step, shard, call). Srivastava et al., "Dropout", 2014.

    >>> F.dropout(phalanx.ones(2), training=False).tolist()
    [1.0, 1.0]
    """
    _probability("dropout", p)
    if not training or p == 0.0:
        return input
    array = input.array
    if p < 1.0 and array.itemsize <= 4 and _drawn_there(array):
        return apply(DROPOUT_DRAW, input, _draw(p), scale=1.0 / (1.0 - p))
    return apply(DROPOUT, input, _mask(array, array.shape, p), scale=0.0 if p == 1.0 else 1.0 / (1.0 - p))


# ---- whole channels --------------------------------------------------------------------------------------------------


def _channels(op: str, input: Tensor, p: float, training: bool, allowed: tuple[int, ...], unbatched: int) -> Tensor:
    """dropout of whole channels; an input of ``unbatched`` dimensions has no batch."""
    _probability(op, p)
    if input.ndim not in allowed:
        expected = " or ".join(map(str, allowed))
        raise ShapeError(f"{op}: input must have {expected} dimensions (batch, channels, ...), got shape {input.shape}")
    if not training or p == 0.0:
        return input
    shape = input.shape[:1] if input.ndim == unbatched else input.shape[:2]
    mask = _mask(input.array, shape + (1,) * (input.ndim - len(shape)), p)
    return apply(DROPOUT, input, mask, scale=0.0 if p == 1.0 else 1.0 / (1.0 - p))


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """dropout of whole channels of (N, C, L) or (C, L). Tompson et al., 2015.

    >>> F.dropout1d(phalanx.ones(2, 3, 4), 1.0).sum().item()
    0.0
    """
    return _channels("dropout1d", input, p, training, (2, 3), 2)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """dropout of whole channels of (N, C, H, W), or of (N, C, L) as in PyTorch. Tompson et al., 2015.

    >>> y = F.dropout2d(phalanx.ones(8, 8, 2, 2))
    >>> sorted(set(y.mean(dim=(2, 3)).flatten().tolist()))
    [0.0, 2.0]
    """
    return _channels("dropout2d", input, p, training, (3, 4), 0)


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """dropout of whole channels of (N, C, D, H, W) or (C, D, H, W). Tompson et al., 2015.

    >>> F.dropout3d(phalanx.ones(1, 2, 2, 2, 2), training=False).sum().item()
    16.0
    """
    return _channels("dropout3d", input, p, training, (4, 5), 4)


# ---- for SELU --------------------------------------------------------------------------------------------------------


def _alpha(op: str, input: Tensor, p: float, training: bool, shape: tuple[int, ...]) -> Tensor:
    """Dropped elements take SELU's value at minus infinity; an affine map restores mean 0 and variance 1."""
    _probability(op, p)
    if not training or p == 0.0:
        return input
    floor = -SELU_SCALE * SELU_ALPHA
    mask = _mask(input.array, shape, p)
    if p == 1.0:
        return input * 0.0
    scale = 1.0 / math.sqrt((floor * floor * p + 1.0) * (1.0 - p))
    kept = apply(WHERE, mask, input, input.dtype.type(floor))
    return kept * scale - scale * floor * p


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Dropout that keeps mean 0 and variance 1, for SELU. Klambauer et al., "Self-Normalizing Neural Networks", 2017.

    >>> F.alpha_dropout(phalanx.ones(2), 0.5, training=False).tolist()
    [1.0, 1.0]
    """
    return _alpha("alpha_dropout", input, p, training, input.shape)


def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """alpha_dropout of whole channels of (N, C, ...).

    >>> F.feature_alpha_dropout(phalanx.ones(1, 2, 3), 0.5, training=False).sum().item()
    6.0
    """
    if input.ndim < 2:
        raise ShapeError(f"feature_alpha_dropout: input must be (batch, channels, ...), got shape {input.shape}")
    return _alpha("feature_alpha_dropout", input, p, training, input.shape[:2] + (1,) * (input.ndim - 2))
