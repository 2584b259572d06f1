"""Cuts of an epoch: every sample once, in the same shard at any number of ranks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.core.data.placement import Placement
from phalanx.core.data.shards import count_batches, global_batches, owned_range, shard_slices
from phalanx.core.data.step import parts_of

LENGTHS = st.integers(0, 200)
COUNTS = st.integers(1, 40)


@given(LENGTHS, COUNTS)
def test_shards_cover_a_batch_once_evenly_and_in_order(length, shards):
    slices = shard_slices(length, shards)
    sizes = [hi - lo for lo, hi in slices]
    assert len(slices) == shards
    assert [i for lo, hi in slices for i in range(lo, hi)] == list(range(length))
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@given(COUNTS, COUNTS)
def test_ranks_own_every_shard_once_and_the_first_ranks_own_more(size, shards):
    ranges = [owned_range(rank, size, shards) for rank in range(size)]
    assert [shard for lo, hi in ranges for shard in range(lo, hi)] == list(range(shards))
    assert [hi - lo for lo, hi in ranges] == sorted((hi - lo for lo, hi in ranges), reverse=True)


@given(LENGTHS, COUNTS, st.booleans(), st.data())
def test_an_epoch_begun_anywhere_goes_on_as_the_whole_one(length, batch_size, drop_last, data):
    whole = list(global_batches(length, batch_size, drop_last))
    assert len(whole) == count_batches(length, batch_size, drop_last)
    kept = length // batch_size * batch_size if drop_last else length
    assert [i for lo, hi in whole for i in range(lo, hi)] == list(range(kept))
    done = data.draw(st.integers(0, len(whole)))
    assert list(global_batches(length, batch_size, drop_last, min(done * batch_size, length))) == whole[done:]


@given(LENGTHS, COUNTS, st.one_of(st.none(), COUNTS))
def test_parts_of_all_ranks_make_the_batch(samples, size, shards):
    parts = [part for rank in range(size) for part in parts_of(samples, Placement(rank, size, shards), False)]
    assert [i for _, lo, hi in parts for i in range(lo, hi)] == list(range(samples))
    assert all(hi > lo for _, lo, hi in parts)
    if shards is not None:
        assert [(lo, hi) for _, lo, hi in parts] == [cut for cut in shard_slices(samples, shards) if cut[1] > cut[0]]


@pytest.mark.parametrize("rank, size, shards", [(-1, 2, None), (2, 2, None), (0, 0, None), (0, 1, 0), (0, 1, 2.0)])
def test_impossible_placements_are_refused(rank, size, shards):
    with pytest.raises(ValueError, match=r"rank|shards"):
        Placement(rank, size, shards)
