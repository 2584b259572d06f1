"""Optimizer updates on the device: the bits of the reference, wherever a run of parameters begins and however long it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from phalanx.core import backend
from phalanx.core.kernels.cuda import optim
from phalanx.core.kernels.table import table

Array = Any
BETAS = {"betas": (0.9, 0.99), "eps": 1e-8}
MOVES = {"lr": 0.05, "weight_decay": 0.02}
SGD = {**MOVES, "momentum": 0.9, "dampening": 0.0, "nesterov": False, "first": False}
LARS = {**SGD, "trust_coefficient": 0.02, "eps": 1e-8}

# name of the kernel, number of state arrays (None in between: absent), options
CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "sgd": ("sgd_update", (1,), SGD),
    "sgd first": ("sgd_update", (1,), {**SGD, "first": True}),
    "sgd nesterov": ("sgd_update", (1,), {**SGD, "nesterov": True}),
    "sgd dampened": ("sgd_update", (1,), {**SGD, "dampening": 0.3}),
    "sgd plain": ("sgd_update", (0,), {**SGD, "momentum": 0.0, "weight_decay": 0.0}),
    "adam": ("adam_update", (1, 1, 0), {**MOVES, **BETAS, "decoupled": False, "step": 3}),
    "adamw": ("adam_update", (1, 1, 0), {**MOVES, **BETAS, "decoupled": True, "step": 1}),
    "amsgrad": ("adam_update", (1, 1, 1), {**MOVES, **BETAS, "decoupled": False, "step": 7}),
    "nadam": (
        "nadam_update", (1, 1),
        {**MOVES, **BETAS, "decoupled": False, "mu": 0.5, "mu_next": 0.6, "mu_product": 0.3, "step": 2},
    ),
    "nadam decoupled": (
        "nadam_update", (1, 1),
        {**MOVES, **BETAS, "decoupled": True, "mu": 0.5, "mu_next": 0.6, "mu_product": 0.3, "step": 2},
    ),
    "radam early": ("radam_update", (1, 1), {**MOVES, **BETAS, "decoupled": True, "step": 2}),
    "radam": ("radam_update", (1, 1), {**MOVES, **BETAS, "decoupled": False, "step": 40}),
    "adamax": ("adamax_update", (1, 1), {**MOVES, **BETAS, "step": 3}),
    "rmsprop": ("rmsprop_update", (1, 0, 0), {**MOVES, "alpha": 0.95, "eps": 1e-8, "momentum": 0.0}),
    "rmsprop centred": ("rmsprop_update", (1, 1, 1), {**MOVES, "alpha": 0.95, "eps": 1e-8, "momentum": 0.9}),
    "rmsprop momentum": ("rmsprop_update", (1, 0, 1), {**MOVES, "alpha": 0.95, "eps": 1e-8, "momentum": 0.9}),
    "adagrad": ("adagrad_update", (1,), {**MOVES, "lr_decay": 0.1, "eps": 1e-10, "initial": 0.25, "step": 4}),
    "adagrad first": ("adagrad_update", (1,), {**MOVES, "lr_decay": 0.1, "eps": 1e-10, "initial": 0.25, "step": 1}),
    "adadelta": ("adadelta_update", (1, 1), {**MOVES, "rho": 0.9, "eps": 1e-6}),
    "asgd": ("asgd_update", (1,), {"lambd": 1e-4, "weight_decay": 0.02, "eta": 0.05, "mu": 0.25}),
    "asgd first": ("asgd_update", (1,), {"lambd": 1e-4, "weight_decay": 0.0, "eta": 0.05, "mu": 1.0}),
    "rprop": ("rprop_update", (1, 1), {"lr": 0.1, "etas": (0.5, 1.2), "step_sizes": (0.2, 0.9), "first": False}),
    "rprop first": ("rprop_update", (1, 1), {"lr": 0.1, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0), "first": True}),
    "lion": ("lion_update", (1,), {**MOVES, "betas": (0.9, 0.99)}),
    "lamb": ("lamb_update", (1, 1), {**MOVES, **BETAS, "adapt": True, "trust_clip": False, "step": 3}),
    "lamb clipped": ("lamb_update", (1, 1), {**MOVES, **BETAS, "adapt": True, "trust_clip": True, "step": 3}),
    "lamb plain": ("lamb_update", (1, 1), {**MOVES, **BETAS, "adapt": False, "trust_clip": False, "step": 3}),
    "lars": ("lars_update", (1,), {**LARS, "adapt": True}),
    "lars plain": ("lars_update", (0,), {**LARS, "adapt": False, "momentum": 0.0}),
}  # fmt: skip
BY_NORM = ("lamb", "lamb clipped", "lars")
"""A norm's last bit may differ, and with it the step of every element."""
SIZES = (1, 4, 1023, 20_001)


def _arrays(states: tuple[int, ...], size: int) -> list[Array]:
    """data, gradient and states; None for those that are absent."""
    draw = np.random.default_rng(size)
    arrays: list[Array] = [draw.standard_normal(size, np.float32) for _ in range(2)]
    arrays += [np.square(draw.standard_normal(size, np.float32)) if there else None for there in states]
    arrays[1][::7] = 0.0
    return arrays


