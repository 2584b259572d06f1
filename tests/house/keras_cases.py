"""Layers of the Keras door beside plain NumPy and the engine's own layers: what goes in, what comes out, weights in Keras's layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from phalanx import nn
from phalanx.keras import layers

F = nn.functional
Weights = list[np.ndarray]


class Case(NamedTuple):
    """``expected(x, weights)`` computes what the layer gives."""

    make: Callable[[], Any]
    shape: tuple[int, ...]
    expected: Callable[[np.ndarray, Weights], np.ndarray]
    shapes: tuple[tuple[int, ...], ...] = ()
    """Of the weights."""


def windows(x: np.ndarray, size: tuple[int, ...], strides: tuple[int, ...], dilation: tuple[int, ...]) -> np.ndarray:
    """(N, *places, C, *size) of x (N, ..., C)."""
    reach = tuple((k - 1) * d + 1 for k, d in zip(size, dilation, strict=True))
    axes = tuple(range(1, x.ndim - 1))
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axes)
    steps = (slice(None), *(slice(None, None, s) for s in strides), slice(None))
    return view[(*steps, *(slice(None, None, d) for d in dilation))]


def same(x: np.ndarray, size: tuple[int, ...], strides: tuple[int, ...], value: float = 0.0) -> np.ndarray:
    """Padded as TensorFlow does: the odd place goes behind."""
    pads = [(0, 0)]
    for n, k, s in zip(x.shape[1:-1], size, strides, strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        pads.append((total // 2, total - total // 2))
    return np.pad(x, [*pads, (0, 0)], constant_values=value)


def conv(
    x: np.ndarray, w: Weights, size: Any, strides: Any = None, dilation: Any = None, padded: bool = False
) -> np.ndarray:
    one = (1,) * len(size)
    strides, dilation = strides or one, dilation or one
    x = same(x, size, strides) if padded else x
    seen = windows(x, size, strides, dilation)
    letters = "xyz"[: len(size)]
    return (
        np.einsum(
            f"nabc{letters}"[:0] + f"n{'abd'[: len(size)]}c{letters},{letters}cf->n{'abd'[: len(size)]}f", seen, w[0]
        )
        + w[1]
    )


def transposed(x: np.ndarray, w: Weights, stride: int, padding: str) -> np.ndarray:
    """Each number adds its multiple of the kernel (I, J, filters, C)."""
    n, h, v, _ = x.shape
    k = w[0].shape[0]
    full = np.zeros((n, (h - 1) * stride + max(k, stride), (v - 1) * stride + max(k, stride), w[0].shape[2]))
    for i in range(h):
        for j in range(v):
            full[:, i * stride : i * stride + k, j * stride : j * stride + k] += np.einsum(
                "nc,xyfc->nxyf", x[:, i, j], w[0]
            )
    if padding == "same":
        first = max(k - stride, 0) // 2
        full = full[:, first : first + h * stride, first : first + v * stride]
    return full + w[1]


def max_same(x: np.ndarray, size: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    seen = windows(same(x, size, strides, -np.inf), size, strides, (1,) * len(size))
    return seen.max(axis=tuple(range(-len(size), 0)))


def mean_same(x: np.ndarray, size: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    axes = tuple(range(-len(size), 0))
    total, count = (
        windows(same(part, size, strides), size, strides, (1,) * len(size)).sum(axis=axes)
        for part in (x, np.ones_like(x))
    )
    return total / count


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def lstm(x: np.ndarray, w: Weights) -> np.ndarray:
    kernel, recurrent, bias = w
    u = recurrent.shape[0]
    h = c = np.zeros((len(x), u))
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return h


def gru(x: np.ndarray, w: Weights) -> np.ndarray:
    kernel, recurrent, bias = w
    h = np.zeros((len(x), recurrent.shape[0]))
    for t in range(x.shape[1]):
        xz, xr, xn = np.split(x[:, t] @ kernel + bias[0], 3, axis=1)
        hz, hr, hn = np.split(h @ recurrent + bias[1], 3, axis=1)
        z, r = sigmoid(xz + hz), sigmoid(xr + hr)
        h = z * h + (1 - z) * np.tanh(xn + r * hn)
    return h


def rnn(x: np.ndarray, w: Weights) -> np.ndarray:
    h = np.zeros((len(x), w[1].shape[0]))
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ w[0] + h @ w[1] + w[2])
    return h


def both(x: np.ndarray, w: Weights) -> np.ndarray:
    return np.concatenate([lstm(x, w[:3]), lstm(x[:, ::-1], w[3:])], axis=1)


def normalized(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> np.ndarray:
    return (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + epsilon)


def attention(x: np.ndarray, w: Weights) -> np.ndarray:
    """Self-attention; weights of query, key, value, output."""
    q, k, v = (np.einsum("nlf,fhd->nhld", x, w[i]) + w[i + 1][:, None] for i in (0, 2, 4))
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("nhld,hdo->nlo", weights @ v, w[6]) + w[7]


def depthwise(x: np.ndarray, w: Weights) -> np.ndarray:
    seen = windows(same(x, (3, 3), (1, 1)), (3, 3), (1, 1), (1, 1))
    y = np.einsum("nabcxy,xycm->nabcm", seen, w[0])
    return y.reshape(*y.shape[:3], -1) + w[1]


def separable(x: np.ndarray, w: Weights) -> np.ndarray:
    seen = windows(x, (3, 3), (1, 1), (1, 1))
    y = np.einsum("nabcxy,xycm->nabcm", seen, w[0])
    return y.reshape(*y.shape[:3], -1) @ w[1][0, 0] + w[2]


CASES: dict[str, Case] = {
    "dense": Case(lambda: layers.Dense(4, "tanh"), (3, 2, 5), lambda x, w: np.tanh(x @ w[0] + w[1]), ((5, 4), (4,))),
    "dense, no bias": Case(lambda: layers.Dense(4, use_bias=False), (3, 5), lambda x, w: x @ w[0], ((5, 4),)),
    "conv1d": Case(lambda: layers.Conv1D(4, 3), (2, 9, 3), lambda x, w: conv(x, w, (3,)), ((3, 3, 4), (4,))),
    "conv1d, causal": Case(
        lambda: layers.Conv1D(4, 3, padding="causal", dilation_rate=2), (2, 9, 3),
        lambda x, w: conv(np.pad(x, [(0, 0), (4, 0), (0, 0)]), w, (3,), dilation=(2,)),
    ),
    "conv2d": Case(lambda: layers.Conv2D(4, (3, 2)), (2, 7, 6, 3), lambda x, w: conv(x, w, (3, 2)), ((3, 2, 3, 4), (4,))),
    "conv2d, same, strides": Case(
        lambda: layers.Conv2D(4, 3, strides=2, padding="same"), (2, 8, 7, 3),
        lambda x, w: conv(x, w, (3, 3), (2, 2), padded=True),
    ),
    "conv3d": Case(lambda: layers.Conv3D(2, 2), (1, 3, 4, 3, 2), lambda x, w: conv(x, w, (2, 2, 2)), ((2, 2, 2, 2, 2), (2,))),
    "conv2d transpose, same": Case(
        lambda: layers.Conv2DTranspose(4, 3, strides=2, padding="same"), (2, 4, 5, 3),
        lambda x, w: transposed(x, w, 2, "same"), ((3, 3, 4, 3), (4,)),
    ),
    "conv2d transpose, valid": Case(
        lambda: layers.Conv2DTranspose(2, 3, strides=2), (1, 3, 3, 2), lambda x, w: transposed(x, w, 2, "valid")
    ),
    "conv2d transpose, large strides": Case(
        lambda: layers.Conv2DTranspose(2, 2, strides=3), (1, 3, 3, 2), lambda x, w: transposed(x, w, 3, "valid")
    ),
    "depthwise": Case(
        lambda: layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2), (2, 5, 5, 3), depthwise, ((3, 3, 3, 2), (6,))
    ),
    "separable": Case(
        lambda: layers.SeparableConv2D(4, 3, depth_multiplier=2), (2, 5, 6, 3), separable,
        ((3, 3, 3, 2), (1, 1, 6, 4), (4,)),
    ),
    "max pool, same": Case(
        lambda: layers.MaxPooling2D(2, strides=2, padding="same"), (2, 5, 5, 3), lambda x, w: max_same(x, (2, 2), (2, 2))
    ),
    "average pool, same": Case(
        lambda: layers.AveragePooling2D(3, strides=2, padding="same"), (2, 6, 5, 3), lambda x, w: mean_same(x, (3, 3), (2, 2))
    ),
    "max pool 1d": Case(lambda: layers.MaxPooling1D(2), (2, 6, 3), lambda x, w: x.reshape(2, 3, 2, 3).max(axis=2)),
    "global average": Case(lambda: layers.GlobalAveragePooling2D(), (2, 4, 5, 3), lambda x, w: x.mean(axis=(1, 2))),
    "global max": Case(lambda: layers.GlobalMaxPooling1D(), (2, 4, 3), lambda x, w: x.max(axis=1)),
    "batch norm": Case(
        lambda: layers.BatchNormalization(), (4, 3, 2), lambda x, w: (x - w[2]) / np.sqrt(w[3] + 1e-3) * w[0] + w[1],
        ((2,), (2,), (2,), (2,)),
    ),
    "layer norm": Case(
        lambda: layers.LayerNormalization(), (4, 3, 6), lambda x, w: normalized(x, (2,), 1e-3) * w[0] + w[1], ((6,), (6,))
    ),
    "group norm": Case(
        lambda: layers.GroupNormalization(2), (2, 3, 3, 4),
        lambda x, w: normalized(x.reshape(2, 3, 3, 2, 2), (1, 2, 4), 1e-3).reshape(2, 3, 3, 4) * w[0] + w[1],
    ),
    "flatten": Case(lambda: layers.Flatten(), (2, 3, 4), lambda x, w: x.reshape(2, 12)),
    "reshape": Case(lambda: layers.Reshape((-1, 2)), (2, 3, 4), lambda x, w: x.reshape(2, 6, 2)),
    "permute": Case(lambda: layers.Permute((2, 1)), (2, 3, 4), lambda x, w: x.transpose(0, 2, 1)),
    "repeat": Case(lambda: layers.RepeatVector(3), (2, 4), lambda x, w: np.repeat(x[:, None], 3, axis=1)),
    "zero padding": Case(
        lambda: layers.ZeroPadding2D(((1, 2), (0, 3))), (1, 2, 2, 3), lambda x, w: np.pad(x, [(0, 0), (1, 2), (0, 3), (0, 0)])
    ),
    "cropping": Case(lambda: layers.Cropping2D(((1, 0), (0, 2))), (1, 4, 4, 2), lambda x, w: x[:, 1:, :-2]),
    "upsampling": Case(lambda: layers.UpSampling2D((2, 3)), (1, 2, 2, 3), lambda x, w: x.repeat(2, axis=1).repeat(3, axis=2)),
    "simple rnn": Case(lambda: layers.SimpleRNN(4), (3, 5, 2), rnn, ((2, 4), (4, 4), (4,))),
    "lstm": Case(lambda: layers.LSTM(4), (3, 5, 2), lstm, ((2, 16), (4, 16), (16,))),
    "gru": Case(lambda: layers.GRU(4), (3, 5, 2), gru, ((2, 12), (4, 12), (2, 12))),
    "lstm from the end": Case(lambda: layers.LSTM(4, go_backwards=True), (3, 5, 2), lambda x, w: lstm(x[:, ::-1], w)),
    "bidirectional": Case(lambda: layers.Bidirectional(layers.LSTM(3)), (3, 5, 2), both),
    "time distributed": Case(
        lambda: layers.TimeDistributed(layers.Dense(4)), (2, 3, 5), lambda x, w: x @ w[0] + w[1], ((5, 4), (4,))
    ),
    "leaky relu": Case(lambda: layers.LeakyReLU(), (3, 4), lambda x, w: np.where(x > 0, x, 0.3 * x)),
    "prelu": Case(lambda: layers.PReLU(), (3, 4), lambda x, w: np.where(x > 0, x, w[0] * x), ((4,),)),
    "rescaling": Case(lambda: layers.Rescaling(1 / 127.5, offset=-1), (2, 3), lambda x, w: x / 127.5 - 1),
    "unit norm": Case(
        lambda: layers.UnitNormalization(), (3, 4), lambda x, w: x / np.sqrt((x**2).sum(axis=1, keepdims=True))
    ),
}  # fmt: skip


def self_attention(x: Any) -> Any:
    """Called with two arguments, hence not in the table."""
    return layers.MultiHeadAttention(num_heads=2, key_dim=3)(x, x)
