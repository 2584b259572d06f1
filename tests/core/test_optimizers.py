"""Every optimizer beside PyTorch's, or beside its definition in float64 where PyTorch has none: 100 steps with the same gradients."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.errors import RangeError, ShapeError, StateError

STEPS = 100
SHAPES = ((5, 3), (7,), (3, 9), (2, 2, 3), (40,))
BETAS = {"betas": (0.8, 0.95)}

# name of the class -> options of each run, for those that PyTorch has
TORCH: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {"lr": 0.1}, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}, {"momentum": 0.9, "dampening": 0.3},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True},
    ],
    "Adam": [{}, {"lr": 0.02, **BETAS, "weight_decay": 0.1}, {"amsgrad": True, "maximize": True}, {"decoupled_weight_decay": True}],
    "AdamW": [{}, {"lr": 0.02, **BETAS, "amsgrad": True, "weight_decay": 0.3}],
    "Adamax": [{}, {"lr": 0.02, **BETAS, "weight_decay": 0.1, "maximize": True}],
    "NAdam": [
        {}, {"lr": 0.02, **BETAS, "weight_decay": 0.1, "maximize": True},
        {"momentum_decay": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    "RAdam": [
        {}, {"lr": 0.02, **BETAS, "weight_decay": 0.1, "maximize": True},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    "RMSprop": [
        {}, {"momentum": 0.9, "weight_decay": 0.01}, {"centered": True, "alpha": 0.9},
        {"centered": True, "momentum": 0.5, "maximize": True, "eps": 1e-3},
    ],
    "Adagrad": [{}, {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.01}, {"initial_accumulator_value": 0.5, "maximize": True}],
    "Adadelta": [{}, {"lr": 0.5, "rho": 0.7, "weight_decay": 0.1, "maximize": True}],
    "Rprop": [{}, {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (1e-3, 0.2), "maximize": True}],
    "ASGD": [{}, {"lr": 0.1, "lambd": 0.01, "alpha": 0.6, "t0": 30, "weight_decay": 0.1, "maximize": True}],
    "Muon": [{}, {"lr": 0.02, "nesterov": False, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3, "momentum": 0.8}],
}  # fmt: skip
RUNS = [(name, options) for name, runs in TORCH.items() for options in runs]


def start(name: str = "", dtype: Any = np.float64) -> list[np.ndarray]:
    numbers = np.random.default_rng(5)
    shapes = [shape for shape in SHAPES if len(shape) == 2] if name == "Muon" else SHAPES
    return [numbers.standard_normal(shape).astype(dtype) for shape in shapes]


def gradients(arrays: list[np.ndarray], steps: int = STEPS) -> Iterator[list[np.ndarray]]:
    """The same for all: noise around the parameters' start, so that signs and sizes change."""
    numbers = np.random.default_rng(6)
    for step in range(steps):
        scale = 1.0 + math.sin(step / 7)
        yield [(a * 0.3 + scale * numbers.standard_normal(a.shape)).astype(a.dtype) for a in arrays]


def groups(parameters: list[Any]) -> list[dict[str, Any]]:
    """Two groups, the second with a rate of its own."""
    return [{"params": parameters[:-1]}, {"params": parameters[-1:], "lr": 0.003}]


def trained(make: Callable[[list[Any]], optim.Optimizer], arrays: list[np.ndarray]) -> tuple[list[np.ndarray], Any]:
    parameters = [nn.Parameter(a.copy()) for a in arrays]
    optimizer = make(parameters)
    for step in gradients(arrays):
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = phalanx.tensor(gradient)
        optimizer.step()
    return [p.detach().numpy() for p in parameters], optimizer


