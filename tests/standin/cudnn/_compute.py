"""What the stand-in for cuDNN computes, in float64 by plain loops over the elements of a kernel."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import numpy as np


def extent(dim: list[int], stride: list[int], kind: str) -> int:
    """Bytes from a tensor's first element to its last."""
    return (1 + sum((n - 1) * step for n, step in zip(dim, stride, strict=True))) * (4 if kind == "FLOAT" else 2)


def view(address: int, dim: list[int], stride: list[int], kind: str) -> np.ndarray:
    """The elements at an address, by shape and strides."""
    if kind == "BFLOAT16":
        import ml_dtypes

        dtype = np.dtype(ml_dtypes.bfloat16)
    else:
        dtype = np.dtype({"HALF": np.float16, "FLOAT": np.float32}[kind])
    raw = (ctypes.c_uint8 * extent(dim, stride, kind)).from_address(address)
    flat = np.frombuffer(raw, np.uint8).view(dtype)
    return np.lib.stride_tricks.as_strided(flat, dim, [step * dtype.itemsize for step in stride])


def tf32(x: np.ndarray) -> np.ndarray:
    """float32 rounded to 10 bits of mantissa."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)


# ---- convolution -----------------------------------------------------------------------------------------------------


def roles(kind: str, inputs: list[Any], outputs: list[Any]) -> tuple[Any, Any, Any]:
    """Which of a node's tensors are image, weight and output of the convolution that it belongs to."""
    if kind == "fprop":
        return inputs[0], inputs[1], outputs[0]
    if kind == "dgrad":
        return outputs[0], inputs[1], inputs[0]
    return inputs[0], outputs[0], inputs[1]


def places(x: list[int], w: list[int], options: dict[str, Any]) -> list[int]:
    found = []
    for a, (size, kernel) in enumerate(zip(x[2:], w[2:], strict=True)):
        reach = options["dilation"][a] * (kernel - 1) + 1
        found.append((size + options["pre"][a] + options["post"][a] - reach) // options["stride"][a] + 1)
    return found


def output_dim(kind: str, inputs: list[Any], options: dict[str, Any]) -> list[int]:
    if kind != "fprop":
        return list(inputs[0].dim)
    x, w = inputs
    return [x.dim[0], w.dim[0], *places(x.dim, w.dim, options)]


def _walk(w: tuple[int, ...], output: tuple[int, ...], options: dict[str, Any]) -> Any:
    """(kernel element, slices of the padded image that it meets)."""
    for element in itertools.product(*(range(n) for n in w[2:])):
        starts = [i * d for i, d in zip(element, options["dilation"], strict=True)]
        yield (
            element,
            tuple(
                slice(s, s + (n - 1) * step + 1, step)
                for s, n, step in zip(starts, output, options["stride"], strict=True)
            ),
        )


def _padded(x: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    return np.pad(x, [(0, 0), (0, 0), *zip(options["pre"], options["post"], strict=True)])


def _grouped(x: np.ndarray, groups: int, axis: int) -> np.ndarray:
    return x.reshape(x.shape[:axis] + (groups, x.shape[axis] // groups) + x.shape[axis + 1 :])


def fprop(x: np.ndarray, w: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    groups, output = x.shape[1] // w.shape[1], tuple(places(list(x.shape), list(w.shape), options))
    padded, kernels = _grouped(_padded(x, options), groups, 1), _grouped(w, groups, 0)
    y = np.zeros((x.shape[0], groups, kernels.shape[1], *output))
    for element, place in _walk(w.shape, output, options):
        y += np.einsum("ngc...,goc->ngo...", padded[(..., *place)], kernels[(..., *element)])
    return y.reshape((x.shape[0], w.shape[0], *output))


def dgrad(g: np.ndarray, w: np.ndarray, shape: tuple[int, ...], options: dict[str, Any]) -> np.ndarray:
    groups = shape[1] // w.shape[1]
    target = _grouped(_padded(np.zeros(shape), options), groups, 1)
    loss, kernels = _grouped(g, groups, 1), _grouped(w, groups, 0)
    for element, place in _walk(w.shape, g.shape[2:], options):
        target[(..., *place)] += np.einsum("ngo...,goc->ngc...", loss, kernels[(..., *element)])
    inside = tuple(slice(before, before + n) for before, n in zip(options["pre"], shape[2:], strict=True))
    return target.reshape((*shape[:2], *target.shape[3:]))[(..., *inside)]


def wgrad(x: np.ndarray, g: np.ndarray, shape: tuple[int, ...], options: dict[str, Any]) -> np.ndarray:
    groups = x.shape[1] // shape[1]
    padded, loss = _grouped(_padded(x, options), groups, 1), _grouped(g, groups, 1)
    dw = np.zeros(shape)
    for element, place in _walk(shape, g.shape[2:], options):
        seen = padded[(..., *place)]
        flat = [a.reshape((*a.shape[:3], -1)) for a in (loss, seen)]
        dw[(..., *element)] = np.einsum("ngop,ngcp->goc", *flat).reshape(shape[:2])
    return dw


# ---- attention -------------------------------------------------------------------------------------------------------


def _scores(q: np.ndarray, k: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    scores = np.einsum("bhld,bhsd->bhls", q, k) * options["scale"]
    if options["causal"]:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    return scores


def sdpa(q: np.ndarray, k: np.ndarray, v: np.ndarray, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    scores = _scores(q, k, options)
    top = scores.max(-1, keepdims=True)
    statistics = top + np.log(np.exp(scores - top).sum(-1, keepdims=True))
    return np.exp(scores - statistics) @ v, statistics


def sdpa_backward(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    o: np.ndarray,
    g: np.ndarray,
    statistics: np.ndarray,
    options: dict[str, Any],
) -> tuple[np.ndarray, ...]:
    weights = np.exp(_scores(q, k, options) - statistics)
    slopes = weights * (g @ v.swapaxes(-1, -2) - (g * o).sum(-1, keepdims=True)) * options["scale"]
    return slopes @ k, slopes.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ g


def compute(kind: str, inputs: list[np.ndarray], outputs: list[Any], options: dict[str, Any]) -> list[np.ndarray]:
    """The outputs of one node."""
    shape = tuple(outputs[0].dim)
    if kind == "fprop":
        return [fprop(*inputs, options)]
    if kind == "dgrad":
        return [dgrad(*inputs, shape, options)]
    if kind == "wgrad":
        return [wgrad(*inputs, shape, options)]
    if kind == "bias":
        return [inputs[0] + inputs[1]]
    if kind == "relu":
        return [np.maximum(inputs[0], 0)]
    if kind == "sdpa":
        return list(sdpa(*inputs, options))[: len(outputs)]
    return list(sdpa_backward(*inputs, options))
