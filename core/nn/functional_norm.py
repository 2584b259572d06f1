"""Norms as functions: batch, layer, group, instance, root mean square, local response."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..bfloat16 import is_floating, is_half, limits
from ..errors import RangeError, ShapeError
from ..graph import apply
from ..op import Array
from ..ops.norm import ADD_LAYER_NORM, ADD_RMS_NORM, BATCH_NORM_EVAL, BATCH_NORM_TRAIN, LAYER_NORM, RMS_NORM
from ..tensor import Tensor
from .functional_pool import avg_pool2d
from .functional_shape import pad


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` per channel (dimension 1): (N, C, ...) to the same.

    With ``training`` mean and variance are the batch's, and the running ones move by ``momentum`` (the running variance is
    unbiased); without, they are the running ones. Ioffe and Szegedy, "Batch Normalization", 2015.

    >>> F.batch_norm(phalanx.tensor([[1.0], [3.0]]), None, None, training=True, eps=0.0).tolist()
    [[-1.0], [1.0]]
    """
    if not training:
        if running_mean is None or running_var is None:
            raise RangeError("batch_norm: running_mean and running_var are needed when training is False")
        return apply(BATCH_NORM_EVAL, input, running_mean, running_var, weight, bias, eps=eps)
    y, mean, deviations = batch_norm_with_statistics(input, weight, bias, eps)
    count = input.array.size // max(1, mean.size)
    if count:
        for running, seen in ((running_mean, mean), (running_var, deviations / max(1, count - 1))):
            if running is not None:
                running.array *= 1.0 - momentum
                running.array += (momentum * seen).astype(running.array.dtype, copy=False)
    return y


def batch_norm_with_statistics(
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    allow_single: bool = False,
) -> tuple[Tensor, Array, Array]:
    """batch_norm by the batch's statistics: (output, mean (C,), sum of squared deviations M2 (C,)), the last two arrays.

    The output is ``(input - mean) / sqrt(variance + eps) * weight + bias``.
    Raises ShapeError for one single value per channel, whose variance says nothing, unless ``allow_single``: a shard
    of the last batch may hold one sample, and its output is then ``bias``. An empty batch is allowed.

    >>> output, mean, deviations = F.batch_norm_with_statistics(phalanx.tensor([[1.0], [3.0]]))
    >>> mean.tolist(), deviations.tolist()
    ([2.0], [2.0])
    """
    array = input.array
    if not allow_single and array.ndim > 1 and array.shape[1] and array.size // array.shape[1] == 1:
        raise ShapeError(f"batch_norm: expected more than 1 value per channel when training, got shape {array.shape}")
    y, mean, deviations = apply(BATCH_NORM_TRAIN, input, weight, bias, eps=eps)
    return y, mean.array, deviations.array


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last dimensions, which are ``normalized_shape``.

    Ba, Kiros and Hinton, "Layer Normalization", 2016.

    >>> F.layer_norm(phalanx.tensor([[1.0, 3.0]]), 2, eps=0.0).tolist()
    [[-1.0, 1.0]]
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    return apply(LAYER_NORM, input, weight, bias, shape=shape, eps=eps)


