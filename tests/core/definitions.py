"""The layers' ops by their definitions, in plain NumPy and loops: slow, and easy to check by eye."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np


def patches(x: np.ndarray, output: tuple[int, ...], options: dict[str, Any], fill: float) -> Iterator[Any]:
    """(place, window (N, C, K)) for each place of the output."""
    count = x.ndim - 2
    kernel, stride = options["kernel_size"], options["stride"]
    padding, dilation = options.get("padding", (0,) * count), options.get("dilation", (1,) * count)
    spare = 16  # ceil_mode reaches beyond
    x = np.pad(x, [(0, 0), (0, 0), *((n, n + spare) for n in padding)], constant_values=fill)
    for place in np.ndindex(*output):
        cut = tuple(
            slice(p * s, p * s + d * (k - 1) + 1, d) for p, s, d, k in zip(place, stride, dilation, kernel, strict=True)
        )
        yield place, x[(..., *cut)]


def conv(x: np.ndarray, weight: np.ndarray, bias: Any = None, *, groups: int = 1, **options: Any) -> np.ndarray:
    count = x.ndim - 2
    options = {"stride": (1,) * count, "kernel_size": weight.shape[2:], **options}
    padding, dilation = options.get("padding", (0,) * count), options.get("dilation", (1,) * count)
    output = tuple(
        (x.shape[2 + a] + 2 * padding[a] - dilation[a] * (weight.shape[2 + a] - 1) - 1) // options["stride"][a] + 1
        for a in range(count)
    )
    y = np.zeros((x.shape[0], weight.shape[0], *output), x.dtype)
    each_in, each_out = weight.shape[1], weight.shape[0] // groups
    for place, window in patches(x, output, options, 0.0):
        for o in range(weight.shape[0]):
            first = o // each_out * each_in
            y[(slice(None), o, *place)] = (window[:, first : first + each_in] * weight[o]).sum(
                axis=tuple(range(1, x.ndim))
            )
    return y if bias is None else y + bias.reshape((-1,) + (1,) * count)


def conv_transpose(x: np.ndarray, weight: np.ndarray, bias: Any = None, *, groups: int = 1, **options: Any) -> Any:
    """Every element adds its multiple of the kernel; padding is cut off at the end."""
    count = x.ndim - 2
    one, zero = (1,) * count, (0,) * count
    stride, dilation = options.get("stride", one), options.get("dilation", one)
    padding, extra = options.get("padding", zero), options.get("output_padding", zero)
    full = [
        (n - 1) * s + d * (k - 1) + 1 + e
        for n, s, d, k, e in zip(x.shape[2:], stride, dilation, weight.shape[2:], extra, strict=True)
    ]
    each_in, each_out = weight.shape[0] // groups, weight.shape[1]
    y = np.zeros((x.shape[0], each_out * groups, *full), x.dtype)
    for c, *place in np.ndindex(*x.shape[1:]):
        first = c // each_in * each_out
        for o, *element in np.ndindex(*weight.shape[1:]):
            at = tuple(p * s + k * d for p, s, k, d in zip(place, stride, element, dilation, strict=True))
            y[(slice(None), first + o, *at)] += x[(slice(None), c, *place)] * weight[(c, o, *element)]
    y = y[(..., *(slice(p, size - p) for p, size in zip(padding, full, strict=True)))]
    return y if bias is None else y + bias.reshape((-1,) + (1,) * count)


def pooled(reduce: Any, fill: float, output: tuple[int, ...], **options: Any) -> Any:
    def function(x: np.ndarray) -> np.ndarray:
        y = np.empty(x.shape[:2] + output, x.dtype)
        for place, window in patches(x, output, options, fill):
            y[(..., *place)] = reduce(window, axis=tuple(range(2, x.ndim)))
        return y

    return function


def winners(x: np.ndarray, output: tuple[int, ...], **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Maxima of windows and where in the row-major order of x they lie."""
    places = np.broadcast_to(np.arange(math.prod(x.shape[2:])).reshape(x.shape[2:]), x.shape).astype(np.float64)
    y = pooled(np.max, -np.inf, output, **options)(x)
    index = np.empty(y.shape, np.int64)
    inside = zip(patches(x, output, options, -np.inf), patches(places, output, options, -1.0), strict=True)
    for (place, window), (_, numbers) in inside:
        rows = window.shape[:2] + (math.prod(window.shape[2:]),)
        best, flat = window.reshape(rows).argmax(axis=2), numbers.reshape(rows)
        index[(..., *place)] = np.take_along_axis(flat, best[..., None], axis=2)[..., 0]
    return y, index


