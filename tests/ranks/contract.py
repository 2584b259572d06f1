"""What every communicator must do: run by all ranks of a group, whatever wire is below.

``CHECKS``: name -> function of a communicator that raises AssertionError when the contract is broken. ``FAULTS``: name
-> function that does something wrong on rank 1, and the words that the error must then hold. Groups have 1 to 8 ranks;
faults need at least 2. Nothing here knows a wire.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from phalanx.core.errors import RangeError, ShapeError
from phalanx.dist.communicators.base import Communicator
from phalanx.dist.errors import CommunicatorError
from phalanx.dist.reduction import collectives
from phalanx.dist.reduction.expression import Term
from phalanx.dist.reduction.tree import Node, whole_subtrees

SIZES = (0, 1, 5, 1000, 300001)
DTYPES = (np.float32, np.float64, np.int64)
SLEEP_S = 60.0
CHECKS: dict[str, Callable[[Communicator], None]] = {}
FAULTS: dict[str, Fault] = {}


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong on rank 1."""

    function: Callable[[Communicator], None]
    words: tuple[str, ...]
    """All of them must be in the message of the rank that noticed."""


def check(function: Callable[[Communicator], None]) -> Callable[[Communicator], None]:
    CHECKS[function.__name__.removeprefix("check_")] = function
    return function


def fault(*words: str) -> Callable[[Callable[[Communicator], None]], Callable[[Communicator], None]]:
    def register(function: Callable[[Communicator], None]) -> Callable[[Communicator], None]:
        FAULTS[function.__name__.removeprefix("fault_")] = Fault(function, words)
        return function

    return register


# -- the plain form of what the wire must give -----------------------------------------------------------------------