def rms_norm(
    input: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimensions, which are ``normalized_shape``.

    ``eps`` is the dtype's if not given. Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.

    >>> F.rms_norm(phalanx.tensor([[1.0, 7.0]]), 2, eps=0.0).tolist()
    [[0.20000000298023224, 1.399999976158142]]
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    smallest = float(limits(input.dtype).eps) if eps is None and is_floating(input.dtype) else eps
    return apply(RMS_NORM, input, weight, shape=shape, eps=smallest)


def add_layer_norm(
    input: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """The sum ``input + residual`` and its :func:`layer_norm`, in one pass on a GPU: what stands between two blocks of a transformer.

    ``normalized_shape`` are the last dimensions, ``weight`` and ``bias`` of that shape. Returns both, of the shape of ``input``.

    >>> both, normed = F.add_layer_norm(phalanx.tensor([[1.0, 1.0]]), phalanx.tensor([[0.0, 2.0]]), 2, eps=0.0)
    >>> both.tolist(), normed.tolist()
    ([[1.0, 3.0]], [[-1.0, 1.0]])
    """
    if input.dtype != residual.dtype or input.shape != residual.shape:
        both = input + residual
        return both, layer_norm(both, normalized_shape, weight, bias, eps)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    return apply(ADD_LAYER_NORM, input, residual, weight, bias, shape=shape, eps=eps)


def add_rms_norm(
    input: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The sum ``input + residual`` and its :func:`rms_norm`, in one pass on a GPU.

    ``normalized_shape`` are the last dimensions, ``weight`` of that shape. Returns both, of the shape of ``input``.

    >>> both, normed = F.add_rms_norm(phalanx.tensor([[1.0, 3.0]]), phalanx.tensor([[0.0, 4.0]]), 2, eps=0.0)
    >>> both.tolist(), normed.tolist()
    ([[1.0, 7.0]], [[0.20000000298023224, 1.399999976158142]])
    """
    if input.dtype != residual.dtype or input.shape != residual.shape:
        both = input + residual
        return both, rms_norm(both, normalized_shape, weight, eps)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    smallest = float(limits(input.dtype).eps) if eps is None and is_floating(input.dtype) else eps
    return apply(ADD_RMS_NORM, input, residual, weight, shape=shape, eps=smallest)


# ---- of channels within a sample -------------------------------------------------------------------------------------


def _per_channel(op: str, y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """``y * weight + bias`` of (N, C, ...) with weight and bias (C,)."""
    for name, given in (("weight", weight), ("bias", bias)):
        if given is not None and given.shape != y.shape[1:2]:
            raise ShapeError(f"{op}: {name} must have shape {y.shape[1:2]}, got {given.shape}")
    ones = (1,) * (y.ndim - 2)
    y = y if weight is None else y * weight.reshape(-1, *ones)
    return y if bias is None else y + bias.reshape(-1, *ones)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias``, mean and variance of each sample's ``num_groups`` groups of channels.

    Shapes: input (N, C, ...), weight and bias (C,). Wu and He, "Group Normalization", 2018.

    >>> F.group_norm(phalanx.tensor([[1.0, 3.0]]), 1, eps=0.0).tolist()
    [[-1.0, 1.0]]
    """
    op = "group_norm"
    if input.ndim < 2:
        raise ShapeError(f"{op}: input must be (batch, channels, ...), got shape {input.shape}")
    samples, channels = input.shape[:2]
    if num_groups < 1 or channels % num_groups:
        raise RangeError(f"{op}: num_groups must divide the {channels} channels, got {num_groups}")
    each = math.prod(input.shape[1:]) // num_groups
    rows = input.reshape(samples, num_groups, each)
    return _per_channel(op, apply(LAYER_NORM, rows, shape=(each,), eps=eps).reshape(*input.shape), weight, bias)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias``, mean and variance of each channel of each sample: (N, C, ...).

    Running statistics, if given, move by ``momentum`` to the samples' mean; without ``use_input_stats`` they are what is used.
    Ulyanov et al., "Instance Normalization", 2016.

    >>> F.instance_norm(phalanx.tensor([[[1.0, 3.0]]]), eps=0.0).tolist()
    [[[-1.0, 1.0]]]
    """
    op = "instance_norm"
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise RangeError(f"{op}: running_mean and running_var are needed when use_input_stats is False")
        return apply(BATCH_NORM_EVAL, input, running_mean, running_var, weight, bias, eps=eps)
    if input.ndim < 3:
        raise ShapeError(f"{op}: input must be (batch, channels, length, ...), got shape {input.shape}")
    each = math.prod(input.shape[2:])
    if each == 1:
        raise ShapeError(f"{op}: expected more than 1 value per channel of a sample, got shape {input.shape}")
    if running_mean is not None and running_var is not None and input.array.size:
        mean, variance = instance_statistics(input)
        for running, seen in ((running_mean, mean), (running_var, variance)):
            running.array *= 1.0 - momentum
            running.array += (momentum * seen).astype(running.array.dtype, copy=False)
    rows = input.reshape(input.shape[0], input.shape[1], each)
    return _per_channel(op, apply(LAYER_NORM, rows, shape=(each,), eps=eps).reshape(*input.shape), weight, bias)


def instance_statistics(input: Tensor) -> tuple[Array, Array]:
    """Mean and unbiased variance of each channel, averaged over samples, as arrays (C,): what running statistics move to."""
    array = input.array
    axes = tuple(range(2, array.ndim))
    dtype = np.float32 if is_half(array.dtype) else array.dtype
    work = array.astype(dtype, copy=False)
    return work.mean(axis=axes).mean(axis=0), work.var(axis=axes, ddof=1).mean(axis=0)


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """``x / (k + alpha * mean(x^2 over size neighbouring channels))^beta``: (N, C, ...) to the same.

    Channels beyond the ends count as zeros. Krizhevsky et al., 2012.

    >>> F.local_response_norm(phalanx.ones(1, 2, 1), 2, alpha=1.0, beta=1.0).flatten().tolist()
    [0.6666666865348816, 0.5]
    """
    op = "local_response_norm"
    if input.ndim < 3:
        raise ShapeError(f"{op}: input must be (batch, channels, length, ...), got shape {input.shape}")
    if size < 1:
        raise RangeError(f"{op}: size must be at least 1, got {size}")
    if not input.array.size:
        return input
    samples, channels = input.shape[:2]
    squares = (input * input).reshape(samples, 1, channels, input.array.size // (samples * channels))
    means = avg_pool2d(pad(squares, (0, 0, size // 2, (size - 1) // 2)), (size, 1), stride=1)
    return input / (means.reshape(*input.shape) * alpha + k) ** beta
