"""Averages of the parameters: EMA on the flat store, and stochastic weight averaging beside PyTorch's."""

from __future__ import annotations

import gc
import inspect
import json
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.errors import RangeError, ShapeError, StateError
from phalanx.core.flat import pack
from phalanx.data import DataLoader, TensorDataset
from phalanx.optim import swa_utils


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.last(self.norm(self.first(x)).relu())


def moved(optimizer: Any, model: Any, step: int) -> None:
    """One update with gradients that depend on the step alone."""
    numbers = np.random.default_rng(step)
    for p in model.parameters():
        if p.requires_grad:
            p.grad = phalanx.tensor(numbers.standard_normal(p.shape).astype(np.float32))
    optimizer.step()


def values(model: Any) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


SOURCES: dict[str, Callable[[Any, Any], Any]] = {
    "model": lambda model, optimizer: model,
    "optimizer": lambda model, optimizer: optimizer,
    "parameters": lambda model, optimizer: model.parameters(),
}


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("source", SOURCES)
def test_ema_is_its_definition(source: str, warmup: bool) -> None:
    model = Net()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    ema = optim.EMA(SOURCES[source](model, optimizer), decay=0.9, warmup=warmup)
    expected: dict[str, np.ndarray] = {}
    for step in range(20):
        moved(optimizer, model, step)
        ema.update()
        decay = min(0.9, (1 + step) / (10 + step)) if warmup else 0.9
        now = values(model)
        expected = {k: decay * expected[k] + (1 - decay) * v if expected else v for k, v in now.items()}
    with ema.swapped() as entered:
        assert entered is ema
        for name, array in values(model).items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)
    for name, array in values(model).items():
        np.testing.assert_array_equal(array, now[name])
    found = ema.averages()
    assert list(found) == (list(now) if source == "model" else [str(i) for i in range(len(now))])
    for array, name in zip(found.values(), now, strict=True):
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)
    twin = Net()
    if source == "model":
        ema.copy_to(twin)
        np.testing.assert_array_equal(twin.first.weight.detach().numpy(), found["first.weight"])
    ema.copy_to()
    np.testing.assert_array_equal(model.last.bias.detach().numpy(), list(found.values())[-1])


def test_ema_through_the_life_of_a_model() -> None:
    """Made before the optimizer; a layer unfrozen later joins with its values of then; state moves when the store is packed anew."""
    model = Net()
    model.first.requires_grad_(False)
    ema = optim.EMA(model, decay=0.5)
    with ema.swapped():
        pass
    optimizer = optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    moved(optimizer, model, 0)
    ema.update()
    at_first = model.last.bias.detach().numpy().copy()
    assert sorted(ema.averages()) == ["last.bias", "last.weight", "norm.bias", "norm.weight"]
    model.first.requires_grad_(True)
    optimizer.add_param_group({"params": model.first.parameters()})
    moved(optimizer, model, 1)
    ema.update()
    found = ema.averages()
    np.testing.assert_array_equal(found["first.weight"], model.first.weight.detach().numpy())
    np.testing.assert_allclose(found["last.bias"], (at_first + model.last.bias.detach().numpy()) / 2, rtol=1e-6)
    (store,) = pack(model.parameters())
    assert all(p._store is store for p in model.parameters())
    for name, array in ema.averages().items():
        np.testing.assert_array_equal(array, found[name])


def test_ema_state() -> None:
    model = Net()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    ema = optim.EMA(model, decay=0.9)
    for step in range(4):
        moved(optimizer, model, step)
        ema.update()
    saved, parameters = ema.state_dict(), values(model)
    for step in range(4, 7):
        moved(optimizer, model, step)
        ema.update()
    twin = Net()
    twin.load_state_dict(parameters, strict=False)
    again = optim.Adam(twin.parameters(), lr=0.01)
    resumed = optim.EMA(twin, decay=0.5)
    resumed.load_state_dict({**saved, "averages": dict(reversed(saved["averages"].items()))})
    assert (resumed.decay, resumed.updates) == (0.9, 4)
    assert all((resumed.averages()[name] == array).all() for name, array in saved["averages"].items())
    model.load_state_dict(parameters, strict=False)
    for each, other, average in ((optimizer, model, ema), (again, twin, resumed)):
        average.load_state_dict(saved)
        each.param_groups[0]["lr"] = 0.0
        for step in range(3):
            moved(each, other, step)
            average.update()
    assert all((resumed.averages()[name] == array).all() for name, array in ema.averages().items())
    with pytest.raises(StateError, match="averages of other, which are no parameters here"):
        ema.load_state_dict({**saved, "averages": {"other": np.zeros(1)}})
    with pytest.raises(ShapeError, match=r"average of last.bias has shape \(3,\), it has \(2,\)"):
        ema.load_state_dict({**saved, "averages": {"last.bias": np.zeros(3)}})


