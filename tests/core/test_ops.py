"""Every op of the table: forward against NumPy, gradient against differences, both against PyTorch, over the cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from phalanx.core import ops as ops
from phalanx.core.gradcheck import gradcheck
from phalanx.core.graph import apply, unbroadcast
from phalanx.core.op import TABLE
from phalanx.core.tensor import Tensor
from tests.core.op_cases import Case
from tests.core.op_cases_all import CASES

WITH_GRADIENT = [case for case in CASES if TABLE[case.op].differentiable != () and case.wanted()]
DTYPES = [np.float32, np.float64]


def every(cases: list[Case]) -> Any:
    """One test for each op, over its cases; a failure names the case."""
    of_op: dict[str, list[Case]] = {}
    for case in cases:
        of_op.setdefault(case.op, []).append(case)

    def decorate(test: Any) -> Any:
        def over_cases(op: str) -> None:
            for case in of_op[op]:
                try:
                    test(case)
                except BaseException as error:
                    error.add_note(f"in the case {case}")
                    raise

        over_cases.__name__, over_cases.__doc__ = test.__name__, test.__doc__
        return pytest.mark.parametrize("op", list(of_op))(over_cases)

    return decorate


def tolerance(case: Case, dtype: Any) -> dict[str, float]:
    """For comparisons in ``dtype``."""
    bound = 1e-10 if dtype == np.float64 else case.rtol
    return {"rtol": bound, "atol": bound}


def inputs_of(case: Case, dtype: Any) -> list[Any]:
    """Fresh copies, float64 ones cast to ``dtype``."""
    return [
        (x.astype(dtype) if x.dtype == np.float64 else x.copy()) if isinstance(x, np.ndarray) else x
        for x in case.inputs
    ]


def tensors_of(case: Case, arrays: list[Any]) -> list[Any]:
    """Arrays as Tensors, those of ``case.wanted()`` with a gradient."""
    wanted = case.wanted()
    return [Tensor(x, requires_grad=i in wanted) if isinstance(x, np.ndarray) else x for i, x in enumerate(arrays)]


def as_tuple(value: Any) -> tuple[Any, ...]:
    """Outputs, one or several."""
    return value if isinstance(value, tuple) else (value,)


def run(case: Case, tensors: list[Any]) -> tuple[Tensor, ...]:
    """The op's outputs."""
    return as_tuple(apply(TABLE[case.op], *tensors, **case.attributes))


def seeds_for(outputs: tuple[Tensor, ...]) -> list[np.ndarray]:
    """A gradient for each output that wants one."""
    random = np.random.default_rng(5)
    return [np.asarray(random.normal(size=out.shape), out.dtype) for out in outputs if out.requires_grad]


def gradients(case: Case, tensors: list[Any], contiguous: bool = True) -> list[np.ndarray | None]:
    """Gradients of the wanted inputs for fixed gradients of the outputs."""
    outputs = run(case, tensors)
    for out, seed in zip((o for o in outputs if o.requires_grad), seeds_for(outputs), strict=True):
        out.backward(Tensor(seed if contiguous else strided(seed)), retain_graph=True)
    return [None if tensors[i].grad is None else tensors[i].grad.array for i in case.wanted()]


def strided(array: np.ndarray) -> np.ndarray:
    """The same values in memory with gaps and reversed order of dimensions."""
    if not array.ndim:
        return array
    space = np.full([2 * size for size in array.shape[::-1]], 7, array.dtype)
    view = space[tuple(slice(None, None, 2) for _ in array.shape)].T
    view[...] = array
    return view


def test_the_table_has_cases_for_every_op() -> None:
    assert set(TABLE) - {case.op for case in CASES} == set()


def test_every_op_has_an_empty_case() -> None:
    covered = {case.op for case in CASES if any(np.size(x) == 0 for x in case.inputs if isinstance(x, np.ndarray))}
    assert set(TABLE) - covered == set()


def test_case_names_are_distinct_enough() -> None:
    names = [str(case) for case in CASES]
    assert len(set(names)) > 0.9 * len(names)


@every([case for case in CASES if case.numpy is not None])
def test_forward_equals_numpy(case: Case) -> None:
    for dtype in DTYPES:
        _forward_equals_numpy(case, dtype)


def _forward_equals_numpy(case: Case, dtype: Any) -> None:
    arrays = inputs_of(case, dtype)
    wide = [x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype == dtype else x for x in arrays]
    expected = case.numpy(*wide)
    outputs = run(case, tensors_of(case, arrays))
    for out, reference in zip(outputs, as_tuple(expected), strict=False):
        assert out.shape == np.shape(reference)
        if out.dtype.kind == "f" and "dtype" not in case.attributes:
            assert out.dtype == dtype
        np.testing.assert_allclose(out.array, reference, **tolerance(case, dtype))