def plain_tree(leaves: list[np.ndarray | None]) -> np.ndarray | None:
    """The sum over leaves, as the definition says it: halves at the largest power of two below the count."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else None
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    left, right = plain_tree(leaves[:half]), plain_tree(leaves[half:])
    if left is None or right is None:
        return right if left is None else left
    return left + right


def rough(random: np.random.Generator, n: int, dtype: type = np.float32) -> np.ndarray:
    """Numbers of very different size, so that every order of addition gives other bits."""
    if np.issubdtype(dtype, np.integer):
        return random.integers(-1000, 1000, n).astype(dtype)
    return (random.standard_normal(n) * 10.0 ** random.uniform(-4, 4, n)).astype(dtype)


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return left.shape == right.shape and left.dtype == right.dtype and left.tobytes() == right.tobytes()


def rank_arrays(comm: Communicator, n: int, dtype: type, seed: int) -> list[np.ndarray]:
    """What every rank brings, known to all."""
    return [rough(np.random.default_rng([seed, n, rank]), n, dtype) for rank in range(comm.size)]


def random_ranges(random: np.random.Generator, size: int, shards: int) -> list[tuple[int, int]]:
    """Contiguous ranges in the order of ranks; some may be empty."""
    bounds = [0, *sorted(random.integers(0, shards + 1, size - 1).tolist()), shards]
    return list(pairwise(bounds))


def partial_sums(leaves: list[np.ndarray | None], owned: tuple[int, int], shards: int) -> dict[Node, np.ndarray | None]:
    """What a rank holds before the exchange: one sum for each whole subtree that it owns."""
    sums = {node: plain_tree(leaves[node[0] : node[1]]) for node in whole_subtrees(*owned, shards)}
    return {node: None if total is None else total.copy() for node, total in sums.items()}


# -- verbs -----------------------------------------------------------------------------------------------------------


@check
def check_all_reduce(comm: Communicator) -> None:
    for dtype in DTYPES:
        for n in SIZES:
            arrays = rank_arrays(comm, n, dtype, 1)
            mine = arrays[comm.rank].copy()
            result = comm.all_reduce(mine, name=f"numbers {n}").wait()
            assert result is mine
            assert same_bits(mine, plain_tree(arrays)), (dtype, n)


@check
def check_all_reduce_shapes(comm: Communicator) -> None:
    zero_d = np.array(1.5, np.float32)
    comm.all_reduce(zero_d, name="zero-d").wait()
    assert zero_d == 1.5 * comm.size
    matrix = np.full((3, 4), comm.rank + 1.0)
    comm.all_reduce(matrix, name="matrix").wait()
    assert (matrix == sum(range(1, comm.size + 1))).all()
    half = np.ones(7, np.float16)
    comm.all_reduce(half, name="half").wait()
    assert (half == comm.size).all()
    empty = np.empty((0, 3))
    assert comm.all_reduce(empty, name="empty").wait().shape == (0, 3)


@check
def check_reduce_scatter_then_all_gather(comm: Communicator) -> None:
    for dtype in DTYPES:
        for n in (0, 1, 5, 1000):
            arrays = rank_arrays(comm, n * comm.size, dtype, 2)
            mine = arrays[comm.rank].copy()
            part = comm.reduce_scatter(mine, name="parts").wait()
            total = plain_tree(arrays)
            assert same_bits(part, total[comm.rank * n : (comm.rank + 1) * n])
            gathered = np.empty((comm.size, n), dtype)
            comm.all_gather(part, gathered, name="parts").wait()
            assert same_bits(gathered.reshape(-1), total)


@check
def check_reduce_scatter_uneven(comm: Communicator) -> None:
    arrays = rank_arrays(comm, 11, np.float32, 3)
    part = comm.reduce_scatter(arrays[comm.rank].copy(), name="uneven").wait()
    sizes = comm.all_gather_object(len(part), name="sizes").wait()
    assert sum(sizes) == 11
    assert max(sizes) - min(sizes) <= 1
    lo = sum(sizes[: comm.rank])
    assert same_bits(part, plain_tree(arrays)[lo : lo + len(part)])


@check
def check_all_gather_shapes(comm: Communicator) -> None:
    for shape in ((), (0,), (2, 3)):
        out = np.full((comm.size, *shape), -1.0)
        comm.all_gather(np.full(shape, float(comm.rank)), out, name="shapes").wait()
        assert all((out[rank] == rank).all() for rank in range(comm.size))


@check
def check_broadcast(comm: Communicator) -> None:
    for number, (dtype, n) in enumerate(product(DTYPES, SIZES)):
        root = number % comm.size
        truth = rough(np.random.default_rng(4), n, dtype)
        mine = truth.copy() if comm.rank == root else np.zeros(n, dtype)
        comm.broadcast(mine, root=root, name="from root").wait()
        assert same_bits(mine, truth), (dtype, n, root)


@check
def check_objects(comm: Communicator) -> None:
    values = comm.all_gather_object({"rank": comm.rank, "text": "é" * comm.rank}, name="values").wait()
    assert values == [{"rank": rank, "text": "é" * rank} for rank in range(comm.size)]
    for root in range(comm.size):
        value = [None, root, "x" * 100000] if comm.rank == root else object()
        assert comm.broadcast_object(value, root=root, name="plan").wait() == [None, root, "x" * 100000]


@check
def check_barrier(comm: Communicator) -> None:
    late = comm.size - 1
    if comm.rank == late:
        time.sleep(0.2)
    came = time.time()
    comm.barrier(name="all here").wait()
    left = time.time()
    times = comm.all_gather_object([came, left], name="times").wait()
    assert min(left for _, left in times) >= times[late][0]


@check
def check_send_and_receive(comm: Communicator) -> None:
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    if comm.size == 1:
        return
    for n in SIZES:
        mine, theirs = np.full(n, float(comm.rank)), np.empty(n)
        sent = comm.send(mine, right, name="ring")  # all send before they receive
        mine[:] = -1.0  # a copy is on its way
        assert comm.recv(theirs, left, name="ring").wait() is theirs
        sent.wait()
        assert (theirs == left).all()
    if comm.rank < 2:  # two of them talk, then all meet: the numbers of the operations still agree
        other = 1 - comm.rank
        comm.send(np.ones(3), other, name="pair").wait()
        comm.recv(np.empty(3), other, name="pair").wait()
    comm.barrier().wait()


@check
def check_many_in_flight(comm: Communicator) -> None:
    random = np.random.default_rng(5)
    lengths = random.integers(0, 3000, 60).tolist()
    expected = [rank_arrays(comm, n, np.float32, 6) for n in lengths]
    mine = [arrays[comm.rank].copy() for arrays in expected]
    works = [comm.all_reduce(array, name=f"bucket {i}") for i, array in enumerate(mine)]
    for work in reversed(works):
        work.wait()
        assert work.done
    for array, arrays in zip(mine, expected, strict=True):
        assert same_bits(array, plain_tree(arrays))


@check
def check_call_keeps_the_order(comm: Communicator) -> None:
    """``call`` runs at once, but after everything that was started before."""
    arrays = [np.full(1000, 1.0), np.full(1000, 2.0)]
    works = [comm.all_reduce(array, name="before") for array in arrays]
    rows = comm.call(lambda m: collectives.all_gather_bytes(m, b"x" * m.rank), name="sizes")
    assert all(work.done for work in works)
    assert [len(row) for row in rows] == list(range(comm.size))
    comm.all_reduce(arrays[0], name="after").wait()
    assert (arrays[0] == comm.size**2).all()


@check
def check_split(comm: Communicator) -> None:
    parity = comm.split(comm.rank % 2, key=-comm.rank)
    members = [rank for rank in reversed(range(comm.size)) if rank % 2 == comm.rank % 2]
    assert (parity.size, parity.rank) == (len(members), members.index(comm.rank))
    together = [np.ones(1000, np.float32) for _ in range(10)]
    apart = [np.ones(1000, np.float32) for _ in range(10)]
    works = []
    for i, (a, b) in enumerate(zip(together, apart, strict=True)):
        works += [comm.all_reduce(a, name=f"all {i}"), parity.all_reduce(b, name=f"some {i}")]
    for work in works:
        work.wait()
    assert all((a == comm.size).all() for a in together)
    assert all((b == len(members)).all() for b in apart)
    assert parity.all_gather_object(comm.rank, name="who").wait() == members
    parity.close()


@check
def check_close_is_final(comm: Communicator) -> None:
    group = comm.split(0)
    work = group.all_reduce(np.ones(5), name="last")
    group.close()
    group.close()
    assert (work.wait() == comm.size).all()
    assert raises(CommunicatorError, lambda: group.barrier().wait(), "closed")


@check
def check_wrong_arguments(comm: Communicator) -> None:
    """An error of the caller is raised where he stands, and the group lives on."""
    assert raises(ShapeError, lambda: comm.all_reduce(np.ones((4, 4)).T[:2], name="strided"), "C-contiguous")
    assert raises(ShapeError, lambda: comm.all_gather(np.ones(3), np.ones(3), name="out"), "expected out of")
    assert raises(RangeError, lambda: comm.broadcast(np.ones(3), root=comm.size, name="root"), "root must be a rank")
    assert raises(RangeError, lambda: comm.send(np.ones(3), comm.rank, name="self"), "this rank itself")
    assert raises(TypeError, lambda: comm.all_gather_object({1, 2}, name="set"), "must be JSON")
    comm.barrier().wait()


def raises(kind: type[Exception], action: Callable[[], object], words: str) -> bool:
    try:
        action()
    except kind as error:
        return words in str(error)
    return False


# -- the exact tree ----------------------------------------------------------------------------------------------------


def tree_sum(
    comm: Communicator, leaves: list[np.ndarray | None], ranges: list[tuple[int, int]], n: int, dtype: type
) -> tuple[bool, np.ndarray]:
    """The sum over shards that the exchange gives."""
    shards = len(leaves)
    partials = partial_sums(leaves, ranges[comm.rank], shards)
    out = np.full(n, 7, dtype)
    present = comm.run(
        lambda messages: collectives.tree_all_reduce(messages, partials, ranges, shards, out), name="tree 'shards'"
    ).wait()
    return present, out


@check
def check_tree(comm: Communicator) -> None:
    random = np.random.default_rng(7)  # equal on all ranks
    for shards in range(1, 10):
        for n in (0, 1, 3, 1000, 20011):
            dtype = DTYPES[int(random.integers(2))]
            ranges = random_ranges(random, comm.size, shards)
            leaves: list[np.ndarray | None] = [rough(random, n, dtype) for _ in range(shards)]
            if random.integers(2):
                leaves = [leaf if random.integers(3) else None for leaf in leaves]
            present, out = tree_sum(comm, leaves, ranges, n, dtype)
            expected = plain_tree(leaves)
            assert present == (expected is not None)
            assert same_bits(out, np.zeros(n, dtype) if expected is None else expected), (shards, n, ranges)


@check
def check_tree_in_place(comm: Communicator) -> None:
    """The output may be one of the partial sums: a bucket is reduced where it lies."""
    for n in (10, 100003):
        leaves = rank_arrays(comm, n, np.float32, 8)
        ranges = [(rank, rank + 1) for rank in range(comm.size)]
        mine = leaves[comm.rank].copy()
        partials = {ranges[comm.rank]: mine}
        comm.run(
            lambda m, p=partials, r=ranges, o=mine: collectives.tree_all_reduce(m, p, r, len(r), o), name="in place"
        ).wait()
        assert same_bits(mine, plain_tree(leaves))


def terms_of(
    comm: Communicator, leaves: list[np.ndarray | None], owned: tuple[int, int], folded: int
) -> dict[Node, Term | None]:
    """What a rank brings when it has folded its first shards as far as the tree allows, and the others not at all.

    The terms lie in memory of the host's ranks where there is any. An unfolded leaf is half of it, times 2: no bit changes.
    """
    lo, hi = owned
    found: dict[Node, Term | None] = {}
    for node, total in partial_sums(leaves, (lo, min(lo + folded, hi)), len(leaves)).items():
        found[node] = None if total is None else Term(shared_copy(comm, total))
    for shard in range(min(lo + folded, hi), hi):
        leaf = leaves[shard]
        found[shard, shard + 1] = None if leaf is None else Term(shared_copy(comm, leaf / leaf.dtype.type(2)), 2.0)
    return found


def shared_copy(comm: Communicator, array: np.ndarray) -> np.ndarray:
    """A copy in one of ten arrays per rank that the ranks of a host share; the first call is collective."""
    pool = POOLS.get(id(comm))
    if pool is None:
        pool = POOLS[id(comm)] = [comm.shared_empty(2 * LONGEST, name=f"pool {i}") for i in range(10)]
    row = pool.pop(0)
    pool.append(row)
    copy = row.view(array.dtype)[: array.size]
    copy[...] = array
    return copy


LONGEST = 40011
POOLS: dict[int, list[np.ndarray]] = {}


@check
def check_tree_of_terms(comm: Communicator) -> None:
    """Terms with factors, results in one array for the whole host, in arrays of each rank, or in memory of one's own."""
    shared_copy(comm, np.ones(1, np.float32))
    results = [
        comm.shared_empty(LONGEST, np.float64, name="common", common=True),
        comm.shared_empty(LONGEST, np.float64, name="each"),
        np.empty(LONGEST),
    ]
    random = np.random.default_rng(11)  # equal on all ranks
    for shards, n, result in product(range(1, 10), (0, 3, 20011, LONGEST), results):
        dtype = DTYPES[int(random.integers(2))]
        ranges = random_ranges(random, comm.size, shards)
        leaves: list[np.ndarray | None] = [
            rough(random, n, dtype) if random.integers(4) else None for _ in range(shards)
        ]
        folded = int(random.integers(3))
        if max(hi - lo for lo, hi in ranges) > 8:
            continue
        terms = terms_of(comm, leaves, ranges[comm.rank], folded)
        before = {node: None if term is None else term.array.copy() for node, term in terms.items()}
        out = result[: 2 * LONGEST].view(dtype)[:n]
        present = comm.tree_all_reduce(terms, ranges, shards, out, name="terms").wait()
        expected = plain_tree(leaves)
        assert present == (expected is not None)
        assert same_bits(out, np.zeros(n, dtype) if expected is None else expected), (shards, n, ranges)
        assert all(before[node] is None or same_bits(before[node], term.array) for node, term in terms.items() if term)
        comm.barrier(name="looked at").wait()  # the result may be everybody's