def _on_device(array: Array, shift: int, dtype: Any = None) -> Array:
    """A copy on the device whose first element lies ``shift`` elements behind an aligned address."""
    xp = backend.cupy()
    room = xp.full(array.size + shift + 3, np.nan, dtype or array.dtype)
    place = room[shift : shift + array.size]
    place[...] = xp.asarray(array)
    return place


def _nothing_beside(place: Array) -> bool:
    """Whether what lies before and behind is still as it was made."""
    room = backend.to_host(place.base)
    shift = (place.data.ptr - place.base.data.ptr) // place.dtype.itemsize
    return (
        bool(np.isnan(np.delete(room, slice(shift, shift + place.size))).all()) and room.size == place.size + shift + 3
    )


def _host(array: Array) -> Array:
    return None if array is None else backend.to_host(array).astype(np.float32)


def _reference(name: str) -> Callable[..., None]:
    from phalanx.core.kernels import reference_optim, reference_optim_adaptive, reference_optim_signs

    found: Callable[..., None] = {
        **reference_optim.KERNELS, **reference_optim_adaptive.KERNELS, **reference_optim_signs.KERNELS,
    }[name]  # fmt: skip
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_an_update_has_the_bits_of_the_reference(device: str, case: str, size: int) -> None:
    name, states, options = CASES[case]
    expected = _arrays(states, size)
    got = [None if each is None else _on_device(each, shift) for shift, each in enumerate(expected)]
    aligned = [None if each is None else _on_device(each, 0) for each in expected]
    _reference(name)(*expected, **options)
    assert table(device)[name] is optim.KERNELS[name]
    for arrays in (got, aligned):
        optim.KERNELS[name](*arrays, **options)
        for want, have in zip(expected, arrays, strict=True):
            if want is None:
                continue
            assert _nothing_beside(have)
            if case in BY_NORM:
                np.testing.assert_allclose(_host(have), want, rtol=2e-6, atol=1e-6)
            else:
                np.testing.assert_array_equal(_host(have), want)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", CASES)
def test_half_precision_is_the_float32_update_rounded_once(device: str, case: str, dtype: str) -> None:
    name, states, options = CASES[case]
    narrow = [None if each is None else each.astype(_dtype(dtype)) for each in _arrays(states, 517)]
    wide = [None if each is None else each.astype(np.float32) for each in narrow]
    arrays = [None if each is None else _on_device(each, 1) for each in narrow]
    optim.KERNELS[name](*arrays, **options)
    _reference(name)(*wide, **options)
    for want, have in zip(wide, arrays, strict=True):
        if want is not None and case not in BY_NORM:
            with np.errstate(over="ignore"):
                want = want.astype(_dtype(dtype)).astype(np.float32)
            np.testing.assert_array_equal(_host(have), want)
        elif want is not None:
            np.testing.assert_allclose(_host(have), want, rtol=0.01, atol=1e-3)


def test_what_is_not_a_number_stays_so(device: str) -> None:
    for case, (name, states, options) in CASES.items():
        expected = _arrays(states, 9)
        expected[1][3], expected[1][5] = np.nan, np.inf
        arrays = [None if each is None else _on_device(each, 0) for each in expected]
        with np.errstate(all="ignore"):
            _reference(name)(*expected, **options)
        optim.KERNELS[name](*arrays, **options)
        np.testing.assert_array_equal(np.isnan(_host(arrays[0])), np.isnan(expected[0]), err_msg=case)


def test_float64_goes_to_the_reference(device: str) -> None:
    for name, states, options in (CASES["adam"], CASES["lion"], CASES["rprop"]):
        expected = [None if each is None else each.astype(np.float64) for each in _arrays(states, 30)]
        arrays = [None if each is None else _on_device(each, 0) for each in expected]
        _reference(name)(*expected, **options)
        optim.KERNELS[name](*arrays, **options)
        np.testing.assert_allclose(backend.to_host(arrays[0]), expected[0], rtol=1e-12)


def _dtype(name: str) -> Any:
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (7, 7)])
def test_muon_is_the_references_and_tells_the_host_nothing(
    device: str, shape: tuple[int, int], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    options = {"lr": 0.1, "rate": 0.2, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}
    options |= {"coefficients": (3.4445, -4.775, 2.0315), "steps": 5, "eps": 1e-7}
    narrow = [draw.standard_normal(shape).astype(_dtype(dtype)) for _ in range(3)]
    expected = [each.astype(np.float32) for each in narrow]
    arrays = [backend.cupy().asarray(each) for each in narrow]
    _reference("muon_update")(*expected, **options)
    with monkeypatch.context() as patch:
        patch.setattr(backend.cupy().ndarray, "get", None)
        table(device)["muon_update"](*arrays, **options)
    tolerance = 1e-4 if dtype == "float32" else 3e-2
    for mine, theirs in zip(arrays, expected, strict=True):
        np.testing.assert_allclose(_host(mine), theirs, rtol=tolerance, atol=tolerance)