@pytest.fixture
def exact_torch() -> Iterator[Any]:
    """PyTorch whose numbers beside tensors (NAdam's product, ASGD's rate) are float64, too."""
    torch = pytest.importorskip("torch")
    torch.set_default_dtype(torch.float64)
    yield torch
    torch.set_default_dtype(torch.float32)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "options"), RUNS, ids=lambda v: v if isinstance(v, str) else "-".join(v) or "defaults"
)
def test_trajectory_is_pytorchs(
    name: str, options: dict[str, Any], exact_torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters, state and options; each loads the other's state dict."""
    torch = exact_torch
    monkeypatch.setattr(
        torch.Tensor, "bfloat16", lambda tensor: tensor.clone()
    )  # Muon's matrices stay as exact as ours
    arrays = start(name)
    theirs = [torch.nn.Parameter(torch.tensor(a)) for a in arrays]
    peer = getattr(torch.optim, name)(groups(theirs), **options)
    for step in gradients(arrays):
        for parameter, gradient in zip(theirs, step, strict=True):
            parameter.grad = torch.tensor(gradient)
        peer.step()
    ours, optimizer = trained(lambda p: getattr(optim, name)(groups(p), **options), arrays)
    for mine, other, first in zip(ours, theirs, arrays, strict=True):
        np.testing.assert_allclose(mine, other.detach().numpy(), rtol=1e-9, atol=1e-11)
        assert not np.allclose(mine, first)
    saved, known = optimizer.state_dict(), peer.state_dict()
    assert known["state"].keys() == (saved["state"].keys() if saved["state"][0].keys() - {"step"} else set())
    for index, entry in known["state"].items():
        kept = {key for key, value in entry.items() if value is not None} - {"step"}
        assert saved["state"][index].keys() - {"step"} == kept
        assert saved["state"][index]["step"] == entry.get("step", STEPS)
        for key in kept:
            np.testing.assert_allclose(saved["state"][index][key], np.asarray(entry[key]), rtol=1e-6, err_msg=key)
    twin = getattr(optim, name)(groups([nn.Parameter(a) for a in arrays]))
    twin.load_state_dict(known)
    assert [g["lr"] for g in twin.param_groups] == [g["lr"] for g in peer.param_groups]
    reloaded = twin.state_dict()["state"]
    for index, entry in known["state"].items():
        for key in entry.keys() - {"step"}:
            np.testing.assert_array_equal(reloaded[index][key], np.asarray(entry[key]))


@pytest.mark.torch
@pytest.mark.parametrize("name", TORCH)
def test_trajectory_in_float32(name: str) -> None:
    """Rounding alone tells them apart (PyTorch's Muon rounds to bfloat16 within)."""
    torch = pytest.importorskip("torch")
    options = TORCH[name][-1]
    arrays = start(name, np.float32)
    theirs = [torch.nn.Parameter(torch.tensor(a)) for a in arrays]
    peer = getattr(torch.optim, name)(groups(theirs), **options)
    for step in gradients(arrays):
        for parameter, gradient in zip(theirs, step, strict=True):
            parameter.grad = torch.tensor(gradient)
        peer.step()
    ours, _ = trained(lambda p: getattr(optim, name)(groups(p), **options), arrays)
    tolerance = 0.05 if name == "Muon" else 3e-5
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, other.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.torch
def test_constructors_are_pytorchs() -> None:
    """Names, order and defaults of what PyTorch has; what only says how to run an update is accepted."""
    import inspect

    torch = pytest.importorskip("torch")
    for name in TORCH:
        theirs = inspect.signature(getattr(torch.optim, name)).parameters
        ours = inspect.signature(getattr(optim, name)).parameters
        wanted = {
            k: v.default for k, v in theirs.items() if k not in ("foreach", "fused", "capturable", "differentiable")
        }
        assert {k: v.default for k, v in ours.items() if k in wanted} == wanted, name
        positional = [k for k, v in theirs.items() if v.kind is v.POSITIONAL_OR_KEYWORD and k in wanted]
        mine = [k for k, v in ours.items() if v.kind is v.POSITIONAL_OR_KEYWORD]
        assert mine == positional[: len(mine)], name
        weight = [nn.Parameter(np.zeros((2, 2)))]
        made = getattr(optim, name)(weight, foreach=True, fused=None, capturable=False)
        assert "foreach" not in made.param_groups[0]
        with pytest.raises(TypeError, match=f"{name} got an unexpected keyword argument 'momentun'"):
            getattr(optim, name)(weight, momentun=0.9)
        with pytest.raises(RangeError, match="differentiable"):
            getattr(optim, name)(weight, differentiable=True)


# -- those that PyTorch has not ------------------------------------------------------------------------------------------


def lion(p: Any, g: Any, s: dict[str, Any], t: int, lr: float, wd: float) -> Any:
    m = s.setdefault("m", np.zeros_like(p))
    s["m"] = 0.95 * m + 0.05 * g
    return p - lr * (np.sign(0.8 * m + 0.2 * g) + wd * p)


def lamb(p: Any, g: Any, s: dict[str, Any], t: int, lr: float, wd: float, clip: bool = False) -> Any:
    s["m"] = 0.8 * s.get("m", 0) + 0.2 * g
    s["v"] = 0.95 * s.get("v", 0) + 0.05 * g * g
    u = s["m"] / (1 - 0.8**t) / (np.sqrt(s["v"] / (1 - 0.95**t)) + 1e-6) + wd * p
    ratio = np.linalg.norm(p) / np.linalg.norm(u) if wd else 1.0
    return p - lr * (min(ratio, 1.0) if clip else ratio) * u


def lars(p: Any, g: Any, s: dict[str, Any], t: int, lr: float, wd: float) -> Any:
    norm = np.linalg.norm(p)
    ratio = 0.02 * norm / (np.linalg.norm(g) + wd * norm + 1e-8) if wd else 1.0
    s["b"] = 0.9 * s.get("b", 0) + ratio * (g + wd * p)
    return p - lr * s["b"]


OWN: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "Lion": (lambda p, **o: optim.Lion(p, **BETAS, **o), lion),
    "LAMB": (lambda p, **o: optim.LAMB(p, **BETAS, **o), lamb),
    "LAMB, clipped": (lambda p, **o: optim.LAMB(p, **BETAS, trust_clip=True, **o), lambda *a: lamb(*a, clip=True)),
    "LARS": (lambda p, **o: optim.LARS(p, momentum=0.9, trust_coefficient=0.02, **o), lars),
}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_trajectory_is_the_definitions(name: str, dtype: Any) -> None:
    """With weight decay, and in a second group without (plain rates there)."""
    make, definition = OWN[name]
    arrays = start(dtype=dtype)
    ours, _ = trained(
        lambda p: make([{"params": p[:-1]}, {"params": p[-1:], "weight_decay": 0.0}], lr=0.01, weight_decay=0.1), arrays
    )
    expected = [a.astype(np.float64) for a in arrays]
    states: list[dict[str, Any]] = [{} for _ in arrays]
    for t, step in enumerate(gradients(arrays), 1):
        for i, gradient in enumerate(step):
            decay = 0.0 if i == len(arrays) - 1 else 0.1
            expected[i] = definition(expected[i], gradient.astype(np.float64), states[i], t, 0.01, decay)
    tolerance = 1e-9 if dtype is np.float64 else 2e-4
    for mine, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance)


