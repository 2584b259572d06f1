"""Hooks of modules beside PyTorch's: the same calls in the same order with the same values, and what they change."""

from __future__ import annotations

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.errors import GraphError, StateError
from phalanx.data import DataLoader, TensorDataset

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
LIBRARIES = (phalanx, torch)


def numbers(value):
    """Nested tuples with tensors as rounded lists: what can be compared between libraries."""
    if isinstance(value, (tuple, list)):
        return tuple(numbers(part) for part in value)
    if hasattr(value, "detach"):
        return np.round(value.detach().numpy().astype(np.float64), 5).tolist()
    return value


def known(gradients):
    """PyTorch's are zeros, ours None, where an input wants no gradient."""
    return tuple(None if part == [0.0, 0.0] else part for part in numbers(gradients))


def model_of(library):
    class Scale(library.nn.Module):
        def forward(self, x, y=None, *, factor=1.0):
            return (x * factor, None, x * y if y is not None else x + 1.0)

    return Scale()


def both(run):
    """What ``run(library, log)`` logs and returns, which must be equal for both libraries."""
    found = []
    for library in LIBRARIES:
        log: list = []
        result = run(library, log)
        found.append((log, numbers(result)))
    assert found[0] == found[1]
    assert found[0][0], "nothing was logged"
    return found[0]


def test_forward_hooks_with_keywords() -> None:
    def run(library, log):
        model = model_of(library)
        x = library.tensor([1.0, 2.0])

        def before(module, args, kwargs):
            log.append(("before", numbers(args), sorted(kwargs)))
            return (args[0] + 1.0,), {"factor": 3.0}

        def after(module, args, kwargs, output):
            log.append(("after", numbers(args), kwargs, numbers(output)))
            return output[0]

        model.register_forward_pre_hook(before, with_kwargs=True)
        model.register_forward_hook(after, with_kwargs=True)
        handle = model.register_forward_pre_hook(lambda module, args: log.append(("first", len(args))), prepend=True)
        result = model(x, factor=5.0)
        handle.remove()
        return result, model(x)

    both(run)


def test_a_hook_that_is_always_called_hears_of_a_failure() -> None:
    class Broken(nn.Module):
        def forward(self, x):
            raise ValueError("no")

    model, heard = Broken(), []
    model.register_forward_hook(lambda module, args, output: heard.append("usual"))
    model.register_forward_hook(lambda module, args, output: heard.append(output), always_call=True)
    with pytest.raises(ValueError, match="no"):
        model(1)
    assert heard == [None]


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("wanted", [(True, False), (True, True), (False, False)])
def test_full_backward_hooks(wanted) -> None:
    def run(library, log):
        model = library.nn.Sequential(library.nn.Linear(2, 2), model_of(library))
        with library.no_grad():
            model[0].weight.copy_(library.tensor([[1.0, 2.0], [3.0, 4.0]]))
            model[0].bias.copy_(library.tensor([0.5, -0.5]))
        x, y = (library.tensor(v, requires_grad=w) for v, w in zip(([1.0, 2.0], [3.0, -1.0]), wanted, strict=True))
        model[1].register_full_backward_pre_hook(
            lambda module, grad_output: log.append(("pre", numbers(grad_output))) or None
        )
        model[1].register_full_backward_hook(
            lambda module, grad_input, grad_output: log.append(("scale", known(grad_input), numbers(grad_output)))
        )
        model[0].register_full_backward_hook(
            lambda module, grad_input, grad_output: log.append(("linear", numbers(grad_input), numbers(grad_output)))
        )
        hidden = model[0](x)
        for parts in ((0, 2), (2,)):
            output = model[1](hidden, y, factor=2.0)
            sum(output[k].sum() for k in parts).backward(retain_graph=True)
        return x.grad, y.grad, model[0].weight.grad, model[0].bias.grad

    both(run)


def test_backward_hooks_change_gradients() -> None:
    def run(library, log):
        layer = library.nn.Linear(2, 1, bias=False)
        with library.no_grad():
            layer.weight.copy_(library.tensor([[1.0, 2.0]]))
        x = library.tensor([[3.0, 4.0]], requires_grad=True)
        handles = [
            layer.register_full_backward_pre_hook(lambda module, grad_output: (grad_output[0] * 2,)),
            layer.register_full_backward_hook(lambda module, grad_input, grad_output: (grad_input[0] + 1,)),
        ]
        layer(x).sum().backward()
        log.append(numbers((x.grad, layer.weight.grad)))
        for handle in handles:
            handle.remove()
        layer(x).sum().backward()
        return x.grad, layer.weight.grad

    both(run)


