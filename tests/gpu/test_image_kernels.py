"""Batch norm, pooling, convolution by unfolding and resizing on the device, against the reference in float32 on the CPU.

Images come with their channels first, last, and as a view that is neither; with as many channels as fill packs of 16 bytes, and not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn
from phalanx.core import backend
from phalanx.core.kernels import reference_conv, reference_fused, reference_norm, reference_pool, reference_resample
from phalanx.core.kernels.cuda import batch_norm, channels_last, im2col, pool, resample
from phalanx.core.kernels.window import Window
from phalanx.core.trace import watched

Array = Any
DTYPES = ("float32", "bfloat16", "float16")
LAYOUTS = ("first", "last", "neither")
TOLERANCE = {"float32": 2e-5, "float16": 3e-3, "bfloat16": 2e-2}


def _dtype(name: str) -> Any:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _draw(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> Array:
    """Numbers that ``dtype`` has, in it."""
    draw = np.random.default_rng([seed, *shape])
    return (draw.standard_normal(shape, np.float32) * 2 + 0.5).astype(_dtype(dtype))


def _put(x: Array, layout: str = "first") -> Array:
    """``x`` (N, C, S) on the device, lying as ``layout`` says."""
    xp = backend.cupy()
    there = xp.asarray(np.ascontiguousarray(x))
    if layout == "first" or x.ndim < 3:
        return there
    if layout == "last":
        return channels_last.to_first(xp.ascontiguousarray(channels_last.to_last(there)))
    room = xp.zeros(x.shape[:-1] + (x.shape[-1] + 1,), x.dtype)
    room[..., 1:] = there
    return room[..., 1:]


def _host(x: Array) -> Array:
    x = backend.to_host(x)
    return x.astype(np.float32) if x.dtype.name in DTYPES else x


def _close(got: Array, want: Array, dtype: str, scale: float = 1.0, message: str = "") -> None:
    assert got.shape == want.shape, (got.shape, want.shape)
    tolerance = TOLERANCE[dtype] * scale
    np.testing.assert_allclose(_host(got), want, rtol=tolerance, atol=tolerance, err_msg=message)


# ---- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
def test_a_transposition(device: str, itemsize: int) -> None:
    for shape in ((1, 1, 1), (2, 3, 5), (3, 33, 70), (1, 64, 32)):
        x = np.arange(np.prod(shape), dtype=f"u{itemsize}").reshape(shape)
        got = channels_last.transposed(backend.cupy().asarray(x), *shape).reshape(shape[0], shape[2], shape[1])
        np.testing.assert_array_equal(backend.to_host(got), x.transpose(0, 2, 1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_image_is_arranged(device: str, layout: str) -> None:
    for shape in ((2, 3), (2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 4, 5)):
        x = _draw(shape)
        last = channels_last.arranged(_put(x, layout))
        assert last.flags.c_contiguous
        np.testing.assert_array_equal(backend.to_host(channels_last.to_first(last)), x)
        np.testing.assert_array_equal(backend.to_host(channels_last.first(last)), x)
    there = _put(_draw((2, 3, 4, 5)), "last")
    assert channels_last.is_last(there)
    assert channels_last.arranged(there).data.ptr == there.data.ptr  # no copy


# ---- batch norm ------------------------------------------------------------------------------------------------------

SHAPES = ((5, 16), (33, 3), (4, 24, 7), (3, 8, 6, 5), (2, 5, 3, 4), (2, 40, 2, 3, 2), (9, 1, 9, 9), (1, 264, 2, 2))


def _numbers(channels: int, there: bool) -> tuple[Array, Array]:
    if not there:
        return None, None
    draw = np.random.default_rng(channels)
    return draw.random(channels, np.float32) + 0.5, draw.standard_normal(channels, np.float32)


def _each(*arrays: Array) -> list[Array]:
    return [None if array is None else backend.cupy().asarray(array) for array in arrays]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm(device: str, shape: tuple[int, ...], dtype: str) -> None:
    for layout in LAYOUTS:
        for affine in (False, True):
            x, g = _draw(shape, dtype), _draw(shape, dtype, 1)
            weight, bias = _numbers(shape[1], affine)
            w, b = _each(weight, bias)
            there, given = _put(x, layout), _put(g, layout)
            wide, g = x.astype(np.float32), g.astype(np.float32)
            want = reference_norm.batch_norm_train(wide, weight, bias, 1e-3)
            got = batch_norm.batch_norm_train(there, w, b, 1e-3)
            assert got[0].dtype == x.dtype and all(each.dtype == np.float32 for each in got[1:])
            for mine, theirs, limit in zip(got, want, (dtype, *["float32"] * 3), strict=True):
                _close(mine, theirs, limit, 10)
            for mine, theirs in zip(batch_norm.batch_norm_statistics(there), want[1:3], strict=True):
                _close(mine, theirs, "float32", 10)
            mean, inverse = want[1], want[3]
            at = _each(mean, inverse)
            y = reference_norm.batch_norm_apply(wide, mean, inverse, weight, bias)
            _close(batch_norm.batch_norm_apply(there, *at, w, b), y, dtype)
            for training in (True, False):
                back = reference_norm.batch_norm_backward(g, wide, mean, inverse, weight, training)
                found = batch_norm.batch_norm_backward(given, there, *at, w, training)
                _close(found[0], back[0], dtype, 4)
                for mine, theirs in zip(found[1:], back[1:], strict=True):
                    _close(mine, theirs, "float32", 10)
            back = reference_norm.batch_norm_backward(g, wide, mean, inverse, weight, True, y)
            positive = _put(y.astype(x.dtype), layout)
            for mine, theirs in zip(
                batch_norm.batch_norm_backward(given, there, *at, w, True, positive), back, strict=True
            ):
                _close(mine, theirs, dtype, 20)


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_and_relu(device: str, dtype: str) -> None:
    for shape in ((4, 24, 5), (3, 5, 4, 4)):
        x, g = _draw(shape, dtype), _draw(shape, dtype, 1)
        weight, bias = _numbers(shape[1], True)
        w, b = _each(weight, bias)
        wide, g32 = x.astype(np.float32), g.astype(np.float32)
        want = reference_fused.batch_norm_relu(wide, weight, bias, 1e-3)
        got = batch_norm.batch_norm_relu(_put(x), w, b, 1e-3)
        _close(got[0], want[0], dtype, 4)
        assert _host(got[0]).min() == 0.0
        back = reference_fused.batch_norm_relu_backward(g32, wide, want[1], want[3], weight, bias, _host(got[0]))
        found = batch_norm.batch_norm_relu_backward(_put(g), _put(x), got[1], got[3], w, b, got[0])
        for mine, theirs in zip(found, back, strict=True):
            _close(mine, theirs, dtype, 20)


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_relu_and_halves(device: str, dtype: str) -> None:
    for shape in ((3, 16, 6, 4), (2, 5, 5, 7), (2, 24, 2, 3)):
        x = _draw(shape, dtype)
        weight, bias = _numbers(shape[1], True)
        w, b = _each(weight, bias)
        there = _put(x, "last")
        want = reference_fused.batch_norm_relu_pool(x.astype(np.float32), weight, bias, 1e-3)
        got = batch_norm.batch_norm_relu_pool(there, w, b, 1e-3)
        _close(got[0], want[0], dtype, 4)
        for mine, theirs in zip(got[1:4], want[1:4], strict=True):
            _close(mine, theirs, "float32", 10)
        index = backend.to_host(got[4])
        assert index.dtype == np.uint8
        if dtype == "float32":
            np.testing.assert_array_equal(index, want[4])
        g = _draw(got[0].shape, dtype, 1)
        back = reference_fused.batch_norm_relu_pool_backward(
            g.astype(np.float32), x.astype(np.float32), want[1], want[3], weight, index
        )
        found = batch_norm.batch_norm_relu_pool_backward(_put(g), there, got[1], got[3], w, got[4])
        for mine, theirs in zip(found, back, strict=True):
            _close(mine, theirs, dtype, 20)


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_with_something_added_and_relu(device: str, dtype: str) -> None:
    for shape in ((4, 24, 5), (3, 5, 4, 4)):
        x, other, g = (_draw(shape, dtype, seed) for seed in (0, 1, 2))
        weight, bias = _numbers(shape[1], True)
        w, b = _each(weight, bias)
        wide, g32 = x.astype(np.float32), g.astype(np.float32)
        want = reference_fused.batch_norm_add_relu(wide, other.astype(np.float32), weight, bias, 1e-3)
        got = batch_norm.batch_norm_add_relu(_put(x, "last"), _put(other), w, b, 1e-3)
        for mine, theirs, limit in zip(got, want, (dtype, *["float32"] * 3), strict=True):
            _close(mine, theirs, limit, 10)
        back = reference_fused.batch_norm_add_relu_backward(g32, wide, want[1], want[3], weight, _host(got[0]))
        found = batch_norm.batch_norm_add_relu_backward(_put(g), _put(x), got[1], got[3], w, got[0])
        for mine, theirs in zip(found, back, strict=True):
            _close(mine, theirs, dtype, 20)


def test_running_statistics_move_as_on_the_cpu(device: str) -> None:
    for channels in (1, 300):
        draw = np.random.default_rng(channels)
        arrays = [draw.random(channels, np.float32) + each for each in range(4)]
        here = [arrays[0].copy(), arrays[1].copy(), np.array(4, np.int64)]
        there = _each(*here)
        for degrees in (7.0, 20.0):
            reference_norm.move_running(*here, *arrays[2:], 0.1, degrees)
            batch_norm.move_running(*there, *_each(*arrays[2:]), 0.1, degrees)
        for mine, theirs in zip(there, here, strict=True):
            np.testing.assert_allclose(backend.to_host(mine), theirs, rtol=3e-7)
        assert int(there[2]) == 6


FUSED: dict[str, Callable[[], list[Any]]] = {
    "all three": lambda: [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()],
    "norm and relu": lambda: [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 2, 1)],
    "relu and maximum": lambda: [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d((2, 2), stride=2)],
}


@pytest.mark.parametrize("dtype", [phalanx.float32, phalanx.bfloat16])
@pytest.mark.parametrize("name", FUSED)
def test_what_sequential_does_at_once_has_the_bits_of_its_parts(device: str, name: str, dtype: Any) -> None:
    results = []
    for apart in (False, True):
        phalanx.manual_seed(5)
        layers = FUSED[name]()
        model = nn.Sequential(*layers).to(device)
        if apart:
            for layer in layers:
                layer.register_forward_hook(lambda module, args, output: None)
        ran: list[str] = []
        x = phalanx.Tensor(_draw((4, 3, 7, 6))).to(device).detach()
        x.requires_grad = True
        with (
            phalanx.autocast("cuda", dtype=dtype, enabled=dtype != phalanx.float32),
            watched(lambda op, *_, to=ran: to.append(op.name)),
        ):
            y = model(x)
        assert any(op in ("batch_norm_relu", "batch_norm_relu_pool", "relu_pool") for op in ran) is not apart, ran
        (y.float() * phalanx.Tensor(_draw(tuple(y.shape), seed=2)).to(device)).sum().backward()
        found = [y, x.grad, *(p.grad for p in model.parameters()), *model.buffers()]
        results.append([_host(tensor.array) for tensor in found])
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_end_of_a_residual_block_has_the_bits_of_its_parts(device: str) -> None:
    results = []
    for apart in (False, True):
        phalanx.manual_seed(5)
        norm = nn.BatchNorm2d(16).to(device)
        if apart:
            norm.register_forward_hook(lambda module, args, output: None)
        x, other = (phalanx.Tensor(_draw((3, 16, 5, 5), seed=seed)).to(device).requires_grad_() for seed in (0, 1))
        ran: list[str] = []
        with watched(lambda op, *_, to=ran: to.append(op.name)):
            y = norm.add_relu(x, other)
        assert ("batch_norm_add_relu" in ran) is not apart, ran
        (y * phalanx.Tensor(_draw((3, 16, 5, 5), seed=2)).to(device)).sum().backward()
        found = [y, x.grad, other.grad, norm.weight.grad, norm.bias.grad, norm.running_var]
        results.append([_host(tensor.array) for tensor in found])
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_statistics_far_from_zero_lose_nothing(device: str) -> None:
    x = (np.random.default_rng(0).standard_normal((700, 8), np.float32) + 1e4).astype(np.float32)
    mean, m2 = batch_norm.batch_norm_statistics(_put(x))
    wide = x.astype(np.float64)
    np.testing.assert_allclose(backend.to_host(mean), wide.mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(backend.to_host(m2), ((wide - wide.mean(axis=0)) ** 2).sum(axis=0), rtol=1e-3)


def test_batch_norm_over_many_blocks_and_of_float64(device: str) -> None:
    x = _draw((6_000, 40))
    want = reference_norm.batch_norm_train(x, None, None, 1e-5)
    for mine, theirs in zip(batch_norm.batch_norm_train(_put(x), None, None, 1e-5), want, strict=True):
        _close(mine, theirs, "float32", 10)
    wide = x[:50].astype(np.float64)
    y, *_ = batch_norm.batch_norm_train(_put(wide), None, None, 1e-5)
    np.testing.assert_allclose(
        backend.to_host(y), reference_norm.batch_norm_train(wide, None, None, 1e-5)[0], rtol=1e-9, atol=1e-9
    )


# ---- pooling ---------------------------------------------------------------------------------------------------------

WINDOWS = {
    "halves": ((3, 8, 6, 4), Window((2, 2), (2, 2), (0, 0), (1, 1))),
    "halves of odd sizes": ((2, 3, 5, 7), Window((2, 2), (2, 2), (0, 0), (1, 1))),
    "overlapping": ((2, 16, 7, 9), Window((3, 3), (2, 2), (1, 1), (1, 1))),
    "dilated": ((2, 4, 9, 8), Window((2, 3), (1, 2), (1, 1), (2, 3))),
    "with a rest": ((1, 5, 8, 7), Window((3, 2), (2, 3), (1, 0), (1, 1), True)),
    "sequence": ((2, 8, 11), Window((3,), (2,), (1,), (1,))),
    "volume": ((2, 3, 4, 5, 6), Window((2, 3, 2), (2, 1, 2), (1, 1, 0), (1, 1, 1))),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WINDOWS)
def test_pooling(device: str, name: str, dtype: str) -> None:
    shape, window = WINDOWS[name]
    for layout in LAYOUTS:
        x = np.round(_draw(shape, dtype).astype(np.float32)).astype(_dtype(dtype))  # many equals
        wide, there = x.astype(np.float32), _put(x, layout)
        want, index = reference_pool.max_pool_forward(wide, window)
        y, winners = pool.max_pool_forward(there, window)
        np.testing.assert_array_equal(_host(y), want)
        np.testing.assert_array_equal(backend.to_host(winners), index)
        assert winners.dtype == np.uint8 and y.dtype == x.dtype
        g = _draw(want.shape, dtype, 1)
        for way in LAYOUTS:
            _close(
                pool.max_pool_backward(_put(g, way), winners, shape, window),
                reference_pool.max_pool_backward(g.astype(np.float32), index, shape, window), dtype,
            )  # fmt: skip
        if max(window.dilation) > 1:
            continue
        for counted, divisor in ((True, None), (False, None), (True, 3)):
            _close(
                pool.avg_pool_forward(there, window, counted, divisor),
                reference_pool.avg_pool_forward(wide, window, counted, divisor), dtype,
            )  # fmt: skip
            _close(
                pool.avg_pool_backward(_put(g, layout), shape, window, counted, divisor),
                reference_pool.avg_pool_backward(g.astype(np.float32), shape, window, counted, divisor), dtype,
            )  # fmt: skip


def test_pooling_of_what_is_not_a_number(device: str) -> None:
    x = _draw((2, 8, 6, 6))
    x[0, 1, 2, 3], x[1, :, 0, 0], x[0, 2] = np.nan, np.nan, -np.inf
    window = Window((3, 3), (2, 2), (1, 1), (1, 1))
    want, index = reference_pool.max_pool_forward(x, window)
    y, winners = pool.max_pool_forward(_put(x), window)
    np.testing.assert_array_equal(backend.to_host(y), want)
    np.testing.assert_array_equal(backend.to_host(winners), index)
    want, place = reference_pool.adaptive_max_pool_forward(x, (4, 3))
    y, winners = pool.adaptive_max_pool_forward(_put(x), (4, 3))
    np.testing.assert_array_equal(backend.to_host(y), want)
    np.testing.assert_array_equal(backend.to_host(winners), place)


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu_and_halves(device: str, dtype: str) -> None:
    for shape in ((2, 16, 4, 6), (2, 3, 5, 5)):
        for layout in LAYOUTS:
            x = (_draw(shape, dtype) - _dtype(dtype).type(1.5)).astype(_dtype(dtype))
            want, index = reference_fused.relu_pool(x.astype(np.float32))
            y, winners = pool.relu_pool(_put(x, layout))
            np.testing.assert_array_equal(_host(y), want)
            np.testing.assert_array_equal(backend.to_host(winners), index)
            assert (index >= 4).any() and (index < 4).any()
            g = _draw(want.shape, dtype, 1)
            _close(
                pool.relu_pool_backward(_put(g, layout), winners, shape),
                reference_fused.relu_pool_backward(g.astype(np.float32), index, shape), dtype,
            )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "output"),
    [((2, 8, 7, 5), (1, 1)), ((2, 3, 7, 5), (3, 2)), ((2, 16, 6, 4), (3, 2)), ((2, 4, 3, 2), (5, 3)), ((2, 3, 9), (4,)),
     ((1, 8, 4, 5, 3), (2, 3, 2))],
)  # fmt: skip
def test_bins(device: str, shape: tuple[int, ...], output: tuple[int, ...], dtype: str) -> None:
    for layout in LAYOUTS:
        x = _draw(shape, dtype)
        wide, there, g = x.astype(np.float32), _put(x, layout), _draw(shape[:2] + output, dtype, 1)
        _close(
            pool.adaptive_avg_pool_forward(there, output), reference_pool.adaptive_avg_pool_forward(wide, output), dtype
        )
        _close(
            pool.adaptive_avg_pool_backward(_put(g, layout), shape),
            reference_pool.adaptive_avg_pool_backward(g.astype(np.float32), shape), dtype,
        )  # fmt: skip
        want, index = reference_pool.adaptive_max_pool_forward(wide, output)
        y, winners = pool.adaptive_max_pool_forward(there, output)
        np.testing.assert_array_equal(_host(y), want)
        np.testing.assert_array_equal(backend.to_host(winners), index)
        assert winners.dtype == np.int64


# ---- convolution by unfolding ----------------------------------------------------------------------------------------

CONVOLUTIONS = {
    "pointwise": ((2, 8, 4, 3), (5, 8, 1, 1), Window((1, 1), (1, 1), (0, 0), (1, 1)), 1),
    "padded": ((3, 8, 5, 4), (6, 8, 3, 3), Window((3, 3), (1, 1), (1, 1), (1, 1)), 1),
    "strided": ((2, 3, 7, 8), (4, 3, 3, 2), Window((3, 2), (2, 3), (1, 0), (1, 1)), 1),
    "dilated groups": ((2, 8, 7, 7), (6, 4, 2, 3), Window((2, 3), (1, 2), (1, 1), (2, 1)), 2),
    "depthwise": ((2, 6, 5, 5), (6, 1, 3, 3), Window((3, 3), (1, 1), (1, 1), (1, 1)), 6),
    "sequence": ((2, 8, 9), (4, 8, 3), Window((3,), (2,), (1,), (1,)), 1),
    "volume": ((2, 3, 4, 3, 5), (4, 3, 2, 2, 3), Window((2, 2, 3), (1, 1, 2), (1, 0, 1), (1, 1, 1)), 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(device: str, name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, of_weight, window, groups = CONVOLUTIONS[name]
    x, weight, bias = _draw(shape, dtype), _draw(of_weight, dtype, 1), _draw(of_weight[:1], dtype, 2)
    wide = [each.astype(np.float32) for each in (x, weight, bias)]
    want = reference_conv.conv_forward(*wide, window, groups)
    g = _draw(want.shape, dtype, 3)
    dx = reference_conv.conv_input_gradient(g.astype(np.float32), wide[1], shape, window, groups)
    dw = reference_conv.conv_weight_gradient(g.astype(np.float32), wide[0], of_weight, window, groups)
    w, b = _put(weight), _put(bias)
    for layout, room in (("first", im2col.UNFOLDED_BYTES), ("last", 1), ("neither", 1)):
        monkeypatch.setattr(im2col, "UNFOLDED_BYTES", room)
        there, given = _put(x, layout), _put(g, layout)
        _close(im2col.conv_forward(there, w, b, window, groups), want, dtype, 10)
        _close(im2col.conv_input_gradient(given, w, shape, window, groups), dx, dtype, 10)
        _close(im2col.conv_weight_gradient(given, there, of_weight, window, groups), dw, dtype, 20)
        out = backend.cupy().zeros(of_weight, np.float32)
        assert im2col.conv_weight_gradient(given, there, of_weight, window, groups, out) is out
        _close(out, dw, dtype, 20)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WINDOWS)
def test_unfolding_and_folding(device: str, name: str, dtype: str) -> None:
    shape, window = WINDOWS[name]
    if window.ceil_mode:
        window = window._replace(ceil_mode=False)
    x = _draw(shape, dtype)
    want = reference_conv.unfold_windows(x.astype(np.float32), window)
    for layout in LAYOUTS:
        got = im2col.unfold_windows(_put(x, layout), window)
        np.testing.assert_array_equal(_host(got), want)
        g = _draw(want.shape, dtype, 1)
        _close(
            im2col.fold_windows(_put(g), shape[2:], window),
            reference_conv.fold_windows(g.astype(np.float32), shape[2:], window), dtype,
        )  # fmt: skip


# ---- resizing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "linear", "cubic", "smooth linear", "smooth cubic"])
def test_resizing(device: str, mode: str, dtype: str) -> None:
    for shape, size in (
        ((2, 3, 5), (8,)),
        ((2, 3, 6, 5), (4, 9)),
        ((1, 2, 6, 5), (6, 3)),
        ((1, 2, 3, 4, 5), (5, 2, 5)),
    ):
        plans = [
            reference_resample.plan(axis + 2, length, out, None, mode, False)
            for axis, (length, out) in enumerate(zip(shape[2:], size, strict=True))
            if length != out
        ]
        lengths = [shape[axis] for axis, _, _ in plans]
        x, g = _draw(shape, dtype), _draw(shape[:2] + size, dtype, 1)
        for layout in LAYOUTS:
            got = resample.resample_forward(_put(x, layout), plans)
            assert got.dtype == x.dtype
            _close(got, reference_resample.resample_forward(x.astype(np.float32), plans), dtype)
            _close(
                resample.resample_backward(_put(g, layout), lengths, plans),
                reference_resample.resample_backward(g.astype(np.float32), lengths, plans), dtype, 4,
            )  # fmt: skip


# ---- what is left to the reference -----------------------------------------------------------------------------------


def test_what_the_kernels_do_not_serve_is_computed_all_the_same(device: str) -> None:
    window, double = Window((3, 3), (2, 2), (1, 1), (1, 1)), _draw((2, 3, 7, 7)).astype(np.float64)
    large = Window((17, 17), (1, 1), (0, 0), (1, 1))
    calls: list[tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]] = [
        (pool.max_pool_forward, reference_pool.max_pool_forward, (double, window)),
        (pool.avg_pool_forward, reference_pool.avg_pool_forward, (double, window)),
        (pool.max_pool_forward, reference_pool.max_pool_forward, (_draw((1, 2, 18, 18)), large)),
        (pool.adaptive_avg_pool_forward, reference_pool.adaptive_avg_pool_forward, (double, (2, 3))),
        (im2col.unfold_windows, reference_conv.unfold_windows, (double, window)),
        (resample.resample_forward, reference_resample.resample_forward, (_draw((2, 3, 4)), [])),
    ]
    for mine, theirs, (x, *rest) in calls:
        want, got = theirs(x, *rest), mine(backend.cupy().asarray(x), *rest)
        pairs = zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]
        for have, expected in pairs:
            np.testing.assert_allclose(backend.to_host(have), expected, rtol=1e-10)