def test_always_adapt() -> None:
    """A group without weight decay is scaled when asked; a parameter of zeros moves at the plain rate."""
    for kind in (optim.LAMB, optim.LARS):
        moved = []
        for adapt in (False, True):
            weight, zero = nn.Parameter(np.full(4, 8.0)), nn.Parameter(np.zeros(4))
            optimizer = kind([weight, zero], lr=0.1, weight_decay=0.0, always_adapt=adapt)
            for p in (weight, zero):
                p.grad = phalanx.ones(4).double()
            optimizer.step()
            moved.append((8.0 - weight.detach().numpy()[0], -zero.detach().numpy()[0]))
        assert moved[0][0] == pytest.approx(0.1, rel=1e-5) and moved[1][0] != pytest.approx(0.1, rel=1e-2)
        assert moved[0][1] == moved[1][1] == pytest.approx(0.1, rel=1e-5)


def test_muon_makes_matrices_orthogonal_and_leaves_others_to_adamw() -> None:
    numbers = np.random.default_rng(1)
    parameters = [nn.Parameter(numbers.standard_normal(s)) for s in ((6, 4), (4, 6), (3, 2, 2, 2), (5,))]
    before = [p.detach().numpy().copy() for p in parameters]
    other = {"params": parameters[3:], "use_muon": False, "lr": 0.1, "weight_decay": 0.2}
    optimizer = optim.Muon([{"params": parameters[:3]}, other], lr=0.1, weight_decay=0.0, ns_steps=12,
                           ns_coefficients=(2.0, -1.5, 0.5))  # fmt: skip
    plain = nn.Parameter(before[3].copy())
    adamw = optim.AdamW([plain], lr=0.1, weight_decay=0.2, betas=(0.9, 0.95))
    for p in (*parameters, plain):
        p.grad = phalanx.tensor(
            numbers.standard_normal(p.shape) if p is not plain else parameters[3].grad.numpy().copy()
        )
    optimizer.step()
    adamw.step()
    for p, first in zip(parameters[:3], before, strict=False):
        rows, columns = p.shape[0], p.array.size // p.shape[0]
        step = ((first - p.detach().numpy()) / (0.1 * max(1.0, rows / columns) ** 0.5)).reshape(rows, columns)
        gram = step @ step.T if rows <= columns else step.T @ step
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-3)
    np.testing.assert_array_equal(parameters[3].detach().numpy(), plain.detach().numpy())
    with pytest.raises(ShapeError, match=r'matrices, got a parameter of shape \(5,\).*"use_muon": False'):
        optim.Muon([nn.Parameter(np.zeros(5))])