@check
def check_tree_in_parts(comm: Communicator) -> None:
    """Each rank sums a range of its own, of any length, and gathers later."""
    shared_copy(comm, np.ones(1, np.float32))
    common = comm.shared_empty(LONGEST, name="common", common=True)
    each = comm.shared_empty(LONGEST, name="each")
    random = np.random.default_rng(12)
    for n, out in product((5, LONGEST), (common, each, np.empty(LONGEST, np.float32))):
        bounds = [0, *sorted(random.integers(0, n + 1, comm.size - 1).tolist()), n]
        cut = list(pairwise(bounds))
        ranges = [(rank, rank + 1) for rank in range(comm.size)]
        leaves = [rough(random, n) for _ in range(comm.size)]
        terms = terms_of(comm, leaves, ranges[comm.rank], 0)
        comm.tree_all_reduce(terms, ranges, comm.size, out[:n], name="parts", cut=cut, gather=False).wait()
        expected = plain_tree(leaves)
        lo, hi = cut[comm.rank]
        assert same_bits(out[lo:hi], expected[lo:hi])
        comm.barrier(name="looked at").wait()
        mine = each[:n] if out is common else out[:n]
        mine[lo:hi] = expected[lo:hi]
        comm.all_gather_slices(mine, cut, name="parts").wait()
        assert same_bits(mine, expected)
        comm.barrier(name="looked at").wait()