def test_ema_refuses_what_would_mix_up() -> None:
    model = Net()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    ema = optim.EMA(optimizer)
    ema.update()
    with ema.swapped():
        for act in (ema.update, ema.state_dict, ema.averages, optimizer.step):
            with pytest.raises(StateError, match="while the averages stand in the parameters' places"):
                act()
        with pytest.raises(StateError), ema.swapped():
            pass
    with pytest.raises(ZeroDivisionError), ema.swapped():
        1 / 0  # noqa: B018
    optimizer.step()
    with pytest.raises(RangeError, match=r"decay in \[0, 1\), got 1.0"):
        optim.EMA(model, decay=1.0)
    with pytest.raises(TypeError, match="expects a Module, an Optimizer or parameters, got int"):
        optim.EMA(3)
    with pytest.raises(TypeError, match="at least one Parameter"):
        optim.EMA([])


def test_ema_is_not_kept_alive() -> None:
    model = Net()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    ema = optim.EMA(optimizer)
    ema.update()
    (store,) = pack(model.parameters())
    seen = weakref.ref(ema)
    assert ema in store.state
    del ema
    gc.collect()
    assert seen() is None and len(store.state) == 0
    optimizer.step()


# -- as PyTorch's --------------------------------------------------------------------------------------------------------


def torch_net(torch: Any, model: Any) -> Any:
    class Twin(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)
            self.last = torch.nn.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            return self.last(self.norm(self.first(x)).relu())

    twin = Twin()
    twin.load_state_dict({name: torch.tensor(t.numpy()) for name, t in model.state_dict().items()})
    return twin


AVERAGES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "mean": lambda utils: {},
    "mean with buffers": lambda utils: {"use_buffers": True},
    "ema": lambda utils: {"avg_fn": utils.get_ema_avg_fn(0.9)},
    "ema, lists": lambda utils: {"multi_avg_fn": utils.get_ema_multi_avg_fn(0.9), "use_buffers": True},
    "own": lambda utils: {"avg_fn": lambda average, now, n: average * 0.5 + now * 0.5},
}


@pytest.mark.torch
@pytest.mark.parametrize("kind", AVERAGES)
def test_averaged_model_is_pytorchs(kind: str) -> None:
    torch = pytest.importorskip("torch")
    model = Net()
    twin = torch_net(torch, model)
    ours = swa_utils.AveragedModel(model, **AVERAGES[kind](swa_utils))
    theirs = torch.optim.swa_utils.AveragedModel(twin, **AVERAGES[kind](torch.optim.swa_utils))
    numbers = np.random.default_rng(0)
    for _ in range(5):
        for mine, other in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
            new = numbers.standard_normal(mine.shape) * 5
            mine.array[...] = new
            other[...] = torch.tensor(new)
        ours.update_parameters(model)
        theirs.update_parameters(twin)
    found, expected = ours.state_dict(), theirs.state_dict()
    assert sorted(found) == sorted(expected) and int(ours.n_averaged) == int(theirs.n_averaged) == 5
    for name, tensor in expected.items():
        if "tracked" not in name or not ours.use_buffers:  # PyTorch averages counts, too
            np.testing.assert_allclose(found[name].numpy(), tensor.numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
    x = numbers.standard_normal((6, 3)).astype(np.float32)
    data = [x[:3], x[3:]]
    swa_utils.update_bn([(phalanx.tensor(part), None) for part in data], ours)
    torch.optim.swa_utils.update_bn([(torch.tensor(part), None) for part in data], theirs)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        mine, other = getattr(ours.module.norm, name), getattr(theirs.module.norm, name)
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-4, atol=1e-5)
    assert ours.module.norm.momentum == 0.1 and ours.training


