"""Gradients asked for by name, operations of one's own, and hooks: beside PyTorch where it has them."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn
from phalanx.core.errors import GraphError, NonFiniteError, ShapeError

VALUES = np.array([[0.5, -1.25, 2.0], [1.5, 0.75, -0.3]])


def leaf(scale: float = 1.0) -> Any:
    return phalanx.tensor(VALUES * scale, requires_grad=True)


# ---- grad ------------------------------------------------------------------------------------------------------------


def _inputs_and_inner(t: Any, x: Any, y: Any) -> Any:
    inner = (x * y).tanh()
    return t.autograd.grad((inner * x).sum(), [x, y, inner])


ASKED = {
    "inputs and what lies between": _inputs_and_inner,
    "an output itself": lambda t, x, y: t.autograd.grad((z := x * y).sum() + z.sum(), z),
    "several outputs": lambda t, x, y: t.autograd.grad([x * y, (y * y).sum()], [x, y], [t.ones_like(x), None]),
    "given gradients": lambda t, x, y: t.autograd.grad(x * x, x, y.detach()),
    "unused": lambda t, x, y: t.autograd.grad(x.sum(), [x, y], allow_unused=True),
    "unused as zeros": lambda t, x, y: t.autograd.grad(x.sum(), [x, y], allow_unused=True, materialize_grads=True),
    "one output of several": lambda t, x, y: t.autograd.grad(x.sort(1).values[0].sum() + x.max(1).values.sum(), x),
    "a picked output": lambda t, x, y: t.autograd.grad((v := (x * 2).topk(2, 1).values).square().sum(), [v, x]),
    "broadcast": lambda t, x, y: t.autograd.grad((x[0] + y).square().sum(), [x, y]),
    "twice the same": lambda t, x, y: t.autograd.grad((x * x).sum(), [x, x]),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", ASKED)
def test_grad_is_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    ours = ASKED[name](phalanx, leaf(), leaf(0.5))
    theirs = ASKED[name](torch, *(torch.tensor(VALUES * scale, requires_grad=True) for scale in (1.0, 0.5)))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert not a.requires_grad
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)


def test_grad_touches_no_grad_and_tells_no_listener() -> None:
    x, y = leaf(), leaf()
    x._listener = y._listener = object()  # any call of it would fail
    phalanx.grad((x * y).sum(), [x])
    assert x._grad is None and y._grad is None


def test_grad_frees_only_what_it_passed() -> None:
    x, y = leaf(), leaf()
    z = (x * y).exp()
    phalanx.grad(z.sum(), [z])
    phalanx.grad(z.sum(), [x], retain_graph=True)
    phalanx.grad(z.sum(), [y])
    with pytest.raises(GraphError, match=r"second pass through exp .*retain_graph=True"):
        phalanx.grad(z.sum(), [x])


def test_a_leafs_hook_is_heard_by_grad() -> None:
    x = leaf()
    x.register_hook(lambda gradient: gradient * 10)
    assert phalanx.grad(x.sum(), x)[0].tolist() == [[10.0] * 3] * 2


def test_grad_goes_through_the_layers_of_a_model() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), leaf().float().detach()
    model(x).mean().backward()
    expected = [p.grad.numpy().copy() for p in model.parameters()]
    found = phalanx.grad(model(x).mean(), list(model.parameters()))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)


GRAD_REFUSALS = {
    "create_graph": (lambda x: phalanx.grad(x.sum(), x, create_graph=True), "first-order"),
    "unused": (lambda x: phalanx.grad(x.sum(), [x, leaf()]), "no output depends on input 1"),
    "no scalar": (lambda x: phalanx.grad(x * 2, x), "reduce it to a scalar"),
    "no gradient wanted": (lambda x: phalanx.grad(x.sum(), x.detach()), "input 0 .* does not require a gradient"),
    "constant output": (lambda x: phalanx.grad(x.detach().sum(), x), "output 0 .* does not require a gradient"),
    "counts": (lambda x: phalanx.grad([x.sum(), x.sum()], x, [None]), "2 outputs and 1 grad_outputs"),
    "no tensor": (lambda x: phalanx.grad(x.sum(), [3]), "inputs are Tensors, got int"),
}


@pytest.mark.parametrize("name", GRAD_REFUSALS)
def test_grad_refuses(name: str) -> None:
    call, words = GRAD_REFUSALS[name]
    with pytest.raises(GraphError, match=words):
        call(leaf())


def test_a_gradient_of_another_shape_is_refused() -> None:
    x = leaf()
    with pytest.raises(ShapeError, match=r"shape \(2, 3\) expected, got \(3,\)"):
        phalanx.grad(x * 2, x, phalanx.ones(3))


def test_backward_of_several_and_for_some() -> None:
    x, y = leaf(), leaf()
    phalanx.autograd.backward([(x * 2).sum(), y * 3], [None, phalanx.ones(2, 3)])
    assert (x.grad.tolist(), y.grad.tolist()) == ([[2.0] * 3] * 2, [[3.0] * 3] * 2)
    phalanx.autograd.backward((x * y).sum(), inputs=[x])
    np.testing.assert_allclose(x.grad.numpy(), 2 + VALUES)
    assert y.grad.tolist() == [[3.0] * 3] * 2
    (x * y).sum().backward(inputs=y)
    np.testing.assert_allclose(y.grad.numpy(), 3 + VALUES)
    np.testing.assert_allclose(x.grad.numpy(), 2 + VALUES)


# ---- Function --------------------------------------------------------------------------------------------------------


def definitions(t: Any) -> dict[str, Any]:
    """The same operations written for either library."""

    class Cube(t.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, factor: float) -> Any:
            ctx.save_for_backward(x)
            ctx.factor = factor
            return x**3 * factor

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            (x,) = ctx.saved_tensors
            return gradient * 3 * x**2 * ctx.factor, None

    class Both(t.autograd.Function):
        @staticmethod
        def forward(x: Any, y: Any) -> Any:
            return x * y, (x > y), x + y

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs)
            ctx.mark_non_differentiable(output[1])

        @staticmethod
        def backward(ctx: Any, product: Any, larger: Any, total: Any) -> Any:
            x, y = ctx.saved_tensors
            needs = ctx.needs_input_grad
            return product * y + total if needs[0] else None, product * x + total if needs[1] else None

    return {
        "one": lambda x, y: Cube.apply(x, 2.0).sum(),
        "inside": lambda x, y: (Cube.apply(x * y, 0.5).tanh() * y).sum(),
        "several": lambda x, y: (Both.apply(x, y)[0] * 2).sum(),
        "all of several": lambda x, y: sum(part.sum() for part in Both.apply(x, y * y)[::2]),
        "one constant": lambda x, y: Both.apply(x, y.detach())[0].sum() + y.sum(),
    }


@pytest.mark.torch
@pytest.mark.parametrize("name", ["one", "inside", "several", "all of several", "one constant"])
def test_a_function_of_ones_own_is_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    ours = [leaf(), leaf(0.5)]
    theirs = [torch.tensor(VALUES * scale, requires_grad=True) for scale in (1.0, 0.5)]
    for library, pair in ((phalanx, ours), (torch, theirs)):
        definitions(library)[name](*pair).backward()
    for a, b in zip(ours, theirs, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-12)


class Odd(phalanx.autograd.Function):
    """Returns what its class attribute says."""

    returned: Any = None

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return Odd.returned(gradient)


@pytest.mark.parametrize(
    "returned,kind,words",
    [
        (lambda g: (g, g), GraphError, "returned 2 gradients, forward had 1"),
        (lambda g: g[0], ShapeError, r"gradient 0 has shape \(3,\)"),
    ],
)
def test_a_wrong_backward_is_named(returned: Any, kind: type[Exception], words: str) -> None:
    Odd.returned = staticmethod(returned)
    with pytest.raises(kind, match=words):
        Odd.apply(leaf()).sum().backward()


def test_a_function_may_return_less_or_more() -> None:
    x = leaf()
    Odd.returned = staticmethod(lambda g: (g, None))
    Odd.apply(x).sum().backward()
    assert x.grad.tolist() == [[1.0] * 3] * 2
    y = leaf()
    Odd.returned = staticmethod(lambda g: None)
    (Odd.apply(y).sum() + y.sum()).backward()
    assert y.grad.tolist() == [[1.0] * 3] * 2


def test_a_functions_node_does_not_hold_its_output() -> None:
    Odd.returned = staticmethod(lambda g: g)
    made = Odd.apply(leaf())
    seen = weakref.ref(made.array)
    total = made.sum()
    del made
    gc.collect()
    assert seen() is None
    total.backward()


# ---- hooks -----------------------------------------------------------------------------------------------------------


def test_a_hook_after_accumulation_sees_the_grad() -> None:
    x = leaf()
    seen: list[Any] = []
    handle = x.register_post_accumulate_grad_hook(lambda tensor: seen.append((tensor is x, tensor.grad.sum().item())))
    (x * 2).sum().backward()
    (x * 2).sum().backward()
    assert seen == [(True, 12.0), (True, 24.0)]
    handle.remove()
    x.sum().backward()
    assert len(seen) == 2
    with pytest.raises(GraphError, match="only leaves"):
        (x * 2).register_post_accumulate_grad_hook(print)


def test_an_optimizer_step_in_backward() -> None:
    """What the hook is for: each parameter moves as soon as it has its gradient."""
    model = nn.Linear(3, 2)
    before = model.weight.detach().numpy().copy()

    def step(parameter: Any) -> None:
        parameter.data.sub_(parameter.grad, alpha=0.1)
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    model(phalanx.ones(1, 3)).sum().backward()
    assert model.weight.grad is None
    np.testing.assert_allclose(model.weight.detach().numpy(), before - 0.1, rtol=1e-6)


def test_a_hook_of_another_shape_is_named() -> None:
    x = leaf()
    x.register_hook(lambda gradient: gradient[0])
    with pytest.raises(ShapeError, match=r"a hook returned a gradient of shape \(3,\)"):
        x.sum().backward()


def test_retaining_twice_keeps_once() -> None:
    y = leaf() * 2
    assert not y.retains_grad
    y.retain_grad()
    y.retain_grad()
    assert y.retains_grad
    y.sum().backward()
    assert y.grad.tolist() == [[1.0] * 3] * 2


# ---- NaN -------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_op_that_made_nan_is_named() -> None:
    x = phalanx.tensor([0.0, 1.0], requires_grad=True)

    def loss() -> Any:
        return (x.sqrt() * phalanx.tensor([0.0, 1.0])).sum()

    loss().backward()
    assert x.grad.isnan().any()
    for call in (lambda: loss().backward(), lambda: phalanx.grad(loss(), x)):
        with (
            phalanx.autograd.detect_anomaly(),
            pytest.raises(NonFiniteError, match=r"sqrt gave NaN .*test_autograd\.py:\d"),
        ):
            call()
    phalanx.autograd.set_detect_anomaly(True)
    with pytest.raises(NonFiniteError):
        loss().backward()
    phalanx.autograd.set_detect_anomaly(False)
    loss().backward()
    with phalanx.autograd.detect_anomaly():
        assert phalanx.grad((x * 2).sum(), x)[0].tolist() == [2.0, 2.0]
