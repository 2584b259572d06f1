"""A step that is the same as the last one is done without looking at each parameter; whatever has changed is seen."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.optim.runs import Plan
from phalanx.core.void import set_void

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "Adam": lambda p: optim.Adam(p, lr=0.05),
    "SGD": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
    "two groups": lambda p: optim.AdamW([{"params": p[:2], "lr": 0.1}, {"params": p[2:]}], lr=0.05),
}


def frozen(net: Any, optimizer: Any) -> None:
    net[0].weight.requires_grad_(False)


def forgotten(net: Any, optimizer: Any) -> None:
    net[0].bias.grad = None


def assigned(net: Any, optimizer: Any) -> None:
    net[1].weight.grad = phalanx.ones(*net[1].weight.shape)


def replaced(net: Any, optimizer: Any) -> None:
    net[1].bias._grad = phalanx.ones(2)


def rate(net: Any, optimizer: Any) -> None:
    optimizer.param_groups[0]["lr"] = 0.5


def upwards(net: Any, optimizer: Any) -> None:
    optimizer.param_groups[0]["maximize"] = True


def amsgrad(net: Any, optimizer: Any) -> None:
    if "amsgrad" in optimizer.param_groups[0]:
        optimizer.param_groups[0]["amsgrad"] = True


def loaded(net: Any, optimizer: Any) -> None:
    state = optimizer.state_dict()
    for number, each in state["state"].items():
        each["step"] = 7 + number
    optimizer.load_state_dict(state)


def moved(net: Any, optimizer: Any) -> None:
    """The head is trained further by another optimizer, in another store."""
    net[1].weight.data = phalanx.ones(2, 3).double()
    net[1].weight.data = phalanx.ones(2, 3)
    net[1].weight.grad = phalanx.ones(2, 3)


def values_moved(net: Any, optimizer: Any) -> None:
    store = net[0].weight._store
    store.move(data=np.empty_like(store.data))


def gradients_moved(net: Any, optimizer: Any) -> None:
    store = net[0].weight._store
    old = store.gradient
    store.move(gradient=np.empty_like(old))
    old[...] = 100


def left(net: Any, optimizer: Any) -> None:
    optimizer.param_groups[-1]["params"].pop()


def more(net: Any, optimizer: Any) -> None:
    optimizer.add_param_group({"params": [net.extra], "lr": 0.3})


CHANGES = [
    frozen,
    forgotten,
    assigned,
    replaced,
    rate,
    upwards,
    amsgrad,
    loaded,
    moved,
    values_moved,
    gradients_moved,
    left,
    more,
]


def trained(
    make: Callable[[Any], Any], change: Callable[[Any, Any], None] | None, plans: bool
) -> tuple[list[bytes], int]:
    """Bits of parameters and state after some steps, and how many steps were done by a plan."""
    phalanx.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    parameters = list(net.parameters())
    object.__setattr__(net, "extra", nn.Parameter(phalanx.ones(2)))
    optimizer, x, done = make(parameters), phalanx.randn(5, 4), 0
    for number in range(6):
        optimizer.zero_grad()
        (net(x) * net.extra).square().mean().backward()
        if number == 3 and change is not None:
            change(net, optimizer)
        if not plans:
            optimizer._plan = None
        before = optimizer._plan
        optimizer.step()
        done += before is not None and before is optimizer._plan
    state = [value for each in optimizer.state.values() for value in each.values()]
    return [
        np.asarray(value).tobytes() for value in [*(p.detach().numpy() for p in [*parameters, net.extra]), *state]
    ], done


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changes_between_steps_is_seen(kind: str, change: Callable[[Any, Any], None]) -> None:
    found, _ = trained(OPTIMIZERS[kind], change, True)
    assert found == trained(OPTIMIZERS[kind], change, False)[0]
    assert change is not rate or found != trained(OPTIMIZERS[kind], None, True)[0]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_steps_that_are_alike_are_done_by_the_plan(kind: str) -> None:
    found, done = trained(OPTIMIZERS[kind], None, True)
    assert (found, 0) == trained(OPTIMIZERS[kind], None, False)
    assert done == 5


def test_a_copy_and_a_pickle_of_an_optimizer_know_no_plan() -> None:
    weight = nn.Parameter(phalanx.ones(3))
    optimizer = optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    assert isinstance(optimizer._plan, Plan)
    assert copy.deepcopy(optimizer)._plan is None and optimizer.__getstate__()["_plan"] is None
    assert pickle.loads(pickle.dumps(optimizer))._plan is None


heard: list[str] = []


class Optimizer(optim.Adam):
    """With the base's name and a step of its own."""

    def step(self, closure: Any = None) -> Any:
        heard.append("own")
        return super().step(closure)


class Listening:
    """To a parameter's gradient."""

    def gradients_wanted(self) -> None:
        heard.append("wanted")

    def updated(self, optimizer: Any) -> None:
        heard.append("updated")


def test_who_has_to_do_with_a_step_hears_of_it_when_it_is_as_the_last_one() -> None:
    for kind in (optim.Adam, Optimizer):
        weight = nn.Parameter(phalanx.ones(3))
        optimizer: Any = kind([weight])
        weight.grad = phalanx.ones(3)
        for _ in range(3):
            optimizer.step()
        assert heard == ["own"] * (3 if kind is Optimizer else 0) and optimizer.updates == 3
        heard.clear()
        before = optimizer.register_step_pre_hook(lambda *_: heard.append("before"))
        after = optimizer.register_step_post_hook(lambda *_: heard.append("after"))
        optimizer.step()
        assert [each for each in heard if each != "own"] == ["before", "after"]
        before.remove()
        after.remove()
        heard.clear()
        weight._listener = Listening()
        optimizer.step()
        assert [each for each in heard if each != "own"] == ["wanted", "updated"]
        heard.clear()
        optimizer.step()  # the plan asks who listens
        assert [each for each in heard if each != "own"] == ["wanted", "updated"] and optimizer.updates == 6
        weight._listener = None
        heard.clear()
        assert optimizer.step(lambda: 7) == 7 and optimizer.updates == 7
        left = weight.detach().numpy().copy()
        set_void(True)
        optimizer.step()
        set_void(False)
        assert optimizer.updates == 7 and np.array_equal(weight.detach().numpy(), left)
        heard.clear()