@every([case for case in WITH_GRADIENT if case.gradient])
def test_gradient_equals_differences(case: Case) -> None:
    tensors = tensors_of(case, inputs_of(case, np.float64))
    arrays = [tensors[i] for i in case.wanted()]

    def call(*changed: Tensor) -> tuple[Tensor, ...]:
        given = list(tensors)
        for i, tensor in zip(case.wanted(), changed, strict=True):
            given[i] = tensor
        outputs, which = run(case, given), TABLE[case.op].differentiable
        return outputs if which is None else tuple(outputs[k] for k in which)

    assert gradcheck(call, arrays, atol=1e-6, rtol=1e-6)


@pytest.mark.torch
@every([case for case in CASES if case.torch is not None])
def test_equals_pytorch(case: Case) -> None:
    torch = pytest.importorskip("torch")
    for dtype in DTYPES:
        _equals_pytorch(torch, case, dtype)


def _equals_pytorch(torch: Any, case: Case, dtype: Any) -> None:
    arrays = inputs_of(case, dtype)
    theirs = [torch.tensor(x) if isinstance(x, np.ndarray) else x for x in arrays]
    for i in case.wanted():
        theirs[i].requires_grad_(True)
    expected = as_tuple(case.torch(*theirs))
    ours = tensors_of(case, arrays)
    outputs = run(case, ours)
    for out, reference in zip(outputs, expected, strict=False):
        assert out.shape == tuple(reference.shape)
        assert out.dtype == reference.detach().numpy().dtype
        np.testing.assert_allclose(out.array, reference.detach().numpy(), **tolerance(case, dtype))
    graded = [reference for out, reference in zip(outputs, expected, strict=False) if out.requires_grad]
    assert bool(graded) == any(reference.requires_grad for reference in expected)
    if not graded:
        return
    for reference, seed in zip(graded, seeds_for(outputs), strict=False):
        reference.backward(torch.tensor(seed), retain_graph=True)
    for i, gradient in zip(case.wanted(), gradients(case, ours), strict=True):
        assert gradient is not None
        assert gradient.dtype == arrays[i].dtype
        assert gradient.shape == arrays[i].shape
        np.testing.assert_allclose(gradient, theirs[i].grad.numpy(), **tolerance(case, dtype))


@every(CASES)
def test_inputs_are_not_written(case: Case) -> None:
    arrays = inputs_of(case, np.float64)
    for array in arrays:
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    tensors = tensors_of(case, arrays)
    outputs = run(case, tensors)
    kept = [out.array.copy() for out in outputs]
    seeds = seeds_for(outputs)
    for out, seed in zip((o for o in outputs if o.requires_grad), seeds, strict=True):
        seed.flags.writeable = False
        out.backward(Tensor(seed), retain_graph=True)
    for out, before in zip(outputs, kept, strict=True):
        np.testing.assert_array_equal(out.array, before)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@every([case for case in CASES if case.numpy is not None and case.wanted()])
def test_half_precision_stays_half(case: Case) -> None:
    """Values as from float32, rounded; outputs and gradients in float16."""
    arrays = inputs_of(case, np.float16)
    tensors = tensors_of(case, arrays)
    outputs = run(case, tensors)
    wide = run(
        case, tensors_of(case, [x.astype(np.float32) if np.asarray(x).dtype == np.float16 else x for x in arrays])
    )
    graded = TABLE[case.op].differentiable
    for k, (out, reference) in enumerate(zip(outputs, wide, strict=True)):
        if reference.dtype == np.float32 and "dtype" not in case.attributes and (graded is None or k in graded):
            assert out.dtype == np.float16
        if reference.dtype.kind == "f":
            np.testing.assert_allclose(out.array, reference.array, rtol=4e-3, atol=4e-3)
    if case in WITH_GRADIENT and all(out.dtype.kind == "f" for out in outputs):
        for gradient in gradients(case, tensors):
            assert gradient is not None
            assert gradient.dtype == np.float16


@every(CASES)
def test_strided_inputs_and_gradients(case: Case) -> None:
    arrays = inputs_of(case, np.float64)
    apart = [strided(x) if isinstance(x, np.ndarray) else x for x in arrays]
    plain, spaced = tensors_of(case, arrays), tensors_of(case, apart)
    for out, other in zip(run(case, plain), run(case, spaced), strict=True):
        np.testing.assert_allclose(out.array, other.array, rtol=1e-12, atol=1e-12)
    if case in WITH_GRADIENT:
        pairs = zip(gradients(case, plain), gradients(case, spaced, contiguous=False), strict=True)
        for gradient, other in pairs:
            np.testing.assert_allclose(gradient, other, rtol=1e-12, atol=1e-12)


