"""Sums with a codec: encoded leaves go to who sums their chunks, the encoded sum goes to all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..messages import Messages
from ..reduction.collectives import others
from ..reduction.tree import Accumulator
from .codec import Codec, Draw, aligned
from .cut import Run, Share, shares
from .exchange import Exchange, Field, Leaf, Setting
from .residuals import SUM, drop_non_finite


class BlockExchange(Exchange):
    """For codecs that see runs of elements.

    Each rank owns a contiguous range of each bucket's chunks. It decodes that part of every shard's leaf, sums in the order of
    the tree over shards, adds what the sum's code left out the last time, encodes, and everybody decodes the same bytes.
    """

    def __init__(self, codec: Codec, setting: Setting) -> None:
        super().__init__(setting)
        self.codec = codec
        self._fields = {field.index: field for field in setting.fields}
        self._sum_codec = codec.for_sum(setting.shards)
        self._shares, self._sum_shares = (self._cut(code) for code in (codec, self._sum_codec))
        """The same runs twice: where the code of a leaf lies, and that of the sum."""
        self._encoded: dict[tuple[int, int], np.ndarray] = {}
        self._present: set[tuple[int, int]] = set()
        self._scratch = np.zeros(setting.length, np.float32)
        self._spans: list[np.ndarray] = []
        self._longest = max((s.hi - s.lo for cut in self._shares for s in cut), default=0)

    def _cut(self, codec: Codec) -> list[list[Share]]:
        """For each bucket what each rank sums."""
        setting = self.setting
        extents = [[(f.index, f.lo, f.hi) for f in setting.fields_of(bucket)] for bucket in setting.buckets]
        return [shares(bucket, len(setting.ranges), codec.nbytes) for bucket in extents]

    def remembers(self, field: Field) -> bool:
        return self.codec.feedback

    def factors(self) -> Mapping[str, np.ndarray]:
        return {}

    def restore_factors(self, factors: Mapping[str, np.ndarray]) -> None:
        """There are none."""

    def finish(self) -> None:
        """Residuals are written with the codes."""

    # -- leaves --------------------------------------------------------------------------------------------------------

    def take(self, number: int, shard: int, leaf: Leaf) -> None:
        cut, bucket = self._shares[number], self.setting.buckets[number]
        place = (number, shard)
        if place not in self._encoded:
            self._encoded[place] = np.zeros(cut[-1].end, np.uint8)
        encoded = self._encoded[place]
        part = slice(bucket.lo, bucket.hi)
        values = self.residuals.pending(shard) if self.codec.feedback else self._scratch
        leaf.write(bucket, values)
        if self.codec.feedback:
            values[part] += self.residuals.committed(shard)[part]
        for share in cut:
            for run in share.runs:
                code = encoded[run.at : run.at + run.nbytes]
                self.codec.encode(values[run.lo : run.hi], code, self._draw(shard, run))
                if self.codec.feedback:
                    self._subtract(self.codec, code, values[run.lo : run.hi], self._scratch[run.lo : run.hi])
        self._present.add(place)

    @staticmethod
    def _subtract(codec: Codec, code: np.ndarray, values: np.ndarray, scratch: np.ndarray) -> None:
        """``values`` becomes what ``code`` leaves out of it; ``scratch`` what the code says."""
        codec.decode(code, scratch)
        with np.errstate(all="ignore"):
            values -= scratch
        drop_non_finite(values)

    def _draw(self, shard: int, run: Run) -> Draw:
        return Draw(self.setting.key(self.step, shard, self._fields[run.parameter].number), run.first)

    def forget(self) -> None:
        self._present.clear()

    # -- the sum -------------------------------------------------------------------------------------------------------

    def exchange(self, messages: Messages, number: int, out: np.ndarray) -> None:
        self.begin(messages, number)
        cut, setting = self._shares[number], self.setting
        own = [self._encoded[number, s] if (number, s) in self._present else None for s in setting.owned]
        for other in others(messages):
            messages.post(other, _joined(own, cut[other]), "leaves")
        mine = cut[messages.rank]
        fold: Accumulator[np.ndarray] = Accumulator(setting.shards, self._add)
        for rank, owned in enumerate(setting.ranges):
            if rank == messages.rank:
                rows = [None if e is None else e[mine.begin : mine.end] for e in own]
            else:
                rows = _split(messages.take(rank, part="leaves"), owned[1] - owned[0], mine.end - mine.begin)
            for shard, row in zip(range(*owned), rows, strict=True):
                fold.push(shard, None if row is None else self._decoded(row, mine))
        total = fold.partials.get((0, setting.shards))
        if total is None:
            bucket = setting.buckets[number]
            out[bucket.lo : bucket.hi] = 0
            return
        sums = self._sum_shares[number]
        code = self._encode_sum(sums[messages.rank], total, out)
        self._spans.append(total)
        for other in others(messages):
            if code.size:
                messages.post(other, code, "sum")
        for other in others(messages):
            theirs = sums[other]
            if theirs.runs:
                data = messages.take(other, messages.scratch((theirs.end - theirs.begin,), np.dtype(np.uint8)), "sum")
                for run in theirs.runs:
                    at = run.at - theirs.begin
                    self._sum_codec.decode(data[at : at + run.nbytes], out[run.lo : run.hi])

    def _encode_sum(self, share: Share, total: np.ndarray, out: np.ndarray) -> np.ndarray:
        """The bytes of this rank's part of the sum; what they say goes into ``out``."""
        code = np.zeros(share.end - share.begin, np.uint8)
        feedback = self.codec.feedback
        before = self.residuals.committed(SUM) if feedback else total
        after = self.residuals.pending(SUM) if feedback else total
        for run in share.runs:
            values = total[run.lo - share.lo : run.hi - share.lo]
            if feedback:
                values += before[run.lo : run.hi]
            data = code[run.at - share.begin : run.at - share.begin + run.nbytes]
            self._sum_codec.encode(values, data, self._draw(SUM, run))
            if feedback:
                self._subtract(self._sum_codec, data, values, out[run.lo : run.hi])
                after[run.lo : run.hi] = values
            else:
                self._sum_codec.decode(data, out[run.lo : run.hi])
        return code

    def _decoded(self, row: np.ndarray, share: Share) -> np.ndarray:
        """A leaf's numbers on this rank's span of the store."""
        span = self._spans.pop() if self._spans else np.zeros(self._longest, np.float32)
        for run in share.runs:
            at = run.at - share.begin
            self.codec.decode(row[at : at + run.nbytes], span[run.lo - share.lo : run.hi - share.lo])
        return span

    def _add(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            np.add(left, right, out=left)
        self._spans.append(right)
        return left

    def sums_kept(self, rank: int) -> Sequence[tuple[Field, int, int]]:
        if not self.codec.feedback:
            return ()
        kept: dict[int, tuple[int, int]] = {}
        for run in (run for cut in self._shares for run in cut[rank].runs):  # neighbours, where of one parameter
            first, _ = kept.get(run.parameter, (run.first, 0))
            kept[run.parameter] = first, run.first + run.hi - run.lo
        return [(self._fields[index], first, stop) for index, (first, stop) in kept.items()]

    # -- on paper ------------------------------------------------------------------------------------------------------

    def bytes_per_step(self, rank: int) -> int:
        """What ``rank`` sends in a step in which all shards have samples."""
        lo, hi = self.setting.ranges[rank]
        head, ranks = aligned(hi - lo), len(self.setting.ranges)
        sent = 0
        for cut, sums in zip(self._shares, self._sum_shares, strict=True):
            sizes = [share.end - share.begin for share in cut]
            sent += sum(head + (hi - lo) * size for other, size in enumerate(sizes) if other != rank)
            sent += (ranks - 1) * (sums[rank].end - sums[rank].begin)
        return sent

    def memory(self) -> tuple[str, int, int]:
        store, shards = 4 * self.setting.length, len(self.setting.owned)
        measured = self.residuals.nbytes + self._scratch.nbytes
        if not self.codec.feedback:
            return "L, beside codes on their way", store, measured
        return "(2 k + 3) L, beside codes on their way", (2 * shards + 3) * store, measured


def _joined(own: Sequence[np.ndarray | None], share: Share) -> bytes:
    """One message: a byte for each owned shard that says whether it has samples, and this part of their codes."""
    flags = bytes(e is not None for e in own).ljust(aligned(len(own)), b"\0")
    return b"".join([flags, *(e[share.begin : share.end].data for e in own if e is not None)])


def _split(data: bytes, shards: int, nbytes: int) -> list[np.ndarray | None]:
    """The inverse of :func:`_joined`."""
    at = aligned(shards)
    rows: list[np.ndarray | None] = []
    for flag in bytes(data[:shards]):
        rows.append(np.frombuffer(data, np.uint8, nbytes, at) if flag else None)
        at += nbytes if flag else 0
    return rows
