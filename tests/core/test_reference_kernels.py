"""The reference kernels against plain loops and ``math``; equal bits wherever the arrays lie; slots."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from phalanx.core.kernels import reference, reference_conv, reference_norm, reference_pool
from phalanx.core.kernels.reference_erf import erf, gelu_forward
from phalanx.core.kernels.window import Window

RANDOM = np.random.default_rng(11)


def draw(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


# ---- accuracy --------------------------------------------------------------------------------------------------------


def test_erf_is_exact_to_the_last_places() -> None:
    x = np.concatenate([np.linspace(-7, 7, 20_001), [1e-300, 1e-8, -0.0]])
    expected = np.array([math.erf(v) for v in x])
    assert np.abs(erf(x) - expected).max() <= 2.3e-16
    scale = np.where(expected == 0, 1, expected)
    assert np.abs((erf(x) - expected) / scale).max() < 1e-15
    assert np.abs(erf(x.astype(np.float32)) - expected).max() < 5e-7
    assert np.abs(erf(x.astype(np.float16)) - expected).max() < 3e-3


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_erf_at_the_ends(dtype: Any) -> None:
    y = erf(np.array([np.nan, np.inf, -np.inf, 100.0, 0.0], dtype))
    assert y.dtype == dtype
    assert math.isnan(y[0])
    assert y[1:].tolist() == [1.0, -1.0, 1.0, 0.0]
    assert gelu_forward(np.array([40.0, -40.0], dtype)).tolist() == [40.0, 0.0]


def naive_conv2d(x: np.ndarray, weight: np.ndarray, window: Window, groups: int) -> np.ndarray:
    """The definition, element by element."""
    padding = ((0, 0), (0, 0), (window.padding[0],) * 2, (window.padding[1],) * 2)
    x = np.pad(x, padding)
    rows = (x.shape[2] - window.dilation[0] * (weight.shape[2] - 1) - 1) // window.stride[0] + 1
    columns = (x.shape[3] - window.dilation[1] * (weight.shape[3] - 1) - 1) // window.stride[1] + 1
    y = np.zeros((x.shape[0], weight.shape[0], rows, columns))
    each_in, each_out = weight.shape[1], weight.shape[0] // groups
    for n, o, p, q in np.ndindex(*y.shape):
        first = o // each_out * each_in
        for c, i, j in np.ndindex(*weight.shape[1:]):
            row = p * window.stride[0] + i * window.dilation[0]
            y[n, o, p, q] += weight[o, c, i, j] * x[n, first + c, row, q * window.stride[1] + j * window.dilation[1]]
    return y


WINDOWS = [
    (Window((3, 3), (1, 1), (0, 0)), 1),
    (Window((3, 2), (2, 1), (1, 1), (1, 2)), 2),
    (Window((1, 1), (1, 1), (0, 0)), 2),
    (Window((1, 1), (2, 2), (1, 0)), 1),
    (Window((3, 3), (1, 1), (1, 1)), 4),
]


@pytest.mark.parametrize(("window", "groups"), WINDOWS)
def test_conv2d_is_its_definition(window: Window, groups: int) -> None:
    """Forward by loops; the gradients by the fact that the map is linear in each argument."""
    x, weight = RANDOM.normal(size=(3, 4, 6, 7)), RANDOM.normal(size=(4, 4 // groups, *window.kernel))
    y = reference_conv.conv_forward(x, weight, None, window, groups)
    np.testing.assert_allclose(y, naive_conv2d(x, weight, window, groups), rtol=1e-12, atol=1e-12)
    g = RANDOM.normal(size=y.shape)
    dx = reference_conv.conv_input_gradient(g, weight, x.shape, window, groups)
    dw = reference_conv.conv_weight_gradient(g, x, weight.shape, window, groups)
    other_x, other_w = RANDOM.normal(size=x.shape), RANDOM.normal(size=weight.shape)
    assert (dx * other_x).sum() == pytest.approx((g * naive_conv2d(other_x, weight, window, groups)).sum())
    assert (dw * other_w).sum() == pytest.approx((g * naive_conv2d(x, other_w, window, groups)).sum())


def test_conv2d_does_not_depend_on_the_chunk_where_sums_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and input gradient treat samples one by one: any chunk gives the same bits."""
    window = Window((3, 3), (1, 1), (1, 1))
    x, weight, results = draw(5, 8, 10, 10), draw(6, 8, 3, 3), []
    for limit in (1, 20_000, 1 << 18):
        monkeypatch.setattr(reference_conv, "UNFOLDED_ELEMENTS", limit)
        y = reference_conv.conv_forward(x, weight, None, window)
        results.append((y.tobytes(), reference_conv.conv_input_gradient(y, weight, x.shape, window).tobytes()))
    assert len(set(results)) == 1


@pytest.mark.parametrize(("rows", "skew"), [(3, 1), (64, 2), (65, 1), (500, 4)])
def test_embedding_gradient_is_a_sum_by_index(rows: int, skew: int) -> None:
    indices = (RANDOM.random((7, 90)) ** skew * rows).astype(np.int64)
    g = RANDOM.normal(size=(7, 90, 4))
    expected = np.zeros((rows, 4))
    np.add.at(expected, indices, g)
    np.testing.assert_allclose(reference.embedding_backward(g, indices, rows), expected, rtol=1e-12, atol=1e-12)


def test_half_precision_sums_in_float32() -> None:
    ones = np.ones((1, 40_000), np.float16)
    assert reference.linear_forward(ones, ones * np.float16(0.5)).tolist() == [[20_000.0]]
    assert reference.bias_gradient(ones.T * np.float16(0.25)).tolist() == [10_000.0]
    assert reference.softmax_forward(ones[:, :1000]).dtype == np.float16


