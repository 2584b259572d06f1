"""Captured steps under shards and on several ranks: listeners, statistics and the sum over ranks stay live; equal bits."""

from __future__ import annotations

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.hashing import hash_array
from phalanx.data import DataLoader, TensorDataset
from phalanx.dist.communicators.threads import run_threads

F = nn.functional
SAMPLES, FEATURES, CLASSES = 62, 12, 4
pytestmark = pytest.mark.filterwarnings("ignore:capture. the step stays eager")


def data():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((SAMPLES, FEATURES)).astype(np.float32)
    return TensorDataset(phalanx.tensor(x), phalanx.tensor(rng.integers(0, CLASSES, SAMPLES)))


def net(kind=nn.BatchNorm1d):
    return nn.Sequential(nn.Linear(FEATURES, 16), kind(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, CLASSES))


def digest(model):
    return [(name, hash_array(tensor.array)) for name, tensor in model.state_dict().items()]


def sharded(capture, epochs=34, together=False, kind=nn.BatchNorm1d, **options):
    """200 steps in shards: what is captured is forward and backward of a shard."""
    model = phalanx.DataParallel(net(kind), bucket_bytes=256, **options)
    optimizer = optim.Adam(model.parameters(), lr=0.01)

    def pass_(x, y):
        loss = F.cross_entropy(model(x), y, ignore_index=1)
        loss.backward()
        return loss

    run = phalanx.capture(pass_) if capture else pass_
    losses = []
    for _ in range(epochs):
        for step in DataLoader(data(), batch_size=12, shuffle=True).steps():
            optimizer.zero_grad()
            if together:
                losses += [loss.item() for loss in phalanx.run_shards(run, step)]
            else:
                losses += [run(x, y).item() for x, y in step]
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            losses.append(model.step_loss)
    return digest(model), losses, run.replays if capture else 0, run.why if capture else None


def whole(capture, epochs=34, **options):
    """The plain loop of the fast mode: the whole step is captured."""
    model = phalanx.DataParallel(net(), bucket_bytes=256, **options)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.99)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        return loss

    run = phalanx.capture(step) if capture else step
    losses = []
    for _ in range(epochs):
        for x, y in DataLoader(data(), batch_size=12, shuffle=True):
            losses.append((run(x, y).item(), model.step_loss))
    return digest(model), losses, run.replays if capture else 0, run.why if capture else None


def on_ranks(size, shards, function):
    def main():
        phalanx.init(shards=shards, seed=5)
        try:
            return function()
        finally:
            phalanx.shutdown()

    return run_threads(main, size, timeout_s=60)


def compare(size, shards, function, least, **options):
    expected = on_ranks(size, shards, lambda: function(False, **options))
    got = on_ranks(size, shards, lambda: function(True, **options))
    for rank, ((bits, losses, _, _), (bits_, losses_, replays, why)) in enumerate(zip(expected, got, strict=True)):
        assert losses_ == losses and bits_ == bits, f"rank {rank}"
        assert replays >= least, why
    return got


def test_four_shards_alone():
    alone = compare(1, 4, sharded, 700)
    two = compare(2, 4, sharded, 330)
    assert alone[0][0] == two[0][0] == two[1][0]


@pytest.mark.parametrize("overlap", [True, False])
def test_the_plain_loop_on_two_ranks(overlap):
    compare(2, None, whole, 190, overlap=overlap)


def test_alone_without_shards():
    compare(1, None, whole, 190)


@pytest.mark.parametrize("options", [{"shard": "optimizer"}, {"shard": "gradients"}, {"compression": "int8"}])
def test_spread_and_compressed(options):
    compare(2, None, whole, 20, epochs=5, **options)
    compare(2, 4, sharded, 20, epochs=5, **options)


def test_shards_under_way_together():
    compare(2, 4, sharded, 1, epochs=8, together=True)


def test_shards_that_meet_stay_eager():
    got = compare(2, 4, sharded, 0, epochs=3, together=True, kind=nn.SyncBatchNorm)
    assert all(replays == 0 for _, _, replays, _ in got)


def test_a_loss_that_is_not_finite_is_diagnosed_in_a_replay():
    def main():
        phalanx.init(shards=None, seed=5)
        try:
            model = phalanx.DataParallel(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)))
            optimizer = optim.SGD(model.parameters(), lr=0.1)

            def step(x, y):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()

            run = phalanx.capture(step)
            for _ in range(4):
                run(phalanx.ones(2, 3), phalanx.tensor([0, 1]))
            assert run.replays == 2
            run(phalanx.full((2, 3), float("nan")), phalanx.tensor([0, 1]))
        finally:
            phalanx.shutdown()

    with pytest.raises(phalanx.core.errors.NonFiniteError, match=r"the first value that is not finite is in"):
        run_threads(main, 1, timeout_s=20)
