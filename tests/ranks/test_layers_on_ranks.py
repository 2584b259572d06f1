"""Layers that draw, keep statistics or share windows, and weighted losses: equal bits on any number of ranks, true means."""

from __future__ import annotations

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.data import DataLoader, TensorDataset
from phalanx.nn import functional as F
from tests.ranks.test_data_parallel import digest, on_ranks

SAMPLES, CLASSES = 26, 3


def images() -> TensorDataset:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((SAMPLES, 2, 6, 6)).astype(np.float32)
    labels, weights = rng.integers(0, CLASSES, SAMPLES), rng.random(SAMPLES).astype(np.float32) + 0.1
    return TensorDataset(phalanx.tensor(x), phalanx.tensor(labels), phalanx.tensor(weights))


def draws() -> nn.Module:
    """Every layer that draws or keeps statistics."""
    return nn.Sequential(
        nn.utils.spectral_norm(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.RReLU(),
        nn.Dropout2d(0.2),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(4, 4, 2, stride=2),
        nn.GroupNorm(2, 4),
        nn.PReLU(4),
        nn.Upsample(scale_factor=1.5, mode="bilinear", align_corners=False),
        nn.BatchNorm2d(4),
        nn.FeatureAlphaDropout(0.2),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.RMSNorm(16),
        nn.AlphaDropout(0.1),
        nn.utils.weight_norm(nn.Linear(16, CLASSES)),
    )


def train():
    model = phalanx.DataParallel(draws(), bucket_bytes=512)
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    for step in DataLoader(images(), batch_size=12, shuffle=True).steps():
        optimizer.zero_grad()
        for x, labels, weights in step:
            scores = F.gumbel_softmax(model(x), tau=2.0).log()
            criterion(scores, labels, sample_weight=weights).backward()
        optimizer.step()
    return digest(model)


@pytest.mark.parametrize("shards", [1, 5])
def test_equal_bits(shards: int) -> None:
    (expected,) = on_ranks(1, shards, train)
    for size in (2, 3):
        for got in on_ranks(size, shards, train):
            assert got == expected, f"{size} ranks"
    moved = {name: bits for name, bits in expected[:-1] if "running" in name}
    assert len(moved) == 4 and len(set(moved.values())) == 4


def weighted_step(kind: str):
    """One step's gradients and loss of a weighted mean over the whole batch."""
    phalanx.manual_seed(1)
    model = phalanx.DataParallel(nn.Linear(72, CLASSES))
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    for step in DataLoader(images(), batch_size=SAMPLES).steps():
        for x, labels, weights in step:
            scores = model(x.flatten(1))
            if kind == "classes":
                loss = F.cross_entropy(scores, labels, phalanx.tensor([0.5, 1.0, 3.0]), sample_weight=weights)
            else:
                loss = F.mse_loss(scores, F.one_hot(labels, CLASSES).float(), sample_weight=weights)
            loss.backward()
        optimizer.step()
    return [p.detach().numpy().copy() for p in model.parameters()], model.step_loss


@pytest.mark.parametrize("kind", ["classes", "distances"])
def test_a_weighted_mean_is_that_of_the_whole_batch(kind: str) -> None:
    """However it is cut: sum(w * loss) / sum(w) over all samples, not a mean of the shards' means."""
    ((expected, loss),) = on_ranks(1, 1, lambda: weighted_step(kind))
    for size, shards in ((1, 4), (2, 3), (3, 7)):
        for parameters, found in on_ranks(size, shards, lambda: weighted_step(kind)):
            assert found == pytest.approx(loss, rel=1e-5)
            for a, b in zip(parameters, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