@every(WITH_GRADIENT)
def test_slots_get_the_gradient(case: Case) -> None:
    """A rule that is given slots (filled with NaN) gives the gradients that it gives without."""
    for dtype in DTYPES:
        _slots_get_the_gradient(case, dtype)


def _slots_get_the_gradient(case: Case, dtype: Any) -> None:
    op = TABLE[case.op]
    arrays = inputs_of(case, dtype)
    needs = tuple(i in case.wanted() for i in range(len(arrays)))
    output, saved = op.forward(*arrays, **case.attributes)
    random = np.random.default_rng(5)
    several = isinstance(output, tuple)
    seeds = tuple(
        np.asarray(random.normal(size=np.shape(out)), out.dtype)
        if out.dtype.kind == "f" and (op.differentiable is None or k in op.differentiable)
        else None
        for k, out in enumerate(output if several else (np.asarray(output),))
    )
    gradient = seeds if several else seeds[0]
    slots = [np.full(x.shape, np.nan, x.dtype) if need else None for x, need in zip(arrays, needs, strict=True)]
    without = op.vjp(saved, gradient, needs, (None,) * len(arrays))
    given = op.vjp(saved, gradient, needs, slots)
    for x, need, expected, result, slot in zip(arrays, needs, without, given, slots, strict=True):
        if not need:
            continue
        expected, result = np.asarray(expected), np.asarray(result)
        if result.shape != x.shape:
            assert result is not slot
            expected, result = unbroadcast(expected, x.shape), unbroadcast(result, x.shape)
        np.testing.assert_array_equal(result, expected)


@every(WITH_GRADIENT)
def test_a_leaf_in_a_store_gets_it_in_its_slot(case: Case) -> None:
    """Through the graph: equal bits in the slot, whatever it held before."""
    arrays = inputs_of(case, np.float32)
    free = gradients(case, tensors_of(case, arrays))
    packed = tensors_of(case, arrays)
    slots = {}
    for i in case.wanted():
        slots[i] = packed[i]._slot = np.full(packed[i].shape, np.nan, np.float32)
    for i, expected, found in zip(case.wanted(), free, gradients(case, packed), strict=True):
        assert found is slots[i]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("op", [op for op in TABLE.values() if op.differentiable == ()], ids=lambda op: op.name)
def test_ops_without_gradient_record_nothing(op: Any) -> None:
    case = next(case for case in CASES if case.op == op.name)
    arrays = inputs_of(case, np.float64)
    tensors = [Tensor(x, requires_grad=x.dtype.kind == "f") if isinstance(x, np.ndarray) else x for x in arrays]
    for out in run(case, tensors):
        assert not out.requires_grad
        assert out._node is None


@pytest.mark.parametrize("op", ["matmul", "linear", "conv2d", "embedding"])
def test_large_gradients_are_computed_in_the_slot(op: str) -> None:
    """Not computed elsewhere and copied: this is what saves a pass over each weight's gradient."""
    case = next(case for case in CASES if case.op == op and len(case.wanted()) >= (1 if op == "embedding" else 2))
    arrays = inputs_of(case, np.float32)
    output, saved = TABLE[op].forward(*arrays, **case.attributes)
    slots = [np.full(x.shape, np.nan, x.dtype) if i in case.wanted() else None for i, x in enumerate(arrays)]
    needs = tuple(i in case.wanted() for i in range(len(arrays)))
    weight = 0 if op == "embedding" else 1
    assert TABLE[op].vjp(saved, np.ones_like(output), needs, slots)[weight] is slots[weight]


def test_adding_at_positions_takes_both_ways_to_equal_bits() -> None:
    from phalanx.core.ops.indexing import at

    random = np.random.default_rng(4)
    for shape, key in [
        ((5, 7), (random.integers(-5, 5, (60, 1)), random.integers(0, 7, (1, 40)))),
        ((9,), random.integers(-9, 9, 500)),
        ((4, 3), random.integers(0, 4, 50)),
        ((4, 3), (random.integers(0, 4, 50), slice(None))),
    ]:
        start = random.normal(size=shape).astype(np.float32)
        values = random.normal(size=start[key].shape).astype(np.float32)
        for layout in ("C", "F"):
            ours, plain = np.array(start, order=layout), start.copy()
            at(np.add, ours, key, values)
            np.add.at(plain, key, values)
            np.testing.assert_array_equal(ours, plain)
    with pytest.raises(IndexError):
        at(np.add, np.zeros((2, 2)), (np.array([0, 2]), np.array([0, 0])), np.ones(2))