# -- what the base does ----------------------------------------------------------------------------------------------------


def test_numbers_split_runs_and_survive() -> None:
    """NAdam's product goes with each parameter: one that joins later has another, and a state dict carries them."""
    first, second = nn.Parameter(np.ones(3)), nn.Parameter(np.ones(3))
    optimizer = optim.NAdam([first, second], lr=0.01)
    for step in range(4):
        first.grad = phalanx.ones(3).double()
        second.grad = phalanx.ones(3).double() if step > 1 else None
        optimizer.step()
    products = [entry["mu_product"] for entry in optimizer.state.values()]
    lone = optim.NAdam([third := nn.Parameter(np.ones(3))], lr=0.01)
    for _ in range(2):
        third.grad = phalanx.ones(3).double()
        lone.step()
    assert products[1] == lone.state[third]["mu_product"] != products[0]
    np.testing.assert_array_equal(second.detach().numpy(), third.detach().numpy())
    twin = optim.NAdam([nn.Parameter(np.ones(3)), nn.Parameter(np.ones(3))], lr=0.5)
    twin.load_state_dict(optimizer.state_dict())
    assert [entry["mu_product"] for entry in twin.state.values()] == products
    assert twin.param_groups[0]["lr"] == 0.01


def test_equal_steps_but_other_numbers() -> None:
    """Two neighbours with one step each, done under different betas: each goes on with its own product."""

    def run(turns: list[tuple[int, ...]]) -> list[np.ndarray]:
        parameters = [nn.Parameter(np.ones(3)), nn.Parameter(np.ones(3))]
        optimizer = optim.NAdam(parameters, lr=0.01)
        for beta, turn in zip((0.9, 0.5, 0.7), turns, strict=True):
            optimizer.param_groups[0]["betas"] = (beta, 0.999)
            for number, parameter in enumerate(parameters):
                parameter.grad = phalanx.ones(3).double() if number in turn else None
            optimizer.step()
        return [p.detach().numpy() for p in parameters]

    together, first, second = run([(0,), (1,), (0, 1)]), run([(0,), (), (0,)]), run([(), (1,), (1,)])
    np.testing.assert_array_equal(together[0], first[0])
    np.testing.assert_array_equal(together[1], second[1])
    assert (together[0] != together[1]).all()


