"""ZeRO-1 and ZeRO-2 end with the bits of the unsharded run: every optimizer, every grain, on any number of ranks."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest

from tests.ranks.zero_runs import OPTIMIZERS, on_ranks, train

pytestmark = pytest.mark.filterwarnings("ignore:.*shard used these parameters|only some shards")
MODES = ("optimizer", "gradients")


@functools.cache
def unsharded(optimizer: str, shards: int, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (expected,) = on_ranks(1, shards, lambda: train(OPTIMIZERS[optimizer], **options))
    return expected


@pytest.mark.parametrize("shard", MODES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_equal_bits(optimizer: str, shard: str) -> None:
    for size, shards in ((4, 4), (3, 8)):
        expected = unsharded(optimizer, shards)
        for got in on_ranks(size, shards, lambda: train(OPTIMIZERS[optimizer], shard=shard)):
            assert got == expected, f"{size} ranks"
