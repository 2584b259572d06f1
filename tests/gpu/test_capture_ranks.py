"""Captured steps on the device under shards and on several ranks: sums, statistics and clipping stay live; equal bits."""

from __future__ import annotations

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.backend import to_host
from phalanx.data import DataLoader, TensorDataset
from phalanx.dist.communicators.threads import run_threads

F = nn.functional
SAMPLES, FEATURES, CLASSES = 62, 12, 4


def data():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((SAMPLES, FEATURES)).astype(np.float32)
    return TensorDataset(phalanx.tensor(x), phalanx.tensor(rng.integers(0, CLASSES, SAMPLES)))


def net():
    return nn.Sequential(
        nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, CLASSES)
    )


def digest(model):
    return [(name, to_host(tensor.array).tobytes()) for name, tensor in model.state_dict().items()]


def sharded(capture, epochs=3, **options):
    """What is captured is forward and backward of a shard."""
    model = phalanx.DataParallel(net().cuda(), bucket_bytes=256, **options)
    optimizer = optim.Adam(model.parameters(), lr=0.01)

    def learn(x, y):
        loss = F.cross_entropy(model(x), y, ignore_index=1)
        loss.backward()
        return loss

    run = phalanx.capture(learn) if capture else learn
    losses = []
    for _ in range(epochs):
        for step in DataLoader(data(), batch_size=12, shuffle=True).steps():
            optimizer.zero_grad()
            losses += [run(x.cuda(), y.cuda()).item() for x, y in step]
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            losses.append(model.step_loss)
    return digest(model), losses, run if capture else None


def whole(capture, epochs=3, **options):
    """The plain loop of the fast mode: the whole step is captured."""
    model = phalanx.DataParallel(net().cuda(), bucket_bytes=256, **options)
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
            losses.append((run(x.cuda(), y.cuda()).item(), model.step_loss))
    return digest(model), losses, run if capture else None


def on_ranks(size, shards, function):
    def main():
        phalanx.init(shards=shards, seed=5)
        phalanx.kernels.choose("fast")
        try:
            return function()
        finally:
            phalanx.shutdown()

    return run_threads(main, size, timeout_s=60)


def compare(size, shards, function, least, **options):
    expected = on_ranks(size, shards, lambda: function(False, **options))
    got = on_ranks(size, shards, lambda: function(True, **options))
    for rank, ((bits, losses, _), (bits_, losses_, step)) in enumerate(zip(expected, got, strict=True)):
        assert losses_ == losses and bits_ == bits, f"rank {rank}"
        assert step.graphs >= least, step.why
    return got


def test_four_shards_alone_and_on_two_ranks(device):
    alone = compare(1, 4, sharded, 40)
    two = compare(2, 4, sharded, 10)
    assert alone[0][0] == two[0][0] == two[1][0]


def in_parts(capture, epochs=3):
    """Two passes in each shard: the first one forgets the gradients of the shard before, the second one adds."""
    model = phalanx.DataParallel(net().cuda())
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def learn(x, y):
        loss = F.cross_entropy(model(x), y)
        (loss / 2).backward()
        return loss

    run = phalanx.capture(learn) if capture else learn
    for _ in range(epochs):
        for step in DataLoader(data(), batch_size=16, shuffle=True, drop_last=True).steps():
            optimizer.zero_grad()
            for x, y in step:
                for part in range(2):
                    run(x[part * 2 : part * 2 + 2].cuda(), y[part * 2 : part * 2 + 2].cuda())
            optimizer.step()
    return digest(model), [model.step_loss], run if capture else None


def test_parts_of_shards(device):
    compare(1, 4, in_parts, 60)


def test_alone_without_shards(device):
    compare(1, None, whole, 10)


@pytest.mark.parametrize("overlap", [True, False])
def test_two_ranks_whose_sums_overlap_backward(device, overlap):
    got = compare(2, None, whole, 10, overlap=overlap)
    for _, _, step in got:
        pieces = next(v.graphs.pieces for known in step._shapes.values() for v in known.variants)
        kinds = [piece.kind for piece in pieces]
        backward = kinds[kinds.index("begin") : kinds.index("end")]
        assert (backward.count("graph") > 2) == overlap and "graph" in backward, kinds


@pytest.mark.parametrize("options", [{"shard": "optimizer"}, {"shard": "gradients"}])
def test_spread_over_ranks(device, options):
    compare(2, None, whole, 0, epochs=2, **options)
    compare(2, 4, sharded, 0, epochs=2, **options)