def test_loading_refuses_what_does_not_fit() -> None:
    def adam(shape: int = 3, **options: Any) -> tuple[Any, Any]:
        weight = nn.Parameter(np.ones(shape))
        return optim.Adam([weight], **options), weight

    optimizer, weight = adam(amsgrad=True)
    weight.grad = phalanx.ones(3).double()
    optimizer.step()
    saved = optimizer.state_dict()
    with pytest.raises(ShapeError, match=r"exp_avg of parameter 0 has shape \(3,\), the parameter has \(4,\)"):
        adam(4)[0].load_state_dict(saved)
    with pytest.raises(StateError, match="SGD with these options keeps nothing"):
        optim.SGD([nn.Parameter(np.ones(3))]).load_state_dict(saved)
    with pytest.raises(StateError, match=r"groups of \[1\] parameters, this optimizer of \[2\]"):
        optim.Adam([nn.Parameter(np.ones(3)), nn.Parameter(np.ones(3))]).load_state_dict(saved)
    twin, other = adam()
    twin.load_state_dict(saved)
    assert twin.state[other].keys() == {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}


def test_hooks_and_closure() -> None:
    weight = nn.Parameter(np.ones(2))
    optimizer = optim.SGD([weight], lr=0.1)
    told: list[Any] = []
    before = optimizer.register_step_pre_hook(lambda *given: told.append(("before", weight.detach().tolist(), given)))
    after = optimizer.register_step_post_hook(lambda *given: told.append(("after", weight.detach().tolist(), given)))

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (weight * weight).sum()
        loss.backward()
        return loss

    with phalanx.no_grad():
        assert float(optimizer.step(closure)) == 2.0
    assert [(what, values) for what, values, _ in told] == [("before", [1.0, 1.0]), ("after", [0.8, 0.8])]
    assert all(given == (optimizer, (closure,), {}) for _, _, given in told)
    before.remove()
    with after:
        optimizer.step(closure)
    optimizer.step(closure)
    assert [what for what, _, _ in told] == ["before", "after", "after"] and optimizer.updates == 3


class ByHand(optim.Optimizer):
    """Adam, as PyTorch's users write their own."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, dict(lr=lr))  # noqa: C408

    @phalanx.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["step"] = 0
                    state["m"], state["v"] = phalanx.zeros_like(p), phalanx.zeros_like(p)
                state["step"] += 1
                state["m"].mul_(0.9).add_(p.grad, alpha=0.1)
                state["v"].mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
                root = (state["v"] / (1 - 0.999 ** state["step"])).sqrt().add_(1e-8)
                p.data.addcdiv_(state["m"] / (1 - 0.9 ** state["step"]), root, value=-group["lr"])
        return loss


def test_an_optimizer_in_pytorchs_manner() -> None:
    """Its state is saved and loaded, hooks are called once, also around one that calls another's step."""
    arrays = start()
    ours, optimizer = trained(ByHand, arrays)
    expected, adam = trained(optim.Adam, arrays)
    for mine, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9)
    saved = optimizer.state_dict()
    assert saved["state"].keys() == adam.state_dict()["state"].keys() and saved["state"][0]["step"] == STEPS
    twin = ByHand([nn.Parameter(a) for a in ours])
    twin.load_state_dict(saved)
    first = twin.param_groups[0]["params"][0]
    assert twin.state[first]["step"] == STEPS and isinstance(twin.state[first]["m"], phalanx.Tensor)
    np.testing.assert_array_equal(twin.state[first]["m"].numpy(), saved["state"][0]["m"])
    told: list[str] = []

    class Louder(ByHand):
        def step(self, closure: Any = None) -> Any:
            told.append("own")
            return super().step(closure)

    class LouderAdam(optim.Adam):
        def step(self, closure: Any = None) -> Any:
            told.append("own")
            return super().step(closure)

    for kind in (Louder, LouderAdam):
        told.clear()
        louder = kind([weight := nn.Parameter(np.ones(2))], lr=0.1)
        louder.register_step_pre_hook(lambda *_: told.append("before"))
        louder.register_step_post_hook(lambda *_: told.append("after"))
        weight.grad = phalanx.ones(2).double()
        louder.step()
        assert told == ["before", "own", "after"] and louder.updates == 1
        np.testing.assert_allclose(weight.detach().numpy(), [0.9, 0.9], rtol=1e-6)


