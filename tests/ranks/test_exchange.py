"""The exchange between members of a group: any nodes, ranges, members and segment sizes give the bits of the plain sum."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.core.errors import ShapeError
from phalanx.dist.communicators.base import Communicator
from phalanx.dist.communicators.threads import current_communicator, run_threads
from phalanx.dist.messages import Messages
from phalanx.dist.reduction import collectives, exchange, tree
from phalanx.dist.reduction.tree import Node, split_point
from tests.ranks.contract import plain_tree, rough, same_bits

quick = settings(max_examples=60, deadline=None, derandomize=True)
UNTOUCHED = np.float32(7)


def random_nodes(random: np.random.Generator, node: Node, depth: float = 0.3) -> list[Node]:
    """Any nodes of the tree below ``node`` that make it up."""
    a, b = node
    if b - a == 1 or random.random() < depth:
        return [node]
    middle = split_point(node)
    return random_nodes(random, (a, middle)) + random_nodes(random, (middle, b))


def random_cut(random: np.random.Generator, parts: int, length: int) -> list[tuple[int, int]]:
    """Ranges that cover ``length``; some may be empty, and which member owns which is drawn too."""
    bounds = [0, *sorted(random.integers(0, length + 1, parts - 1).tolist()), length]
    ranges = list(pairwise(bounds))
    return [ranges[i] for i in random.permutation(parts)]


def shared_out(random: np.random.Generator, nodes: list[Node], members: int) -> list[list[Node]]:
    """Who brings which node; some bring none."""
    owners = random.integers(0, members, len(nodes))
    return [[node for node, owner in zip(nodes, owners, strict=True) if owner == member] for member in range(members)]


@pytest.fixture
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many segments in little data."""
    monkeypatch.setattr(exchange, "SEGMENT_NBYTES", 256)
    monkeypatch.setattr(exchange, "LEAST_SEGMENT_NBYTES", 64)
    monkeypatch.setattr(collectives, "SMALL_NBYTES", 1024)


@quick
@given(
    st.integers(1, 6), st.integers(1, 9), st.sampled_from([0, 1, 5, 200, 3001]), st.integers(0, 2**32), st.booleans()
)
def check_any_exchange(size: int, shards: int, length: int, seed: int, gather: bool) -> None:
    random = np.random.default_rng(seed)
    leaves = [rough(random, length) if random.random() < 0.8 else None for _ in range(shards)]
    members = sorted(random.permutation(size)[: random.integers(1, size + 1)].tolist())
    nodes = shared_out(random, random_nodes(random, (0, shards)), len(members))
    cut, expected = random_cut(random, len(members), length), plain_tree(leaves)

    def rank_main() -> None:
        comm = current_communicator()
        out = np.full(length, UNTOUCHED)
        before = comm.sent_bytes
        me = members.index(comm.rank) if comm.rank in members else None
        sums = {} if me is None else {(a, b): plain_tree(leaves[a:b]) for a, b in nodes[me]}
        partials = {node: None if total is None else total.copy() for node, total in sums.items()}

        def program(messages: Messages) -> bool | None:
            if me is None:
                return None  # an operation of all ranks in which this one has nothing to do
            return collectives.tree_all_reduce(
                messages, partials, [], shards, out, cut=cut, gather=gather, nodes=nodes, members=members
            )

        present = comm.run(program, name="exchange").wait()
        if me is not None:
            assert present == (expected is not None)
            own = slice(None) if gather else slice(*cut[me])
            assert same_bits(out[own], np.zeros(length, np.float32)[own] if expected is None else expected[own])
        if me is None or len(members) == 1:
            assert comm.sent_bytes == before
        comm.barrier().wait()

    run_threads(rank_main, size, timeout_s=20)


def test_any_nodes_cut_and_members(short_segments: None) -> None:
    check_any_exchange()


def test_the_check_above_can_fail(short_segments: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "RANK_ORDER_SUM", True)
    with pytest.raises((AssertionError, ExceptionGroup)):
        check_any_exchange()


