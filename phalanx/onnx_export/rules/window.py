"""Convolution and pooling, over any number of dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import StaticError
from ..graph import Graph, Sizes
from ..rule import first, output_dtype, rule
from ..runs import Call, described, varies
from .reduce import reduced
from .shape import padded

COUNTS = (1, 2, 3)


def _named(*words: str) -> list[str]:
    return [word.format(count) for word in words for count in COUNTS]


def _window(call: Call) -> dict[str, Any]:
    """Strides, pads and dilations as ONNX calls them."""
    count = call.inputs[0].value.ndim - 2
    found = {"strides": list(call.get("stride") or (1,) * count), "pads": list(call.get("padding") or (0,) * count) * 2}
    if call.get("dilation") is not None:
        found["dilations"] = list(call.get("dilation"))
    return found


@rule(*_named("conv{}d", "conv_transpose{}d"))
def _convolution(graph: Graph, call: Call) -> str:
    names = [graph.array(call, operand) for operand in call.inputs if operand.value is not None]
    kind = "ConvTranspose" if "transpose" in call.op else "Conv"
    extra = call.get("output_padding")
    return graph.node(
        call,
        kind,
        *names,
        kernel_shape=list(call.inputs[1].value.shape[2:]),
        group=call.get("groups", 1),
        output_padding=list(extra) if extra is not None and any(extra) else None,
        **_window(call),
    )


@rule(*_named("max_pool{}d", "max_pool{}d_with_indices"))
def _max_pool(graph: Graph, call: Call) -> Any:
    options: dict[str, Any] = {"kernel_shape": list(call.get("kernel_size")), **_window(call)}
    options["ceil_mode"] = int(call.get("ceil_mode", False))
    x = graph.array(call, call.inputs[0])
    if len(call.outputs) == 1:
        return graph.node(call, "MaxPool", x, **options)
    values, places = graph.node(call, "MaxPool", x, outputs=2, **options)
    spatial = graph.node(call, "ReduceProd", graph.shape(call, call.inputs[0].sizes[2:]), keepdims=0)
    return values, graph.node(call, "Mod", places, spatial)  # ONNX counts over batch and channels, too


def _spatial(call: Call) -> list[int]:
    """The sizes behind the channels, which must not change. Raises StaticError."""
    sizes = call.inputs[0].sizes[2:]
    if any(map(varies, sizes)):
        raise StaticError(f"{described(call)} needs height and width that do not change")
    return [size[0] for size in sizes]


@rule(*_named("avg_pool{}d"))
def _avg_pool(graph: Graph, call: Call) -> str:
    kernel, window = list(call.get("kernel_size")), _window(call)
    divisor, include = call.get("divisor_override"), bool(call.get("count_include_pad", True))
    window.pop("dilations", None)
    x = graph.array(call, call.inputs[0])
    if not call.get("ceil_mode", False) and divisor is None:
        return graph.node(call, "AveragePool", x, kernel_shape=kernel, count_include_pad=int(include), **window)
    have, steps, pads = _spatial(call), window["strides"], window["pads"][: len(kernel)]
    out = call.outputs[0].value.shape[2:]
    ends = [(o - 1) * s + k - h - p for o, s, k, h, p in zip(out, steps, kernel, have, pads, strict=True)]
    widths = [(0, 0), (0, 0), *((p, max(0, e)) for p, e in zip(pads, ends, strict=True))]
    sums = graph.node(call, "AveragePool", padded(graph, call, x, widths), kernel_shape=kernel, strides=steps)
    dtype = output_dtype(call)
    counts = np.asarray(1 if divisor is None else divisor, np.float64)
    for axis in range(len(kernel)) if divisor is None else ():
        size, pad = have[axis], pads[axis]
        starts = np.arange(out[axis]) * steps[axis] - pad
        stops = np.minimum(starts + kernel[axis], size + pad)
        if not include:
            starts, stops = np.maximum(starts, 0), np.minimum(stops, size)
        counts = np.multiply.outer(counts, stops - starts)
    return graph.node(call, "Mul", sums, graph.constant(math.prod(kernel) / counts, dtype))


# ---- a given number of bins


def _bins(size: int, bins: int) -> list[tuple[int, int]]:
    return [(b * size // bins, -((-(b + 1) * size) // bins)) for b in range(bins)]


def _even(call: Call, pool: str, reduce: str, graph: Graph, x: str) -> str | None:
    """One bin, or bins of one size: an ordinary pool. None where it takes more than that."""
    bins = call.outputs[0].value.shape[2:]
    if all(count == 1 for count in bins):
        return reduced(graph, call, reduce, x, list(range(2, 2 + len(bins))), True)
    sizes = _spatial(call)
    if any(size % count for size, count in zip(sizes, bins, strict=True)):
        return None
    steps = [size // count for size, count in zip(sizes, bins, strict=True)]
    return graph.node(call, pool, x, kernel_shape=steps, strides=steps)


@rule(*_named("adaptive_avg_pool{}d"))
def _adaptive_avg_pool(graph: Graph, call: Call) -> str:
    x = first(graph, call)
    even = _even(call, "AveragePool", "ReduceMean", graph, x)
    if even is not None:
        return even
    sizes, bins = _spatial(call), call.outputs[0].value.shape[2:]
    ndim = 2 + len(bins)
    for axis, (size, count) in enumerate(zip(sizes, bins, strict=True), start=2):
        means = np.zeros((size, count), output_dtype(call))
        for b, (start, stop) in enumerate(_bins(size, count)):
            means[start:stop, b] = 1 / (stop - start)
        order = [a for a in range(ndim) if a != axis] + [axis]
        back = [order.index(a) for a in range(ndim)]
        turned = graph.node(call, "Transpose", x, perm=order)
        x = graph.node(call, "Transpose", graph.node(call, "MatMul", turned, graph.constant(means)), perm=back)
    return x


@rule(*_named("adaptive_max_pool{}d"))
def _adaptive_max_pool(graph: Graph, call: Call) -> tuple[str, None]:
    x = first(graph, call)
    even = _even(call, "MaxPool", "ReduceMax", graph, x)
    if even is not None:
        return even, None
    for axis, (size, count) in enumerate(zip(_spatial(call), call.outputs[0].value.shape[2:], strict=True), start=2):
        parts = []
        for start, stop in _bins(size, count):
            cut = graph.node(call, "Slice", x, *(graph.integers(n) for n in (start, stop, axis)))
            parts.append(reduced(graph, call, "ReduceMax", cut, [axis], True))
        x = graph.node(call, "Concat", *parts, axis=axis)
    return x, None


# ---- windows as columns


def _windows(call: Call) -> dict[str, Any]:
    kernel = list(call.get("kernel_size"))
    return {"kernel_shape": kernel, **_window_of(call, len(kernel))}


def _window_of(call: Call, count: int) -> dict[str, list[int]]:
    return {
        "strides": list(call.get("stride") or (1,) * count),
        "pads": list(call.get("padding") or (0,) * count) * 2,
        "dilations": list(call.get("dilation") or (1,) * count),
    }


def _picking(call: Call, channels: int, kernel: Sequence[int]) -> np.ndarray:
    """A kernel for each channel and place of the window that picks that element."""
    places = math.prod(kernel)
    one = np.eye(places, dtype=output_dtype(call)).reshape(places, 1, *kernel)
    return np.tile(one, (channels, *[1] * (one.ndim - 1)))


@rule("im2col")
def _im2col(graph: Graph, call: Call) -> str:
    options = _windows(call)
    channels = call.inputs[0].value.shape[1]
    weight = graph.constant(_picking(call, channels, options["kernel_shape"]))
    y = graph.node(call, "Conv", first(graph, call), weight, group=channels, **options)
    return graph.node(call, "Reshape", y, graph.integers(0, call.outputs[0].value.shape[1], -1))


@rule("col2im")
def _col2im(graph: Graph, call: Call) -> str:
    options = _windows(call)
    kernel, size = options["kernel_shape"], call.get("output_size")
    channels = call.outputs[0].value.shape[1]
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, options["dilations"], strict=True)]
    pads = options["pads"][: len(kernel)]
    places = [(n + 2 * p - r) // s + 1 for n, p, r, s in zip(size, pads, reach, options["strides"], strict=True)]
    ends = [
        n - ((c - 1) * s - 2 * p + r)
        for n, c, s, p, r in zip(size, places, options["strides"], pads, reach, strict=True)
    ]
    ones: Sizes = (1,) * len(call.inputs[0].values)
    shape = [call.inputs[0].sizes[0], *(tuple(n * o for o in ones) for n in (channels * math.prod(kernel), *places))]
    x = graph.node(call, "Reshape", first(graph, call), graph.shape(call, shape))
    weight = graph.constant(_picking(call, channels, kernel))
    # what lies beyond the last window is cut off by the padding, so the padding is taken off afterwards
    options["pads"] = [0] * 2 * len(kernel)
    y = graph.node(call, "ConvTranspose", x, weight, group=channels, **options)
    return padded(graph, call, y, [(0, 0), (0, 0), *((-p, e - p) for p, e in zip(pads, ends, strict=True))])


@rule("max_unpool")
def _max_unpool(graph: Graph, call: Call) -> str:
    x, places = call.inputs[:2]
    shape = call.outputs[0].sizes
    zeros = graph.node(call, "Expand", graph.constant(0, output_dtype(call)), graph.shape(call, shape))
    rows = graph.integers(0, 0, -1)
    flat = [
        graph.node(call, "Reshape", name, rows) for name in (zeros, graph.array(call, places), graph.array(call, x))
    ]
    return graph.node(call, "Reshape", graph.node(call, "ScatterElements", *flat, axis=2), graph.shape(call, shape))


# ---- other sizes

_RESIZE: dict[tuple[str, bool], dict[str, Any]] = {
    ("nearest", False): {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ("nearest-exact", False): {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"},
    ("linear", False): {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    ("linear", True): {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ("cubic", False): {"mode": "cubic", "coordinate_transformation_mode": "half_pixel", "cubic_coeff_a": -0.75},
    ("cubic", True): {"mode": "cubic", "coordinate_transformation_mode": "align_corners", "cubic_coeff_a": -0.75},
}  # fmt: skip


@rule("interpolate")
def _interpolate(graph: Graph, call: Call) -> str:
    mode, factors = call.get("mode", "nearest"), call.get("factors")
    options = _RESIZE[mode, bool(call.get("align_corners", False)) and not mode.startswith("nearest")]
    x = first(graph, call)
    if all(factor is not None for factor in factors):
        return graph.node(call, "Resize", x, "", graph.constant([1, 1, *factors], np.float32), **options)
    return graph.node(call, "Resize", x, "", "", graph.shape(call, call.outputs[0].sizes), **options)
