"""Every op on the device against the reference on the CPU: all cases of the table, forward and gradients, in two dtypes and layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from phalanx.core.backend import array_module
from phalanx.core.kernels import table
from phalanx.core.op import TABLE
from phalanx.core.tensor import Tensor
from tests.core.op_cases import Case
from tests.core.op_cases_all import CASES
from tests.core.test_ops import DTYPES, inputs_of, run, seeds_for, tensors_of


@pytest.fixture(autouse=True)
def _reference_on_the_cpu(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(table, "_chosen", "reference")
        table._kernels.pop("cpu", None)
        table.table("cpu")


def moved(value: Any, device: str) -> Any:
    """Arrays of NumPy in ``value``, at any depth, as arrays on the device."""
    if isinstance(value, np.ndarray):
        return Tensor(value).to(device).array
    if isinstance(value, tuple | list):
        return type(value)([moved(v, device) for v in value])
    return value


def on_device(case: Case, device: str) -> Case:
    """``case`` with what its attributes hold on the device."""
    return Case(
        case.op,
        case.inputs,
        {key: device if key == "device" else moved(value, device) for key, value in case.attributes.items()},
        with_gradient=case.with_gradient,
        name=case.name,
    )


def tensors_on(case: Case, arrays: list[Any], device: str, layout: Callable[[Any], Any] = lambda a: a) -> list[Any]:
    """``tensors_of`` on the device, each array in a ``layout``."""
    wanted = case.wanted()
    return [
        Tensor(layout(Tensor(x).to(device).array), requires_grad=i in wanted) if isinstance(x, np.ndarray) else x
        for i, x in enumerate(arrays)
    ]


def results(
    case: Case, tensors: list[Any], device: str, layout: Callable[[Any], Any] = lambda a: a
) -> tuple[list[Any], list[Any]]:
    """Outputs and gradients, in host memory; where they lie is checked."""
    outputs = run(case, tensors)
    assert all(out.device == device for out in outputs)
    if TABLE[case.op].differentiable != () and case.wanted():
        for out, seed in zip((o for o in outputs if o.requires_grad), seeds_for(outputs), strict=True):
            out.backward(Tensor(layout(Tensor(seed).to(device).array)), retain_graph=True)
    found = []
    for i in case.wanted():
        gradient = tensors[i].grad
        assert gradient is None or (gradient.device == device and gradient.dtype == tensors[i].dtype)
        found.append(None if gradient is None else gradient.numpy(force=True))
    return [out.numpy(force=True) for out in outputs], found


def gapped(array: Any) -> Any:
    """``strided`` of test_ops on the device."""
    if not array.ndim:
        return array
    xp = array_module(array)
    space = xp.full([2 * size for size in array.shape[::-1]], 7, array.dtype)
    view = space[tuple(slice(None, None, 2) for _ in array.shape)].T
    view[...] = array
    return view


def compare(found: list[Any], expected: list[Any], bound: float) -> None:
    for value, reference in zip(found, expected, strict=True):
        assert (value is None) == (reference is None)
        if reference is not None:
            assert value.shape == reference.shape
            assert value.dtype == reference.dtype
            np.testing.assert_allclose(value, reference, rtol=bound, atol=bound)


def _check(case: Case, device: str) -> None:
    there = on_device(case, device)
    for dtype in DTYPES:
        bound = 1e-10 if dtype == np.float64 else max(case.rtol, 2e-5)
        arrays = inputs_of(case, dtype)
        expected = results(case, tensors_of(case, arrays), "cpu")
        given = tensors_on(case, arrays, device)
        before = [t.array.copy() if isinstance(t, Tensor) else None for t in given]
        found = results(there, given, device)
        for tensor, kept in zip(given, before, strict=True):
            if isinstance(tensor, Tensor):
                np.testing.assert_array_equal(tensor.numpy(force=True), kept.get(), err_msg="an input was written to")
        compare(found[0], expected[0], bound)
        compare(found[1], expected[1], bound)
    spaced = results(there, tensors_on(case, arrays, device, gapped), device, gapped)
    compare(spaced[0], expected[0], bound)
    compare(spaced[1], expected[1], bound)


@pytest.mark.parametrize("op", list(dict.fromkeys(case.op for case in CASES)))
def test_on_the_device_as_on_the_cpu(op: str, device: str) -> None:
    for case in CASES:
        if case.op == op:
            try:
                _check(case, device)
            except BaseException as error:
                error.add_note(f"in the case {case}")
                raise


def test_every_op_is_here() -> None:
    assert {case.op for case in CASES} == set(TABLE)


def test_the_choice_is_used(device: str, kernels: str) -> None:
    """Otherwise all of the above compares the reference with itself."""
    ours = [f for f in table.table(device).values() if ".cuda." in f.__module__]
    assert bool(ours) == (kernels == "fast")
    assert not [f for f in table.table("cpu").values() if not f.__module__.startswith("phalanx.core.kernels.reference")]