@pytest.mark.parametrize("kind", [optim.NAdam, optim.Muon, optim.SGD, ByHand])
def test_a_copy_goes_on_like_its_original(kind: Any) -> None:
    """Copied together with the model; hooks stay behind, and what one does the other does not see."""
    model = nn.Linear(3, 3, bias=False)
    optimizer = kind(model.parameters(), lr=0.1)
    told: list[int] = []
    optimizer.register_step_pre_hook(lambda *_: told.append(1))

    def step(model: Any, optimizer: Any) -> np.ndarray:
        model.weight.grad = phalanx.tensor(np.arange(9, dtype=np.float32).reshape(3, 3) - 3.0)
        optimizer.step()
        return model.weight.detach().numpy().copy()

    for _ in range(3):
        step(model, optimizer)
    twin, its = copy.deepcopy((model, optimizer))
    assert its.param_groups[0]["params"][0] is twin.weight is not model.weight
    ours = [step(model, optimizer) for _ in range(3)]
    np.testing.assert_array_equal([step(twin, its) for _ in range(3)], ours)
    assert len(told) == 6 and len(its.state) == len(optimizer.state)


def test_named_parameters_and_groups() -> None:
    model = nn.Linear(2, 3)
    optimizer = optim.Adam(model.named_parameters(), lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.param_groups[0]["params"] == list(model.parameters())
    assert "param_names" not in repr(optimizer)
    assert optim.SGD(model.parameters(), lr=phalanx.tensor(0.5)).param_groups[0]["lr"] == 0.5
    optimizer.add_param_group({"params": nn.Linear(1, 1).named_parameters(), "lr": 0.5, "fused": True})
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.5]
    with pytest.raises(RangeError, match="more than one parameter group"):
        optimizer.add_param_group({"params": model.weight})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: optim.RMSprop(p, alpha=-1), "RMSprop expects alpha at least 0.0, got -1"),
        (lambda p: optim.Adadelta(p, rho=1.5), r"Adadelta expects rho in \[0, 1\], got 1.5"),
        (lambda p: optim.Rprop(p, etas=(1.5, 2)), r"Rprop expects etas in \(0, 1\) and above 1, got \(1.5, 2\)"),
        (lambda p: optim.NAdam(p, betas=(0.9, 1.0)), r"NAdam expects beta2 in \[0.0, 1.0\), got 1.0"),
        (lambda p: optim.Lion(p, lr=-1), "Lion expects lr"),
        (lambda p: optim.LARS(p, nesterov=True), "Nesterov needs momentum above 0"),
        (lambda p: optim.Muon(p, adjust_lr_fn="other"), "Muon expects adjust_lr_fn to be one of"),
        (lambda p: optim.Muon(p, ns_steps=100), "Muon expects ns_steps"),
        (lambda p: optim.Muon(p, ns_coefficients=(1, 2)), "Muon expects three ns_coefficients"),
        (lambda p: optim.scale_lr(0.1, 0), "scale_lr expects batch sizes of at least 1, got 0 and 256"),
        (lambda p: optim.scale_lr(0.1, 8, rule="cubic"), "rule to be one of 'linear', 'sqrt', got 'cubic'"),
    ],
)  # fmt: skip
def test_values_out_of_range(make: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(RangeError, match=words):
        make([nn.Parameter(np.zeros((2, 2)))])


def test_scale_lr() -> None:
    assert optim.scale_lr(0.1, 8192) == pytest.approx(3.2)
    assert optim.scale_lr(0.1, 64, 16, rule="sqrt") == pytest.approx(0.2)