def columns(x: np.ndarray, output: tuple[int, ...], **options: Any) -> np.ndarray:
    """Every window as a column."""
    found = [window.reshape(x.shape[0], math.prod(window.shape[1:])) for _, window in patches(x, output, options, 0.0)]
    return np.stack(found, axis=2)


def bins(size: tuple[int, ...], output: tuple[int, ...]) -> Iterator[Any]:
    """(bin, its slices)."""
    for place in np.ndindex(*output):
        edges = ((i * n // m, math.ceil((i + 1) * n / m)) for i, n, m in zip(place, size, output, strict=True))
        yield place, tuple(slice(*edge) for edge in edges)


def adaptive(x: np.ndarray, output: tuple[int, ...], reduce: Any = np.mean) -> np.ndarray:
    y = np.empty(x.shape[:2] + output, x.dtype)
    for place, cut in bins(x.shape[2:], output):
        y[(..., *place)] = reduce(x[(..., *cut)], axis=tuple(range(2, x.ndim)))
    return y


def adaptive_winners(x: np.ndarray, output: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    y = adaptive(x, output, np.max)
    index = np.empty(y.shape, np.int64)
    for n, c, *place in np.ndindex(*y.shape):
        index[(n, c, *place)] = np.flatnonzero(x[n, c].reshape(-1) == y[(n, c, *place)])[0]
    return y, index


def _kernel(distance: float, mode: str) -> float:
    """How much a neighbour at that distance counts."""
    d = abs(distance)
    if mode == "linear":
        return max(0.0, 1.0 - d)
    a = -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def _resizing(length: int, out: int, factor: float | None, mode: str, corners: bool) -> np.ndarray:
    """The matrix (out, length) of one dimension."""
    matrix = np.zeros((out, length))
    step = 1 / factor if factor else length / out
    for o in range(out):
        if mode == "nearest":
            matrix[o, min(int(o * step), length - 1)] = 1
        elif mode == "nearest-exact":
            matrix[o, min(int((o + 0.5) * step), length - 1)] = 1
        else:
            place = o * (length - 1) / max(out - 1, 1) if corners else (o + 0.5) * step - 0.5
            for i in range(math.floor(place) - 1, math.floor(place) + 3):
                matrix[o, min(max(i, 0), length - 1)] += _kernel(place - i, mode)
    return matrix


def resized(x: np.ndarray, size: tuple[int, ...], factors: Any, mode: str, corners: bool) -> np.ndarray:
    for axis, (out, factor) in enumerate(zip(size, factors, strict=True), start=2):
        matrix = _resizing(x.shape[axis], out, factor, mode, corners)
        x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
    return x


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


def ctc(log_p: np.ndarray, labels: np.ndarray, lengths: Any, label_lengths: Any, blank: int) -> np.ndarray:
    """Over all readings: those that give the labels once repeats are merged and blanks removed."""
    losses = np.zeros(log_p.shape[1])
    for n, (steps, count) in enumerate(zip(lengths, label_lengths, strict=True)):
        total = 0.0
        for path in itertools.product(range(log_p.shape[2]), repeat=int(steps)):
            merged = [c for c, _ in itertools.groupby(path) if c != blank]
            if merged == list(labels[n, :count]):
                total += math.exp(sum(log_p[t, n, c] for t, c in enumerate(path)))
        losses[n] = -math.log(total)
    return losses
