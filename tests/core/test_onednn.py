"""oneDNN's kernels against their references and float64, wherever and however arrays lie; what befalls the library."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

import phalanx
from phalanx.core.errors import RangeError
from phalanx.core.kernels import reference, reference_conv, reference_norm, reference_pool, table
from phalanx.core.kernels.cpu import onednn, onednn_conv, onednn_matmul, onednn_norm, onednn_pool, threads
from phalanx.core.kernels.window import Window
from tests.core.onednn_cases import CHECKS, ONE_OF_EACH, Arguments, arranged, needs_onednn, normal

QUICK = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small products too go to oneDNN here."""
    monkeypatch.setattr(onednn_matmul, "SMALLEST", 1)


def as_tuple(value: Any) -> tuple[np.ndarray, ...]:
    return value if isinstance(value, tuple) else (value,)


def widened(arrays: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    return [a.astype(np.float64) if a.dtype == np.float32 else a for a in arrays]


def close(value: Any, expected: Any) -> None:
    """Within float32's rounding of sums of these sizes, measured at the largest element."""
    for ours, theirs in zip(as_tuple(value), as_tuple(expected), strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == (np.float32 if theirs.dtype.kind == "f" else theirs.dtype)
        scale = max(1.0, float(np.abs(theirs).max(initial=0.0)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * scale)


def bits(result: Any) -> bytes:
    return b"".join(np.ascontiguousarray(r).tobytes() for r in as_tuple(result))


# ---- values ----------------------------------------------------------------------------------------------------------


@needs_onednn
@pytest.mark.parametrize("name", CHECKS)
def test_equals_the_reference_in_float64(name: str) -> None:
    """Random shapes, odd sizes, any layout; the float32 reference must pass the same test."""
    check = CHECKS[name]

    @QUICK
    @given(check.arguments, st.lists(st.integers(0, 5), min_size=5, max_size=5))
    def run(arguments: Arguments, how: list[int]) -> None:
        arrays = [arranged(a, h) for a, h in zip(arguments.arrays, how, strict=False)]
        kept = [a.copy() for a in arrays]
        for array in arrays:
            array.flags.writeable = False
        expected = check.reference(*widened(arguments.arrays), *arguments.rest)
        value = check.fast(*arrays, *arguments.rest)
        close(value, expected)
        close(check.reference(*arguments.arrays, *arguments.rest), expected)
        for array, before in zip(arrays, kept, strict=True):
            np.testing.assert_array_equal(array, before)
        if check.out:
            slot = np.full(value.shape, np.nan, np.float32)
            assert check.fast(*arrays, *arguments.rest, out=slot) is slot
            assert slot.tobytes() == bits(value)

    run()


def filled(name: str) -> Arguments:
    random = np.random.default_rng(7)
    return ONE_OF_EACH[name]._replace(arrays=tuple(np.abs(normal(random, *a.shape)) for a in ONE_OF_EACH[name].arrays))


def served(name: str) -> bool:
    """Whether oneDNN did it: some pool has a unit that was made for it."""
    arguments = filled(name)
    for pool in onednn._pools:
        pool.clear()
    CHECKS[name].fast(*arguments.arrays, *arguments.rest)
    return any(units for pool in onednn._pools for units in pool._units.values())


@needs_onednn
@pytest.mark.parametrize("name", sorted(set(ONE_OF_EACH) - {"conv db"}))
def test_onednn_does_it(name: str) -> None:
    assert served(name)


@needs_onednn
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_nan_and_infinity_go_where_the_reference_lets_them(name: str) -> None:
    check, arguments = CHECKS[name], filled(name)
    for which, value in itertools.product(range(len(arguments.arrays)), (np.nan, np.inf, -np.inf)):
        arrays = [a.copy() for a in arguments.arrays]
        arrays[which].reshape(-1)[arrays[which].size // 2] = value
        with np.errstate(all="ignore"):
            ours, theirs = check.fast(*arrays, *arguments.rest), check.reference(*arrays, *arguments.rest)
        for a, b in zip(as_tuple(ours), as_tuple(theirs), strict=True):
            np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
            if name not in ("batch_norm dx", "layer_norm dx"):  # an infinite inverse_std has no meaning
                np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
                np.testing.assert_array_equal(np.isposinf(a), np.isposinf(b))


@needs_onednn
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_other_dtypes_and_nothing_at_all_are_the_references(name: str) -> None:
    check, arguments = CHECKS[name], filled(name)
    for dtype in (np.float16, np.float64):
        arrays = [a.astype(dtype) for a in arguments.arrays]
        assert bits(check.fast(*arrays, *arguments.rest)) == bits(check.reference(*arrays, *arguments.rest))
    if name not in ("conv dx", "conv dw") and not name.startswith(("layer", "batch")):
        arrays = [arguments.arrays[0][:0], *arguments.arrays[1:]]
        if name in ("linear dw", "matmul"):
            arrays[1] = arrays[1][:0]
        ours, theirs = check.fast(*arrays, *arguments.rest), check.reference(*arrays, *arguments.rest)
        assert [a.shape for a in as_tuple(ours)] == [a.shape for a in as_tuple(theirs)]
        assert bits(ours) == bits(theirs)


@needs_onednn
@pytest.mark.parametrize("lowest", [-np.inf, np.finfo(np.float32).min])
def test_max_pool_of_the_lowest_numbers(lowest: float) -> None:
    """oneDNN begins with the smallest finite number, and so would call that the maximum of nothing but -inf."""
    x, window = np.full((2, 16, 6, 6), lowest, np.float32), Window((3, 3), (2, 2), (1, 1))
    x[0, :, 2:] = 1
    ours, theirs = onednn_pool.max_pool_forward(x, window), reference_pool.max_pool_forward(x, window)
    assert bits(ours) == bits(theirs)


@needs_onednn
def test_what_ceil_mode_adds_does_not_count_in_a_mean() -> None:
    x = normal(np.random.default_rng(6), 2, 16, 10, 9)
    for padding, include, divisor in itertools.product((0, 1), (True, False), (None, 5, 9)):
        window = Window((3, 3), (2, 2), (padding, padding), (1, 1), True)
        options = (window, include, divisor)
        y = reference_pool.avg_pool_forward(x.astype(np.float64), *options)
        close(onednn_pool.avg_pool_forward(x, *options), y)
        dx = reference_pool.avg_pool_backward(y, x.shape, *options)
        close(onednn_pool.avg_pool_backward(y.astype(np.float32), x.shape, *options), dx)


@needs_onednn
@pytest.mark.parametrize("how", ["rows overlap", "elements of records", "one row for all", "backwards"])
def test_products_of_odd_views(how: str) -> None:
    random = np.random.default_rng(8)
    if how == "rows overlap":
        a = np.lib.stride_tricks.sliding_window_view(normal(random, 60), 20)
    elif how == "elements of records":
        space = np.zeros((30, 20), [("value", np.float32), ("other", np.uint16)])
        a = space["value"]
        a[...] = normal(random, 30, 20)
    else:
        a = (
            np.broadcast_to(normal(random, 20), (30, 20))
            if how == "one row for all"
            else normal(random, 30, 20)[::-1, ::-1]
        )
    b = normal(random, 20, 35)
    close(onednn_matmul.matmul(a, b), a.astype(np.float64) @ b)
    close(onednn_matmul.matmul(b.T, a.T), b.T.astype(np.float64) @ a.T)


EMPTY: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "no sample, conv dw": lambda c, r: (
        c.conv_weight_gradient(np.zeros((0, 16, 5, 5), np.float32), np.zeros((0, 8, 5, 5), np.float32), (16, 8, 1, 1), W1),
        r.conv_weight_gradient(np.zeros((0, 16, 5, 5), np.float32), np.zeros((0, 8, 5, 5), np.float32), (16, 8, 1, 1), W1),
    ),
    "no sample, conv dx": lambda c, r: (
        c.conv_input_gradient(np.zeros((0, 16, 5, 5), np.float32), np.zeros((16, 8, 1, 1), np.float32), (0, 8, 5, 5), W1),
        r.conv_input_gradient(np.zeros((0, 16, 5, 5), np.float32), np.zeros((16, 8, 1, 1), np.float32), (0, 8, 5, 5), W1),
    ),
}  # fmt: skip
W1 = Window((1, 1), (1, 1), (0, 0))


@needs_onednn
@pytest.mark.parametrize("name", EMPTY)
def test_empty_gradients(name: str) -> None:
    ours, theirs = EMPTY[name](onednn_conv, reference_conv)
    assert ours.shape == theirs.shape
    assert bits(ours) == bits(theirs)


@needs_onednn
@pytest.mark.parametrize("activation", onednn_matmul.ACTIVATIONS)
def test_activation_on_the_way_out(activation: str) -> None:
    random = np.random.default_rng(3)
    x, weight, bias = normal(random, 33, 65), normal(random, 129, 65) / 8, normal(random, 129)
    y = onednn_matmul.product(x, weight.T, bias=bias, activation=activation)
    plain = phalanx.tensor(x.astype(np.float64) @ weight.T.astype(np.float64) + bias)
    name, options = ("gelu", {"approximate": "tanh"}) if activation == "gelu_tanh" else (activation, {})
    close(y, getattr(phalanx.nn.functional, name)(plain, **options).numpy())


@needs_onednn
def test_convolution_with_relu() -> None:
    arguments = filled("conv")
    x, weight, bias = (a - a.mean() for a in arguments.arrays)
    y = onednn_conv.conv_forward(x, weight, bias, *arguments.rest, relu=True)
    close(y, np.maximum(reference_conv.conv_forward(*widened((x, weight, bias)), *arguments.rest), 0))
    assert (y == 0).any()


@needs_onednn
@pytest.mark.parametrize(
    ("shape", "bound"), [((64, 8, 28, 28), 2e-6), ((5000, 4), 2e-6), ((1, 3, 101, 97), 1e-5), ((67, 2, 67), 1e-5)]
)
def test_long_sums_of_batch_norm_keep_their_accuracy(shape: tuple[int, ...], bound: float) -> None:
    """oneDNN's own sums would be off by 4e-5 in the first of these; the last two have no small divisor to be cut by."""
    x = normal(np.random.default_rng(4), *shape) + np.float32(3)
    value = onednn_norm.batch_norm_train(x, None, None, 1e-5)
    expected = reference_norm.batch_norm_train(x.astype(np.float64), None, None, 1e-5)
    for ours, theirs in zip(value, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=bound, atol=bound)


@needs_onednn
def test_layer_norm_gives_the_gradients_that_are_asked_for() -> None:
    check, arguments = CHECKS["layer_norm dx"], filled("layer_norm dx")
    every = check.fast(*arguments.arrays, *arguments.rest)
    for needs in itertools.product((False, True), repeat=3):
        slots = [None, *(np.full(37, np.nan, np.float32) if need else None for need in needs[1:])]
        found = check.fast(*arguments.arrays, (37,), needs, slots)
        for need, value, whole, slot in zip(needs, found, every, slots, strict=True):
            assert value is None if not need else bits(value) == bits(whole)
            assert slot is None or value is slot


@needs_onednn
def test_attention_without_transposes() -> None:
    """Query, key and value lie in one packed projection (B, T, 3, H, D); scores and result are strided too."""
    packed = normal(np.random.default_rng(1), 2, 16, 3, 4, 8)
    q, k, v = (packed[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    result = np.full((2, 16, 4, 8), np.nan, np.float32)
    onednn._pools[0].clear()
    scores = onednn_matmul.product(q, k.swapaxes(-1, -2))
    assert scores is not None
    onednn_matmul.product(scores, v, result.transpose(0, 2, 1, 3))
    close(result.transpose(0, 2, 1, 3), q.astype(np.float64) @ k.swapaxes(-1, -2).astype(np.float64) @ v)
    units = [unit for made in onednn_matmul._products._units.values() for unit in made or ()]
    assert [(u.copy_a, u.copy_b, u.copy_out) for u in units[-2:]] == [(False, False, True), (False, False, False)]


# ---- bits ------------------------------------------------------------------------------------------------------------


def moved(array: np.ndarray, offset: int) -> np.ndarray:
    """A copy that starts ``offset`` elements behind a 64-byte address."""
    raw = np.empty(array.nbytes + 128 + offset * array.itemsize, np.uint8)
    start = -raw.ctypes.data % 64 + offset * array.itemsize
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@needs_onednn
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_bits_depend_on_neither_addresses_nor_runs_nor_primitives(name: str) -> None:
    check, arguments = CHECKS[name], filled(name)
    expected = bits(check.fast(*arguments.arrays, *arguments.rest))
    for offset in range(16):
        if offset % 5 == 0:
            for pool in onednn._pools:
                pool.clear()
        arrays = [moved(array, offset * (i + 1) % 16) for i, array in enumerate(arguments.arrays)]
        assert bits(check.fast(*arrays, *arguments.rest)) == expected


@needs_onednn
def test_threads_use_primitives_of_their_own() -> None:
    """Ranks may be threads: the same shapes at the same time, temporaries that nobody else holds, memory that is reused."""
    random = np.random.default_rng(2)
    inputs = [(normal(random, 40, 300), normal(random, 300, 200)) for _ in range(4)]
    images = [normal(random, 4, 16, 20, 20) for _ in range(4)]
    weight, window = normal(random, 16, 16, 3, 3), Window((3, 3), (1, 1), (1, 1))

    def once(i: int) -> bytes:
        y = onednn_matmul.product(inputs[i][0] * 1, inputs[i][1] * 1)
        z = onednn_conv.conv_weight_gradient(images[i] * 1, images[i] * 1, weight.shape, window)
        return bits((y, z, onednn_conv.conv_forward(images[i] * 1, weight * 1, None, window)))

    expected = [once(i) for i in range(4)]
    wrong: list[int] = []
    start = threading.Barrier(4)

    def work(i: int) -> None:
        start.wait()
        for _ in range(60):
            if once(i) != expected[i]:
                wrong.append(i)
            gc.collect(0)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@needs_onednn
def test_a_unit_is_lent_to_one_at_a_time() -> None:
    made: list[int] = []
    pool = onednn.Pool(lambda number: made.append(number) or object())
    first, second = pool.take((1,)), pool.take((1,))
    assert first is not second
    pool.give((1,), first)
    assert pool.take((1,)) is first
    assert made == [1, 1]


@needs_onednn
def test_a_pool_forgets_its_oldest_and_remembers_what_cannot_be() -> None:
    tries: list[int] = []

    def build(number: int) -> object:
        tries.append(number)
        if number < 0:
            raise onednn.Unsupported("no")
        return object()

    pool = onednn.Pool(build)
    pool.CAPACITY = 3  # type: ignore[misc]
    assert pool.take((-1,)) is None
    assert pool.take((-1,)) is None
    assert tries == [-1]
    for number in range(5):
        pool.give((number,), pool.take((number,)))
    assert list(pool._units) == [(2,), (3,), (4,)]


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads.set_threads(2)
    yield
    threads.set_threads(1)


@needs_onednn
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_two_threads(name: str, two_threads: None) -> None:
    """Right, and bit-stable, with two threads too."""
    check, arguments = CHECKS[name], filled(name)
    value = check.fast(*arguments.arrays, *arguments.rest)
    close(value, check.reference(*widened(arguments.arrays), *arguments.rest))
    for _ in range(3):
        assert bits(check.fast(*arguments.arrays, *arguments.rest)) == bits(value)


@needs_onednn
def test_every_thread_counts_its_threads_as_we_say() -> None:
    """OpenMP's own count is one for each thread of ours and begins with the environment's."""
    seen: list[int] = []
    omp = onednn.load().omp

    def work() -> None:
        omp.omp_set_num_threads(7)
        onednn_matmul.product(np.ones((8, 8), np.float32), np.ones((8, 8), np.float32))
        seen.append(omp.omp_get_max_threads())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [threads.threads()] == [1]


# ---- the choice ------------------------------------------------------------------------------------------------------


@pytest.fixture
def choice() -> Iterator[None]:
    before = table.chosen()
    yield
    table.choose(before)


@needs_onednn
def test_fast_kernels_train_the_same_model(choice: None) -> None:
    """A convolutional net: losses as with the reference up to rounding; the same bits each time."""

    def losses(kernels: str) -> list[float]:
        phalanx.init(seed=3, kernels=kernels)
        nn = phalanx.nn
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 4),
        )  # fmt: skip
        optimizer = phalanx.optim.SGD(model.parameters(), lr=0.05)
        random = np.random.default_rng(0)
        x, y = phalanx.tensor(normal(random, 16, 1, 12, 12)), phalanx.tensor(random.integers(0, 4, 16))
        found = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    plain, fast = losses("reference"), losses("fast")
    np.testing.assert_allclose(fast, plain, rtol=1e-4)
    assert losses("fast") == fast
    assert fast[-1] < fast[0]


@needs_onednn
def test_a_forward_by_one_and_a_backward_by_the_other(choice: None) -> None:
    """What one kernel saves another can use."""
    x = phalanx.tensor(normal(np.random.default_rng(0), 2, 3, 8, 8), requires_grad=True)
    gradients = []
    for forward, backward in itertools.product(table.CHOICES, repeat=2):
        table.choose(forward)
        F = phalanx.nn.functional
        y = F.layer_norm(F.max_pool2d(F.batch_norm(x, None, None, training=True), 2), (4, 4))
        table.choose(backward)
        (gradient,) = phalanx.grad((y * y * y).sum(), [x])
        gradients.append(gradient.numpy())
    for gradient in gradients[1:]:
        np.testing.assert_allclose(gradient, gradients[0], rtol=1e-3, atol=1e-3)


def test_unknown_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RangeError, match="reference, fast"):
        table.choose("slow")
    with pytest.raises(RangeError, match="got 'slow'"):
        phalanx.init(kernels="slow")
    monkeypatch.setattr(table, "_chosen", None)
    monkeypatch.setenv(table.VARIABLE, "slow")
    with pytest.raises(RangeError, match="PHALANX_KERNELS"):
        table.chosen()


def test_the_environment_chooses_and_a_call_has_the_last_word() -> None:
    code = (
        "import phalanx, sys; a = phalanx.kernels.chosen(); phalanx.kernels.choose('reference');"
        "print(a, phalanx.kernels.chosen(), phalanx.kernels.describe(), 'cffi' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, table.VARIABLE: "fast"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["fast", "reference", "reference", "False"], done.stderr


@needs_onednn
def test_what_decides_the_bits_is_in_the_fingerprint(choice: None) -> None:
    table.choose("fast")
    assert phalanx.kernels.describe().startswith("fast: oneDNN 3.2.0 isa 0x")
    assert phalanx.init(kernels="fast").fingerprint["kernels"] == phalanx.kernels.describe()
    assert "kernels" not in phalanx.init(kernels="reference").fingerprint


@pytest.mark.parametrize("lacking", ["the library", "cffi"])
def test_without_the_library_one_line_says_what_it_costs(
    lacking: str, choice: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacking == "cffi":
        monkeypatch.setitem(sys.modules, "cffi", None)
    else:
        pytest.importorskip("cffi")
        monkeypatch.setattr(onednn, "_candidates", lambda: ["/nowhere/libdnnl.so.3"])
    onednn.load.cache_clear()
    try:
        with pytest.warns(
            UserWarning, match=r"fast kernels: oneDNN .*; matrix products .*pip install \"phalanx\[cpu\]\""
        ):
            table.choose("fast")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert table.kernel("linear_forward") is reference.linear_forward
        assert phalanx.kernels.describe().startswith("fast: no onednn")
    finally:
        monkeypatch.undo()
        onednn.load.cache_clear()


@needs_onednn
@pytest.mark.parametrize(
    ("version", "runtime", "complaint"),
    [((2, 6, 3), 2, "version 3.2, found 2.6.3"), ((3, 13, 2), 2, "found 3.13.2"), ((3, 2, 0), 8, "built for OpenMP")],
)
def test_a_library_of_another_kind_is_refused(
    version: tuple[int, int, int], runtime: int, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fake:
        def dnnl_version(self) -> Any:
            return type("V", (), dict(zip(("major", "minor", "patch"), version, strict=True), cpu_runtime=runtime))

    monkeypatch.setattr(onednn, "_open", lambda ffi: Fake())
    with pytest.raises(onednn.Unavailable, match=complaint):
        onednn.load.__wrapped__()


@needs_onednn
def test_blas_has_one_thread_where_onednn_makes_the_products(choice: None) -> None:
    """Two pools of threads on the same cores wait for each other: a convolutional net took five times as long."""

    def blas() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    table.choose("reference")
    table.kernel("matmul")
    with threadpool_limits(2, user_api="blas"):
        table.choose("fast")
        assert blas() == {1}
        phalanx.set_num_threads(2)
        assert (blas(), phalanx.get_num_threads()) == ({1}, 2)
        phalanx.set_num_threads(1)
        table.choose("reference")
        table.kernel("matmul")
        assert blas() == {2}