@check
def check_shared_arrays(comm: Communicator) -> None:
    for n, dtype in product((0, 1, 300001), DTYPES):
        arrays = rank_arrays(comm, n, dtype, 13)
        mine = comm.shared_empty(n, dtype, name="mine")
        assert mine.shape == (n,) and not mine.any()
        mine[:] = arrays[comm.rank]
        comm.all_reduce(mine, name="in place").wait()
        assert same_bits(mine, plain_tree(arrays)), (dtype, n)
        mine[:] = arrays[comm.rank]
        comm.barrier(name="filled").wait()
        part = comm.reduce_scatter(mine, name="part").wait()
        lo = sum(len(arrays[0][r :: comm.size]) for r in range(comm.rank))
        assert same_bits(part, plain_tree(arrays)[lo : lo + part.size])
        if comm.size > 1 and n > 1:
            assert same_bits(mine[lo + part.size :], arrays[comm.rank][lo + part.size :])


@check
def check_tree_merge(comm: Communicator) -> None:
    """Any merge, here one that neither commutes nor associates: the tree itself, as text."""
    random = np.random.default_rng(9)
    codec = (str.encode, bytes.decode)
    for shards in range(1, 10):
        ranges = random_ranges(random, comm.size, shards)
        absent = {shard for shard in range(shards) if not random.integers(3)}
        leaves = {node: text_tree(*node, absent) for node in whole_subtrees(*ranges[comm.rank], shards)}
        root = comm.run(
            lambda m, v=leaves, r=ranges, s=shards: collectives.tree_merge(m, v, r, s, "({}+{})".format, codec),
            name="merge",
        ).wait()
        assert root == text_tree(0, shards, absent)