def test_without_gather_nothing_but_the_partial_sums_travels() -> None:
    """What is sent: everybody's partial sums of the others' ranges; with gather this rank's sum to all others, too."""
    length = 100_000

    def rank_main(gather: bool) -> int:
        comm = current_communicator()
        array, before = rough(np.random.default_rng(comm.rank), length), comm.sent_bytes
        ranges = [(rank, rank + 1) for rank in range(comm.size)]
        comm.run(
            lambda m: collectives.tree_all_reduce(
                m, {ranges[comm.rank]: array}, ranges, comm.size, array, gather=gather
            ),
            name="sum",
        ).wait()
        return comm.sent_bytes - before

    flags = 3  # a byte for each node of this rank, to each of the others
    assert run_threads(rank_main, 4, False) == [length * 4 // 4 * 3 + flags] * 4
    assert run_threads(rank_main, 4, True) == [2 * (length * 4 // 4 * 3) + flags] * 4


def test_a_small_array_takes_one_round() -> None:
    """Up to 64 KB everybody sends all it has to all: a rank that is behind holds nobody up twice."""

    def rank_main(nbytes: int) -> int:
        comm = current_communicator()
        array, before = np.ones(nbytes // 4, np.float32), comm.sent_bytes
        comm.all_reduce(array, name="small").wait()
        assert (array == comm.size).all()
        return comm.sent_bytes - before

    assert run_threads(rank_main, 3, 65536) == [2 * (65536 + 1)] * 3
    assert run_threads(rank_main, 3, 65536 + 8) == [2 + 2 * 2 * (65536 + 8) // 3] * 3


@pytest.mark.parametrize("size", [1, 2, 4])
def test_all_gather_slices(size: int) -> None:
    def rank_main() -> None:
        comm: Communicator = current_communicator()
        truth = rough(np.random.default_rng(1), 1000)
        for seed in range(5):
            cut = random_cut(np.random.default_rng(seed), comm.size, 1000)
            array = np.full(1000, UNTOUCHED)
            own = slice(*cut[comm.rank])
            array[own] = truth[own]
            comm.run(lambda m, a=array, c=cut: collectives.all_gather_slices(m, a, c), name="slices").wait()
            assert same_bits(array, truth)

    run_threads(rank_main, size, timeout_s=20)


def test_members_gather_among_themselves() -> None:
    """Two groups of ranks at the same time, in one operation of all."""

    def rank_main() -> None:
        comm = current_communicator()
        members = [rank for rank in range(comm.size) if rank % 2 == comm.rank % 2]
        out = np.zeros((len(members), 3))
        comm.run(
            lambda m: collectives.all_gather(m, np.full(3, float(comm.rank)), out, members=members), name="gather"
        ).wait()
        assert out[:, 0].tolist() == members
        array = np.full(50_000, float(comm.rank))
        comm.run(lambda m: collectives.all_reduce(m, array, members=members), name="sum").wait()
        assert (array == sum(members)).all()
        part = np.full(10, float(comm.rank))
        mine = comm.run(lambda m: collectives.reduce_scatter(m, part, members=members), name="part").wait()
        assert (mine == sum(members)).all()
        assert len(mine) == 10 // len(members)

    run_threads(rank_main, 4, timeout_s=20)


def test_partial_sums_that_do_not_fit_are_refused() -> None:
    def rank_main() -> None:
        comm = current_communicator()
        nodes: list[list[Node]] = [[(0, 1)], [(1, 2)]]
        out = np.empty(4, np.float32)
        comm.run(
            lambda m: collectives.tree_all_reduce(m, {(0, 2): out.copy()}, [], 2, out, nodes=nodes), name="wrong"
        ).wait()

    with pytest.raises(ShapeError, match=r"must bring the partial sums of \[\(0, 1\)\]|of \[\(1, 2\)\]"):
        run_threads(rank_main, 2, timeout_s=5)
