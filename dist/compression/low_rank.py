"""Sums of matrices as factors: the exchange of PowerSGD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..messages import Messages
from ..reduction.collectives import SMALL_MEMBERS, SMALL_NBYTES, tree_all_reduce
from ..reduction.tree import Accumulator, slices, whole_subtrees
from .exchange import Exchange, Field, Leaf, Setting
from .power_sgd import PowerSGD, as_matrix, orthonormal, product, refill, start
from .residuals import SUM, drop_non_finite


class LowRankExchange(Exchange):
    """Two exact sums for each bucket: (P, and what goes uncompressed), then Q."""

    def __init__(self, scheme: PowerSGD, setting: Setting) -> None:
        super().__init__(setting)
        self.scheme = scheme
        self._present: set[tuple[int, int]] = set()
        self._q: dict[str, np.ndarray] = {}
        self._next_q: dict[str, np.ndarray] = {}
        self._approximations: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]] = {}
        """(shard, parameter) -> P and the shard's Q: what leaves its residual when the step is committed."""

    def remembers(self, field: Field) -> bool:
        return self.scheme.pays(field.shape)

    def factors(self) -> Mapping[str, np.ndarray]:
        return {field.name: self._factor(field) for field in self.setting.fields if self.remembers(field)}

    def restore_factors(self, factors: Mapping[str, np.ndarray]) -> None:
        self._q.update(factors)

    def sums_kept(self, rank: int) -> Sequence[tuple[Field, int, int]]:
        return ()

    def _factor(self, field: Field) -> np.ndarray:
        if field.name not in self._q:
            key = self.setting.key(0, SUM, field.number)
            self._q[field.name] = start(as_matrix(field.shape)[1], self.scheme.rank, key)
        return self._q[field.name]

    # -- leaves --------------------------------------------------------------------------------------------------------

    def take(self, number: int, shard: int, leaf: Leaf) -> None:
        bucket = self.setting.buckets[number]
        part = slice(bucket.lo, bucket.hi)
        values = self.residuals.pending(shard)
        leaf.write(bucket, values)
        values[part] += self.residuals.committed(shard)[part]
        self._present.add((number, shard))

    def forget(self) -> None:
        self._present.clear()
        self._approximations.clear()
        self._next_q.clear()

    def finish(self) -> None:
        matrices = {field.name: field for field in self.setting.fields}
        for (shard, name), (p, q) in self._approximations.items():
            rest = self._matrix(shard, matrices[name])
            with np.errstate(all="ignore"):
                rest -= product(p, q, np.empty_like(rest), np.empty_like(rest))
            drop_non_finite(rest)
        for shard in {shard for _, shard in self._present}:
            for field in self.setting.fields:
                if not self._is_factored(field):
                    self.residuals.pending(shard)[field.lo : field.hi] = 0
        self._q.update(self._next_q)

    def _is_factored(self, field: Field) -> bool:
        return self.step >= self.scheme.start_step and self.scheme.pays(field.shape)

    def _matrix(self, shard: int, field: Field) -> np.ndarray:
        """Gradient and residual of a shard, from its leaf to the commit."""
        return self.residuals.pending(shard)[field.lo : field.hi].reshape(as_matrix(field.shape))

    # -- the sum -------------------------------------------------------------------------------------------------------

    def exchange(self, messages: Messages, number: int, out: np.ndarray) -> None:
        self.begin(messages, number)
        bucket = self.setting.buckets[number]
        fields = self.setting.fields_of(bucket)
        matrices = [field for field in fields if self._is_factored(field)]
        plain = [field for field in fields if not self._is_factored(field)]
        first = self._sum(messages, number, _First(self, matrices, plain))
        if first is None:
            out[bucket.lo : bucket.hi] = 0
            return
        at = 0
        bases: dict[str, np.ndarray] = {}
        for field in matrices:
            size = as_matrix(field.shape)[0] * self.scheme.rank
            bases[field.name] = orthonormal(first[at : at + size].reshape(-1, self.scheme.rank))
            at += size
        for field in plain:
            out[field.lo : field.hi] = first[at : at + field.hi - field.lo]
            at += field.hi - field.lo
        if matrices:
            self._second(messages, number, matrices, bases, out)

    def _second(
        self,
        messages: Messages,
        number: int,
        matrices: list[Field],
        bases: Mapping[str, np.ndarray],
        out: np.ndarray,
    ) -> None:
        second = self._sum(messages, number, _Second(self, matrices, bases))
        assert second is not None, "the same shards are present in both sums"
        at = 0
        for field in matrices:
            columns = as_matrix(field.shape)[1]
            q = second[at : at + columns * self.scheme.rank].reshape(columns, -1)
            at += q.size
            target = out[field.lo : field.hi].reshape(as_matrix(field.shape))
            product(bases[field.name], q, target, np.empty_like(target))
            self._next_q[field.name] = refill(q, self.setting.key(self.step + 1, SUM, field.number))

    def _sum(self, messages: Messages, number: int, part: _First | _Second) -> np.ndarray | None:
        """Over all shards, by the exact tree; None when no shard is present."""
        setting = self.setting
        fold: Accumulator[np.ndarray] = Accumulator(setting.shards, lambda left, right: np.add(left, right, out=left))
        for shard in setting.owned:
            fold.push(shard, part.of(shard) if (number, shard) in self._present else None)
        out = np.empty(part.size, np.float32)
        present = tree_all_reduce(messages, fold.partials, setting.ranges, setting.shards, out)
        return out if present else None

    def memory(self) -> tuple[str, int, int]:
        paper = 2 * len(self.setting.owned) * 4 * self.setting.length
        return "2 k L, beside factors", paper, self.residuals.nbytes

    # -- on paper ------------------------------------------------------------------------------------------------------

    def bytes_per_step(self, rank: int) -> int:
        """What ``rank`` sends in a step, from ``start_step`` on, in which all shards have samples."""
        sent = 0
        for bucket in self.setting.buckets:
            sums = [0, 0]
            for field in self.setting.fields_of(bucket):
                if self.scheme.pays(field.shape):
                    height, width = as_matrix(field.shape)
                    sums[0] += height * self.scheme.rank
                    sums[1] += width * self.scheme.rank
                else:
                    sums[0] += field.hi - field.lo
            sent += sum(tree_bytes(size, self.setting, rank) for size in sums if size)
        return sent


