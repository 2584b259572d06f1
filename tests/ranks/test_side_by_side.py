"""Replays of shards side by side on several cores, recurrent layers walking together: bits, errors and statistics of the plain loop."""

from __future__ import annotations

import time

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.capture import together
from phalanx.core.errors import NonFiniteError, RangeError
from phalanx.data import DataLoader, TensorDataset
from phalanx.dist import run_shards as under_way
from phalanx.dist import side_by_side
from tests.ranks.test_capture_ranks import digest, on_ranks

F = nn.functional
STEPS, FEATURES, CLASSES = 5, 6, 4


class Recurrent(nn.Module):
    """A recurrent layer that is used twice, so that its weights get two contributions, between layers that draw and count."""

    def __init__(self, kind, **options) -> None:
        super().__init__()
        self.first, self.twice = nn.Linear(FEATURES, 8), kind(8, 8, batch_first=True, **options)
        width = 16 if options.get("bidirectional") else 8
        self.norm, self.back, self.last = nn.BatchNorm1d(width), nn.Linear(width, 8), nn.Linear(width, CLASSES)

    def forward(self, x):
        x = F.dropout(self.first(x), 0.3)
        x, _ = self.twice(x)
        x, _ = self.twice(self.back(x))
        return self.last(self.norm(x.mean(dim=1)))


def images():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(4 * 3 * 4, CLASSES)
    )


MODELS = {
    "lstm": lambda: Recurrent(nn.LSTM),
    "both ways": lambda: Recurrent(nn.LSTM, bidirectional=True, num_layers=2),
    "gru": lambda: Recurrent(nn.GRU),
    "rnn": lambda: Recurrent(nn.RNN),
    "conv": lambda: nn.Sequential(nn.Unflatten(1, (1, STEPS)), images()),
}


def data(samples=60):
    numbers = np.random.default_rng(3)
    x = numbers.standard_normal((samples, STEPS, FEATURES)).astype(np.float32)
    return TensorDataset(x, numbers.integers(0, CLASSES, samples))


def train(name, how, clear=True, epochs=4, batch=12, **options):
    """``how``: "loop", "eager" (together in threads) or "replay"."""
    model = phalanx.DataParallel(MODELS[name](), bucket_bytes=512, **options)
    optimizer = optim.Adam(model.parameters(), lr=0.01)

    def shard(x, y):
        loss = F.cross_entropy(model(x), y, ignore_index=1)
        loss.backward()
        return loss

    run = phalanx.capture(shard) if how == "replay" else shard
    losses = []
    for _ in range(epochs):
        for step in DataLoader(data(), batch_size=batch, shuffle=True).steps():
            if clear or step.index % 2 == 0:
                optimizer.zero_grad()
            found = [shard(x, y) for x, y in step] if how == "loop" else phalanx.run_shards(run, step)
            losses += [loss.item() for loss in found]
            optimizer.step()
            losses.append(model.step_loss)
    return digest(model), losses, run.replays if how == "replay" else 0


@pytest.fixture
def cores(monkeypatch):
    """As if each rank had three; how often shards went side by side."""
    count = []

    def watched(*args):
        count.append(args)
        return side_by_side.side_by_side(*args)

    monkeypatch.setattr(together, "MUCH", 0)
    monkeypatch.setattr(under_way, "share_of_cores", lambda ranks: 3)
    monkeypatch.setattr(under_way, "side_by_side", watched)
    return count


