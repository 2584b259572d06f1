"""Tensors and modules on devices: how they get there and back, what they say, what they refuse."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.errors import DeviceError, DTypeError, PhalanxError

NUMBERS = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_there_and_back(device: str) -> None:
    x = phalanx.tensor(NUMBERS)
    for there in (
        x.to(device),
        x.cuda(),
        x.cuda(0),
        x.to(phalanx.device("cuda", 0)),
        x.to(0),
        x.to(device, phalanx.float64),
    ):
        assert (there.is_cuda, there.device, str(there.device)) == (True, "cuda:0", "cuda:0")
        assert not x.is_cuda
        np.testing.assert_array_equal(there.cpu().numpy(), NUMBERS)
        assert there.to(device) is there
    assert x.to(x.to(device)).is_cuda
    assert x.to(device).to(x).device == "cpu"
    leaf = phalanx.tensor(NUMBERS, requires_grad=True)
    (leaf.to(device) * 2).sum().backward()
    assert leaf.grad.device == "cpu"
    np.testing.assert_array_equal(leaf.grad.numpy(), np.full((3, 4), 2, np.float32))


def test_the_host_must_be_asked_for(device: str) -> None:
    there = phalanx.tensor(NUMBERS, device=device)
    with pytest.raises(DTypeError, match=r"on the GPU: use \.cpu\(\)\.numpy\(\)"):
        there.numpy()
    with pytest.raises(DTypeError, match=r"\.cpu\(\)"):
        np.asarray(there)
    np.testing.assert_array_equal(there.numpy(force=True), NUMBERS)
    assert there[1, 2].item() == 6.0
    assert float(there.sum()) == 66.0
    assert int(there[0, 3]) == 3
    assert there.tolist() == NUMBERS.tolist()
    assert bool(there[0, 1])
    assert 5.0 in there
    assert f"{there[0, 2]:.2f}" == "2.00"


def test_what_is_printed_says_where(device: str) -> None:
    assert repr(phalanx.tensor([1.0, 2.0], device=device)) == "tensor([1., 2.], device='cuda:0')"
    assert (
        repr(phalanx.tensor([1.0], device=device, requires_grad=True))
        == "tensor([1.], device='cuda:0', requires_grad=True)"
    )
    assert (
        repr(phalanx.tensor([1.0], device=device, requires_grad=True) * 2)
        == "tensor([2.], device='cuda:0', grad_fn=<mul>)"
    )
    assert "device='cuda:0'" in repr(nn.Parameter(phalanx.zeros(1, device=device)))


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: phalanx.zeros(2, 3, **o), lambda **o: phalanx.ones(2, 3, **o), lambda **o: phalanx.full((2, 3), 7.0, **o),
        lambda **o: phalanx.eye(3, **o), lambda **o: phalanx.arange(5, **o), lambda **o: phalanx.linspace(0, 1, 5, **o),
        lambda **o: phalanx.logspace(0, 1, 5, **o), lambda **o: phalanx.tensor([1, 2], **o), lambda **o: phalanx.as_tensor([1.5], **o),
        lambda **o: phalanx.scalar_tensor(2.0, **o), lambda **o: phalanx.rand(7, **o), lambda **o: phalanx.randn(7, **o),
        lambda **o: phalanx.rand(7, dtype=phalanx.float64, **o), lambda **o: phalanx.randint(0, 9, (7,), **o),
        lambda **o: phalanx.randperm(7, **o), lambda **o: phalanx.rand(3, generator=phalanx.Generator().manual_seed(4), **o),
    ],
)  # fmt: skip
def test_making(make: Any, device: str) -> None:
    phalanx.manual_seed(5)
    expected = make()
    phalanx.manual_seed(5)
    found = make(device=device)
    assert found.device == device
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.cpu().numpy(), expected.numpy())


@pytest.mark.parametrize("name", ["zeros_like", "ones_like", "empty_like", "rand_like", "randn_like"])
def test_making_alike(name: str, device: str) -> None:
    there = phalanx.zeros(3, 2, device=device)
    assert getattr(phalanx, name)(there).device == device
    assert getattr(phalanx, name)(there, device="cpu").device == "cpu"
    assert phalanx.full_like(there, 2.0).device == there.new_zeros(2).device == there.new_tensor([1.0]).device == device
    assert there.new_ones(2, device="cpu").device == "cpu"


def test_drawing_from_values_on_the_device(device: str) -> None:
    weights = phalanx.tensor([[0.0, 3.0, 1.0], [1.0, 0.0, 2.0]])
    for draw in (
        lambda w: phalanx.bernoulli(w / 3),
        lambda w: phalanx.multinomial(w, 4, replacement=True),
        lambda w: phalanx.multinomial(w, 2),
        lambda w: phalanx.normal(w, 1.0),
    ):
        phalanx.manual_seed(2)
        expected = draw(weights)
        phalanx.manual_seed(2)
        found = draw(weights.to(device))
        assert found.device == device
        np.testing.assert_allclose(found.cpu().numpy(), expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [nn.Dropout(0.4), nn.Dropout2d(0.4), nn.AlphaDropout(0.4), nn.RReLU(), nn.FeatureAlphaDropout(0.3)],
    ids=repr,
)
def test_draws_of_layers_are_the_cpus(layer: nn.Module, device: str) -> None:
    """The same bits of Philox, whoever computes."""
    x = np.random.default_rng(0).standard_normal((6, 5, 4, 3)).astype(np.float32)
    results = []
    for place in ("cpu", device):
        phalanx.manual_seed(8)
        with phalanx.core.rng.shard_scope(3, 1):
            results.append([layer(phalanx.tensor(x).to(place)).cpu().numpy() for _ in range(2)])
    for expected, found in zip(*results, strict=True):
        np.testing.assert_array_equal(found == 0, expected == 0)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_initial_values_are_the_cpus(device: str) -> None:
    models = []
    for options in ({}, {"device": device}):
        phalanx.manual_seed(1)
        models.append(
            nn.Sequential(
                nn.Linear(5, 4, **options),
                nn.Conv2d(3, 4, 3, **options),
                nn.BatchNorm2d(4, **options),
                nn.LSTM(3, 4, **options),
            )
        )
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        assert b.device == device
        np.testing.assert_array_equal(a.numpy(), b.cpu().numpy())
    for name in ("normal_", "kaiming_uniform_", "xavier_normal_", "orthogonal_", "trunc_normal_", "eye_"):
        values = []
        for place in ("cpu", device):
            phalanx.manual_seed(1)
            weight = nn.Parameter(phalanx.zeros(6, 4, device=place))
            getattr(nn.init, name)(weight)
            assert weight.device == place
            values.append(weight.detach().cpu().numpy())
        np.testing.assert_array_equal(values[0], values[1])


def model() -> nn.Module:
    phalanx.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def step(net: nn.Module, optimizer: Any, device: str, seed: int = 0) -> float:
    random = np.random.default_rng(seed)
    x, y = random.standard_normal((8, 4)).astype(np.float32), random.integers(0, 3, 8)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(net(phalanx.tensor(x).to(device)), phalanx.tensor(y).to(device))
    loss.backward()
    optimizer.step()
    return float(loss.item())


def values(net: nn.Module) -> list[np.ndarray]:
    return [t.detach().cpu().numpy() for t in net.state_dict().values()]


def test_a_module_moves_within_training(device: str) -> None:
    """There, back and there again, with the optimizer's state: what it had learnt is kept."""
    still, moving = model(), model()
    fixed, moved = optim.AdamW(still.parameters(), lr=0.1), optim.AdamW(moving.parameters(), lr=0.1)
    for turn, place in enumerate(("cpu", device, device, "cpu", device)):
        moving.to(place)
        assert all(t.device == place for t in moving.state_dict().values())
        assert step(moving, moved, place, turn) == pytest.approx(step(still, fixed, "cpu", turn), rel=1e-4)
    for a, b in zip(values(moving), values(still), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_states_load_from_either(device: str) -> None:
    here, there = model(), model().to(device)
    trained = optim.Adam(there.parameters(), lr=0.1)
    step(there, trained, device)
    here.load_state_dict(there.state_dict())
    assert all(t.device == "cpu" for t in here.state_dict().values())
    fresh = model().to(device)
    fresh.load_state_dict(here.state_dict())
    assert all(t.device == device for t in fresh.state_dict().values())
    for a, b in zip(values(there), values(fresh), strict=True):
        np.testing.assert_array_equal(a, b)
    one, two = optim.Adam(here.parameters()), optim.Adam(fresh.parameters())
    one.load_state_dict(trained.state_dict())
    two.load_state_dict(one.state_dict())
    assert step(here, one, "cpu", 4) == pytest.approx(step(fresh, two, device, 4), rel=1e-4)
    for a, b in zip(values(here), values(fresh), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_copies(device: str) -> None:
    net = model().to(device)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    step(net, optimizer, device)
    twin = copy.deepcopy(net)
    assert all(t.device == device for t in twin.state_dict().values())
    assert all(p.grad is not None and p.grad.device == device for p in twin.parameters())
    before = values(twin)
    step(net, optimizer, device)
    for a, b in zip(values(twin), before, strict=True):
        np.testing.assert_array_equal(a, b)
    tensor = phalanx.tensor(NUMBERS, device=device)
    assert copy.deepcopy(tensor).device == tensor.clone().device == copy.copy(tensor).device == device
    back = pickle.loads(pickle.dumps(tensor))
    np.testing.assert_array_equal(back.cpu().numpy(), NUMBERS)


def test_checkpoints_cross(device: str, tmp_path: Path) -> None:
    """Saved on the device, resumed on the CPU, saved there, resumed on the device."""
    expected, losses = [], []
    net = model()
    optimizer = optim.Adam(net.parameters(), lr=0.1)
    for turn in range(3):
        expected.append(step(net, optimizer, "cpu", turn))
    for turn, place in enumerate((device, "cpu", device)):
        net = model().to(place)
        optimizer = optim.Adam(net.parameters(), lr=0.1)
        checkpoints = phalanx.Checkpointer(tmp_path, model=net, optimizer=optimizer, every=1)
        assert (checkpoints.resume() or 0) == turn
        assert all(t.device == place for t in net.state_dict().values())
        losses.append(step(net, optimizer, place, turn))
        checkpoints.after_step()
    assert losses == pytest.approx(expected, rel=1e-4)


LOSSES: list[Any] = [
    lambda x, y: nn.functional.cross_entropy(x, y), lambda x, y: nn.functional.nll_loss(x.log_softmax(1), y),
    lambda x, y: nn.functional.mse_loss(x, y.float().unsqueeze(1).expand(-1, 3)), lambda x, y: nn.functional.l1_loss(x[:, 0], y.float()),
    lambda x, y: nn.functional.binary_cross_entropy_with_logits(x[:, 0], y.float()), lambda x, y: x + y.unsqueeze(1),
    lambda x, y: nn.functional.smooth_l1_loss(x[:, 0], y.float()), lambda x, y: nn.functional.kl_div(x.log_softmax(1), y.float().unsqueeze(1).expand(-1, 3)),
    lambda x, y: nn.functional.linear(x, y.float().reshape(1, -1)[:, :3]), lambda x, y: x @ y.float()[:3], lambda x, y: phalanx.cat([x[:, 0], y.float()]),
    lambda x, y: phalanx.where(y.unsqueeze(1) > 0, x, x), lambda x, y: nn.functional.cosine_embedding_loss(x, x, y * 2.0 - 1),
]  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_two_devices_in_one_call(loss: Any, turned: bool, device: str) -> None:
    """One clear error that names both, whichever is where."""
    x, y = phalanx.ones(4, 3, requires_grad=True), phalanx.tensor([0, 1, 1, 0])
    x, y = (x.to(device), y) if not turned else (x, y.to(device))
    with pytest.raises(DeviceError, match=r"one device, got .*cpu.*\.to\(") as caught:
        loss(x, y)
    assert "cuda:0" in str(caught.value)
    assert "cpu" in str(caught.value)


def test_a_layer_and_its_input_on_two_devices(device: str) -> None:
    x = phalanx.ones(2, 4)
    with pytest.raises(DeviceError, match=r"cpu.*cuda:0|cuda:0.*cpu"):
        nn.Linear(4, 3).to(device)(x)
    with pytest.raises(DeviceError, match=r"cpu.*cuda:0|cuda:0.*cpu"):
        nn.Linear(4, 3)(x.to(device))
    with pytest.raises(DeviceError, match=r"cpu.*cuda:0|cuda:0.*cpu"):
        nn.Embedding(4, 3).to(device)(phalanx.tensor([1, 2]))
    with pytest.raises(DeviceError, match=r"cpu.*cuda:0|cuda:0.*cpu"):
        nn.Conv2d(1, 2, 3).to(device)(phalanx.ones(1, 1, 4, 4))
    with pytest.raises(DeviceError, match=r"cpu.*cuda:0|cuda:0.*cpu"):
        nn.BatchNorm1d(4).to(device)(x)
    with pytest.raises(DeviceError, match=r"cpu.*cuda:0|cuda:0.*cpu"):
        nn.LayerNorm(4).to(device)(x)


def test_single_numbers_of_the_host_are_taken(device: str) -> None:
    """As in PyTorch: a 0-d tensor of the CPU goes along; its gradient comes back to it."""
    x, scale = phalanx.tensor(NUMBERS, device=device), phalanx.tensor(2.0, requires_grad=True)
    y = x * scale + phalanx.tensor(1.0)
    assert y.device == device
    y.sum().backward()
    assert scale.grad.device == "cpu"
    assert scale.grad.item() == 66.0
    assert (x * np.float32(2)).device == (2 - x).device == (x > phalanx.tensor(3)).device == device


def test_positions_may_come_from_the_host(device: str) -> None:
    x = phalanx.tensor(NUMBERS, device=device, requires_grad=True)
    rows = phalanx.tensor([2, 0, 2])
    for key in (rows, [2, 0, 2], np.array([2, 0, 2]), (rows, phalanx.tensor([1, 1, 3])), rows.to(device)):
        picked = x[key]
        assert picked.device == device
        x.grad = None
        picked.sum().backward()
        assert x.grad.device == device
        there = phalanx.tensor(NUMBERS, requires_grad=True)
        there[
            tuple(k.cpu() for k in key)
            if isinstance(key, tuple)
            else key.cpu()
            if isinstance(key, phalanx.Tensor)
            else key
        ].sum().backward()
        np.testing.assert_array_equal(x.grad.cpu().numpy(), there.grad.numpy())
    y = phalanx.tensor(NUMBERS, device=device)
    y[rows] = 5.0
    y[0, 1] = -1.0
    y[:, 3] = phalanx.tensor([1.0, 2.0, 3.0], device=device)
    y[y > 4.5] = 0.0
    expected = NUMBERS.copy()
    expected[[2, 0]] = 5.0
    expected[0, 1] = -1.0
    expected[:, 3] = [1, 2, 3]
    expected[expected > 4.5] = 0.0
    np.testing.assert_array_equal(y.cpu().numpy(), expected)
    with pytest.raises(PhalanxError, match=r"cpu.*cuda:0|cuda:0.*cpu"):
        y[:, 3] = phalanx.tensor([1.0, 2.0, 3.0])


def test_changes_in_place(device: str) -> None:
    y = phalanx.tensor(NUMBERS, device=device)
    y += 1
    y.mul_(2).sub_(phalanx.ones(4, device=device)).clamp_(0, 15)
    y.index_add_(0, phalanx.tensor([0, 0], device=device), phalanx.ones(2, 4, device=device))
    y.zero_() if False else y.fill_(2.0).add_(1.0)
    assert y.device == device
    np.testing.assert_array_equal(y.cpu().numpy(), np.full((3, 4), 3, np.float32))
    phalanx.manual_seed(3)
    y.normal_().uniform_()
    assert y.device == device


def test_dtypes_on_the_device(device: str) -> None:
    x = phalanx.tensor([1.5, -2.0, 0.0], device=device)
    for name in ("float16", "float64", "int64", "int32", "uint8", "bool", "bfloat16"):
        assert x.abs().to(name).device == device
        assert str(x.abs().to(name).dtype) == name
    assert (x.double() + x).dtype == phalanx.float64
    assert (x.half() * 2.0).dtype == phalanx.float16
    assert (x.bfloat16() * 2.0).dtype == phalanx.bfloat16


def test_another_gpu_than_the_current_one(device: str, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module may lie there and come back; computing there wants that GPU to be the thread's."""
    if phalanx.cuda.device_count() < 2:
        pytest.skip("one GPU")
    net = model().to("cuda:1")
    assert all(p.device == "cuda:1" for p in net.parameters())
    x = phalanx.ones(2, 4, device="cuda:1")
    for call in (lambda: net[0](x), lambda: x + x, lambda: nn.functional.softmax(x, dim=1), lambda: x.mean()):
        with pytest.raises(
            DeviceError, match=r"lie on cuda:1, and this thread works on cuda:0; phalanx\.cuda\.set_device\(1\)"
        ):
            call()
    with pytest.raises(DeviceError, match=r"cuda:0.*cuda:1|cuda:1.*cuda:0"):
        x + phalanx.ones(2, 4, device="cuda:0")
    before = phalanx.cuda.current_device()
    try:
        phalanx.cuda.set_device(1)
        optimizer = optim.Adam(net.parameters(), lr=0.1)
        losses = [step(net, optimizer, "cuda:1", turn) for turn in range(3)]
        assert all(p.device == "cuda:1" for p in net.parameters())
    finally:
        phalanx.cuda.set_device(before)
    still = model()
    fixed = optim.Adam(still.parameters(), lr=0.1)
    assert losses == pytest.approx([step(still, fixed, "cpu", turn) for turn in range(3)], rel=1e-4)
