"""Compiled loops over rows against the reference kernels and float64: softmax, losses over classes, norms, sums, embedding."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from phalanx.core.errors import RangeError
from phalanx.core.kernels import reference, reference_add_norm, reference_checks, reference_mean_loss, reference_norm

pytest.importorskip("numba")
from phalanx.core.kernels.cpu import compiled, loops_embedding, loops_norm, loops_rows, threads

FAST: dict[str, Callable[..., Any]] = loops_rows.KERNELS | loops_norm.KERNELS | loops_embedding.KERNELS
FAST = {name: kernel for name, kernel in FAST.items() if name != "check_within"}
REFERENCE: dict[str, Callable[..., Any]] = (
    reference.KERNELS | reference_norm.KERNELS | reference_add_norm.KERNELS | reference_mean_loss.KERNELS
)
IGNORE = -100
many = settings(max_examples=20, derandomize=True, deadline=None)
shapes = st.tuples(st.integers(1, 150), st.integers(1, 150))
seeds = st.integers(0, 2**32 - 1)

Arrays = tuple[Any, ...]


class Work:
    """One of each kernel's arguments for rows (M, C), from a seed: ``Work(m, c, seed).arguments(name)``."""

    def __init__(self, rows: int, columns: int, seed: int = 0, dtype: Any = np.float32) -> None:
        random = np.random.default_rng(seed)

        def draw(*shape: int) -> np.ndarray:
            return random.normal(size=shape).astype(dtype)

        self.x, self.g, self.each = draw(rows, columns), draw(rows, columns), draw(rows)
        self.weight, self.bias = draw(columns), draw(columns)
        self.labels = random.integers(0, columns, rows)
        self.labels[:: random.integers(2, 9)] = IGNORE
        self.indices = random.integers(0, max(1, rows // 2), rows)
        self.x[:, 0] += 1  # not all equal, even in rows of two

    def arguments(self, name: str) -> Arrays:
        x, g, labels = self.x, self.g, self.labels
        columns = x.shape[1]
        kinds: dict[str, Callable[[], Arrays]] = {
            "softmax_forward": lambda: (x, -1),
            "softmax_backward": lambda: (g, reference.softmax_forward(x), 1),
            "log_softmax_forward": lambda: (x, 1),
            "log_softmax_backward": lambda: (g, reference.log_softmax_forward(x), -1),
            "cross_entropy_forward": lambda: (x, labels, None, IGNORE, 0.0),
            "cross_entropy_backward": lambda: (self.each, *self.saved(), labels, None, IGNORE, 0.0),
            "mean_cross_entropy": lambda: ("op", x, labels, IGNORE, ""),
            "nll_forward": lambda: (x, labels, None, IGNORE),
            "nll_backward": lambda: (self.each, x.shape, labels, None, IGNORE),
            "row_sums": lambda: (self.each, np.abs(self.each)),
            "layer_norm_forward": lambda: (x, self.weight, self.bias, columns, 1e-5),
            "layer_norm_backward": lambda: (g, x, *self.moments(), self.weight, (columns,), (True,) * 3, (None,) * 3),
            "rms_norm_forward": lambda: (x, self.weight, columns, 1e-5),
            "rms_norm_backward": lambda: (g, x, self.root(), self.weight, (columns,), (True,) * 2, (None,) * 2),
            "add_layer_norm_forward": lambda: (x, g, self.weight, self.bias, columns, 1e-5),
            "add_rms_norm_forward": lambda: (x, g, self.weight, columns, 1e-5),
            "bias_gradient": lambda: (g,),
            "embedding_forward": lambda: (self.indices, x),
            "embedding_backward": lambda: (g, self.indices, 65 + len(x)),
        }
        if name.startswith("add_") and name.endswith("_backward"):
            return (x, *kinds[name.removeprefix("add_")]())
        return kinds[name]()

    def saved(self) -> Arrays:
        return (self.x, *reference.cross_entropy_forward(self.x, self.labels, None, IGNORE, 0.0)[2:])

    def moments(self) -> Arrays:
        return reference_norm.layer_norm_forward(self.x, None, None, self.x.shape[1], 1e-5)[1:]

    def root(self) -> np.ndarray:
        return reference_norm.rms_norm_forward(self.x, None, self.x.shape[1], 1e-5)[1]


def as_tuple(found: Any) -> Arrays:
    return found if isinstance(found, tuple) else (found,)


def bits(found: Any) -> list[Any]:
    return [None if each is None else (each.dtype, each.shape, each.tobytes()) for each in as_tuple(found)]


def close(found: Any, expected: Any, tolerance: float = 2e-6) -> None:
    """Equal within a share of the largest expected number; sums over rows are of about 100 numbers."""
    for a, b in zip(as_tuple(found), as_tuple(expected), strict=True):
        assert np.shape(a) == np.shape(b)
        scale = max(1.0, float(np.max(np.abs(b), initial=0)))
        np.testing.assert_allclose(a, b, rtol=tolerance * 10, atol=tolerance * scale)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads, for small arrays too."""
    monkeypatch.setattr(compiled, "SMALLEST_SHARE", 1)
    threads.set_threads(2)
    yield
    threads.set_threads(1)


@pytest.mark.parametrize("name", FAST)
@many
@given(shape=shapes, seed=seeds)
@example(shape=(1, 1), seed=0)
@example(shape=(130, 129), seed=1)
@example(shape=(65, 256), seed=2)
def test_each_kernel_is_its_reference(name: str, shape: tuple[int, int], seed: int) -> None:
    arguments = Work(*shape, seed).arguments(name)
    found, expected = FAST[name](*arguments), REFERENCE[name](*arguments)
    assert [np.asarray(a).dtype for a in as_tuple(found)] == [np.asarray(a).dtype for a in as_tuple(expected)]
    wide = [a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a for a in arguments]
    tolerance = 4e-5 if "norm_backward" in name and shape[1] < 4 else 3e-6  # xhat of few numbers is near +-1: h cancels
    close(found, REFERENCE[name](*wide), tolerance)
    assert bits(FAST[name](*arguments)) == bits(found)


@many
@given(st.lists(st.integers(-3, 6), max_size=40), st.integers(0, 5), st.sampled_from([None, -2, 5, IGNORE]))
def test_labels_out_of_range_are_found_as_the_reference_finds_them(
    values: list[int], count: int, skip: int | None
) -> None:
    said = []
    for check in (loops_rows.check_within, reference_checks.check_within):
        try:
            check("op", "label", np.array(values, np.int64), count, " (hint)", skip)
            said.append("")
        except RangeError as error:
            said.append(str(error))
    assert said[0] == said[1]
    assert bool(said[0]) == any(not 0 <= value < count and value != skip for value in values)


@pytest.mark.parametrize("name", FAST)
def test_two_threads_give_the_bits_of_one(name: str, two: None) -> None:
    for shape in ((1, 1), (2, 3), (131, 200), (600, 70)):
        arguments = Work(*shape).arguments(name)
        found = FAST[name](*arguments)
        threads.set_threads(1)
        assert bits(FAST[name](*arguments)) == bits(found)
        threads.set_threads(2)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_comes_out_as_in_the_reference(name: str, value: float) -> None:
    for columns, place in itertools.product((3, 40, 200), (0, 2, -1)):
        work = Work(6, columns)
        work.indices[:] = range(6)
        work.x[1, place] = work.g[2, place] = work.each[3] = value
        work.x[4] = value
        work.g[5, 1], work.g[5, 2] = np.inf, -np.inf
        with np.errstate(all="ignore"):
            arguments = work.arguments(name)
            found, expected = FAST[name](*arguments), REFERENCE[name](*arguments)
        for i, (a, b) in enumerate(zip(as_tuple(found), as_tuple(expected), strict=True)):
            if (name, i) in (
                ("cross_entropy_forward", 2),
                ("mean_cross_entropy", 3),
            ):  # the maximum of a row that is not finite has no meaning
                continue
            np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
            np.testing.assert_array_equal(np.isposinf(a), np.isposinf(b))
            np.testing.assert_array_equal(np.isneginf(a), np.isneginf(b))


@pytest.mark.parametrize("name", FAST)
def test_other_dtypes_and_nothing_at_all_are_the_references(name: str) -> None:
    for dtype, (rows, columns) in itertools.product((np.float16, np.float64), ((5, 7), (0, 7))):
        arguments = Work(rows, columns, dtype=dtype).arguments(name)
        assert bits(FAST[name](*arguments)) == bits(REFERENCE[name](*arguments))
    arguments = Work(0, 7).arguments(name)
    assert bits(FAST[name](*arguments)) == bits(REFERENCE[name](*arguments))


def strided(array: Any) -> Any:
    if not isinstance(array, np.ndarray) or not array.ndim:
        return array
    return np.repeat(array, 2, axis=-1)[..., ::2]


@pytest.mark.parametrize("name", FAST)
def test_other_strides_other_alignment_and_read_only_arrays(name: str) -> None:
    arguments = Work(20, 33).arguments(name)
    expected = FAST[name](*arguments)
    close(FAST[name](*[strided(each) for each in arguments]), expected)
    shifted, locked = list(arguments), list(arguments)
    for i, each in enumerate(arguments):
        if isinstance(each, np.ndarray):
            shifted[i] = np.frombuffer(b"\0" + each.tobytes(), np.uint8)[1:].view(each.dtype).reshape(each.shape)
            locked[i] = each.copy()
            locked[i].setflags(write=False)
    close(FAST[name](*shifted), expected)
    assert bits(FAST[name](*locked)) == bits(expected)


# ---- each by itself --------------------------------------------------------------------------------------------------


def test_softmax_of_images_and_along_other_axes() -> None:
    x = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float32) * 50
    for name, axis in itertools.product(("softmax", "log_softmax"), (-3, -2, -1, 0, 1, 2)):
        y = FAST[name + "_forward"](x, axis)
        close(y, REFERENCE[name + "_forward"](x, axis))
        close(FAST[name + "_backward"](x, y, axis), REFERENCE[name + "_backward"](x, y, axis))


@pytest.mark.parametrize("name", ["softmax_forward", "log_softmax_forward", "cross_entropy_forward"])
def test_masked_scores(name: str) -> None:
    """-inf and the lowest number say that a place is not there."""
    work = Work(12, 70)
    for m, low in enumerate((-np.inf, np.finfo(np.float32).min) * 6):
        work.x[m, m % 5 :: m % 3 + 2] = low
    work.x[3], work.x[7, :-1] = np.finfo(np.float32).max, -np.inf
    arguments = work.arguments(name)
    with np.errstate(all="ignore"):
        close(FAST[name](*arguments), REFERENCE[name](*arguments))


def test_cross_entropy_with_a_gradient_for_all_rows_and_other_options() -> None:
    work = Work(40, 11)
    forward, backward = FAST["cross_entropy_forward"], FAST["cross_entropy_backward"]
    for weight, smoothing, gradient in itertools.product(
        (None, np.abs(work.weight)), (0.0, 0.1), (work.each, np.float32(0.3))
    ):
        options = (work.labels, weight, IGNORE, smoothing)
        losses, weights, *moments = forward(work.x, *options)
        close((losses, weights, *moments), reference.cross_entropy_forward(work.x, *options))
        arguments = (np.asarray(gradient), work.x, *moments, *options)
        close(backward(*arguments), reference.cross_entropy_backward(*arguments))


def test_norms_give_the_gradients_that_are_asked_for_into_slots() -> None:
    work = Work(100, 30)
    for name, count in (("layer_norm_backward", 3), ("rms_norm_backward", 2)):
        *arguments, shape, _, _ = work.arguments(name)
        every = FAST[name](*arguments, shape, (True,) * count, (None,) * count)
        for needs in itertools.product((False, True), repeat=count):
            slots = [None, *(np.full(30, np.nan, np.float32) if need else None for need in needs[1:])]
            found = FAST[name](*arguments, shape, needs, slots)
            for need, value, whole, slot in zip(needs, found, every, slots, strict=True):
                assert bits(value) == (bits(whole) if need else [None])
                assert slot is None or value is slot


def test_norms_over_several_dimensions_with_and_without_weights() -> None:
    random = np.random.default_rng(3)
    x, g, weight = (random.normal(size=shape).astype(np.float32) for shape in ((6, 3, 4), (6, 3, 4), (3, 4)))
    for w in (None, weight):
        y, *moments = loops_norm.layer_norm_forward(x, w, w, 12, 1e-5)
        close((y, *moments), reference_norm.layer_norm_forward(x, w, w, 12, 1e-5))
        rest = (w, (3, 4), (True,) * 3, (None,) * 3)
        found, expected = (
            each.layer_norm_backward(g, x, *moments, *rest) for each in (loops_norm, reference_norm)
        )  # fmt: skip
        close(found, expected)


def test_bias_and_embedding_gradients_in_slots_and_with_padding() -> None:
    work = Work(90, 50)
    slot = np.full(50, np.nan, np.float32)
    assert loops_embedding.bias_gradient(work.g, slot) is slot
    close(slot, work.g.sum(axis=0, dtype=np.float64))
    table = np.full((70, 50), np.nan, np.float32)
    indices = work.indices.reshape(9, 10)
    found = loops_embedding.embedding_backward(work.g.reshape(9, 10, 50), indices, 70, -68, table)
    assert found is table
    close(table, reference.embedding_backward(work.g, work.indices, 70, 2))
    assert not table[2].any()
    assert not table[45:].any()


def test_rows_of_one_index_are_added_in_order_of_appearance() -> None:
    g = np.array([[1.0], [2**24], [1.0], [-(2.0**24)]], np.float32)
    assert loops_embedding.embedding_backward(g, np.zeros(4, np.int64), 2).tolist() == [[0.0], [0.0]]
    assert loops_embedding.embedding_backward(g[[1, 3, 0, 2]], np.zeros(4, np.int64), 2).tolist() == [[2.0], [0.0]]