@pytest.mark.parametrize("kernels", ["reference", "fast"])
@pytest.mark.parametrize("name", MODELS)
def test_bits_of_the_plain_loop(name, kernels, cores):
    before = phalanx.kernels.chosen()
    phalanx.kernels.choose(kernels)
    try:
        expected = on_ranks(1, 4, lambda: train(name, "loop"))
        for ranks in (1, 2):
            cores.clear()
            got = on_ranks(ranks, 4, lambda: train(name, "replay"))
            assert all(bits == expected[0][0] for bits, *_ in got)
            assert len(cores) >= 16 * ranks and all(replays >= 16 * 4 // ranks for *_, replays in got)
            if ranks == 1:
                assert got[0][1] == expected[0][1]
    finally:
        phalanx.kernels.choose(before)


def test_one_core_walks_together_through_recurrent_layers_only(cores, monkeypatch):
    monkeypatch.setattr(under_way, "share_of_cores", lambda ranks: 1)
    expected = on_ranks(1, 4, lambda: train("lstm", "loop"))
    assert on_ranks(1, 4, lambda: train("lstm", "replay"))[0][:2] == expected[0][:2] and len(cores) >= 16
    cores.clear()
    expected = on_ranks(1, 4, lambda: train("conv", "loop"))
    assert on_ranks(1, 4, lambda: train("conv", "replay"))[0][:2] == expected[0][:2] and not cores


@pytest.mark.parametrize(
    "options", [{"shard": "optimizer"}, {"shard": "gradients"}, {"compression": "int8"}, {"overlap": False}]
)
def test_spread_and_compressed(options, cores):
    expected = on_ranks(2, 4, lambda: train("lstm", "loop", epochs=3, **options))
    assert [a[:2] for a in on_ranks(2, 4, lambda: train("lstm", "replay", epochs=3, **options))] == [
        a[:2] for a in expected
    ]
    assert cores


def test_gradients_that_nobody_cleared_and_shards_of_several_sizes(cores):
    expected = on_ranks(1, 4, lambda: train("lstm", "loop", clear=False, batch=11))
    assert on_ranks(1, 4, lambda: train("lstm", "replay", clear=False, batch=11))[0][:2] == expected[0][:2]
    expected = on_ranks(1, 4, lambda: train("lstm", "loop", clear=False))
    assert on_ranks(1, 4, lambda: train("lstm", "replay", clear=False))[0][:2] == expected[0][:2] and cores


def spoiled(spoil, before=lambda x, y: None):
    """Steps of three shards each that replay side by side, then one whose samples are spoiled."""
    model = phalanx.DataParallel(MODELS["lstm"]())
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def shard(x, y):
        F.cross_entropy(model(x), y).backward()

    run = phalanx.capture(shard)
    x, y = data(48)[:]
    x, y = np.array(x), np.array(y)
    spoil(x[36:], y[36:])
    for step in DataLoader(TensorDataset(x, y), batch_size=12).steps():
        optimizer.zero_grad()
        before(x, y)
        phalanx.run_shards(run, step)
        optimizer.step()


def test_what_a_shard_raises_reaches_the_loop(cores):
    def label(x, y):
        y[10] = CLASSES

    def number(x, y):
        x[5] = np.nan

    with pytest.raises(RangeError, match=f"label {CLASSES} "):
        on_ranks(1, 3, lambda: spoiled(label))
    assert len(cores) == 3  # the last of them raised within
    with pytest.raises(NonFiniteError, match="the first value that is not finite is in"):
        on_ranks(1, 3, lambda: spoiled(number))


def test_an_interrupt_while_other_cores_compute_comes_when_they_are_through(cores, monkeypatch):
    """As Ctrl-C does in the main thread, where that waits for them: nobody closes what still runs."""
    compute, through = side_by_side._work_for, []

    def slowly(*args):
        time.sleep(0.1)
        compute(*args)
        through.append(args)

    def interrupted(waiting):
        monkeypatch.undo()
        raise KeyboardInterrupt

    def main():
        def interrupt(x, y):
            if len(cores) == 2:
                monkeypatch.setattr(side_by_side, "_work_for", slowly)
                monkeypatch.setattr(side_by_side, "wait", interrupted)

        with pytest.raises(KeyboardInterrupt):
            spoiled(lambda x, y: None, before=interrupt)
        return len(through)

    assert on_ranks(1, 3, main) == [2]


@pytest.mark.whole
@pytest.mark.parametrize("name", MODELS)
def test_bits_of_the_plain_loop_over_200_steps(name, cores):
    expected = on_ranks(1, 4, lambda: train(name, "loop", epochs=40))
    for ranks in (1, 2):
        got = on_ranks(ranks, 4, lambda: train(name, "replay", epochs=40))
        assert all(bits == expected[0][0] for bits, *_ in got) and len(cores) >= 150
        assert all(replays >= 190 * 4 // ranks for *_, replays in got)
