"""The graph: accumulation, slots, listeners, hooks, freed graphs, grad mode, errors."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import phalanx
from phalanx.core.errors import DTypeError, GraphError, ShapeError
from phalanx.core.graph import apply, unbroadcast
from phalanx.core.op import Op
from phalanx.core.tensor import Tensor


def leaf(values: Any, slot: bool = False) -> Tensor:
    """A float64 leaf that wants a gradient, perhaps with a slot full of NaN."""
    tensor = Tensor(np.array(values, np.float64), requires_grad=True)
    if slot:
        tensor._slot = np.full(tensor.shape, np.nan)
    return tensor


def numbers(tensor: Tensor) -> Any:
    """The gradient as nested lists."""
    assert tensor.grad is not None
    return tensor.grad.tolist()


class Listener:
    """Writes down what it hears, and the gradient of each leaf when it is said to be final."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.closed = False

    def backward_begins(self, leaves: list[Tensor], root: Tensor) -> None:
        self.heard.append(("begins", [x.name for x in leaves], root.item()))

    def gradient_final(self, tensor: Tensor) -> None:
        self.heard.append((tensor.name, None if tensor._grad is None else tensor._grad.array.copy().tolist()))

    def backward_ends(self) -> None:
        self.heard.append("ends")

    def check_readable(self, tensor: Tensor) -> None:
        if self.closed:
            raise GraphError(f"{tensor.name} is not complete")


def listened(listener: Listener, name: str, values: Any) -> Tensor:
    """A leaf with a name and a listener."""
    tensor = leaf(values)
    tensor.name, tensor._listener = name, listener
    return tensor


# ---- accumulation and slots ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slot", [False, True])
def test_a_diamond_adds_its_paths(slot: bool) -> None:
    x = leaf([1.0, 2.0], slot)
    y = x * 3.0
    (y * y + y + x).sum().backward()
    assert numbers(x) == [2 * 9 * 1 + 3 + 1, 2 * 9 * 2 + 3 + 1]
    assert not slot or x.grad.array is x._slot


@pytest.mark.parametrize("slot", [False, True])
def test_a_leaf_twice_in_one_op(slot: bool) -> None:
    x = leaf([[1.0, 2.0], [3.0, 4.0]], slot)
    (x @ x).sum().backward()
    ones = np.ones((2, 2))
    np.testing.assert_allclose(numbers(x), ones @ x.array.T + x.array.T @ ones)


@pytest.mark.parametrize("slot", [False, True])
def test_backward_passes_add_up_and_a_new_start_overwrites(slot: bool) -> None:
    x = leaf([1.0, 2.0], slot)
    (x * 2.0).sum().backward()
    first = x.grad
    (x * 3.0).sum().backward()
    assert numbers(x) == [5.0, 5.0]
    assert x.grad is first
    x.grad = None
    (x * 7.0).sum().backward()
    assert numbers(x) == [7.0, 7.0]


def test_contributions_of_one_pass_are_summed_before_they_are_added() -> None:
    """As PyTorch does; the order of additions is part of the result's bits."""
    x = leaf([1.0])
    x.grad = Tensor(np.array([1e16]))
    (x * 1.0 + x * 1.0).sum().backward()
    assert numbers(x) == [1e16 + 2.0]
    assert 1e16 + 1.0 + 1.0 != 1e16 + 2.0


def test_leaves_never_share_a_gradient_array() -> None:
    a, b = leaf([1.0]), leaf([2.0])
    seed = np.ones(1)
    (a + b).backward(Tensor(seed))
    assert not np.shares_memory(a.grad.array, b.grad.array)
    assert not np.shares_memory(a.grad.array, seed)
    (a * 2.0).sum().backward()
    assert (numbers(a), numbers(b), seed.tolist()) == ([3.0], [1.0], [1.0])