def text_tree(lo: int, hi: int, absent: set[int]) -> str | None:
    """The tree over shards [lo, hi) written down."""
    if hi - lo == 1:
        return None if lo in absent else str(lo)
    half = 1
    while half * 2 < hi - lo:
        half *= 2
    left, right = text_tree(lo, lo + half, absent), text_tree(lo + half, hi, absent)
    return f"({left}+{right})" if left and right else left or right


# -- faults: each is something that rank 1 does wrong ------------------------------------------------------------------


@fault("rank 1", "ValueError", "boom in backward")
def fault_one_rank_raises(comm: Communicator) -> None:
    comm.all_reduce(np.ones(10), name="bucket 0").wait()
    if comm.rank == 1:
        raise ValueError("boom in backward")
    comm.all_reduce(np.ones(10), name="bucket 1").wait()


@fault("waited", "all_reduce 'bucket 7' float64[10]", "nothing came from rank 1")
def fault_one_rank_never_arrives(comm: Communicator) -> None:
    if comm.rank == 1:
        time.sleep(SLEEP_S)
    comm.all_reduce(np.ones(10), name="bucket 7").wait()


@fault("ranks issued different operations", "all_reduce 'weights' float64[10]", "broadcast from 0 'weights'", "rank 1")
def fault_different_operations(comm: Communicator) -> None:
    array = np.ones(10)
    (comm.broadcast if comm.rank == 1 else comm.all_reduce)(array, name="weights").wait()
    comm.barrier(name="after").wait()


@fault("ranks issued different operations", "'weights' float64[10]", "'weights' float64[11]", "rank 1")
def fault_different_shapes(comm: Communicator) -> None:
    comm.all_reduce(np.ones(11 if comm.rank == 1 else 10), name="weights").wait()


@fault("ranks issued different operations", "'weights' float64[10]", "'weights' float32[10]", "rank 1")
def fault_different_dtypes(comm: Communicator) -> None:
    comm.all_reduce(np.ones(10, np.float32 if comm.rank == 1 else np.float64), name="weights").wait()


@fault("ranks issued different operations", "'bucket 0'", "'bucket 1'", "rank 1")
def fault_different_order(comm: Communicator) -> None:
    works = [comm.all_reduce(np.ones(300000), name=f"bucket {i}") for i in ([1, 0] if comm.rank == 1 else [0, 1])]
    for work in works:
        work.wait()


@fault("ranks issued different operations", "barrier 'all here'", "send 'numbers' float64[3]", "rank 1")
def fault_one_rank_receives_what_nobody_sends(comm: Communicator) -> None:
    if comm.rank == 1:
        comm.recv(np.empty(3), 0, name="numbers").wait()
    comm.barrier(name="all here").wait()


@fault("rank 1", "all_reduce 'bucket 3' float64[10]")
def fault_one_rank_leaves_early(comm: Communicator) -> None:
    if comm.rank != 1:
        comm.all_reduce(np.ones(10), name="bucket 3").wait()
