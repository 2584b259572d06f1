"""Compiled loops for activations, dropout and random bits against their references and float64; the functions they are made of."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

import phalanx
from phalanx import nn
from phalanx.core.kernels import (
    reference,
    reference_activation,
    reference_bce,
    reference_erf,
    reference_random,
    table,
)
from phalanx.core.kernels.cpu import compiled, loops_bce, loops_elementwise, loops_random, mathematics, threads
from phalanx.core.kernels.cpu.compiled import loop, prange

F = nn.functional
REFERENCE = {**reference_erf.KERNELS, **reference_activation.KERNELS, "dropout_apply": reference.dropout_apply}
FAST = {**loops_elementwise.KERNELS, **loops_random.KERNELS, **loops_bce.KERNELS}
EXACT = {"relu", "leaky_relu", "hardtanh"}
NUMBERS: dict[str, list[tuple[Any, ...]]] = {
    "gelu": [(), ("tanh",)],
    "softplus": [(1.0, 20.0), (2, 3)],
    "leaky_relu": [(0.01,), (2,)],
    "elu": [(1.0,), (0.5,)],
    "hardtanh": [(-1.0, 1.0), (0, 6)],
}
CASES = [
    (name, numbers)
    for name in sorted(REFERENCE)
    if name != "dropout_apply"
    for numbers in NUMBERS.get(name.rpartition("_")[0], [()])
]
QUICK = settings(
    max_examples=20, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compiled, "SMALLEST_SHARE", 1)
    before = threads.threads()
    threads.set_threads(2)
    yield
    threads.set_threads(before)


@pytest.fixture
def fast_kernels() -> Iterator[None]:
    before = table.chosen()
    table.choose("fast")
    yield
    table.choose(before)


def laid_out(values: np.ndarray, layout: str) -> np.ndarray:
    """The same values otherwise in memory."""
    if layout == "channels last" and values.ndim == 4:
        return np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if layout == "transposed":
        return np.ascontiguousarray(values.T).T
    if layout == "gaps":
        wide = np.empty((*values.shape[:-1], 2 * values.shape[-1]), values.dtype)[..., ::2]
        wide[...] = values
        return wide
    if layout == "odd address":
        raw = np.empty(values.nbytes + 1, np.uint8)[1:].view(values.dtype).reshape(values.shape)
        raw[...] = values
        return raw
    if layout == "backwards":
        return np.ascontiguousarray(values[::-1])[::-1]
    return values


LAYOUTS = st.sampled_from(["plain", "plain", "channels last", "transposed", "gaps", "odd address", "backwards"])
SHAPES = st.lists(st.sampled_from([1, 2, 3, 5, 8, 17, 33]), min_size=1, max_size=4).map(tuple)


# ---- functions -------------------------------------------------------------------------------------------------------


def run(name: str, x: np.ndarray) -> np.ndarray:
    function = getattr(mathematics, name)

    def body(x, y):  # type: ignore[no-untyped-def]
        for i in prange(x.size):
            y[i] = function(x[i])

    body.__name__ = body.__qualname__ = f"of_{name}"
    y = np.empty_like(x)
    loop("f4[:], f4[:] out")(body)(x.size, x, y)
    return y


def spread(low: float, high: float) -> np.ndarray:
    """Points all over an interval, and many close to 0."""
    small = 10.0 ** np.linspace(-30, 0, 20_001)
    points = np.concatenate([np.linspace(low, high, 200_001), high * small, low * small]).astype(np.float32)
    return points[(points >= low) & (points <= high)]


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, 0.0)


FUNCTIONS: list[tuple[str, Callable[[np.ndarray], np.ndarray], tuple[float, float], float]] = [
    ("exp", np.exp, (-87.33, 88.72), 1.5),
    ("expm1_below", np.expm1, (-100.0, 0.0), 1.5),
    ("log", np.log, (1.2e-38, 3e38), 1.5),
    ("log1p_unit", np.log1p, (0.0, 1.0), 2.5),
    ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), (-86.9, 100.0), 3.0),
    ("softplus", softplus, (-87.3, 100.0), 3.0),
    ("tanh", np.tanh, (-20.0, 20.0), 5.0),
    ("erf", np.vectorize(math.erf), (-6.0, 6.0), 5.0),
]


@pytest.mark.parametrize(("name", "exact", "interval", "units"), FUNCTIONS, ids=[entry[0] for entry in FUNCTIONS])
def test_functions_are_exact_to_a_few_units_in_the_last_place(
    name: str, exact: Callable[[np.ndarray], np.ndarray], interval: tuple[float, float], units: float
) -> None:
    x = spread(*interval)
    wanted = exact(x.astype(np.float64))
    error = np.abs(run(name, x) - wanted)
    normal = np.abs(wanted) > 1.2e-38
    assert (error[~normal] < 1.2e-38).all()
    assert (error[normal] / np.spacing(np.abs(wanted[normal]).astype(np.float32))).max() < units


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("exp", (0.0, math.inf)),
        ("log", (math.nan, math.inf)),
        ("sigmoid", (0.0, 1.0)),
        ("softplus", (0.0, math.inf)),
        ("tanh", (-1.0, 1.0)),
        ("erf", (-1.0, 1.0)),
    ],
)
def test_limits(name: str, limits: tuple[float, float]) -> None:
    x = np.array([-math.inf, math.inf, math.nan, -3e38, 3e38, 0.0], np.float32)
    y = run(name, x)
    np.testing.assert_array_equal(y[:2], np.array(limits, np.float32))
    assert np.isnan(y[2])
    if name != "log":
        assert y[3] == np.float32(limits[0])
    if name in ("exp", "sigmoid", "tanh", "erf"):
        assert y[4] == np.float32(limits[1])
    assert y[5] == {"exp": 1, "log": -math.inf, "sigmoid": 0.5, "softplus": np.float32(math.log(2))}.get(name, 0)


def test_the_normal_distribution_is_exact_to_a_few_units_of_its_middle() -> None:
    x = spread(-9.0, 9.0)
    wanted = 0.5 * (1.0 + np.vectorize(math.erf)(x.astype(np.float64) * math.sqrt(0.5)))
    y = run("normal_below", x)
    assert np.abs(y - wanted).max() < 2.0e-7 and (y[x < -5.3] == 0).all() and (y[x > 5.3] == 1).all()


def test_exp_at_its_ends() -> None:
    x = np.array([88.72, 88.73, -87.33, -87.34, -104.0], np.float32)
    y = run("exp", x)
    assert y[0] == pytest.approx(3.3931806e38, rel=1e-6) and y[1] == math.inf
    assert y[2] == pytest.approx(1.1835427e-38, rel=1e-2) and (y[3:] == 0).all()


# ---- activations -----------------------------------------------------------------------------------------------------


def called(kernels: dict[str, Any], name: str, x: np.ndarray, gradient: np.ndarray, numbers: tuple[Any, ...]) -> Any:
    with np.errstate(all="ignore"):
        return kernels[name](gradient, x, *numbers) if name.endswith("backward") else kernels[name](x, *numbers)


@pytest.mark.parametrize(("name", "numbers"), CASES)
@given(
    shape=SHAPES, layouts=st.tuples(LAYOUTS, LAYOUTS), scale=st.sampled_from([0.1, 1.0, 10.0]), seed=st.integers(0, 99)
)
@QUICK
def test_activations(
    name: str, numbers: tuple[Any, ...], shape: tuple[int, ...], layouts: tuple[str, str], scale: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    x, gradient = (random.normal(0, scale, shape).astype(np.float32) for _ in range(2))
    if name in ("sigmoid_backward", "tanh_backward"):
        x = np.tanh(x)
    given_x, given_gradient = laid_out(x, layouts[0]), laid_out(gradient, layouts[1])
    got = called(FAST, name, given_x, given_gradient, numbers)
    assert got.dtype == np.float32 and got.shape == shape
    np.testing.assert_array_equal(given_x, x)
    np.testing.assert_array_equal(given_gradient, gradient)
    if name.rpartition("_")[0] in EXACT:
        np.testing.assert_array_equal(got, called(REFERENCE, name, x, gradient, numbers))
    else:
        exact = called(REFERENCE, name, x.astype(np.float64), gradient.astype(np.float64), numbers)
        size = np.abs(gradient) if name.endswith("backward") else np.maximum(np.abs(x), 1)
        assert (np.abs(got - exact) <= 1e-6 * np.abs(exact) + 1e-6 * size * max(1, scale)).all()
    again = called(FAST, name, given_x, given_gradient, numbers)
    np.testing.assert_array_equal(got, again)


@pytest.mark.parametrize(("name", "numbers"), CASES)
def test_nothing_infinite_and_no_number(name: str, numbers: tuple[Any, ...]) -> None:
    special = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e30, -1e30, 100.0, -20.0, 1e-40, 20.5, -3.0]
    x, gradient = (each.ravel().astype(np.float32) for each in np.meshgrid(special, special))
    got, wanted = called(FAST, name, x, gradient, numbers), called(REFERENCE, name, x, gradient, numbers)
    with np.errstate(over="ignore"):
        exact = called(REFERENCE, name, x.astype(np.float64), gradient.astype(np.float64), numbers).astype(np.float32)
    for question in (np.isnan, np.isposinf, np.isneginf):
        agreed = question(wanted) == question(exact)  # elsewhere the reference loses what is left of a difference
        assert agreed.mean() > 0.8
        np.testing.assert_array_equal(question(got)[agreed], question(wanted)[agreed])
    number = np.isfinite(wanted) & np.isfinite(exact)
    np.testing.assert_allclose(got[number], exact[number], rtol=2e-5, atol=1e-6)
    for shape in ((), (0,), (3, 0, 2)):
        empty = called(FAST, name, np.ones(shape, np.float32), np.ones(shape, np.float32), numbers)
        assert empty.shape == shape and empty.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_dtypes_are_the_references(dtype: Any) -> None:
    x, gradient = (np.random.default_rng(k).normal(size=(3, 5)).astype(dtype) for k in range(2))
    for name, numbers in CASES:
        got, wanted = (called(kernels, name, x, gradient, numbers) for kernels in (FAST, REFERENCE))
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(FAST["relu_forward"](np.array([-1, 2])), [0, 2])


@pytest.mark.parametrize("name", ["relu_forward", "softplus_forward", "gelu_backward"])
def test_two_threads_give_the_same_bits(name: str, two_threads: None) -> None:
    for size in (1, 31, 1000, 4099):
        x, gradient = (np.random.default_rng(k).normal(size=size).astype(np.float32) for k in range(2))
        numbers = NUMBERS.get(name.rpartition("_")[0], [()])[0]
        got = called(FAST, name, x, gradient, numbers)
        threads.set_threads(1)
        np.testing.assert_array_equal(got, called(FAST, name, x, gradient, numbers))
        for cut in (size // 3, size // 2 + 1):  # nor does it matter where an array is cut
            parts = [called(FAST, name, x[s], gradient[s], numbers) for s in (slice(cut), slice(cut, None))]
            np.testing.assert_array_equal(got, np.concatenate(parts))
        threads.set_threads(2)


def test_images_with_channels_last_stay_so(fast_kernels: None) -> None:
    image = laid_out(np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32), "channels last")
    for name, numbers in CASES:
        assert called(FAST, name, image, np.ones(image.shape, np.float32), numbers).strides == image.strides
    assert FAST["dropout_apply"](image, np.ones(image.shape, bool), 2.0).strides == image.strides
    x = phalanx.tensor(image, requires_grad=True)
    F.gelu(F.relu(x)).sum().backward()
    assert x.grad is not None
    wanted = called(REFERENCE, "gelu_backward", np.maximum(image, 0), (image > 0).astype(np.float32), ())
    np.testing.assert_allclose(x.grad.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_a_gradient_of_another_shape_goes_to_the_reference() -> None:
    x = np.ones((3, 4), np.float32)
    assert FAST["relu_backward"](np.ones(4, np.float32), x).shape == (3, 4)


@pytest.mark.parametrize(
    "function",
    [
        F.relu, F.leaky_relu, F.hardtanh, F.hardswish, F.sigmoid, F.tanh, F.silu, F.softplus, F.elu, F.logsigmoid,
        F.mish, F.gelu, phalanx.erf,
    ],
    ids=lambda function: function.__name__,
)  # fmt: skip
def test_ops_use_them(function: Callable[..., Any], fast_kernels: None) -> None:
    x = phalanx.tensor(np.linspace(-4, 4, 41, dtype=np.float32), requires_grad=True)
    wide = phalanx.tensor(np.linspace(-4, 4, 41), requires_grad=True)
    for each in (x, wide):
        function(each).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), wide.grad.numpy(), rtol=1e-5, atol=1e-6)


# ---- binary cross-entropy --------------------------------------------------------------------------------------------


@given(shape=SHAPES, layouts=st.tuples(LAYOUTS, LAYOUTS), wide=st.sampled_from([1.0, 30.0]), weighted=st.booleans())
@QUICK
def test_binary_cross_entropy(shape: tuple[int, ...], layouts: tuple[str, str], wide: float, weighted: bool) -> None:
    random = np.random.default_rng(1)
    x, gradient = (random.normal(0, each, shape).astype(np.float32) for each in (wide, 1.0))
    target = random.random(shape).astype(np.float32)
    weight = np.float32(3) * np.ones(shape[-1], np.float32) if weighted else None
    given_x, given_target = laid_out(x, layouts[0]), laid_out(target, layouts[1])
    exact = reference_bce.bce_logits_forward(x.astype(np.float64), target.astype(np.float64), weight)
    got = FAST["bce_logits_forward"](given_x, given_target, weight)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, exact, rtol=2e-6, atol=1e-6 * wide)
    exact = reference_bce.bce_logits_backward(gradient, x.astype(np.float64), target.astype(np.float64), weight)
    got = FAST["bce_logits_backward"](laid_out(gradient, layouts[1]), given_x, given_target, weight)
    np.testing.assert_allclose(got, exact, rtol=2e-6, atol=1e-6)


def test_binary_cross_entropy_of_what_is_no_number(two_threads: None) -> None:
    special = [math.nan, math.inf, -math.inf, 0.0, 200.0, -200.0, 1e30]
    x, target = (each.ravel().astype(np.float32) for each in np.meshgrid(special, [0.0, 0.5, 1.0]))
    for name in ("bce_logits_forward", "bce_logits_backward"):
        arguments = (x, target) if name.endswith("forward") else (np.ones_like(x), x, target)
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(FAST[name](*arguments), reference_bce.KERNELS[name](*arguments), rtol=1e-6)
    assert FAST["bce_logits_forward"](x[:0], target[:0]).shape == (0,)


# ---- random bits and dropout -----------------------------------------------------------------------------------------

WORD = st.integers(0, 2**32 - 1)


@given(
    count=st.one_of(st.integers(0, 40), st.integers(2030, 2070), st.integers(0, 10_000)),
    key=st.tuples(WORD, WORD),
    words=st.tuples(WORD, WORD, st.integers(0, 2**40)),
    first=st.sampled_from([0, 4, 2048, 4 * (2**32 - 1000)]),
    threshold=WORD,
)
@QUICK
def test_random_bits_and_masks_are_the_references(
    count: int, key: tuple[int, int], words: tuple[int, int, int], first: int, threshold: int
) -> None:
    got = FAST["philox_bits"](count, key, words, first)
    assert got.dtype == np.uint32
    np.testing.assert_array_equal(got, reference_random.philox_bits(count, key, words, first))
    got = FAST["philox_mask"](count, key, words, threshold)
    assert got.dtype == np.bool_
    np.testing.assert_array_equal(got, reference_random.philox_mask(count, key, words, threshold))


def test_the_known_answer() -> None:
    assert FAST["philox_bits"](4, (0, 0), (0, 0, 0)).tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_random_bits_of_two_threads(two_threads: None) -> None:
    for count in (5, 2048, 9001):
        arguments = count, (1, 2), (3, 4, 5)
        np.testing.assert_array_equal(FAST["philox_bits"](*arguments), reference_random.philox_bits(*arguments))
        mask = FAST["philox_mask"](*arguments, 2**31)
        np.testing.assert_array_equal(mask, reference_random.philox_mask(*arguments, 2**31))
        x = np.random.default_rng(0).normal(size=count).astype(np.float32)
        np.testing.assert_array_equal(FAST["dropout_apply"](x, mask, 2.0), reference.dropout_apply(x, mask, 2.0))


@given(shape=SHAPES, layouts=st.tuples(LAYOUTS, LAYOUTS), scale=st.sampled_from([0.0, 1.25, 2]), channels=st.booleans())
@QUICK
def test_dropout_by_a_mask(shape: tuple[int, ...], layouts: tuple[str, str], scale: float, channels: bool) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=shape).astype(np.float32)
    x.flat[:2] = [math.nan, math.inf][: x.size]
    keep = random.random(shape[:1] + (1,) * (len(shape) - 1) if channels else shape) < 0.7
    with np.errstate(invalid="ignore"):
        wanted = reference.dropout_apply(x, keep, scale)
        got = FAST["dropout_apply"](laid_out(x, layouts[0]), laid_out(keep, layouts[1]), scale)
    np.testing.assert_array_equal(got, wanted)


def test_dropout_draws_the_same_with_either(fast_kernels: None) -> None:
    results = []
    for kernels in ("reference", "fast"):
        table.choose(kernels)
        phalanx.manual_seed(3)
        x = phalanx.ones(7, 33, requires_grad=True)
        y = F.dropout(F.alpha_dropout(F.dropout1d(x.reshape(7, 33, 1), 0.1), 0.2, training=True), 0.4)
        y.sum().backward()
        assert x.grad is not None
        results.append((y.detach().numpy(), x.grad.numpy()))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_memory_is_not_read_beyond_its_end() -> None:
    """A protected page behind the arrays: a loop that read past their end would die here."""
    libc = ctypes.CDLL(None, use_errno=True)
    page = 4096
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    start = libc.mmap(None, 2 * page, 3, 0x22, -1, 0)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert libc.mprotect(start + page, page, 0) == 0
    whole = np.frombuffer((ctypes.c_float * (page // 4)).from_address(start), np.float32)
    for count in (1, 7, 37):
        for name, numbers in CASES:
            called(FAST, name, whole[-count:], whole[-count:], numbers)
