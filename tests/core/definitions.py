"""The layers' ops by their definitions, in plain NumPy and loops: slow, and easy to check by eye."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np


def patches(x: np.ndarray, output: tuple[int, ...], options: dict[str, Any], fill: float) -> Iterator[Any]:
    """(p, q, window (N, C, I, J)) for each place of the output."""
    (rows, columns), (si, sj) = options["kernel_size"], options["stride"]
    (pi, pj), (di, dj) = options.get("padding", (0, 0)), options.get("dilation", (1, 1))
    spare = 16  # ceil_mode reaches beyond
    x = np.pad(x, ((0, 0), (0, 0), (pi, pi + spare), (pj, pj + spare)), constant_values=fill)
    for p, q in np.ndindex(*output):
        yield p, q, x[:, :, p * si : p * si + di * (rows - 1) + 1 : di, q * sj : q * sj + dj * (columns - 1) + 1 : dj]


def conv2d(x: np.ndarray, weight: np.ndarray, bias: Any = None, *, groups: int = 1, **options: Any) -> np.ndarray:
    options = {"stride": (1, 1), "kernel_size": weight.shape[2:], **options}
    padding, dilation = options.get("padding", (0, 0)), options.get("dilation", (1, 1))
    output = tuple(
        (x.shape[2 + a] + 2 * padding[a] - dilation[a] * (weight.shape[2 + a] - 1) - 1) // options["stride"][a] + 1
        for a in (0, 1)
    )
    y = np.zeros((x.shape[0], weight.shape[0], *output), x.dtype)
    each_in, each_out = weight.shape[1], weight.shape[0] // groups
    for p, q, window in patches(x, output, options, 0.0):
        for o in range(weight.shape[0]):
            first = o // each_out * each_in
            y[:, o, p, q] = (window[:, first : first + each_in] * weight[o]).sum(axis=(1, 2, 3))
    return y if bias is None else y + bias[:, None, None]


def pooled(reduce: Any, fill: float, output: tuple[int, int], **options: Any) -> Any:
    def function(x: np.ndarray) -> np.ndarray:
        y = np.empty(x.shape[:2] + output, x.dtype)
        for p, q, window in patches(x, output, options, fill):
            y[:, :, p, q] = reduce(window, axis=(2, 3))
        return y

    return function


def adaptive(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    y = np.empty(x.shape[:2] + size, x.dtype)
    for p, q in np.ndindex(*size):
        (top, bottom), (left, right) = (
            (i * n // m, math.ceil((i + 1) * n / m)) for i, n, m in zip((p, q), x.shape[2:], size, strict=True)
        )
        y[:, :, p, q] = x[:, :, top:bottom, left:right].mean(axis=(2, 3))
    return y


def per_channel(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    return values.reshape((-1,) + (1,) * (x.ndim - 2))


def batch_norm(x: np.ndarray, mean: Any, variance: Any, weight: Any, bias: Any, eps: float) -> np.ndarray:
    y = (x - per_channel(mean, x)) / np.sqrt(per_channel(variance, x) + eps)
    y = y if weight is None else y * per_channel(weight, x)
    return y if bias is None else y + per_channel(bias, x)


def batch_norm_train(x: np.ndarray, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> tuple[np.ndarray, ...]:
    axes = (0, *range(2, x.ndim))
    mean, variance = x.mean(axis=axes), x.var(axis=axes)
    return batch_norm(x, mean, variance, weight, bias, eps), mean, variance * (x.size // x.shape[1])


def layer_norm(x: np.ndarray, shape: tuple[int, ...], weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    axes = tuple(range(-len(shape), 0))
    y = (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def class_loss(
    log_p: np.ndarray, target: np.ndarray, weight: Any, ignore: int, smoothing: float, reduction: str
) -> Any:
    """(loss, sum of weights), label by label."""
    classes = log_p.shape[1]
    weight = np.ones(classes, log_p.dtype) if weight is None else weight
    losses, total = np.zeros(target.shape, log_p.dtype), log_p.dtype.type(0)
    for place in np.ndindex(*target.shape):
        label, row = target[place], log_p[(place[0], slice(None), *place[1:])]
        if label != ignore:
            losses[place] = -(1 - smoothing) * weight[label] * row[label] - smoothing / classes * (weight * row).sum()
            total += weight[label]
    if reduction == "none":
        return losses, total
    return losses.sum() / (total if reduction == "mean" and total else 1), total


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, x.dtype.type(0))
