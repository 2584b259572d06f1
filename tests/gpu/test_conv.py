"""Convolutions on a device: forward and both gradients against float64 on the host, in every layout, dtype and shape of window."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx.core import backend
from phalanx.core.amp import precision
from phalanx.core.kernels import reference_conv
from phalanx.core.kernels.cuda import conv, cudnn
from phalanx.core.kernels.table import kernel
from phalanx.core.kernels.window import Window

DTYPES = {"float32": 1e-5, "float16": 1.5e-3, "bfloat16": 1.2e-2}
"""dtype -> error allowed, of the largest value: sums in float32, one rounding at the end."""
CASES = {
    "image": ((3, 8, 9, 7), (16, 8, 3, 3), (1, 1), (1, 1), (1, 1)),
    "one channel": ((2, 1, 8, 8), (8, 1, 3, 3), (1, 1), (1, 1), (1, 1)),
    "three channels, stride 2": ((2, 3, 12, 12), (8, 3, 7, 7), (2, 2), (3, 3), (1, 1)),
    "1 x 1": ((2, 16, 5, 5), (8, 16, 1, 1), (1, 1), (0, 0), (1, 1)),
    "1 x 1, stride 2, rest not met": ((2, 16, 6, 6), (8, 16, 1, 1), (2, 2), (0, 0), (1, 1)),
    "odd": ((2, 5, 11, 13), (7, 5, 3, 2), (2, 3), (2, 1), (1, 2)),
    "groups": ((2, 6, 7, 7), (9, 2, 3, 3), (1, 1), (1, 1), (1, 1)),
    "depthwise": ((2, 8, 7, 7), (8, 1, 3, 3), (1, 1), (1, 1), (1, 1)),
    "sequence": ((3, 4, 17), (6, 4, 5), (2,), (2,), (1,)),
    "dilated sequence in groups": ((3, 4, 17), (6, 2, 3), (1,), (2,), (2,)),
    "volume": ((2, 4, 5, 6, 4), (6, 4, 3, 2, 2), (1, 2, 1), (1, 1, 0), (1, 1, 1)),
}


@pytest.fixture(autouse=True)
def fast(device: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fast kernels; a plan that is refused where one is expected is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="cuDNN has no plan")
        yield


def on_device(x: np.ndarray, dtype: str, last: bool = False) -> Any:
    """``x`` as ``dtype`` on the device, with channels last in memory if ``last``."""
    xp = backend.cupy()
    array = xp.asarray(x.astype(backend.as_dtype(dtype)))
    return xp.moveaxis(xp.ascontiguousarray(xp.moveaxis(array, 1, -1)), -1, 1) if last else array


def host(x: Any) -> np.ndarray:
    return backend.to_host(x).astype(np.float64)


def close(got: Any, expected: np.ndarray, dtype: str) -> None:
    assert got.dtype == backend.as_dtype(dtype) and got.shape == expected.shape
    largest = max(float(np.abs(expected).max(initial=0)), 1e-30)
    assert np.abs(host(got) - expected).max(initial=0) <= DTYPES[dtype] * largest


def operands(name: str, dtype: str) -> tuple[Any, ...]:
    """x, weight, bias, gradient of the output in float64 but with the values of ``dtype``; window and groups."""
    shape, weight, stride, padding, dilation = CASES[name]
    window = Window(weight[2:], stride, padding, dilation)
    rng = np.random.default_rng(7)
    output = (shape[0], weight[0], *window.output(shape[2:]))
    drawn = [rng.normal(size=s) for s in (shape, weight, weight[:1], output)]
    return (*(x.astype(backend.as_dtype(dtype)).astype(np.float64) for x in drawn), window, shape[1] // weight[1])


def is_last(y: Any) -> bool:
    return bool(y.transpose(0, *range(2, y.ndim), 1).flags.c_contiguous)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_forward(name: str, dtype: str) -> None:
    x, w, b, _, window, groups = operands(name, dtype)
    run = kernel("conv_forward", "cuda")
    expected = reference_conv.conv_forward(x, w, b, window, groups)
    for last in (False, True):
        image = on_device(x, dtype, last)
        got = run(image, on_device(w, dtype), on_device(b, dtype), window, groups)
        close(got, expected, dtype)
        assert is_last(got)
        assert (host(image) == x).all()
    plain = reference_conv.conv_forward(x, w, None, window, groups)
    close(run(on_device(x, dtype), on_device(w, dtype), None, window, groups), plain, dtype)
    for bias in (None, b):
        rectified = np.maximum(reference_conv.conv_forward(x, w, bias, window, groups), 0)
        given = None if bias is None else on_device(b, dtype)
        close(run(on_device(x, dtype), on_device(w, dtype), given, window, groups, relu=True), rectified, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, dtype: str) -> None:
    x, w, _, g, window, groups = operands(name, dtype)
    dx = reference_conv.conv_input_gradient(g, w, x.shape, window, groups)
    dw = reference_conv.conv_weight_gradient(g, x, w.shape, window, groups)
    for last in (False, True):
        loss = on_device(g, dtype, last)
        got = kernel("conv_input_gradient", "cuda")(loss, on_device(w, dtype), x.shape, window, groups)
        close(got, dx, dtype)
        assert is_last(got)
        for input_last in (False, True):
            image = on_device(x, dtype, input_last)
            found = kernel("conv_weight_gradient", "cuda")(loss, image, w.shape, window, groups)
            close(found, dw, dtype)
            assert found.flags.c_contiguous


@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_gradient_goes_to_its_slot(dtype: str) -> None:
    x, w, _, g, window, groups = operands("image", dtype)
    dw = reference_conv.conv_weight_gradient(g, x, w.shape, window, groups)
    xp = backend.cupy()
    for slot_dtype in {dtype, "float32"}:
        for offset in (0, 1):  # a slot that begins anywhere
            buffer = xp.full(w.size + 64, 7, backend.as_dtype(slot_dtype))
            slot = buffer[offset : offset + w.size].reshape(w.shape)
            run = kernel("conv_weight_gradient", "cuda")
            assert run(on_device(g, dtype), on_device(x, dtype), w.shape, window, groups, out=slot) is slot
            assert np.abs(host(slot) - dw).max() <= DTYPES[dtype] * np.abs(dw).max()
            assert (host(buffer[offset + w.size :]) == 7).all() and (host(buffer[:offset]) == 7).all()


def test_what_does_not_lie_as_cudnn_wants_it_is_copied() -> None:
    x, w, b, _, window, groups = operands("image", "float32")
    xp = backend.cupy()
    wide = xp.zeros((3, 8, 9, 9), np.float32)
    wide[..., 1:8] = on_device(x, "float32")
    shifted = xp.zeros(b.size + 1, np.float32)
    shifted[1:] = on_device(b, "float32")
    turned = on_device(w.transpose(3, 2, 1, 0).copy(), "float32").transpose(3, 2, 1, 0)
    expected = reference_conv.conv_forward(x, w, b, window, groups)
    close(kernel("conv_forward", "cuda")(wide[..., 1:8], turned, shifted[1:], window, groups), expected, "float32")
    flat = xp.zeros(x.size + 1, np.float32)
    flat[1:] = on_device(x, "float32").reshape(-1)
    moved = flat[1:].reshape(x.shape)  # C-contiguous, at an address that no plan takes
    close(kernel("conv_forward", "cuda")(moved, turned, shifted[1:], window, groups), expected, "float32")


def test_what_cudnn_does_not_serve_is_computed_all_the_same() -> None:
    x, w, b, _, window, groups = operands("image", "float32")
    xp = backend.cupy()
    got = kernel("conv_forward", "cuda")(xp.asarray(x), xp.asarray(w), xp.asarray(b), window, groups)
    assert got.dtype == np.float64
    assert np.allclose(host(got), reference_conv.conv_forward(x, w, b, window, groups), rtol=0, atol=1e-12)
    empty = kernel("conv_forward", "cuda")(xp.zeros((0, 8, 9, 7), np.float32), xp.asarray(w, np.float32), None, window)
    assert empty.shape == (0, 16, 9, 7)
    dw = kernel("conv_weight_gradient", "cuda")(
        xp.zeros((0, 16, 9, 7), np.float32), xp.zeros((0, 8, 9, 7), np.float32), w.shape, window
    )
    assert dw.shape == w.shape and not host(dw).any()


def test_tf32_only_when_allowed() -> None:
    x, w, _, _, window, groups = operands("image", "float32")
    expected, run = reference_conv.conv_forward(x, w, None, window, groups), kernel("conv_forward", "cuda")
    x32, w32 = on_device(x, "float32"), on_device(w, "float32")
    note, shapes = cudnn.library().numerical_note.TENSOR_CORE, (x.shape, w.shape, expected.shape, window)
    exact = run(x32, w32, None, window, groups)
    assert note in conv.request("forward", "float32", *shapes).forbidden(cudnn.library())
    assert note not in conv.request("forward", "bfloat16", *shapes).forbidden(cudnn.library())
    precision.set_convolution_tf32(True)
    try:
        assert note not in conv.request("forward", "float32", *shapes).forbidden(cudnn.library())
        rounded = run(x32, w32, None, window, groups)
    finally:
        precision.set_convolution_tf32(False)
    largest = np.abs(expected).max()
    assert np.abs(host(exact) - expected).max() < DTYPES["float32"] * largest
    assert np.abs(host(rounded) - expected).max() < 3e-3 * largest
    assert (host(run(x32, w32, None, window, groups)) == host(exact)).all()


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 1},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"dilation": 2, "output_padding": 1},  # one more row than any window reaches: not the gradient of a convolution
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transposed_convolution(dtype: str, options: dict[str, int]) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 8, 5, 4)).astype(backend.as_dtype(dtype)).astype(np.float64)
    w = rng.normal(size=(8, 6, 3, 3)).astype(backend.as_dtype(dtype)).astype(np.float64)
    tensors = {}
    for place, kind in (("cpu", np.float64), ("cuda", backend.as_dtype(dtype))):
        a, b = (phalanx.tensor(v.astype(kind), device=place, requires_grad=True) for v in (x, w))
        y = phalanx.nn.functional.conv_transpose2d(a, b, **options)
        y.backward(phalanx.tensor(np.cos(np.arange(y.array.size)).reshape(y.array.shape).astype(kind), device=place))
        tensors[place] = (y, a.grad, b.grad)
    for got, expected in zip(tensors["cuda"], tensors["cpu"], strict=True):
        assert got is not None and expected is not None
        scale = np.abs(expected.array).max()
        assert np.abs(host(got.array) - expected.array).max() <= 3 * DTYPES[dtype] * scale


def test_equal_runs_give_equal_bits() -> None:
    x, w, _, g, window, groups = operands("image", "bfloat16")
    note, shapes = cudnn.library().numerical_note, (x.shape, w.shape, g.shape, window)
    assert note.NONDETERMINISTIC not in conv.request("weight gradient", "bfloat16", *shapes).forbidden(cudnn.library())
    precision.use_deterministic_algorithms(True)
    try:
        assert note.NONDETERMINISTIC in conv.request("weight gradient", "bfloat16", *shapes).forbidden(cudnn.library())
        runs = [
            kernel("conv_weight_gradient", "cuda")(
                on_device(g, "bfloat16"), on_device(x, "bfloat16"), w.shape, window, groups
            )
            for _ in range(3)
        ]
    finally:
        precision.use_deterministic_algorithms(False)
    assert all((host(run) == host(runs[0])).all() for run in runs)
