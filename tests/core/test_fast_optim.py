"""Optimizers, norms and hashes as compiled loops: the reference's bits, wherever a run is cut, and on ranks that own parts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

import phalanx
from phalanx import nn, optim
from phalanx.core.backend import empty_aligned
from phalanx.core.flat import CHUNK, pack
from phalanx.core.kernels import (
    reference_optim,
    reference_optim_adaptive,
    reference_optim_norms,
    reference_optim_signs,
    table,
)
from phalanx.core.kernels.cpu import compiled, loops_optim, loops_optim_adaptive, loops_optim_signs, threads
from tests.ranks.zero_runs import OPTIMIZERS, on_ranks, train

REFERENCE = {
    **reference_optim.KERNELS, **reference_optim_adaptive.KERNELS, **reference_optim_norms.KERNELS,
    **reference_optim_signs.KERNELS,
}  # fmt: skip
FAST = {**loops_optim.KERNELS, **loops_optim_adaptive.KERNELS, **loops_optim_signs.KERNELS}
QUICK = settings(max_examples=20, deadline=None, derandomize=True)


class Case(NamedTuple):
    """An update with ``buffers`` beyond parameter and gradient; None: one that these options do not keep."""

    name: str
    buffers: tuple[Any, ...]
    options: dict[str, Any]


SGD = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False, "first": False}
ADAM = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.0, "decoupled": False, "step": 3}
NEAR = {key: ADAM[key] for key in ("lr", "betas", "eps", "weight_decay")}
NADAM = ADAM | {"mu": 0.9, "mu_next": 0.91, "mu_product": 0.5}
RMS = {"lr": 0.01, "alpha": 0.9, "eps": 1e-6, "weight_decay": 0.0, "momentum": 0.9}
ADAGRAD = {"lr": 0.01, "lr_decay": 0.1, "eps": 1e-8, "weight_decay": 0.0, "initial": 0.2, "step": 3}
RPROP = {"lr": 0.1, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0), "first": False}
ASGD = {"lambd": 0.01, "weight_decay": 0.0, "eta": 0.1, "mu": 0.3}
LAMB = NEAR | {"adapt": False, "trust_clip": False, "step": 3}
LARS = SGD | {"adapt": False, "trust_coefficient": 0.02, "eps": 1e-8}
DECAY = {"weight_decay": 0.1}
B = True  # a buffer

CASES = [
    *(Case("sgd_update", (None,), SGD | o) for o in ({}, DECAY)),
    *(Case("sgd_update", (B,), SGD | o) for o in (DECAY, {"nesterov": True}, {"dampening": 0.1}, {"first": True})),
    *(Case("adam_update", (B, B, m), ADAM | o) for m in (None, B) for o in ({}, DECAY, DECAY | {"decoupled": True})),
    *(Case("rmsprop_update", (B, m, b), RMS | o) for m in (None, B) for b in (None, B) for o in ({}, DECAY)),
    *(Case("adagrad_update", (B,), ADAGRAD | o) for o in ({}, DECAY, {"step": 1})),
    *(Case("adadelta_update", (B, B), {"lr": 0.5, "rho": 0.9, "eps": 1e-6} | o) for o in ({"weight_decay": 0.0}, DECAY)),
    *(Case("adamax_update", (B, B), NEAR | {"step": 3} | o) for o in ({}, DECAY)),
    *(Case("nadam_update", (B, B), NADAM | o) for o in ({}, DECAY, DECAY | {"decoupled": True})),
    *(Case("radam_update", (B, B), ADAM | o) for o in ({}, DECAY, {"step": 30}, DECAY | {"decoupled": True, "step": 30})),
    *(Case("lion_update", (B,), {"lr": 0.01, "betas": (0.9, 0.99)} | o) for o in ({"weight_decay": 0.0}, DECAY)),
    *(Case("rprop_update", (B, B), RPROP | o) for o in ({}, {"first": True})),
    *(Case("asgd_update", (B,), ASGD | o) for o in ({}, DECAY, {"mu": 1.0})),
    *(Case("lamb_update", (B, B), LAMB | o) for o in ({}, DECAY)),
    *(Case("lars_update", (b,), LARS) for b in (None, B)),
]  # fmt: skip
BY_NORM = [
    *(Case("lamb_update", (B, B), LAMB | DECAY | {"adapt": True, "trust_clip": clip}) for clip in (False, True)),
    *(Case("lars_update", (b,), LARS | o | {"adapt": True}) for b in (None, B) for o in ({}, DECAY)),
]
"""Updates whose rate follows norms: the sums have an order of their own."""


def label(case: Case) -> str:
    changed = {
        k: v for k, v in case.options.items() if k in ("weight_decay", "decoupled", "first", "step", "adapt") and v
    }
    return "-".join([case.name, *("no" if b is None else "b" for b in case.buffers), *map(str, changed)])


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compiled, "SMALLEST_SHARE", 1)
    threads.set_threads(2)
    yield
    threads.set_threads(1)


@pytest.fixture
def fast() -> Iterator[None]:
    before = table.chosen()
    table.choose("fast")
    yield
    table.choose(before)


ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 3e38], np.float32)


def arrays_of(case: Case, size: int, seed: int = 0, odd: bool = False) -> list[Any]:
    random = np.random.default_rng(seed)
    arrays = [random.standard_normal(size).astype(np.float32) for _ in range(2 + len(case.buffers))]
    if odd:
        for array in arrays:
            array[random.integers(0, size, len(ODD))] = ODD
    with np.errstate(over="ignore"):
        return arrays[:2] + [a**2 if b else None for a, b in zip(arrays[2:], case.buffers, strict=True)]


def after(update: Callable[..., Any], case: Case, arrays: list[Any]) -> list[Any]:
    """The parameter and the buffers that an update leaves; the gradient must stay."""
    arrays = [None if a is None else a.copy() for a in arrays]
    gradient = arrays[1].copy()
    with np.errstate(all="ignore"):
        update(*arrays, **case.options)
    np.testing.assert_array_equal(arrays[1], gradient)
    return arrays


def same_bits(ours: list[Any], theirs: list[Any]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        if one is not None:
            assert one.dtype == other.dtype
            kind = {2: np.uint16, 4: np.uint32, 8: np.uint64}[one.dtype.itemsize]
            different = (one.view(kind) != other.view(kind)) & ~(np.isnan(one) & np.isnan(other))
            assert not different.any(), f"{one[different][:4]} instead of {other[different][:4]}"


# ---- elementwise updates ---------------------------------------------------------------------------------------------


def test_every_update_has_a_case() -> None:
    assert {case.name for case in CASES} == {n for n in FAST if n.endswith("_update") and n != "average_update"}
    assert {name for name in REFERENCE if name.endswith("_update")} - set(FAST) == {"muon_update"}  # matrix products


@pytest.mark.parametrize("case", CASES, ids=label)
def test_the_bits_of_the_reference(case: Case) -> None:
    """Any size, NaN, infinities, denormals, and in any pieces."""

    @QUICK
    @given(st.integers(1, 300), st.integers(0, 2**30), st.booleans(), st.lists(st.integers(0, 300), max_size=3))
    def run(size: int, seed: int, odd: bool, cuts: list[int]) -> None:
        arrays = arrays_of(case, size, seed, odd)
        expected = after(REFERENCE[case.name], case, arrays)
        same_bits(after(FAST[case.name], case, arrays), expected)
        places = sorted({0, size, *(cut for cut in cuts if cut < size)})
        pieces = [
            after(FAST[case.name], case, [None if a is None else a[lo:hi] for a in arrays])
            for lo, hi in pairwise(places)
        ]
        whole = [None if parts[0] is None else np.concatenate(parts) for parts in zip(*pieces, strict=True)]
        same_bits(whole, expected)

    run()


@pytest.mark.parametrize("case", [*CASES, BY_NORM[0], BY_NORM[3], BY_NORM[5]], ids=label)
def test_compiled_loops_serve(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a gradient that may not be written, and numbers that are integers."""
    for module in (reference_optim, reference_optim_adaptive, reference_optim_signs):
        monkeypatch.setattr(module, case.name, None, raising=False)
    arrays = arrays_of(case, 40)
    after(FAST[case.name], case, arrays)
    arrays[1].flags.writeable = False
    FAST[case.name](*arrays, **case.options | {"lr": 1} if "lr" in case.options else case.options)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_close_to_float64(case: Case) -> None:
    arrays = arrays_of(case, 257)
    wide = [None if a is None else a.astype(np.float64) for a in arrays]
    for ours, theirs in zip(after(FAST[case.name], case, arrays), after(REFERENCE[case.name], case, wide), strict=True):
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_what_compiled_loops_do_not_serve(case: Case) -> None:
    """Other dtypes, gaps, nothing at all."""
    both = FAST[case.name], REFERENCE[case.name]
    arrays = arrays_of(case, 40)
    for dtype in (np.float64, np.float16):
        other = [None if a is None else a.astype(dtype) for a in arrays]
        same_bits(*(after(update, case, other) for update in both))
    same_bits(*(after(update, case, [None if a is None else a[:0] for a in arrays]) for update in both))
    results = []
    for update in both:
        spaced = [None if a is None else np.repeat(a, 2)[::2] for a in arrays]
        update(*spaced, **case.options)
        results.append([None if a is None else a.copy() for a in spaced])
    same_bits(*results)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("case", [CASES[3], CASES[6], CASES[9]], ids=label)