def test_the_slot_goes_to_a_rule_only_when_nothing_else_comes() -> None:
    seen: list[Any] = []

    def vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> Any:
        seen.append([slot is not None for slot in slots])
        return gradient, gradient

    op = Op("spy", lambda a, b: (a + b, None), vjp)
    x, y = leaf([1.0], slot=True), leaf([1.0], slot=True)
    apply(op, x, y).backward(Tensor(np.ones(1)))
    apply(op, x, y).backward(Tensor(np.ones(1)))
    x.grad = y.grad = None
    apply(op, x, x).backward(Tensor(np.ones(1)))
    (apply(op, y, leaf([1.0])) + y).backward(Tensor(np.ones(1)))
    assert seen == [[True, True], [False, False], [False, False], [False, False]]
    assert (numbers(x), numbers(y)) == ([2.0], [2.0])


def test_a_broadcast_leaf_is_summed_into_its_slot() -> None:
    bias = leaf([1.0, 2.0], slot=True)
    (Tensor(np.ones((3, 2))) * 2.0 * bias).sum().backward()
    assert bias.grad.array is bias._slot
    assert numbers(bias) == [6.0, 6.0]


def test_backward_of_a_leaf_itself() -> None:
    x = leaf([1.0, 2.0])
    x.backward(Tensor(np.array([3.0, 4.0])))
    assert numbers(x) == [3.0, 4.0]


def test_what_wants_no_gradient_gets_none() -> None:
    x, constant = leaf([1.0]), Tensor(np.array([5.0]))
    (x * constant).sum().backward()
    assert constant.grad is None
    assert numbers(x) == [5.0]


def test_a_long_chain_needs_no_recursion() -> None:
    x = leaf([1.0])
    y = x
    for _ in range(30_000):
        y = y + 1.0
    y.sum().backward()
    assert numbers(x) == [1.0]
    del y


def test_several_outputs() -> None:
    x = leaf([[1.0, 5.0], [4.0, 2.0]])
    values, indices = x.max(1)
    assert not indices.requires_grad
    (values * values + values).sum().backward()
    assert numbers(x) == [[0.0, 11.0], [9.0, 0.0]]


def test_an_output_that_nobody_uses_contributes_nothing() -> None:
    def vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> Any:
        first, second = gradient
        assert second is None
        return (first * 2,)

    op = Op("pair", lambda a: ((a * 2, a * 3), None), vjp)
    x = leaf([1.0])
    first, _ = apply(op, x)
    first.sum().backward()
    assert numbers(x) == [2.0]


# ---- freed graphs ----------------------------------------------------------------------------------------------------


def test_a_second_pass_through_freed_arrays_is_an_error_that_says_where() -> None:
    x = leaf([1.0])
    loss = (x * x).sum()
    loss.backward()
    with pytest.raises(GraphError, match=r"mul .*test_graph\.py:\d+.*retain_graph=True"):
        loss.backward()
    assert numbers(x) == [2.0]


def test_retain_graph_allows_a_second_pass() -> None:
    x = leaf([1.0, 2.0])
    loss = (x * x).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert numbers(x) == [4.0, 8.0]


def test_ops_that_saved_no_array_may_be_passed_again() -> None:
    """``weight.t()`` made once, before a loop, as in PyTorch."""
    weight = leaf([[1.0, 2.0]])
    turned = weight.t().reshape(2)
    for _ in range(2):
        (turned * 2.0 * Tensor(np.ones(2))).sum().backward()
    assert numbers(weight) == [[4.0, 4.0]]


def test_saved_arrays_are_let_go() -> None:
    x = leaf(np.ones(1000))
    middle = x.exp()
    saved = weakref.ref(middle.array)
    loss = (middle * 2.0).sum()
    del middle
    assert saved() is not None
    loss.backward()
    assert saved() is None


# ---- asking wrongly --------------------------------------------------------------------------------------------------


