"""Norms, clipping, the finite check, hashes, averages on the device, against the reference on the CPU."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core import backend
from phalanx.core.errors import NonFiniteError
from phalanx.core.flat import CHUNK, tree_sum
from phalanx.core.hashing import hash_array
from phalanx.core.kernels import reference_optim, reference_optim_norms
from phalanx.core.kernels.cuda import flat
from phalanx.core.kernels.cuda.provide_flat import describe

Array = Any
SIZES = (1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5)
DTYPES = ("float32", "bfloat16", "float16")


def _dtype(name: str) -> Any:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _draw(size: int, dtype: str = "float32", seed: int = 0) -> Array:
    return np.random.default_rng(seed + size).standard_normal(size, np.float32).astype(_dtype(dtype))


def _put(array: Array, shift: int = 0) -> Array:
    room = backend.cupy().zeros(array.size + shift, array.dtype)
    room[shift:] = backend.cupy().asarray(array)
    return room[shift:]


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, 0.5, math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_chunk_norms(device: str, dtype: str, norm_type: float) -> None:
    for size in SIZES:
        x = _draw(size, dtype)
        want = reference_optim_norms.chunk_norms(x.astype(np.float32), norm_type)
        got = [flat.chunk_norms(_put(x, shift), norm_type) for shift in (0, 1)]
        assert got[0].dtype == np.float64 and got[0].shape == want.shape
        np.testing.assert_allclose(got[0], want, rtol=1e-5)
        np.testing.assert_array_equal(got[0], got[1])  # where it lies changes no bit


def test_a_norm_of_what_is_not_finite(device: str) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        x = _draw(CHUNK + 9)
        x[CHUNK + 3] = bad
        for norm_type in (2.0, math.inf):
            want = reference_optim_norms.chunk_norms(x, norm_type)
            np.testing.assert_array_equal(np.isnan(flat.chunk_norms(_put(x), norm_type)), np.isnan(want))
            assert not np.isfinite(flat.chunk_norms(_put(x), norm_type)[1])


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_clipping(device: str, dtype: str, norm_type: float) -> None:
    for max_norm in (0.5, 1e6):
        arrays = [_draw(size, dtype) for size in (5, CHUNK + 2, 3, 40)]
        there = [_put(array, shift % 2) for shift, array in enumerate(arrays)]
        wide = [array.astype(np.float32) for array in arrays]
        want = float(reference_optim_norms.clip_by_norm(wide, max_norm, norm_type))
        norm = flat.clip_by_norm(there, max_norm, norm_type)
        assert backend.device_kind(norm) == "cuda" and norm.shape == () and norm.dtype == np.float64
        assert float(norm) == pytest.approx(want, rel=1e-5)
        for mine, theirs in zip(there, wide, strict=True):
            tolerance = 1e-5 if dtype == "float32" else 1e-2
            np.testing.assert_allclose(backend.to_host(mine).astype(np.float32), theirs, rtol=tolerance, atol=1e-7)


def test_the_norm_of_many_chunks_is_the_tree_sum_of_them(device: str) -> None:
    for count in (1, 3, 33, 1025):
        arrays = [
            _put(_draw(1, seed=n) * np.float32(10.0 ** (n * 7 % 13 / 2 - 3))) for n in range(count)
        ]  # no sum is exact
        chunks = flat.chunk_norms_of(arrays, 2.0)
        assert len(chunks) == count
        assert float(flat.clip_by_norm(arrays, 1e9, 2.0)) == math.sqrt(tree_sum(chunks.tolist()))


def test_the_norm_of_nothing_is_zero(device: str) -> None:
    nothing = backend.cupy().empty(0, np.float32)
    for norm_type in (1.0, 2.0, math.inf):
        assert str(float(flat.clip_by_norm([nothing], 1.0, norm_type))) == "0.0"
        assert flat.chunk_norms(nothing, norm_type).shape == (0,)
    assert flat.all_finite(nothing)


def test_clipping_by_a_norm_that_is_no_number_makes_all_gradients_so(device: str) -> None:
    first, second = _put(np.array([1.0, np.nan], np.float32)), _put(np.ones(3, np.float32))
    assert np.isnan(float(flat.clip_by_norm([first, second], 1.0, 2.0)))
    assert np.isnan(backend.to_host(second)).all()


def test_clip_grad_norm_says_nothing_to_the_host(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def model_on(where: str) -> nn.Module:
        phalanx.manual_seed(1)
        model = nn.Sequential(nn.Linear(30, 17), nn.Linear(17, 3)).to(where)
        optim.SGD(model.parameters(), lr=0.1)
        model(phalanx.ones(4, 30).to(where)).sum().backward()
        return model

    here, there = model_on("cpu"), model_on(device)
    want = nn.utils.clip_grad_norm_(here.parameters(), 0.5)
    asked: list[int] = []
    get = backend.cupy().ndarray.get
    monkeypatch.setattr(
        backend.cupy().ndarray, "get", lambda self, *rest, **named: asked.append(1) or get(self, *rest, **named)
    )
    norm = nn.utils.clip_grad_norm_(there.parameters(), 0.5)
    assert not asked
    assert norm.device == "cuda" and norm.dtype == np.float32
    assert norm.item() == pytest.approx(want.item(), rel=1e-5)
    for mine, theirs in zip(there.parameters(), here.parameters(), strict=True):
        np.testing.assert_allclose(backend.to_host(mine.grad.array), theirs.grad.numpy(), rtol=1e-5, atol=1e-7)
    assert nn.utils.get_total_norm([p.grad for p in there.parameters()]).item() == pytest.approx(0.5, rel=1e-4)
    with pytest.raises(NonFiniteError, match="the norm of the gradients is nan"):
        there[0].bias.grad.array[...] = np.nan
        nn.utils.clip_grad_norm_(there.parameters(), 0.5, error_if_nonfinite=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_finite(device: str, dtype: str) -> None:
    for size in (1, 15, 5_000):
        for bad in (None, np.nan, np.inf, -np.inf):
            for place in (0, size // 2, size - 1):
                x = _draw(size, dtype)
                if bad is not None:
                    x[place] = bad
                assert flat.all_finite(_put(x)) is (bad is None)
                assert flat.all_finite(_put(x, 1)) is (bad is None)
    turned = _put(_draw(24)).reshape(2, 3, 4).transpose(1, 0, 2)
    assert flat.all_finite(turned) and flat.all_finite(turned[:, :, ::2])
    turned[2, 1, 3] = np.nan
    assert not flat.all_finite(turned)
    assert not flat.all_finite(_put(np.array([1.0, np.inf])))  # float64


def test_hashes_are_those_of_the_cpu(device: str) -> None:
    for size in (1, 2, 255, 256, 300_000):
        words = np.random.default_rng(size).integers(0, 2**32, size, np.uint32)
        for start in (0, 5, 2**33):
            assert flat.hash_words(_put(words), start) & (2**64 - 1) == reference_optim.hash_words(words, start)
    for dtype in (np.uint8, np.float16, np.float32, np.float64):
        for size in (0, 1, 3, 1001):
            x = (np.random.default_rng(3).random(size) * 100).astype(dtype)
            assert hash_array(backend.cupy().asarray(x)) == hash_array(x)
    turned = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert hash_array(backend.cupy().asarray(turned).T) == hash_array(turned.T)


@pytest.mark.parametrize("dtype", [*DTYPES, "float64"])
def test_averages_and_exchanges(device: str, dtype: str) -> None:
    for size, shift in ((1, 0), (1, 1), (1003, 0), (1003, 1)):
        first, second = _draw(size, dtype), _draw(size, dtype, seed=9)
        mine, other = _put(first, shift), _put(second, shift)
        flat.average_update(mine, other, 0.25)
        if dtype in ("float32", "float64"):
            want = first.copy()
            reference_optim.average_update(want, second, 0.25)
        else:
            wide = first.astype(np.float32)
            want = (wide + (second.astype(np.float32) - wide) * np.float32(0.25)).astype(first.dtype)
        np.testing.assert_array_equal(backend.to_host(mine), want)
        flat.exchange(mine, other)
        np.testing.assert_array_equal(backend.to_host(mine), second)
        np.testing.assert_array_equal(backend.to_host(other), want)


def test_what_decides_the_bits_is_said(device: str) -> None:
    said = describe()
    assert re.fullmatch(r"own kernels [0-9a-f]{12} by NVRTC \d+\.\d+", said), said


@pytest.mark.parametrize("kernels", ["reference", "fast"])
def test_the_hash_on_the_device_is_the_hosts_with_either_kernels(kernels: str, device: str) -> None:
    before = phalanx.kernels.chosen()
    values = np.random.default_rng(7).standard_normal(70_001).astype(np.float32)
    phalanx.kernels.choose(kernels)
    try:
        assert hash_array(phalanx.tensor(values).to(device).array) == hash_array(values)
    finally:
        phalanx.kernels.choose(before)
