"""Tensor by itself: construction, memory, writing in place, weights of losses, conversion, copies, random numbers."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

import phalanx
import phalanx.nn.functional as F
from phalanx.core.backend import Device, as_dtype, device_kind, empty_aligned, is_array, to_host
from phalanx.core.errors import DTypeError, GraphError, PhalanxError, RangeError, ShapeError
from phalanx.core.gradcheck import gradcheck
from phalanx.core.nn.parameter import Parameter
from phalanx.core.tensor import Tensor


def leaf(*values: float) -> Tensor:
    """A float32 leaf that wants a gradient."""
    return phalanx.tensor(list(values), requires_grad=True)


# ---- construction ----------------------------------------------------------------------------------------------------


def test_tensor_shares_and_tensor_function_copies() -> None:
    array = np.zeros(3, np.float32)
    shared, copied, numpy = Tensor(array), phalanx.tensor(array), phalanx.from_numpy(array)
    array[0] = 5
    assert [t[0].item() for t in (shared, copied, numpy)] == [5.0, 0.0, 5.0]


def test_python_numbers_become_float32_int64_and_bool() -> None:
    found = [phalanx.tensor(v).dtype.name for v in (1.0, [1, 2.5], 3, [[True]], [], np.float64(1), [np.zeros(2)])]
    assert found == ["float32", "float32", "int64", "bool", "float32", "float64", "float64"]
    assert phalanx.tensor([phalanx.tensor(1.5), 2.0]).tolist() == [1.5, 2.0]


def test_what_cannot_be_a_tensor_is_refused() -> None:
    with pytest.raises(ShapeError, match="not all of one length"):
        phalanx.tensor([[1.0], [1.0, 2.0]])
    for data in ("text", [None], 1j):
        with pytest.raises(DTypeError, match="expected a dtype"):
            phalanx.tensor(data)
    with pytest.raises(DTypeError, match="only floating tensors can require gradients, got int64"):
        phalanx.tensor([1], requires_grad=True)
    with pytest.raises(DTypeError, match="complex"):
        as_dtype(complex)
    with pytest.raises(TypeError, match="from_numpy expects a NumPy array, got list"):
        phalanx.from_numpy([1.0])
    with pytest.raises(ShapeError, match="no negative sizes"):
        phalanx.zeros(2, -1)


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_numpy_shares_memory_and_refuses_a_graph() -> None:
    x = phalanx.zeros(2)
    x.numpy()[0] = 3
    assert x.tolist() == [3.0, 0.0]
    with pytest.raises(GraphError, match=r"detach\(\)"):
        leaf(1.0).numpy()
    with pytest.raises(GraphError, match=r"detach\(\)"):
        np.asarray(leaf(1.0))
    assert leaf(1.0).numpy(force=True).tolist() == [1.0]
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    assert (np.ones(2, np.float32) + x).__class__ is Tensor
    assert (np.float64(2.0) * x).dtype == np.float32


def test_views_share_and_detach_shares() -> None:
    x = phalanx.zeros(2, 3)
    x.view(6)[0] = 1
    x.T[1, 1] = 2
    x.detach()[1, 2] = 3
    assert x.tolist() == [[1.0, 0.0, 0.0], [0.0, 2.0, 3.0]]


def test_data_shares_and_assigning_it_keeps_a_slot_if_it_fits() -> None:
    p = Parameter(phalanx.ones(2))
    store = np.zeros(2, np.float32)
    p.array, p._slot = store, np.zeros(2, np.float32)
    p.data += 1
    p.data.mul_(3)
    p.data = p.data - 1
    assert store.tolist() == [2.0, 2.0]
    p.data = phalanx.zeros(3)
    assert (p.array is not store, p._slot, p.shape, store.tolist()) == (True, None, (3,), [2.0, 2.0])
    q = leaf(1.0)
    other = phalanx.zeros(1)
    q.data = other
    assert q.array is other.array


def test_assigning_a_gradient() -> None:
    p = leaf(1.0, 2.0)
    p._slot = np.zeros(2, np.float32)
    p.grad = phalanx.tensor([3.0, 4.0])
    assert p.grad.array is p._slot
    assert p._slot.tolist() == [3.0, 4.0]
    p.grad *= 2
    assert p.grad.array is p._slot
    assert p._slot.tolist() == [6.0, 8.0]
    p.grad = None
    assert p.grad is None
    with pytest.raises(ShapeError, match=r"expected a Tensor of that shape or None, got shape \(3,\)"):
        p.grad = phalanx.zeros(3)
    with pytest.raises(ShapeError, match="got ndarray"):
        p.grad = np.zeros(2)


# ---- writing in place ------------------------------------------------------------------------------------------------


def test_the_tutorial_step_changes_the_leaf_itself() -> None:
    w = leaf(1.0, 2.0)
    array = w.array
    (w * w).sum().backward()
    with phalanx.no_grad():
        w -= 0.5 * w.grad
        w.grad.zero_()
    assert (w.array is array, w.tolist(), w.requires_grad, w.grad.tolist()) == (True, [0.0, 0.0], True, [0.0, 0.0])


def test_where_the_graph_records_names_are_bound_anew() -> None:
    x = phalanx.ones(2)
    before, y = x, leaf(1.0, 1.0)
    x += y
    x *= 2
    assert before.tolist() == [1.0, 1.0]
    x.sum().backward()
    assert y.grad.tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.add_(1), lambda x: x.zero_(), lambda x: x.copy_(phalanx.ones(2)), lambda x: x.__setitem__(0, 1.0),
        lambda x: x.clamp_(0, 1), lambda x: x.uniform_(), lambda x: x.fill_(2), lambda x: x.exp_(),
    ],
)  # fmt: skip
def test_a_recorded_leaf_is_written_under_no_grad_only(write: Any) -> None:
    x = leaf(1.0, 2.0)
    with pytest.raises(GraphError, match=r"a leaf that wants a gradient in place: do it under no_grad\(\)"):
        write(x)
    with pytest.raises(GraphError, match="a tensor that an op made in place"):
        write(x * 1.0)
    assert x.tolist() == [1.0, 2.0]
    with phalanx.no_grad():
        write(x)


def test_values_that_want_a_gradient_are_not_written_silently() -> None:
    with pytest.raises(GraphError, match="want a gradient into a tensor"):
        phalanx.zeros(2).add_(leaf(1.0, 2.0))
    with pytest.raises(GraphError, match="want a gradient into a tensor"):
        phalanx.zeros(2)[0] = leaf(1.0).sum()


def test_in_place_methods() -> None:
    def fresh() -> Tensor:
        return phalanx.tensor([1.0, -2.0, 4.0])

    other = phalanx.tensor([1.0, 2.0, 3.0])
    results = {
        "add_": fresh().add_(other, alpha=2), "sub_": fresh().sub_(1), "mul_": fresh().mul_(other), "div_": fresh().div_(2),
        "pow_": fresh().pow_(2), "addcmul_": fresh().addcmul_(other, other, value=0.5), "neg_": fresh().neg_(),
        "addcdiv_": fresh().addcdiv_(other, other), "lerp_": fresh().lerp_(other, 0.5), "relu_": fresh().relu_(),
        "clamp_": fresh().clamp_(min=0, max=2), "fill_": fresh().fill_(7), "copy_": fresh().copy_(phalanx.tensor(3)),
        "masked_fill_": fresh().masked_fill_(other > 1, 0.0), "sqrt_": fresh().neg_().relu_().sqrt_(),
    }  # fmt: skip
    expected = {
        "add_": [3, 2, 10], "sub_": [0, -3, 3], "mul_": [1, -4, 12], "div_": [0.5, -1, 2], "pow_": [1, 4, 16],
        "addcmul_": [1.5, 0, 8.5], "neg_": [-1, 2, -4], "addcdiv_": [2, -1, 5], "lerp_": [1, 0, 3.5], "relu_": [1, 0, 4],
        "clamp_": [1, 0, 2], "fill_": [7, 7, 7], "copy_": [3, 3, 3], "masked_fill_": [1, 0, 0],
        "sqrt_": [0, math.sqrt(np.float32(2)), 0],
    }  # fmt: skip
    for name, result in results.items():
        np.testing.assert_allclose(result.array, expected[name], rtol=1e-6, err_msg=name)


def test_scatter_and_index_add() -> None:
    hot = phalanx.zeros(2, 3).scatter_(1, phalanx.tensor([[2], [0]]), 1.0)
    assert hot.tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    added = phalanx.zeros(3).scatter_add_(0, phalanx.tensor([0, 0, 2]), phalanx.tensor([1.0, 2.0, 3.0]))
    assert added.tolist() == [3.0, 0.0, 3.0]
    rows = phalanx.zeros(2, 2).index_add_(0, phalanx.tensor([1, 1]), phalanx.ones(2, 2))
    assert rows.tolist() == [[0.0, 0.0], [2.0, 2.0]]


def test_in_place_mistakes_say_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"add_: shape \(3,\) does not fit into \(2,\)"):
        phalanx.zeros(2).add_(phalanx.zeros(3))
    with pytest.raises(DTypeError, match="mul_: a result of float into int64"):
        phalanx.arange(3).mul_(0.5)
    with pytest.raises(ShapeError, match=r"copy_: shape \(3,\) does not fit into \(2,\)"):
        phalanx.zeros(2).copy_(phalanx.zeros(3))
    with pytest.raises(ShapeError, match="assigning to an index"):
        phalanx.zeros(2)[:] = phalanx.zeros(3)


# ---- losses know their weight ----------------------------------------------------------------------------------------


def test_a_mean_loss_carries_its_weight_through_scaling() -> None:
    scores, labels = phalanx.randn(4, 3).requires_grad_(True), phalanx.tensor([0, 1, 2, 0])
    loss = F.cross_entropy(scores, labels)
    kept = [
        loss,
        loss * 2,
        3 * loss,
        loss / 4,
        -loss,
        loss + 1,
        1 - loss,
        loss - 0.5,
        loss + loss * 2,
        sum([loss, loss]),
        +loss,
    ]
    assert [x.weight for x in kept] == [4.0] * len(kept)
    short = F.cross_entropy(scores[:2], labels[:2])
    dropped = [
        loss + short,
        loss * loss,
        loss * phalanx.tensor(2.0),
        1 / loss,
        loss + scores.sum(),
        loss.exp(),
        scores.mean(),
    ]
    assert [x.weight for x in dropped] == [None] * len(dropped)
    loss.weight = 7.0
    assert (loss / 2).weight == 7.0


# ---- Python's protocols ----------------------------------------------------------------------------------------------


def test_truth_length_iteration_and_format() -> None:
    x = phalanx.tensor([1.0, 2.0])
    assert (bool(x[0] > 0), len(x), [v.item() for v in x], f"{x[1]:.2f}", f"{x.mean()}") == (
        True,
        2,
        [1.0, 2.0],
        "2.00",
        "1.5",
    )
    assert [1, 2, 3][phalanx.tensor(1)] == 2
    assert (x == None) is False  # noqa: E711
    assert (x != None) is True  # noqa: E711
    assert {x: 1}[x] == 1
    for wrong in (lambda: bool(x), lambda: x.item()):
        with pytest.raises(ShapeError, match=r"\(2,\)"):
            wrong()
    for wrong in (lambda: len(x[0]), lambda: list(x[0]), lambda: x + "1", lambda: x @ [1, 2], lambda: x < "1"):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(DTypeError, match="an integer tensor expected as an index"):
        [1, 2][x[0]]


def test_repr_is_as_in_pytorch() -> None:
    assert repr(phalanx.tensor([1.0, 2.5])) == "tensor([1. , 2.5])"
    assert repr(leaf(1.0)) == "tensor([1.], requires_grad=True)"
    assert repr(leaf(1.0) * 2) == "tensor([2.], grad_fn=<mul>)"
    assert repr(leaf(1.0, 2.0).max(0)[0]) == "tensor(2., grad_fn=<max>)"
    assert repr(phalanx.tensor([1], dtype=phalanx.int32)) == "tensor([1], dtype=int32)"


def test_copies() -> None:
    p = Parameter(phalanx.ones(2))
    (p * 2).sum().backward()
    p.name, p._slot, p._listener = "p", p.grad.array, None
    q = copy.deepcopy({"a": p, "b": p})
    assert q["a"] is q["b"]
    twin = q["a"]
    assert (type(twin), twin.requires_grad, twin.name, twin.tolist(), twin.grad.tolist()) == (
        Parameter,
        True,
        "p",
        [1, 1],
        [2, 2],
    )
    assert (twin._slot, twin._listener, twin._store, twin._index) == (None, None, None, None)
    assert not np.shares_memory(twin.array, p.array)
    assert not np.shares_memory(twin.grad.array, p.grad.array)
    back = pickle.loads(pickle.dumps(p))
    assert (type(back), back.tolist(), back.requires_grad, back._store) == (Parameter, [1, 1], True, None)
    for make in (copy.deepcopy, pickle.dumps):
        with pytest.raises(GraphError, match=r"detach\(\)"):
            make(p * 2)


def test_frozen_tensors() -> None:
    x = leaf(1.0)
    y = x * 2
    with pytest.raises(GraphError, match=r"use detach\(\)"):
        y.requires_grad_(False)
    x.requires_grad_(False)
    assert not (x * 2).requires_grad
    assert (y.is_leaf, x.is_leaf, y.detach().is_leaf, y.detach_().is_leaf) == (False, True, True, True)
    with pytest.raises(DTypeError, match="got int64"):
        phalanx.arange(2).requires_grad_()


# ---- conversion and devices ------------------------------------------------------------------------------------------


def test_conversion() -> None:
    x = phalanx.tensor([1.5, 2.5])
    assert x.to(phalanx.float32) is x
    assert x.to("cpu") is x
    assert x.to("cpu", phalanx.float64).dtype == np.float64
    assert x.to(device="cpu", dtype="half").dtype == np.float16
    assert x.to(phalanx.arange(1)).dtype == np.int64
    assert x.to(x, copy=True) is not x
    assert (x.type(), x.type("int8").dtype) == ("float32", np.int8)
    assert x.view(phalanx.int32).dtype == np.int32
    with pytest.raises(TypeError, match="does not know speed"):
        x.to(speed=1)
    with pytest.raises(DTypeError, match="expected a dtype"):
        x.to("float33")
    y = leaf(1.0)
    y.double().half().float().sum().backward()
    assert y.grad.tolist() == [1.0]


def test_devices() -> None:
    assert (Device("cuda:1").index, str(Device(0)), Device("cuda") == "cuda:0", repr(Device("cpu"))) == (
        1, "cuda:0", True, "device(type='cpu')",
    )  # fmt: skip
    assert phalanx.zeros(1).device == "cpu"
    assert not phalanx.zeros(1).is_cuda
    assert len({Device("cuda"), Device("cuda:0"), Device("cpu")}) == 2
    for wrong in ("tpu", "cuda:x", "cpu:"):
        if wrong != "cpu:":
            with pytest.raises(RangeError, match='a device is "cpu"'):
                Device(wrong)


def test_backend_helpers() -> None:
    buffer = empty_aligned(1000, np.float64)
    assert (buffer.ctypes.data % 256, buffer.shape, buffer.dtype, buffer.flags.c_contiguous) == (
        0,
        (1000,),
        np.float64,
        True,
    )
    assert empty_aligned(0, np.float32).shape == (0,)
    assert (is_array(buffer), is_array(np.float32(1)), is_array([1]), device_kind(buffer)) == (
        True,
        False,
        False,
        "cpu",
    )
    assert to_host(buffer) is buffer


# ---- gradcheck -------------------------------------------------------------------------------------------------------


def test_gradcheck_finds_a_wrong_gradient() -> None:
    x = Tensor(np.array([0.5, 2.0]), requires_grad=True)
    assert gradcheck(lambda a: (a * a, a.exp()), x)

    def wrong(a: Tensor) -> Tensor:
        return a * a + (a.detach() * 0.1)

    with pytest.raises(GraphError, match=r"gradient of input 0 at \(0,\): backward gives .* differences .*\(2 of 2"):
        gradcheck(wrong, x)
    assert not gradcheck(wrong, x, raise_exception=False)
    with pytest.raises(DTypeError, match="float64"):
        gradcheck(lambda a: a, leaf(1.0))
    with pytest.raises(GraphError, match="no input requires"):
        gradcheck(lambda a: a, Tensor(np.ones(1)))
    assert x.grad is None


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda x: x.sum(2), r"sum: dimension 2 of a tensor with 2 dimensions"),
        (lambda x: x.sum((0, 0)), r"name one twice"),
        (lambda x: x.softmax(5), r"softmax: dimension 5"),
        (lambda x: x.permute(0, 0), r"permute: \(0, 0\) does not name each dimension"),
        (lambda x: x.transpose(0, 3), r"transpose: dimensions 0 and 3"),
        (lambda x: x.expand(3, 5), r"expand: shape \(2, 3\) to \(3, 5\)"),
        (lambda x: x.split(0), r"split_size of at least 1"),
        (lambda x: x.split([1, 2]), r"sum to 3, dimension 0 has 2"),
        (lambda x: x.narrow(1, 2, 2), r"narrow: positions 2 to 4 of 3"),
        (lambda x: x.topk(9), r"topk: k=9 of 3"),
        (lambda x: x.flatten(1, 0), r"start_dim 1 comes behind end_dim 0"),
        (lambda x: x.clamp(), r"expects min, max or both"),
        (lambda x: x[[0, 5]], r"index array\(2,\) of a tensor of shape \(2, 3\)"),
        (lambda x: x.gather(1, phalanx.tensor([0])), r"gather: the index, of shape \(1,\)"),
        (lambda x: x.gather(1, phalanx.tensor([[7]])), r"gather along dimension 1"),
        (lambda x: x.index_select(0, phalanx.tensor([9])), r"index_select along dimension 0"),
        (lambda x: phalanx.cat([]), r"non-empty list or tuple"),
        (lambda x: phalanx.cat([x, x], 2), r"cat: dimension 2"),
        (lambda x: phalanx.stack([x, x.T]), r"stack: shapes \(2, 3\), \(3, 2\) must be equal"),
        (lambda x: phalanx.where(x, x, x), r"a boolean condition expected, got float32"),
        (lambda x: phalanx.einsum("ij,jk", x, x), r"index 'j' is 3 in one operand and 2 in another"),
        (lambda x: phalanx.einsum("ijk->i", x), r"does not name each dimension of shape \(2, 3\)"),
        (lambda x: phalanx.einsum("ij->k", x), r"the output names 'k'"),
        (lambda x: x.repeat(2), r"repeat: 1 numbers for a tensor of shape \(2, 3\)"),
        (lambda x: x.reshape(2, 2, 3).t(), r"fit shape|at most 2"),
        (lambda x: x.div(2, rounding_mode="up"), r"rounding_mode is None, 'floor' or 'trunc', got 'up'"),
    ],
)
def test_one_clear_error(call: Any, message: str) -> None:
    with pytest.raises(PhalanxError, match=message):
        call(phalanx.ones(2, 3))