def test_two_threads_give_the_bits_of_one(case: Case) -> None:
    arrays = arrays_of(case, 1001, odd=True)
    same_bits(after(FAST[case.name], case, arrays), after(REFERENCE[case.name], case, arrays))


@QUICK
@given(st.integers(0, 300), st.integers(0, 2**30))
def test_averages_and_exchange(size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.standard_normal((2, size)).astype(np.float32)
    for dtype, step in ((np.float32, 1), (np.float64, 1), (np.float32, 2)):
        results = []
        for kernels in (FAST, REFERENCE):
            one, other = first.astype(dtype)[::step], second.astype(dtype)[::step]
            kernels["average_update"](one, other, 0.1)
            kernels["exchange"](one, other)
            kernels["mean_of_two"](one, other, 0.25)
            same_bits([one], [other])
            results.append([one.copy(), other.copy()])
        same_bits(*results)


@QUICK
@given(st.integers(0, 400), st.integers(0, 2**40), st.integers(0, 2**30))
def test_hash(size: int, start: int, seed: int) -> None:
    words = np.random.default_rng(seed).integers(0, 2**32, size, dtype=np.uint32)
    assert FAST["hash_words"](words, start) == REFERENCE["hash_words"](words, start)
    assert FAST["hash_words"](words[::-1], start) == REFERENCE["hash_words"](words[::-1], start)


# ---- norms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", BY_NORM, ids=label)
def test_updates_by_norms(case: Case) -> None:
    for size in (1, 77, CHUNK + 100):
        arrays = arrays_of(case, size)
        for ours, theirs in zip(*(after(k[case.name], case, arrays) for k in (FAST, REFERENCE)), strict=True):
            if ours is not None:
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
        zeros = [None if a is None else np.zeros_like(a) for a in arrays]
        same_bits(*(after(k[case.name], case, zeros) for k in (FAST, REFERENCE)))


@pytest.mark.parametrize("size", [0, 1, 31, 1000, CHUNK, CHUNK + 1, 2 * CHUNK + 777])
def test_chunk_norms(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    fast, reference = FAST["chunk_norms"], REFERENCE["chunk_norms"]
    found = fast(flat, 2.0)
    exact = [float((flat[at : at + CHUNK].astype(np.float64) ** 2).sum()) for at in range(0, size, CHUNK)]
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    np.testing.assert_allclose(found, reference(flat, 2.0), rtol=1e-5)
    for norm_type in (math.inf, 3.0):
        np.testing.assert_array_equal(fast(flat, norm_type), reference(flat, norm_type))
    for other in (flat.astype(np.float64), flat.astype(np.float16), np.repeat(flat, 2)[::2]):
        for norm_type in (2.0, math.inf):
            np.testing.assert_array_equal(fast(other, norm_type), reference(other, norm_type))
    moved = empty_aligned(size + 1, np.float32)[1:]  # no bit depends on where it lies
    moved[...] = flat
    for repeated in (flat, moved, flat):
        np.testing.assert_array_equal(fast(repeated, 2.0), found)
    monkeypatch.setattr(compiled, "SMALLEST_SHARE", 1)
    threads.set_threads(2)
    try:
        np.testing.assert_array_equal(fast(flat, 2.0), found)
        np.testing.assert_array_equal(fast(flat, math.inf), reference(flat, math.inf))
        words = flat.view(np.uint32)
        assert FAST["hash_words"](words, 3) == REFERENCE["hash_words"](words, 3)
    finally:
        threads.set_threads(1)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf, 3e38, -1e-40])
