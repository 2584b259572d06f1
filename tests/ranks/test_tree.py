"""The exact sum over ranks: any number of ranks and shards gives the bits of one rank, and another order does not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.core.errors import ShapeError
from phalanx.dist.communicators.threads import current_communicator, run_threads
from phalanx.dist.reduction import collectives, tree
from tests.ranks.contract import partial_sums, plain_tree, random_ranges, rough, same_bits, tree_sum

quick = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def sums(draw: st.DrawFn) -> tuple[int, list[np.ndarray | None], list[tuple[int, int]]]:
    """Ranks, leaves of shards (some absent) and who owns which."""
    size, shards = draw(st.integers(1, 8)), draw(st.integers(1, 9))
    length = draw(st.sampled_from([0, 1, 2, 7, 64, 5000]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    present = draw(st.lists(st.booleans(), min_size=shards, max_size=shards))
    leaves = [rough(random, length) if here else None for here in present]
    if draw(st.booleans()):
        ranges = [tree.owned_range(rank, size, shards) for rank in range(size)]
    else:
        ranges = random_ranges(random, size, shards)
    return size, leaves, ranges


def over_ranks(size: int, leaves: list[np.ndarray | None], ranges: list[tuple[int, int]]) -> list[np.ndarray]:
    length = next((leaf.size for leaf in leaves if leaf is not None), 3)
    return run_threads(
        lambda: tree_sum(current_communicator(), leaves, ranges, length, np.float32)[1], size, timeout_s=20
    )


@pytest.fixture
def rank_order() -> Iterator[None]:
    tree.RANK_ORDER_SUM = True
    yield
    tree.RANK_ORDER_SUM = False


@quick
@given(sums())
def test_any_ranks_give_the_bits_of_one(drawn: tuple[int, list[np.ndarray | None], list[tuple[int, int]]]) -> None:
    size, leaves, ranges = drawn
    expected = plain_tree(leaves)
    for out in over_ranks(size, leaves, ranges):
        assert same_bits(out, np.zeros(out.size, np.float32) if expected is None else expected)


def differs(size: int, shards: int) -> bool:
    leaves: list[np.ndarray | None] = list(rough(np.random.default_rng(3), shards * 1000).reshape(shards, 1000))
    ranges = [tree.owned_range(rank, size, shards) for rank in range(size)]
    results = over_ranks(size, leaves, ranges)
    assert all(same_bits(out, results[0]) for out in results)
    return not same_bits(results[0], plain_tree(leaves))


@pytest.mark.parametrize(("size", "shards"), [(3, 8), (4, 8), (5, 8), (7, 8), (3, 7)])
def test_negative_control_sum_in_the_order_of_ranks(size: int, shards: int, rank_order: None) -> None:
    """Without the tree the equality above must break, or the test could not fail."""
    assert differs(size, shards)


@pytest.mark.parametrize(("size", "shards"), [(3, 8), (4, 8), (5, 8), (7, 8), (3, 7)])
def test_the_tree_where_the_control_fails(size: int, shards: int) -> None:
    assert not differs(size, shards)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32))
def test_whole_subtrees_cover_their_range(shards: int, size: int, seed: int) -> None:
    nodes: list[tree.Node] = []
    for lo, hi in random_ranges(np.random.default_rng(seed), size, shards):
        owned = tree.whole_subtrees(lo, hi, shards)
        assert [n for node in owned for n in range(*node)] == list(range(lo, hi))
        nodes += owned
    text = tree.fold((0, shards), {node: written(*node) for node in nodes}, "({}+{})".format)
    assert text == written(0, shards)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.data())
def test_accumulator_folds_as_far_as_the_tree_allows(shards: int, data: st.DataObject) -> None:
    lo = data.draw(st.integers(0, shards))
    hi = data.draw(st.integers(lo, shards))
    accumulator: tree.Accumulator[str] = tree.Accumulator(shards, "({}+{})".format)
    for shard in range(lo, hi):
        accumulator.push(shard, str(shard))
        assert len(accumulator.partials) <= 2 * shards.bit_length()
    expected = {node: written(*node) for node in tree.whole_subtrees(lo, hi, shards)}
    assert accumulator.partials == expected
    assert list(accumulator.partials) == list(expected)


@pytest.mark.parametrize(("size", "length"), [(1, 0), (3, 8), (8, 3), (5, 5), (4, 1001)])
def test_slices_and_ranges_are_even_cuts(size: int, length: int) -> None:
    cut = tree.slices(length, size)
    assert cut[0][0] == 0
    assert cut[-1][1] == length
    assert all(left[1] == right[0] for left, right in pairwise(cut))
    sizes = [hi - lo for lo, hi in cut]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


def test_negative_zero_and_not_a_number_pass_through() -> None:
    """An absent leaf adds nothing, not +0.0: -0.0 survives, and so do the bits of NaN and infinity."""
    special = np.array([-0.0, np.nan, np.inf, -np.inf, 1e-45], np.float32)
    for absent_at in (0, 1):
        leaves = [None, special] if absent_at == 0 else [special, None]
        for out in over_ranks(2, leaves, [(0, 1), (1, 2)]):
            assert same_bits(out, special)


@pytest.mark.parametrize("nbytes", [0, collectives.SMALL_NBYTES])
def test_small_and_large_messages_give_the_same_bits(nbytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectives, "SMALL_NBYTES", nbytes)
    assert not differs(3, 8)


def test_wrong_partial_sums_are_refused() -> None:
    def rank_main(change: str) -> None:
        comm = current_communicator()
        ranges = [(0, 2), (2, 4)]
        leaves = [np.ones(4, np.float32)] * 4
        partials = partial_sums(leaves, ranges[comm.rank], 4)
        (node,) = partials
        if change == "node":
            partials[(0, 4)] = partials.pop(node)
        elif change == "shape":
            partials[node] = np.ones(5, np.float32)
        else:
            partials[node] = np.ones(4, np.float64)
        out = np.empty(4, np.float32)
        comm.run(lambda m: collectives.tree_all_reduce(m, partials, ranges, 4, out), name="tree 'w'").wait()

    for change, words in (("node", "must bring the partial sums of"), ("shape", "like out"), ("dtype", "float64")):
        with pytest.raises(ShapeError, match=words):
            run_threads(rank_main, 2, change, timeout_s=5)


def written(lo: int, hi: int) -> str:
    """The tree over shards [lo, hi), written down from its definition."""
    if hi - lo == 1:
        return str(lo)
    half = 1
    while half * 2 < hi - lo:
        half *= 2
    return f"({written(lo, lo + half)}+{written(lo + half, hi)})"
