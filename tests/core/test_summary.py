"""phalanx.summary: the table, its numbers beside the model's own, the plan of a DataParallel, and no trace in the model."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core import rng
from phalanx.core.errors import DTypeError, RangeError
from phalanx.dist.communicators.threads import run_threads


class Net(nn.Module):
    """What a table must tell of: parameters of its own, frozen and tied ones, a layer that is called twice, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(phalanx.ones(1))
        self.embed = nn.Embedding(10, 8)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Sequential(nn.ReLU(), nn.Dropout(0.5)))
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight
        self.body[0].requires_grad_(False)

    def forward(self, x):
        h = self.embed(x)
        h = self.body(h.mean(dim=1)) + self.lstm(h)[0].mean() * phalanx.randn(1)
        return self.head(self.body[2](h)) * self.scale


TABLE = """\
Net
┌───────────────────┬─────────────────────────────────┬────────────┬────────────────┐
│ Layer (type)      │ Output shape                    │ Parameters │ Note           │
├───────────────────┼─────────────────────────────────┼────────────┼────────────────┤
│ Net               │ (2, 10)                         │          1 │                │
│ embed (Embedding) │ (2, 5, 8)                       │         80 │                │
│ body (Sequential) │ (2, 8)                          │            │                │
│   0 (Linear)      │ (2, 8)                          │         72 │ frozen         │
│   1 (BatchNorm1d) │ (2, 8)                          │         16 │                │
│   2 (Sequential)  │ (2, 8)                          │            │ called 2 times │
│     0 (ReLU)      │ (2, 8)                          │            │ called 2 times │
│     1 (Dropout)   │ (2, 8)                          │            │ called 2 times │
│ lstm (LSTM)       │ (2, 5, 6), (1, 2, 6), (1, 2, 6) │        384 │                │
│ head (Linear)     │ (2, 10)                         │            │ tied           │
└───────────────────┴─────────────────────────────────┴────────────┴────────────────┘
 Parameters: 553 (2.2 KB), trained: 481, frozen: 72
 Buffers: 17 (72 B)
 Memory of a rank: parameters 2.2 KB, gradients 1.9 KB, optimizer state 3.8 KB
 Gradients summed over ranks in each step: 1.9 KB"""


def test_the_table() -> None:
    model = Net()
    optimizer = optim.Adam(model.parameters())
    found = phalanx.summary(model, phalanx.zeros(2, 5).long(), optimizer=optimizer)
    assert str(found) == repr(found)
    for given in (found, nn.summary(model, (2, 5), optimizer=optimizer, dtype=phalanx.int64)):
        lines = str(given).splitlines()
        assert lines.pop(-2).startswith(" Peak memory of a step on the example: ")
        assert "\n".join(lines) == TABLE


def test_its_numbers_are_the_models() -> None:
    model = Net().double()
    optimizer = optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    found = phalanx.summary(model, optimizer=optimizer)
    parameters = list(model.parameters())
    assert found.parameters == sum(p.numel() for p in parameters) == sum(row.parameters for row in found.rows)
    assert found.trainable == found.parameters - sum(row.frozen for row in found.rows) == 481
    assert found.parameter_nbytes == 8 * found.parameters and found.gradient_nbytes == 8 * found.trainable
    assert found.reduced_nbytes == 8 * found.trainable and found.optimizer_nbytes == 8 * found.trainable
    assert "Output shape" not in str(found) and "Summed" not in str(found)
    assert phalanx.summary(nn.Linear(3, 2).half()).reduced_nbytes == 32  # summed in float32


def test_depth_adds_up_what_is_below() -> None:
    found = phalanx.summary(Net(), depth=1)
    assert [(row.name, row.parameters, row.note) for row in found.rows] == [
        ("", 1, ""), ("embed", 80, ""), ("body", 88, "partly frozen"), ("lstm", 384, ""), ("head", 0, "tied"),
    ]  # fmt: skip