@pytest.mark.parametrize("at", [0, 6, 100, CHUNK + 3])
def test_what_is_not_finite(value: float, at: int) -> None:
    flat = np.ones(CHUNK + 9, np.float32)
    flat[at] = value
    with np.errstate(over="ignore"):
        for norm_type in (2.0, math.inf):
            ours, theirs = FAST["chunk_norms"](flat, norm_type), REFERENCE["chunk_norms"](flat, norm_type)
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    finite = bool(np.isfinite(value))
    shaped = np.asfortranarray(flat[: CHUNK + 8].reshape(4, -1))
    for array in (flat, flat[::-1], shaped, flat.astype(np.float64), flat[at : at + 1].reshape(())):
        assert FAST["all_finite"](array) is REFERENCE["all_finite"](array) is finite
    assert FAST["all_finite"](flat[:0]) is True


# ---- as they are used ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n not in ("lamb", "lars", "muon", "layerwise", "rows")])
def test_an_optimizer_ends_with_the_bits_of_the_reference(name: str) -> None:
    """Some gradients are missing at some steps, so that runs begin and end anywhere."""
    ends = []
    for kernels in ("fast", "reference"):
        phalanx.kernels.choose(kernels)
        model = nn.Sequential(nn.Linear(7, 33), nn.Linear(33, 5, bias=False), nn.Linear(5, 3))
        random = np.random.default_rng(5)
        for parameter in model.parameters():
            parameter.array[...] = random.standard_normal(parameter.shape)
        optimizer = OPTIMIZERS[name](model.parameters())
        for step in range(6):
            optimizer.zero_grad()
            for number, parameter in enumerate(model.parameters()):
                if (step + number) % 4:
                    parameter.grad = phalanx.tensor(random.standard_normal(parameter.shape).astype(np.float32))
            optimizer.step()
        ends.append([p.detach().numpy() for p in model.parameters()])
    same_bits(*ends)


