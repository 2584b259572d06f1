"""Tensors of random numbers: they follow the seed and have the distributions that they say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx.core.errors import RangeError


def test_random_numbers_follow_the_seed() -> None:
    def draws() -> list[Any]:
        phalanx.manual_seed(3)
        x = phalanx.rand(3)
        made = [x, phalanx.randn(2, 2), phalanx.randint(0, 10, (4,)), phalanx.randperm(6), phalanx.rand_like(x)]
        made += [
            phalanx.randn_like(x),
            phalanx.bernoulli(phalanx.full((5,), 0.5)),
            phalanx.zeros(3).normal_(),
            phalanx.rand(3),
        ]
        return [m.tolist() for m in made]

    first = draws()
    assert first == draws()
    assert first[0] != first[-1]
    assert sorted(first[3]) == list(range(6))
    assert phalanx.rand(2, dtype=phalanx.float64).dtype == np.float64
    assert phalanx.randint(5, (3,)).dtype == np.int64
    with pytest.raises(RangeError, match="low < high"):
        phalanx.randint(3, 3, (1,))


def test_random_distributions() -> None:
    phalanx.manual_seed(0)
    n = 20_000
    uniform, normal = phalanx.rand(n), phalanx.randn(n)
    assert abs(uniform.mean().item() - 0.5) < 4 * math.sqrt(1 / 12 / n)
    assert abs(normal.mean().item()) < 4 / math.sqrt(n)
    assert abs(normal.std().item() - 1) < 4 / math.sqrt(2 * n)
    assert abs(phalanx.bernoulli(phalanx.full((n,), 0.3)).mean().item() - 0.3) < 4 * math.sqrt(0.21 / n)
    assert abs(phalanx.zeros(n).uniform_(-2, 4).mean().item() - 1) < 4 * math.sqrt(3 / n)
    assert abs(phalanx.normal(2.0, 3.0, (n,)).mean().item() - 2) < 12 / math.sqrt(n)
    counts = phalanx.bincount(phalanx.randint(0, 5, (n,)))
    assert np.abs(counts.array - n / 5).max() < 5 * math.sqrt(n * 0.16)


@pytest.mark.parametrize("replacement", [False, True])
def test_multinomial(replacement: bool) -> None:
    phalanx.manual_seed(0)
    weights = phalanx.tensor([[1.0, 0.0, 3.0]]).expand(4000, 3)
    picked = phalanx.multinomial(weights, 2, replacement)
    assert picked.shape == (4000, 2)
    assert abs((picked[:, 0] == 2).float().mean().item() - 0.75) < 0.03
    assert not (picked == 1).any()
    assert replacement or not (picked[:, 0] == picked[:, 1]).any()
    assert phalanx.multinomial(weights[0], 1).shape == (1,)
    with pytest.raises(RangeError, match="without replacement"):
        phalanx.multinomial(weights, 3)
    with pytest.raises(RangeError, match="none negative"):
        phalanx.multinomial(phalanx.tensor([-1.0, 1.0]), 1)