class _First:
    """P of every matrix, then what goes uncompressed."""

    def __init__(self, owner: LowRankExchange, matrices: list[Field], plain: list[Field]) -> None:
        self.owner, self.matrices, self.plain = owner, matrices, plain
        rank = owner.scheme.rank
        self.size = sum(as_matrix(f.shape)[0] * rank for f in matrices) + sum(f.hi - f.lo for f in plain)

    def of(self, shard: int) -> np.ndarray:
        found, at, owner = np.empty(self.size, np.float32), 0, self.owner
        for field in self.matrices:
            target = found[at : at + as_matrix(field.shape)[0] * owner.scheme.rank].reshape(-1, owner.scheme.rank)
            np.matmul(owner._matrix(shard, field), owner._factor(field), out=target)
            at += target.size
        for field in self.plain:
            found[at : at + field.hi - field.lo] = owner.residuals.pending(shard)[field.lo : field.hi]
            at += field.hi - field.lo
        return found


class _Second:
    """Q of every matrix."""

    def __init__(self, owner: LowRankExchange, matrices: list[Field], bases: Mapping[str, np.ndarray]) -> None:
        self.owner, self.matrices, self.bases = owner, matrices, bases
        self.size = sum(as_matrix(f.shape)[1] * owner.scheme.rank for f in matrices)

    def of(self, shard: int) -> np.ndarray:
        found = []
        for field in self.matrices:
            p = self.bases[field.name]
            q = self.owner._matrix(shard, field).T @ p
            self.owner._approximations[shard, field.name] = p, q
            found.append(q.reshape(-1))
        return np.concatenate(found)


def tree_bytes(size: int, setting: Setting, rank: int) -> int:
    """What ``rank`` sends for the exact sum of ``size`` float32: its partial sums to who sums, its slice to all.

    What is small goes whole to all, in one round.
    """
    ranks = len(setting.ranges)
    partials = len(whole_subtrees(*setting.ranges[rank], setting.shards))
    if 4 * size <= SMALL_NBYTES and ranks <= SMALL_MEMBERS:
        return (ranks - 1) * partials * (1 + 4 * size)
    sizes = [hi - lo for lo, hi in slices(size, ranks)]
    sent = sum(partials * (1 + 4 * other) for number, other in enumerate(sizes) if number != rank)
    return sent + 4 * sizes[rank] * (ranks - 1)
