"""Life cycle of the flat store: each case of the architecture's list, against PyTorch running the same lines."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import phalanx
from phalanx.core.flat import CHUNK, chunk_grid, is_packed, pack, tree_sum

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


class Torch:
    name = "torch"
    nn, optim = torch.nn, torch.optim
    module = torch

    @staticmethod
    def wrap(model):
        return model

    @staticmethod
    def array(tensor):
        return tensor.detach().numpy()


class Ours:
    name = "phalanx"
    nn, optim = phalanx.nn, phalanx.optim
    module = phalanx

    @staticmethod
    def wrap(model):
        return phalanx.DataParallel(model)

    @staticmethod
    def array(tensor):
        return tensor.array


def make_model(lib, layers=(6, 5, 3), dtype=np.float32):
    """The same values in both libraries."""
    rng = np.random.default_rng(7)
    nn = lib.nn
    model = nn.Sequential(nn.Linear(layers[0], layers[1]), nn.Tanh(), nn.Linear(layers[1], layers[2]))
    fill(lib, model, rng)
    return model


def fill(lib, model, rng):
    with lib.module.no_grad():
        for p in model.parameters():
            p.copy_(lib.module.tensor(rng.standard_normal(tuple(p.shape)).astype(np.float32) * 0.5))


def batch(lib, seed=0, width=6, classes=3):
    rng = np.random.default_rng(seed)
    x = lib.module.tensor(rng.standard_normal((8, width)).astype(np.float32))
    return x, lib.module.tensor(rng.integers(0, classes, 8))


def train(lib, model, optimizer, steps, first=0):
    criterion = lib.nn.CrossEntropyLoss()
    for i in range(first, first + steps):
        x, y = batch(lib, i)
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()


def freeze_and_unfreeze(lib):
    model = make_model(lib)
    optimizer = lib.optim.Adam(model.parameters(), lr=0.05)
    train(lib, model, optimizer, 3)
    model[0].weight.requires_grad = False
    model[0].weight.grad = None
    train(lib, model, optimizer, 3)
    model[0].weight.requires_grad = True
    train(lib, model, optimizer, 3)
    return model


def frozen_from_the_start(lib):
    model = make_model(lib)
    for p in model[0].parameters():
        p.requires_grad = False
    optimizer = lib.optim.AdamW(model.parameters(), lr=0.05)
    train(lib, model, optimizer, 2)
    for p in model[0].parameters():
        p.requires_grad = True
    train(lib, model, optimizer, 3)
    return model


def replaced_head(lib):
    model = make_model(lib)
    optimizer = lib.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train(lib, model, optimizer, 2)
    head = lib.nn.Linear(5, 3)
    fill(lib, head, np.random.default_rng(1))
    model[2] = head
    optimizer.add_param_group({"params": head.parameters(), "lr": 0.2})
    train(lib, model, optimizer, 3)
    return model


def replaced_head_with_wrapper(lib):
    wrapped = lib.wrap(make_model(lib))
    model = wrapped if lib is Torch else wrapped.module
    optimizer = lib.optim.Adam(model.parameters(), lr=0.05)
    train(lib, wrapped, optimizer, 2)
    head = lib.nn.Linear(5, 3)
    fill(lib, head, np.random.default_rng(1))
    model[2] = head
    optimizer = lib.optim.Adam(model.parameters(), lr=0.05)
    train(lib, wrapped, optimizer, 3)
    return model


def wrapper_before_optimizer(lib):
    model = lib.wrap(make_model(lib))
    train(lib, model, lib.optim.Adam(model.parameters(), lr=0.05), 4)
    return model


def wrapper_after_optimizer(lib):
    model = make_model(lib)
    optimizer = lib.optim.Adam(model[2].parameters(), lr=0.05)
    train(lib, model, optimizer, 2)
    train(lib, lib.wrap(model), optimizer, 3)
    return model


def to_device_and_dtype(lib):
    model = make_model(lib)
    optimizer = lib.optim.SGD(model.parameters(), lr=0.05)
    train(lib, model, optimizer, 2)
    model.to("cpu")
    model.double().float()
    train(lib, model, optimizer, 2)
    return model


def half_and_back(lib):
    model = make_model(lib)
    optimizer = lib.optim.SGD(model.parameters(), lr=0.05)
    train(lib, model, optimizer, 2)
    model.half()
    assert all("float16" in str(p.dtype) for p in model.parameters())
    model.float()
    train(lib, model, optimizer, 2)
    return model


def two_optimizers(lib):
    model = make_model(lib)
    first = lib.optim.SGD(model[0].parameters(), lr=0.05, momentum=0.9)
    second = lib.optim.Adam(model[2].parameters(), lr=0.05)
    criterion = lib.nn.CrossEntropyLoss()
    for i in range(4):
        x, y = batch(lib, i)
        first.zero_grad()
        second.zero_grad()
        criterion(model(x), y).backward()
        (first if i % 2 else second).step()
    return model


def deep_copy(lib):
    model = make_model(lib)
    optimizer = lib.optim.Adam(model.parameters(), lr=0.05)
    train(lib, model, optimizer, 2)
    twin = copy.deepcopy(model)
    train(lib, model, optimizer, 2, first=50)
    train(lib, twin, lib.optim.Adam(twin.parameters(), lr=0.05), 3)
    return twin


def load_state(lib):
    model, other = make_model(lib), make_model(lib)
    optimizer = lib.optim.Adam(model.parameters(), lr=0.05)
    train(lib, model, optimizer, 3)
    saved = optimizer.state_dict()
    again = lib.optim.Adam(other.parameters(), lr=0.5)
    train(lib, other, again, 1)
    other.load_state_dict(model.state_dict())
    again.load_state_dict(saved)
    train(lib, other, again, 3)
    return other


def gradient_none(lib):
    model = make_model(lib)
    optimizer = lib.optim.Adam(model.parameters(), lr=0.05)
    train(lib, model, optimizer, 2)
    criterion = lib.nn.CrossEntropyLoss()
    for i in range(3):
        x, y = batch(lib, i)
        criterion(model(x), y).backward()
        model[0].bias.grad = None
        optimizer.step()
        for p in model.parameters():
            p.grad = None
    return model


def tied(lib):
    model = make_model(lib, (4, 4, 4))
    model[2].weight = model[0].weight
    optimizer = lib.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    assert len(list(model.parameters())) == 3
    criterion = lib.nn.CrossEntropyLoss()
    for i in range(3):
        x, y = batch(lib, i, width=4, classes=4)
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    return model


def accumulated(lib):
    model = lib.wrap(make_model(lib))
    optimizer = lib.optim.SGD(model.parameters(), lr=0.1)
    criterion = lib.nn.CrossEntropyLoss()
    for i in range(3):
        optimizer.zero_grad()
        for m in range(4):
            x, y = batch(lib, 10 * i + m)
            (criterion(model(x), y) / 4).backward()
        optimizer.step()
    return model


def no_zero_grad(lib):
    """Gradients that nobody clears add up over optimizer steps."""
    model = lib.wrap(make_model(lib))
    optimizer = lib.optim.SGD(model.parameters(), lr=0.05)
    criterion = lib.nn.CrossEntropyLoss()
    for i in range(3):
        x, y = batch(lib, i)
        criterion(model(x), y).backward()
        optimizer.step()
    return model


def two_losses(lib):
    model = lib.wrap(make_model(lib))
    optimizer = lib.optim.Adam(model.parameters(), lr=0.05)
    for i in range(3):
        x, y = batch(lib, i)
        optimizer.zero_grad()
        lib.nn.CrossEntropyLoss()(model(x), y).backward()
        lib.nn.MSELoss()(model(x), lib.module.zeros(8, 3)).backward()
        optimizer.step()
    return model


def unused_parameter(lib):
    model = lib.wrap(make_model(lib))
    inner = model if lib is Torch else model.module
    optimizer = lib.optim.Adam(model.parameters(), lr=0.05, weight_decay=0.1)
    criterion = lib.nn.CrossEntropyLoss()
    for i in range(3):
        x, y = batch(lib, i, width=5)
        optimizer.zero_grad()
        criterion(inner[2](x), y).backward()
        optimizer.step()
    return model


def gan(lib):
    """Generator and discriminator, two wrappers, two optimizers, gradients through one into the other."""
    generator, critic = lib.wrap(make_model(lib, (4, 5, 6))), lib.wrap(make_model(lib, (6, 5, 1)))
    opt_g = lib.optim.Adam(generator.parameters(), lr=0.02, betas=(0.5, 0.999))
    opt_c = lib.optim.Adam(critic.parameters(), lr=0.02, betas=(0.5, 0.999))
    criterion = lib.nn.BCEWithLogitsLoss()
    ones, zeros = lib.module.ones(8, 1), lib.module.zeros(8, 1)
    for i in range(4):
        real, noise = batch(lib, i)[0], batch(lib, 100 + i, width=4)[0]
        opt_c.zero_grad()
        criterion(critic(real), ones).backward()
        fake = generator(noise)
        criterion(critic(fake.detach()), zeros).backward()
        opt_c.step()
        opt_g.zero_grad()
        criterion(critic(fake), ones).backward()
        opt_g.step()
    return lib.nn.ModuleList([generator, critic]) if lib is Torch else [generator, critic]


CASES = [
    freeze_and_unfreeze, frozen_from_the_start, replaced_head, replaced_head_with_wrapper, wrapper_before_optimizer,
    wrapper_after_optimizer, to_device_and_dtype, half_and_back, two_optimizers, deep_copy, load_state, gradient_none, tied,
    accumulated, no_zero_grad, two_losses, unused_parameter, gan,
]  # fmt: skip


def parameters_of(model):
    models = model if isinstance(model, list) else [model]
    return [p for m in models for p in m.parameters()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_life_cycle(case):
    phalanx.init()
    expected, got = parameters_of(case(Torch)), parameters_of(case(Ours))
    assert len(expected) == len(got) > 0
    for theirs, ours in zip(expected, got, strict=True):
        tolerance = 2e-3 if case is half_and_back else 2e-5
        np.testing.assert_allclose(Ours.array(ours), Torch.array(theirs), rtol=tolerance, atol=tolerance)


def test_layout():
    phalanx.init()
    model = make_model(Ours)
    (store,) = pack(model.parameters())
    parameters = list(model.parameters())
    assert store.parameters == parameters[::-1], "the last registered parameter is first"
    assert all(offset * 4 % 256 == 0 for offset in store.offsets)
    assert all(p.array.ctypes.data % 256 == 0 for p in parameters)
    assert pack(model.parameters())[0] is store
    x, y = batch(Ours)
    Ours.nn.CrossEntropyLoss()(model(x), y).backward()
    for p in parameters:
        assert p.grad.array.base is store.gradient.base, "a gradient lies in its slot"


def test_state_moves_with_the_parameters():
    model = make_model(Ours)
    optimizer = phalanx.optim.Adam(model[2].parameters())
    train(Ours, model, optimizer, 2)
    before = {name: array.copy() for name, array in named_state(model, optimizer).items()}
    (store,) = pack(model.parameters())
    after = named_state(model, optimizer)
    assert all(is_packed(p) and p._store is store for p in model.parameters())
    assert before.keys() == after.keys() and before
    assert all((before[name] == after[name]).all() for name in before)
    assert len({id(p._store) for p in model.parameters()}) == 1


def named_state(model, optimizer):
    return optimizer.state_arrays({p: n for n, p in model.named_parameters()})


def test_grid_and_tree():
    assert [hi - lo for lo, hi in chunk_grid(2 * CHUNK + 1)] == [CHUNK, CHUNK, 1]
    assert tree_sum([1e16, 1.0, -1e16, 1.0]) == (1e16 + 1.0) + (-1e16 + 1.0)
