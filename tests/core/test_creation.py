"""Tensors of random numbers: they follow the seed and have the distributions that they say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx.core import rng
from phalanx.core.errors import DTypeError, RangeError, ShapeError


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


DRAWS = {
    "rand": lambda g: phalanx.rand(4, generator=g),
    "randn": lambda g: phalanx.randn(4, generator=g),
    "randint": lambda g: phalanx.randint(0, 1000, (4,), generator=g),
    "randperm": lambda g: phalanx.randperm(40, generator=g),
    "normal": lambda g: phalanx.normal(0.0, 1.0, (4,), generator=g),
    "bernoulli": lambda g: phalanx.bernoulli(phalanx.full((64,), 0.5), generator=g),
    "multinomial": lambda g: phalanx.multinomial(phalanx.ones(50), 20, generator=g),
    "randn_like": lambda g: phalanx.randn_like(phalanx.zeros(4), generator=g),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_generator_counts_its_own_draws(name: str) -> None:
    draw, g = DRAWS[name], phalanx.Generator().manual_seed(3)
    first, second = draw(g), draw(g)
    assert not phalanx.equal(first, second)
    phalanx.rand(3)  # draws of others do not count
    assert phalanx.equal(draw(phalanx.Generator().manual_seed(3)), first)
    assert not phalanx.equal(draw(phalanx.Generator().manual_seed(4)), first)


def test_what_a_shard_draws_does_not_depend_on_its_neighbours() -> None:
    def drawn(shards: list[int]) -> dict[int, list[float]]:
        g, found = phalanx.Generator().manual_seed(3), {}
        for step in range(2):
            for shard in shards:
                with rng.shard_scope(step, shard):
                    phalanx.rand(1, generator=g)
                    found[10 * step + shard] = phalanx.rand(3, generator=g).tolist()
        return found

    whole = drawn([0, 1, 2])
    assert drawn([2]) == {2: whole[2], 12: whole[12]}
    assert len({str(numbers) for numbers in whole.values()}) == 6


def test_old_constructors_take_data_or_sizes() -> None:
    assert phalanx.FloatTensor([[1, 2], [3, 4]]).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert phalanx.LongTensor(2, 3).shape == (2, 3) and phalanx.LongTensor(4).shape == (4,)
    assert phalanx.LongTensor(phalanx.tensor([1.0, 2.0])).tolist() == [1, 2]
    assert phalanx.DoubleTensor(np.ones(2)).dtype == np.float64
    with pytest.raises(RangeError, match="float32 is fixed, got float64"):
        phalanx.set_default_dtype(phalanx.float64)
    assert phalanx.compile(phalanx.relu) is phalanx.relu and phalanx.compile(mode="x")(phalanx.relu) is phalanx.relu
    x = phalanx.ones(2)
    assert phalanx.autograd.Variable(x) is x


def test_the_class_itself_makes_floats_as_in_pytorch() -> None:
    assert phalanx.Tensor([1, 2]).dtype == np.float32 and phalanx.Tensor([True]).dtype == np.float32
    assert phalanx.Tensor(2, 3).shape == (2, 3) and phalanx.Tensor(4).shape == (4,)
    assert (
        phalanx.Tensor(np.ones(2, np.int64)).dtype == np.int64 and phalanx.Tensor([1], dtype="int64").dtype == np.int64
    )
    assert phalanx.Tensor(2.5).shape == () and phalanx.Tensor().shape == (0,)
    assert phalanx.nn.Parameter(phalanx.Tensor(3, 2)).shape == (3, 2)
    with pytest.raises(DTypeError, match="options by name"):
        phalanx.Tensor(np.ones(2), True)
    with pytest.raises(ShapeError, match="integers of at least 0"):
        phalanx.Tensor([1.0], True)
    with pytest.raises(ShapeError, match="integers of at least 0"):
        phalanx.Tensor(-1)