def test_the_model_is_left_as_it_was() -> None:
    model = Net()
    model.body.eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    phalanx.manual_seed(3)
    phalanx.randn(1)
    key = rng.next_key("user")
    phalanx.manual_seed(3)
    phalanx.randn(1)
    optimizer = optim.Adam(model.parameters())
    gradient = model.embed.weight.grad = phalanx.randn(10, 8, generator=phalanx.Generator().manual_seed(1))
    values = gradient.numpy().copy()
    phalanx.summary(model, (2, 5), dtype=phalanx.int64, optimizer=optimizer)
    assert np.array_equal(model.embed.weight.grad.numpy(), values) and model.scale.grad is None
    assert rng.next_key("user") == key
    assert modes == [module.training for module in model.modules()]
    assert all(np.array_equal(before[name].numpy(), value.numpy()) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(DTypeError, match="Embedding"):
        phalanx.summary(model, (2, 5))
    assert not any(module._forward_hooks for module in model.modules())
    assert modes == [module.training for module in model.modules()]


class Deep(nn.Module):
    """Its activations are of ``size`` bytes each; in training mode it counts, and may refuse."""

    size = 4 * 256 * 256

    def __init__(self, *, refuse: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(256, 256)
        self.register_buffer("calls", phalanx.zeros(1))
        self.register_buffer("mean", phalanx.zeros(256))
        self.refuse = refuse

    def forward(self, x):
        x = self.first(x)
        if self.training:
            self.calls += 1
            with phalanx.no_grad():
                self.mean.copy_(x.mean(dim=0))
            if self.refuse:
                raise RangeError("too few samples")
        for _ in range(10):
            x = x.tanh()
        return {"found": [x, None]}


def test_the_peak_of_a_step_holds_activations_and_what_stays() -> None:
    model = Deep()
    optimizer = optim.Adam(model.parameters())
    found = phalanx.summary(model, (256, 256), optimizer=optimizer)
    assert 11 * Deep.size <= found.passing_nbytes <= 14 * Deep.size  # 10 for tanh, and gradients on their way
    kept = found.parameter_nbytes + found.buffer_nbytes + found.gradient_nbytes + found.optimizer_nbytes
    assert found.peak_nbytes == kept + found.passing_nbytes
    assert model.calls.item() == 0 == model.mean.abs().sum().item() and model.first.weight.grad is None
    assert phalanx.summary(model, (256, 256)).peak_nbytes is None
    assert phalanx.summary(model, optimizer=optimizer).peak_nbytes is None


def test_a_model_that_refuses_the_example_in_training_mode() -> None:
    model = Deep(refuse=True)
    found = phalanx.summary(model, (2, 256), optimizer=optim.SGD(model.parameters(), lr=0.1))
    assert (
        found.peak_nbytes is None
        and "in training mode the model refuses the example: in layer Deep: too few" in str(found)
    )
    assert model.training and model.calls.item() == 0


def test_several_inputs() -> None:
    class Two(nn.Module):
        def forward(self, x, y=None):
            return {"sum": x.sum(dim=0) + y.sum(dim=0), "parts": [x, y]}

    shapes = ((3,), (2, 3), (4, 3))
    for given in (
        [(2, 3), (4, 3)],
        (phalanx.ones(2, 3), np.ones((4, 3), np.float32)),
        {"x": phalanx.ones(2, 3), "y": (4, 3)},
    ):
        assert phalanx.summary(Two(), given).rows[0].shapes == shapes
    wide = nn.Sequential(*[nn.Identity()] * 3)
    assert "…" not in str(phalanx.summary(wide, (1, 2)))
    assert "…" in str(phalanx.summary(Two(), [(2, 3, *[1] * 9), (4, 3, *[1] * 9)]))


def plan(shards: int | None, **options) -> tuple[str, int, int | None]:
    phalanx.init(shards=shards, seed=1)
    try:
        model = phalanx.DataParallel(nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 20)), bucket_bytes=2600, **options)
        found = phalanx.summary(model, (1, 40), optimizer=optim.Adam(model.parameters()))
        assert found.title == "Sequential" and [row.name for row in found.rows] == ["0", "1"]
        return found.plan, found.gradient_nbytes, found.optimizer_nbytes
    finally:
        phalanx.shutdown()


def test_the_plan_of_a_data_parallel() -> None:
    nbytes = 4 * (40 * 30 + 30 + 30 * 20 + 20)
    assert plan(None) == ("; alone and without shards nothing travels", nbytes, 2 * nbytes)
    (one,) = run_threads(lambda: plan(5), 1, timeout_s=20)
    assert one[0].endswith("buckets, 5 shards on 1 rank, rank 0 owns 0 to 4")
    three = run_threads(lambda: plan(5), 3, timeout_s=20)
    assert [p.rpartition(", ")[2] for p, *_ in three] == ["rank 0 owns 0 to 1", "rank 1 owns 2 to 3", "rank 2 owns 4"]
    assert all(p.startswith("; 2 buckets, 5 shards on 3 ranks") for p, *_ in three)
    fast = run_threads(lambda: plan(None), 2, timeout_s=20)
    assert {p for p, *_ in fast} == {"; 2 buckets, 2 ranks, each one shard"}


def test_memory_of_a_rank_that_owns_a_part() -> None:
    nbytes = 4 * (40 * 30 + 30 + 30 * 20 + 20)
    for mode, whole in (("optimizer", True), ("gradients", False)):
        parts = run_threads(lambda m=mode: plan(4, shard=m), 2, timeout_s=20)
        assert all(p.endswith(f'shard="{mode}"') for p, *_ in parts)
        assert sum(state for *_, state in parts) == 2 * nbytes and all(state < 2 * nbytes for *_, state in parts)
        assert sum(gradient for _, gradient, _ in parts) == (2 * nbytes if whole else nbytes)


def test_wrong_use() -> None:
    with pytest.raises(TypeError, match="expects a Module, got list"):
        phalanx.summary([nn.Linear(1, 1)])
    with pytest.raises(RangeError, match="depth is at least 1"):
        phalanx.summary(nn.Linear(1, 1), depth=0)