@pytest.mark.usefixtures("fast")
@pytest.mark.filterwarnings("ignore:.*shards? used these parameters")
@pytest.mark.parametrize("name", ["adam", "nesterov", "lamb", "lars"])
def test_ranks_that_own_parts_end_with_the_bits_of_one(name: str) -> None:
    """ZeRO-2 on two ranks, with clipping by the norm."""
    (expected,) = on_ranks(1, 2, partial(train, OPTIMIZERS[name]))
    for got in on_ranks(2, 2, partial(train, OPTIMIZERS[name], shard="gradients")):
        assert got == expected


@pytest.mark.usefixtures("fast")
def test_clipping_average_and_finite_check() -> None:
    model = nn.Linear(200, 100)
    for p in model.parameters():
        p.grad = phalanx.ones(*p.shape)
    total = math.sqrt(200 * 100 + 100)
    assert nn.utils.clip_grad_norm_(model.parameters(), 1.0).item() == pytest.approx(total, rel=1e-6)
    assert nn.utils.clip_grad_norm_(model.parameters(), 1e9, norm_type=math.inf).item() == pytest.approx(1 / total)
    assert nn.utils.get_total_norm([p.grad for p in model.parameters()]).item() == pytest.approx(1.0, rel=1e-5)
    assert nn.first_non_finite(model, phalanx.ones(2, 200)) is None
    model.weight.array[3, 4] = np.nan
    assert nn.first_non_finite(model, phalanx.ones(2, 200)) == "parameter 'weight'"


def test_buffers_of_a_store_begin_at_different_places_within_a_page() -> None:
    model = nn.Linear(64, 64, bias=False)
    optimizer = optim.Adam(copy.deepcopy(model).parameters())
    (store,) = pack(optimizer._all())
    buffers = [store.data, store.gradient, *(store.state_buffer(optimizer, n) for n in ("exp_avg", "exp_avg_sq"))]
    places = {buffer.ctypes.data % 4096 for buffer in buffers}
    assert len(places) == 4
    assert all(place % 256 == 0 for place in places)