def test_backward_says_what_is_missing() -> None:
    with pytest.raises(GraphError, match=r"requires_grad=True"):
        Tensor(np.ones(1)).backward()
    with pytest.raises(GraphError, match=r"shape \(2,\).*\.mean\(\)"):
        (leaf([1.0, 2.0]) * 2.0).backward()
    with pytest.raises(ShapeError, match=r"\(2,\) expected, got \(3,\)"):
        (leaf([1.0, 2.0]) * 2.0).backward(Tensor(np.ones(3)))
    with pytest.raises(GraphError, match="first-order"):
        leaf([1.0]).sum().backward(create_graph=True)
    with phalanx.no_grad():
        y = leaf([1.0]).sum()
    with pytest.raises(GraphError, match="nothing with requires_grad"):
        y.backward()


def test_forward_errors_name_op_and_shapes() -> None:
    a, b = Tensor(np.ones((3, 4))), Tensor(np.ones((5, 6)))
    with pytest.raises(ShapeError, match=r"matmul: \(3, 4\) @ \(5, 6\): the last size of the first \(4\).*\(5\)"):
        a @ b
    with pytest.raises(ShapeError, match=r"add: shapes \(3, 4\) and \(5, 6\) do not broadcast"):
        a + b
    with pytest.raises(ShapeError, match=r"reshape: 12 elements of shape \(3, 4\) do not fit shape \(5, 2\)"):
        a.reshape(5, 2)
    with pytest.raises(ShapeError, match=r"cat: shapes \(3, 4\), \(5, 6\)"):
        phalanx.cat([a, b])
    with pytest.raises(ShapeError, match=r"at least 1 dimension"):
        a @ Tensor(np.float64(2.0))
    with pytest.raises(DTypeError, match=r"mean expects a floating dtype, got int64"):
        Tensor(np.arange(3)).mean()
    with pytest.raises(IndexError, match=r"index 7 of a tensor of shape \(3, 4\)"):
        a[7]
    with pytest.raises(ShapeError, match=r"amax of no elements.*\(0, 3\)"):
        Tensor(np.ones((0, 3))).amax(0)


def test_an_error_in_backward_names_the_line_of_forward() -> None:
    def vjp(*_: Any) -> Any:
        raise FloatingPointError("no")

    x = leaf([1.0])
    middle = x * 2.0
    bad = apply(Op("bad", lambda a: (a, None), vjp), middle)
    with pytest.raises(FloatingPointError) as caught:
        (bad * 3.0).sum().backward(retain_graph=True)
    assert any("backward of bad" in note and "test_graph.py:" in note for note in caught.value.__notes__)
    middle.sum().backward()
    assert numbers(x) == [2.0], "what the failed pass left must not be added later"


def test_the_site_is_the_line_that_called() -> None:
    y = leaf([1.0]).exp()  # this line
    file, _, line = y.grad_fn.site().rpartition(":")
    with open(file) as lines:
        assert "# this line" in lines.read().split("\n")[int(line) - 1]


# ---- listeners -------------------------------------------------------------------------------------------------------


def test_a_listener_hears_begin_final_and_end() -> None:
    listener = Listener()
    a, b, c = (listened(listener, name, [value]) for name, value in (("a", 2.0), ("b", 3.0), ("c", 5.0)))
    early = a * 2.0
    loss = ((early + b) * b).sum()
    loss.backward()
    assert listener.heard[0] == ("begins", ["b", "a"], 21.0)
    assert listener.heard[1:-1] == [("b", [7.0 + 3.0]), ("a", [6.0])]
    assert listener.heard[-1] == "ends"
    assert c.grad is None


def test_final_comes_after_the_last_contribution_only() -> None:
    listener = Listener()
    a = listened(listener, "a", [2.0])
    (a * a + a.exp() * a).sum().backward()
    finals = [entry for entry in listener.heard if entry[0] == "a"]
    assert finals == [("a", numbers(a))]