# ---- equal bits ------------------------------------------------------------------------------------------------------


def moved(array: np.ndarray, offset: int) -> np.ndarray:
    """A copy that starts ``offset`` elements behind a 64-byte address."""
    raw = np.empty(array.nbytes + 128 + offset * array.itemsize, np.uint8)
    start = -raw.ctypes.data % 64 + offset * array.itemsize
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


W3, W2 = Window((3, 3), (1, 1), (1, 1)), Window((2, 2), (2, 2), (0, 0))
X4, G4 = draw(5, 3, 13, 11), draw(5, 4, 13, 11)
LABELS = RANDOM.integers(0, 37, 21)
KERNELS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "linear": (reference.linear_forward, (draw(9, 33), draw(17, 33), draw(17))),
    "linear dx": (reference.linear_input_gradient, (draw(9, 17), draw(17, 33))),
    "linear dw": (reference.linear_weight_gradient, (draw(9, 17), draw(9, 33))),
    "bias": (reference.bias_gradient, (draw(9, 17),)),
    "softmax": (reference.softmax_forward, (draw(21, 37),)),
    "softmax back": (reference.softmax_backward, (draw(21, 37), draw(21, 37))),
    "log_softmax": (reference.log_softmax_forward, (draw(21, 37),)),
    "log_softmax back": (reference.log_softmax_backward, (draw(21, 37), draw(21, 37))),
    "cross_entropy": (lambda x: reference.cross_entropy_forward(x, LABELS, None, -100, 0.1), (draw(21, 37),)),
    "embedding back": (lambda g: reference.embedding_backward(g, LABELS, 100), (draw(21, 19),)),
    "gelu": (gelu_forward, (draw(1001),)),
    "conv": (lambda x, w, b: reference_conv.conv_forward(x, w, b, W3), (X4, draw(4, 3, 3, 3), draw(4))),
    "conv dx": (lambda g, w: reference_conv.conv_input_gradient(g, w, X4.shape, W3), (G4, draw(4, 3, 3, 3))),
    "conv dw": (lambda g, x: reference_conv.conv_weight_gradient(g, x, (4, 3, 3, 3), W3), (G4, X4)),
    "conv db": (reference_conv.channel_sum, (G4,)),
    "max_pool": (lambda x: reference_pool.max_pool_forward(x, W2), (X4,)),
    "avg_pool": (lambda x: reference_pool.avg_pool_forward(x, W3), (X4,)),
    "batch_norm": (reference_norm.batch_norm_statistics, (X4,)),
    "batch_norm back": (
        lambda g, x, m, s, w: reference_norm.batch_norm_backward(g, x, m, s, w, True),
        (draw(5, 3, 13, 11), X4, draw(3), draw(3), draw(3)),
    ),
    "layer_norm": (lambda x, w, b: reference_norm.layer_norm_forward(x, w, b, 37, 1e-5), (draw(21, 37), draw(37), draw(37))),
}  # fmt: skip


def bits(result: Any) -> bytes:
    return b"".join(np.ascontiguousarray(r).tobytes() for r in (result if isinstance(result, tuple) else (result,)))


@pytest.mark.parametrize("name", KERNELS)
def test_bits_do_not_depend_on_addresses(name: str) -> None:
    function, arrays = KERNELS[name]
    expected = bits(function(*arrays))
    for offset in range(16):
        assert bits(function(*(moved(array, (offset * (i + 1)) % 16) for i, array in enumerate(arrays)))) == expected


SLOTS: dict[str, tuple[Callable[..., np.ndarray], tuple[Any, ...]]] = {
    "linear dx": (reference.linear_input_gradient, (draw(9, 17), draw(17, 33))),
    "linear dw": (reference.linear_weight_gradient, (draw(9, 17), draw(9, 33))),
    "bias": (reference.bias_gradient, (draw(9, 17),)),
    "embedding few": (reference.embedding_backward, (draw(21, 19), LABELS, 40)),
    "embedding many": (reference.embedding_backward, (draw(21, 19), LABELS, 100, 3)),
    "conv dw": (reference_conv.conv_weight_gradient, (G4, X4, (4, 3, 3, 3), W3)),
    "conv db": (reference_conv.channel_sum, (G4,)),
    "layer_norm dw": (reference_norm.layer_norm_weight_gradient, (draw(21, 37), draw(21, 37), (37,))),
    "layer_norm db": (reference_norm.layer_norm_bias_gradient, (draw(21, 37), (37,))),
}


@pytest.mark.parametrize("name", SLOTS)
def test_a_slot_gets_the_same_bits(name: str) -> None:
    function, arguments = SLOTS[name]
    expected = function(*arguments)
    slot = np.full_like(expected, np.nan)
    assert function(*arguments, out=slot) is slot
    assert slot.tobytes() == expected.tobytes()


def test_max_pool_takes_the_first_of_equals() -> None:
    """The fast path for 2x2 windows and the general one agree, ties and infinities included."""
    x, g = RANDOM.integers(0, 3, (2, 3, 8, 6)).astype(np.float32), draw(2, 3, 4, 3)
    x[0, 0, 0, :] = -np.inf
    y, index = reference_pool.max_pool_forward(x, W2)
    general = Window((2, 2), (2, 2), (0, 0), (1, 1), True)  # ceil_mode changes nothing here but the path
    z, other = reference_pool.max_pool_forward(x, general)
    assert (y.tobytes(), index.tobytes()) == (z.tobytes(), other.tobytes())
    g[0, 0, 0, 0] = np.inf
    dx = reference_pool.max_pool_backward(g, index, x.shape, W2)
    assert dx.tobytes() == reference_pool.max_pool_backward(g, other, x.shape, general).tobytes()
    assert np.isinf(dx).sum() == 1
    assert not np.isnan(dx).any()