def test_update_bn_of_a_loader_leaves_it_where_it_stands() -> None:
    x = np.random.default_rng(1).standard_normal((11, 3)).astype(np.float32)
    loader = DataLoader(TensorDataset(x), batch_size=4, shuffle=True, seed=3)
    order = [batch[0].numpy() for batch in DataLoader(TensorDataset(x), batch_size=4, shuffle=True, seed=3)]
    model, other = Net(), Net()
    other.load_state_dict(model.state_dict())
    model.eval()
    swa_utils.update_bn(loader, model)
    swa_utils.update_bn([phalanx.tensor(batch) for batch in order], other)
    assert (loader.step, loader.epoch) == (0, 0) and not model.training and not model.norm.training
    np.testing.assert_array_equal(model.norm.running_var.numpy(), other.norm.running_var.numpy())
    assert int(model.norm.num_batches_tracked) == 3
    swa_utils.update_bn(loader, nn.Linear(2, 2))  # nothing to do, nothing read


@pytest.mark.torch
@pytest.mark.parametrize(
    "options", [{"anneal_epochs": 20}, {"anneal_epochs": 7, "anneal_strategy": "linear"}, {"anneal_epochs": 0}]
)
def test_swalr_is_pytorchs(options: dict[str, Any]) -> None:
    """Behind another schedule, then alone; and resumed to the bit."""
    torch = pytest.importorskip("torch")

    def run(lib: Any, schedules: Any, utils: Any, weight: Any, resume: bool = False) -> list[list[float]]:
        optimizer = lib.SGD([{"params": [weight()]}, {"params": [weight()], "lr": 0.3}], lr=0.1)
        main = schedules.ExponentialLR(optimizer, 0.95)
        swa = utils.SWALR(optimizer, swa_lr=[0.02, 0.5], **options)
        found = []
        for step in range(120):
            if resume and step == 60:
                saved = json.loads(json.dumps([swa.state_dict(), optimizer.state_dict()]))
                optimizer = lib.SGD([{"params": [weight()]}, {"params": [weight()], "lr": 0.3}], lr=0.1)
                swa = utils.SWALR(optimizer, swa_lr=[0.1, 0.1], anneal_epochs=99)
                optimizer.load_state_dict(saved[1])
                swa.load_state_dict(saved[0])
            optimizer.step()
            (main if step < 50 else swa).step()
            found.append([g["lr"] for g in optimizer.param_groups])
        return found

    theirs = run(
        torch.optim, torch.optim.lr_scheduler, torch.optim.swa_utils, lambda: torch.nn.Parameter(torch.zeros(1))
    )
    ours = run(optim, optim.lr_scheduler, swa_utils, lambda: nn.Parameter(np.zeros(1)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert run(optim, optim.lr_scheduler, swa_utils, lambda: nn.Parameter(np.zeros(1)), resume=True) == ours


@pytest.mark.torch
def test_signatures_are_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    assert set(torch.optim.swa_utils.__all__) <= set(swa_utils.__all__)
    for name in torch.optim.swa_utils.__all__:
        ours = inspect.signature(getattr(swa_utils, name)).parameters
        theirs = inspect.signature(getattr(torch.optim.swa_utils, name)).parameters
        assert [(k, v.default) for k, v in ours.items()] == [(k, v.default) for k, v in theirs.items()], name


@pytest.mark.parametrize(("make", "words"), [
    (lambda: swa_utils.AveragedModel(Net(), avg_fn=max, multi_avg_fn=max), "avg_fn or multi_avg_fn, got both"),
    (lambda: swa_utils.get_ema_avg_fn(2.0), r"decay in \[0, 1\], got 2.0"),
    (lambda: swa_utils.SWALR(optim.SGD(Net().parameters()), 0.1, anneal_strategy="x"), "'cos' or 'linear', got 'x'"),
    (lambda: swa_utils.SWALR(optim.SGD(Net().parameters()), 0.1, anneal_epochs=-1), "anneal_epochs to be an integer"),
    (lambda: swa_utils.SWALR(optim.SGD(Net().parameters()), [0.1, 0.2]), "1 values of swa_lr"),
])  # fmt: skip
def test_wrong_use(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(RangeError, match=words):
        make()