def test_a_loss_behind_hooks_keeps_its_weight() -> None:
    loss = nn.MSELoss()
    seen = []
    loss.register_full_backward_hook(lambda module, grad_input, grad_output: seen.append(len(grad_input)))
    value = loss(phalanx.ones(4, 2).requires_grad_(True), phalanx.zeros(4, 2))
    assert value.weight == 4.0
    value.backward()
    assert seen == [2]
    with phalanx.no_grad():
        loss(phalanx.ones(4, 2), phalanx.zeros(4, 2))
    assert seen == [2]


def test_hooks_inside_a_data_parallel() -> None:
    """Backward hooks see each shard's gradients, unsummed."""
    phalanx.init(shards=2, seed=1)
    try:
        layer, seen = nn.Linear(2, 1, bias=False), []
        model = phalanx.DataParallel(nn.Sequential(nn.Linear(2, 2), layer))
        layer.register_full_backward_hook(lambda module, grad_input, grad_output: seen.append(grad_output[0].shape))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for step in DataLoader(TensorDataset(phalanx.ones(5, 2)), batch_size=5).steps():
            for (x,) in step:
                nn.functional.mse_loss(model(x), phalanx.zeros(len(x), 1)).backward()
            optimizer.step()
        assert seen == [(3, 1), (2, 1)]
    finally:
        phalanx.shutdown()


def test_a_backward_hook_that_returns_too_much_is_told() -> None:
    layer = nn.Linear(2, 1)
    layer.register_full_backward_hook(lambda module, grad_input, grad_output: (None, None))
    with pytest.raises(GraphError, match="Linear returned 2 gradients, 1 expected"):
        layer(phalanx.ones(1, 2).requires_grad_(True)).sum().backward()
    layer = nn.Linear(2, 1)
    layer.register_forward_pre_hook(lambda module, args, kwargs: args, with_kwargs=True)
    with pytest.raises(TypeError, match=r"\(args, kwargs\)"):
        layer(phalanx.ones(1, 2))


def test_state_hooks() -> None:
    def run(library, log):
        model = library.nn.Sequential(library.nn.Linear(2, 1), library.nn.Linear(1, 1, bias=False))

        def loading(module, state, prefix, metadata, strict, missing, unexpected, errors):
            log.append((prefix, sorted(k for k in state if k.startswith(prefix))))
            if prefix + "kernel" in state:
                state[prefix + "weight"] = state.pop(prefix + "kernel")

        model[0].register_load_state_dict_pre_hook(loading)
        model[0].register_state_dict_pre_hook(lambda module, prefix, keep: log.append(("saving", prefix, keep)))
        model[0].register_state_dict_post_hook(lambda module, state, prefix, metadata: log.append(("saved", prefix)))
        state = dict(model.state_dict())
        state["0.kernel"] = state.pop("0.weight") * 0 + 7.0
        kept = set(state)
        model.load_state_dict(state)
        assert set(state) == kept
        model.register_load_state_dict_post_hook(lambda module, keys: keys.missing_keys.clear())
        del state["1.weight"]
        log.append(tuple(model.load_state_dict(state, strict=False).missing_keys))
        return model[0].weight

    both(run)


def test_a_hook_may_refuse_a_state() -> None:
    layer = nn.Linear(2, 1)
    layer.register_load_state_dict_pre_hook(lambda *given: given[-1].append("too old"))
    with pytest.raises(StateError, match=r"Linear \(nothing was changed\):\s+too old"):
        layer.load_state_dict(layer.state_dict())


def test_assigned_state_takes_the_values_place() -> None:
    layer = nn.BatchNorm1d(3)
    state = {name: value.double() if value.is_floating_point() else value for name, value in layer.state_dict().items()}
    with pytest.raises(StateError, match="mismatched"):
        layer.load_state_dict(state)
    parameter = layer.weight
    layer.load_state_dict(state, assign=True)
    assert layer.weight is parameter and parameter.dtype == np.float64 and parameter.requires_grad
    assert np.shares_memory(layer.running_mean.array, state["running_mean"].array)
    state["num_batches_tracked"] = phalanx.tensor(1.0)
    with pytest.raises(StateError, match="num_batches_tracked"):
        layer.load_state_dict(state, assign=True)
