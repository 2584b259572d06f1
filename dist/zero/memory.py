"""What training holds on one rank, on paper and as measured: parameters, gradients, sums on their way, optimizer state.

N is the size of a store in bytes, N_r the part that rank r owns (N / P with ZeRO, as even as the optimizer's grain allows),
L that of a store in the dtype of sums (float32, float64 for float64), k the shards of the rank. Not counted: activations,
what the wire holds of a message, and the program itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...core.flat import FlatStore
from ..lane import Lane
from ..reduction.tree import pending_limit
from .lane import IN_FLIGHT, ZeroLane

if TYPE_CHECKING:
    from ..reducer import Reducer


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of memory of a rank, in bytes."""

    kind: str
    formula: str
    paper_nbytes: int
    measured_nbytes: int


def memory_rows(reducer: Reducer) -> list[Row]:
    """The memory of this rank by kind. After two equal steps: before, ZeRO-2 does not know yet when it may free gradients."""
    stores = list(dict.fromkeys(p._store for p in reducer.parameters))
    k = reducer.owned[1] - reducer.owned[0]
    rows = [
        Row("parameters", "N", _total(s.length * s.dtype.itemsize for s in stores), _nbytes(s.data for s in stores))
    ]
    if reducer.spread is not None:
        rows += _spread(reducer.spread.zero_lanes, reducer.spread.last_peak_nbytes)
        lanes: Sequence[Any] = reducer.spread.zero_lanes
    else:
        lanes = [lane for lane in reducer.fold.lanes if isinstance(lane, Lane)]  # not those of compression
        paper = _total(s.length * s.dtype.itemsize for s in stores)
        rows.append(Row("gradients", "N", paper, _nbytes(s.gradient for s in stores)))
        beside = [lane for lane in lanes if lane.result is not lane.store.gradient]
        if beside:
            paper = _total(lane.store.length * lane.leaf_dtype.itemsize for lane in beside)
            measured = _nbytes(lane.result for lane in beside)
            rows.append(Row("sums over shards", "L, one for all ranks of a host that share memory", paper, measured))
    if reducer.compressed is not None:
        rows.append(Row("compression", *reducer.compressed.memory()))
    if lanes:
        rows.append(_pending(reducer, lanes, k))
    rows.append(_state(stores, spread=reducer.zero is not None))
    return rows


def _spread(lanes: Sequence[ZeroLane], peak_nbytes: int) -> list[Row]:
    """The gradients of ZeRO-2: what is owned, the ring, and what backward has made and nobody taken yet."""
    own = ring = longest = 0
    for lane in lanes:
        lo, hi = lane.store.range
        own += (hi - lo) * lane.store.dtype.itemsize
        own += 0 if lane.result is lane.store.gradient else (hi - lo) * lane.leaf_dtype.itemsize
        ring += 2 * IN_FLIGHT * max(b - a for pieces in lane.pieces for a, b in pieces) * lane.leaf_dtype.itemsize
        sizes = [_total(lane.store.sizes[b.first : b.last + 1]) * lane.store.dtype.itemsize for b in lane.buckets]
        longest = max(longest, *sizes)
    held = _nbytes(lane.store.gradient for lane in lanes)
    held += _nbytes(lane.result for lane in lanes if lane.result is not lane.store.gradient)
    in_ring = _nbytes(slot for lane in lanes for slot in (*lane.slots, *lane.sums))
    return [
        Row("gradients", "N_r (and L_r where sums have another dtype)", own, held),
        Row(
            "pieces in flight",
            f"{IN_FLIGHT} leaves and {IN_FLIGHT} sums of at most a bucket, 4 MB at most",
            ring,
            in_ring,
        ),
        Row("gradients of the bucket being filled", "the largest bucket", longest, peak_nbytes),
    ]


def _pending(reducer: Reducer, lanes: Sequence[Any], k: int) -> Row:
    count = max(pending_limit(lo, hi, reducer.shards) for lo, hi in reducer.ranges)
    paper = count * _total(lane.store.length * lane.leaf_dtype.itemsize for lane in lanes)
    formula = f"{count} L: log2(k) L, one more where a range is unaligned; k = {k}"
    return Row("pending partial sums", formula, paper, _nbytes(row for lane in lanes for row in lane.rows))


def _state(stores: Sequence[FlatStore], spread: bool) -> Row:
    paper = measured = count = 0
    for store in stores:
        lo, hi = store.range
        buffers = [buffer for held in store.state.values() for buffer in held.values()]
        count = max(count, len(buffers))
        paper += len(buffers) * (hi - lo) * store.dtype.itemsize
        measured += _nbytes(buffers)
    return Row("optimizer state", f"{count} {'N_r' if spread else 'N'}", paper, measured)


def memory_report(reducer: Reducer) -> str:
    """:func:`memory_rows` as text."""
    rows, group = memory_rows(reducer), reducer.group
    mode = "not sharded" if reducer.zero is None else f'shard="{reducer.zero.mode}"'
    lines = [f"memory of rank {group.rank} of {group.size}, {mode}, in bytes (on paper, measured):"]
    rows.append(Row("together", "", _total(r.paper_nbytes for r in rows), _total(r.measured_nbytes for r in rows)))
    for row in rows:
        lines.append(f"  {row.kind:<37}{row.paper_nbytes:>15,}{row.measured_nbytes:>15,}  {row.formula}".rstrip())
    return "\n".join(lines)


def _nbytes(buffers: Iterable[Any]) -> int:
    return _total(int(buffer.nbytes) for buffer in buffers)


def _total(numbers: Iterable[int]) -> int:
    return sum(numbers)