def test_a_leaf_that_gets_nothing_is_final_too() -> None:
    listener = Listener()
    a = listened(listener, "a", [1.0])
    op = Op("cut", lambda x: (x.copy(), None), lambda saved, gradient, needs, slots: (None,))
    apply(op, a * 2.0).sum().backward()
    assert [entry[0] for entry in listener.heard[:-1]] == ["begins", "a"]
    assert a.grad is None


def test_two_listeners_hear_their_own_leaves() -> None:
    one, two = Listener(), Listener()
    a, b = listened(one, "a", [1.0]), listened(two, "b", [1.0])
    (a * b).sum().backward()
    assert [one.heard[0][1], two.heard[0][1]] == [["a"], ["b"]]
    assert [one.heard[1][0], two.heard[1][0]] == ["a", "b"]


def test_who_wants_to_hear_of_no_leaf_hears_of_none() -> None:
    class Deaf(Listener):
        def backward_begins(self, leaves: list[Tensor], root: Tensor) -> bool:
            super().backward_begins(leaves, root)
            return False

    deaf, listener = Deaf(), Listener()
    a, b, c = listened(deaf, "a", [1.0]), listened(listener, "b", [2.0]), listened(deaf, "c", [3.0])
    (a * b * c).sum().backward()
    assert [entry[0] if isinstance(entry, tuple) else entry for entry in deaf.heard] == ["begins", "ends"]
    assert set(deaf.heard[0][1]) == {"a", "c"}
    assert listener.heard[1:-1] == [("b", [3.0])]
    assert (numbers(a), numbers(c)) == ([6.0], [2.0])


def test_the_end_is_heard_after_a_failure() -> None:
    def vjp(*_: Any) -> Any:
        raise FloatingPointError("no")

    listener = Listener()
    a = listened(listener, "a", [1.0])
    with pytest.raises(FloatingPointError):
        apply(Op("bad", lambda x: (x, None), vjp), a).sum().backward()
    assert listener.heard[-1] == "ends"
    assert len(listener.heard) == 2


def test_reading_asks_the_listener() -> None:
    listener = Listener()
    a = listened(listener, "a", [1.0])
    a.sum().backward()
    listener.closed = True
    with pytest.raises(GraphError, match="a is not complete"):
        _ = a.grad
    a.grad = None


# ---- hooks -----------------------------------------------------------------------------------------------------------


def test_a_leafs_hook_sees_the_sum_once_and_may_replace_it() -> None:
    x = leaf([1.0], slot=True)
    seen: list[float] = []

    def hook(gradient: Tensor) -> Tensor:
        seen.append(gradient.item())
        return gradient * 10.0

    handle = x.register_hook(hook)
    (x * 2.0 + x * 3.0).sum().backward()
    assert (seen, numbers(x)) == ([5.0], [50.0])
    assert x.grad.array is x._slot
    handle.remove()
    (x * 1.0).sum().backward()
    assert numbers(x) == [51.0]


def test_hooks_inside_the_graph_and_retained_gradients() -> None:
    x = leaf([1.0, 2.0])
    y = x * 2.0
    y.retain_grad()
    y.register_hook(lambda gradient: gradient * 0.5)
    (y * y).sum().backward()
    assert numbers(y) == [4.0, 8.0]
    assert numbers(x) == [4.0, 8.0]


def test_hooks_record_nothing_and_need_a_gradient() -> None:
    x = leaf([1.0])
    modes: list[bool] = []
    x.register_hook(lambda gradient: modes.append(phalanx.is_grad_enabled()))
    x.sum().backward()
    assert modes == [False]
    with pytest.raises(GraphError, match="wants no gradient"):
        Tensor(np.ones(1)).register_hook(print)


# ---- grad mode -------------------------------------------------------------------------------------------------------


def test_no_grad_in_all_its_forms() -> None:
    x = leaf([1.0])

    @phalanx.no_grad()
    def called() -> Tensor:
        return x * 2.0

    @phalanx.no_grad
    def bare() -> Tensor:
        return x * 2.0

    with phalanx.no_grad():
        inside = x * 2.0
        with phalanx.enable_grad():
            again = x * 2.0
    with phalanx.set_grad_enabled(False):
        off = x * 2.0
    assert [t.requires_grad for t in (called(), bare(), inside, again, off, x * 2.0)] == [False] * 3 + [
        True,
        False,
        True,
    ]
    phalanx.set_grad_enabled(False)
    assert not phalanx.is_grad_enabled()
    phalanx.set_grad_enabled(True)
    with pytest.raises(KeyError), phalanx.no_grad():
        raise KeyError
    assert phalanx.is_grad_enabled()


def test_a_decorated_function_keeps_the_mode_outside() -> None:
    @phalanx.set_grad_enabled(False)
    def off() -> bool:
        return phalanx.is_grad_enabled()

    assert phalanx.is_grad_enabled()
    assert not off()
    assert phalanx.is_grad_enabled()


def test_grad_mode_belongs_to_the_thread() -> None:
    seen: list[bool] = []
    with phalanx.no_grad():
        thread = threading.Thread(target=lambda: seen.append(phalanx.is_grad_enabled()))
        thread.start()
        thread.join(10)
    assert seen == [True]


def test_threads_walk_their_own_graphs() -> None:
    results: dict[int, Any] = {}

    def work(rank: int) -> None:
        x = leaf([float(rank)])
        for _ in range(50):
            y = x * x
            for _ in range(20):
                y = y + x
            y.sum().backward()
        results[rank] = numbers(x)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {rank: [50.0 * (2 * rank + 20)] for rank in range(4)}


# ---- broadcasting and random graphs ----------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_unbroadcast_is_the_adjoint_of_broadcast(data: Any) -> None:
    """<broadcast(x), g> = <x, unbroadcast(g)> for any shapes."""
    full = tuple(data.draw(st.lists(st.integers(0, 3), max_size=4)))
    cut = data.draw(st.integers(0, len(full)))
    shape = tuple(1 if data.draw(st.booleans()) else size for size in full[cut:])
    random = np.random.default_rng(0)
    x, g = random.normal(size=shape), np.asarray(random.normal(size=full))
    found = unbroadcast(g, shape)
    assert found.shape == shape
    np.testing.assert_allclose((np.broadcast_to(x, full) * g).sum(), (x * found).sum(), atol=1e-9)
    out = np.full(shape, np.nan)
    np.testing.assert_allclose(unbroadcast(g, shape, out), found)


_STEPS: list[Any] = [
    lambda a, b: a + b,
    lambda a, b: a * b,
    lambda a, b: a - b * 0.5,
    lambda a, b: a / (b * b + 1.0),
    lambda a, b: (a * 0.3).exp(),
    lambda a, b: a.tanh() @ b.transpose(0, 1) @ b,
    lambda a, b: a.sum(0, keepdim=True) * b,
    lambda a, b: a[:1] + b,
    lambda a, b: a.max(1)[0].unsqueeze(1) * b,
    lambda a, b: a.reshape(-1).reshape(3, 3) * 0.9,
]


@pytest.mark.torch
@given(
    st.lists(
        st.tuples(st.integers(0, len(_STEPS) - 1), st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=12
    )
)
@settings(max_examples=40, deadline=None)
def test_random_graphs_beside_pytorch(steps: list[tuple[int, int, int]]) -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(3)
    arrays = [random.normal(size=(3, 3)) for _ in range(3)]
    gradients = []
    for make in (lambda a: Tensor(a, requires_grad=True), lambda a: torch.tensor(a, requires_grad=True)):
        leaves = [make(a.copy()) for a in arrays]
        known = list(leaves)
        for step, i, j in steps:
            known.append((_STEPS[step](known[i % len(known)], known[j % len(known)])).tanh())
        known[-1].sum().backward()
        gradients.append([None if x.grad is None else np.asarray(x.grad) for x in leaves])
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)
