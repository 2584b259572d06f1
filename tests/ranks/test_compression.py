"""Compressed sums over ranks: equal bits on any number of ranks, the plain definition, bytes on paper, steps that are given up."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from phalanx.core.data.shards import owned_range
from phalanx.core.flat import CHUNK
from phalanx.dist.communicators.alone import AloneCommunicator
from phalanx.dist.communicators.threads import current_communicator, run_threads
from phalanx.dist.compression import Half, Int8, OneBit, PowerSGD, TopK, carry
from phalanx.dist.compression.codec import Codec, Draw
from phalanx.dist.compression.compressor import bytes_per_step, exchange_for
from phalanx.dist.compression.exchange import Field, Leaf, Setting
from phalanx.dist.reduction.bucket import plan_buckets
from tests.ranks.contract import plain_tree, same_bits

SCHEMES = [Half("float16"), Half("bfloat16"), Int8(), OneBit(256), TopK(0.05), PowerSGD(2), PowerSGD(3, start_step=1)]
SHAPES = [(10,), (10, 300), (300,), (200, 100), (7, 3, 3, 3), (1,), (CHUNK + 900,)]
STEPS, SEED = 3, 11
ids = [str(s) for s in SCHEMES]


def fields():
    found, end = [], 0
    for index, shape in enumerate(SHAPES):
        size = int(np.prod(shape))
        found.append(Field(f"layer{index}.weight", index, end, end + size, shape))
        end += -(-size // 64) * 64
    return tuple(found), end


FIELDS, LENGTH = fields()


def setting(rank, size, shards, bucket_bytes=20_000):
    ranges = tuple(owned_range(r, size, shards) for r in range(size))
    buckets = plan_buckets([f.lo for f in FIELDS], LENGTH, 4, bucket_bytes, bucket_bytes)
    return Setting(rank, ranges, shards, SEED, LENGTH, tuple(buckets), FIELDS)


@functools.cache
def gradient(step, shard):
    """In the layout of the store; padding is zero."""
    found, random = np.zeros(LENGTH, np.float32), np.random.default_rng([step, shard])
    for field in FIELDS:
        size = field.hi - field.lo
        found[field.lo : field.hi] = random.standard_normal(size) * 10.0 ** random.uniform(-3, 0, size)
    return found


def weight(step, shard):
    """Shard 2 has no samples in step 1."""
    return 0.0 if (step, shard) == (1, 2) else 1.0 + shard % 3


def unused(step, shard):
    """Shard 1 does not use one parameter in step 2."""
    return ((FIELDS[3].lo, FIELDS[3].hi),) if (step, shard) == (2, 1) else ()


def leaf_of(exchange, number, step, shard, factor=1):
    bucket = exchange.setting.buckets[number]
    extents = [(lo, hi) for lo, hi in unused(step, shard) if bucket.lo <= lo < bucket.hi]
    scaled = gradient(step, shard) if factor == 1 else gradient(step, shard) * np.float32(factor)
    return Leaf(scaled, weight(step, shard), tuple(extents))


def one_step(exchange, comm, step, first=True, factor=1):
    """What a rank does: leaves of owned shards, every bucket, the last leaf within it. Returns the sum.

    ``first`` False: the earlier leaves have been taken already. ``factor``: on the last leaf.
    """
    out = np.zeros(LENGTH, np.float32)
    *earlier, last = exchange.setting.owned or [None]
    numbers = range(len(exchange.setting.buckets))
    for shard in earlier if first else ():
        for number in numbers:
            if weight(step, shard):
                exchange.take(number, shard, leaf_of(exchange, number, step, shard))
    for number in numbers:

        def program(messages, number=number):
            if last is not None and weight(step, last):
                exchange.take(number, last, leaf_of(exchange, number, step, last, factor))
            exchange.exchange(messages, number, out)

        comm.run(program, name=f"bucket {number}").wait()
    return out


def training(scheme, shards, bucket_bytes=20_000, again=False, given_up=False):
    """The sums of some steps on every rank."""
    comm = current_communicator() or AloneCommunicator()
    exchange = exchange_for(scheme, setting(comm.rank, comm.size, shards, bucket_bytes))
    sums = []
    for step in range(STEPS):
        if given_up:  # zero_grad() after everything was summed
            one_step(exchange, comm, STEPS + step)
            exchange.rollback()
        if again:  # the last shard's leaf was not complete yet: its sums are void
            one_step(exchange, comm, step, factor=3)
        sums.append(one_step(exchange, comm, step, first=not again))
        exchange.commit(())
    return sums


def plain_codec(codec, shards):
    """The definition, chunk by chunk and shard by shard, without any exchange."""
    residual = {owner: np.zeros(LENGTH, np.float32) for owner in range(-1, shards)}
    results = []
    for step in range(STEPS):
        result = np.zeros(LENGTH, np.float32)
        for field in FIELDS:
            for first in range(0, field.hi - field.lo, CHUNK):
                lo, hi = field.lo + first, min(field.lo + first + CHUNK, field.hi)

                def code(values, owner, codec, lo=lo, hi=hi, first=first, field=field, step=step):
                    data, back = np.zeros(codec.nbytes(hi - lo), np.uint8), np.zeros(hi - lo, np.float32)
                    values = values + residual[owner][lo:hi] if codec.feedback else values
                    codec.encode(values, data, Draw(exchange_key(step, owner, field), first))
                    codec.decode(data, back)
                    residual[owner][lo:hi] = values - back
                    return back

                leaves = []
                for shard in range(shards):
                    if not weight(step, shard):
                        leaves.append(None)
                        continue
                    leaf = gradient(step, shard)[lo:hi] * np.float32(weight(step, shard))
                    if unused(step, shard) == ((field.lo, field.hi),):
                        leaf[:] = -0.0
                    leaves.append(code(leaf, shard, codec))
                total = plain_tree([None if leaf is None else leaf.copy() for leaf in leaves])
                result[lo:hi] = 0 if total is None else code(total, -1, codec.for_sum(shards))
        results.append(result)
    return results


def exchange_key(step, owner, field):
    return setting(0, 1, 1).key(step, owner, field.number)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("codec", [s for s in SCHEMES if isinstance(s, Codec)], ids=str)
def test_the_plain_definition(codec, shards):
    for got, expected in zip(training(codec, shards), plain_codec(codec, shards), strict=True):
        assert same_bits(got + np.float32(0), expected + np.float32(0))


@pytest.mark.parametrize("shards", [3, 8])
@pytest.mark.parametrize("scheme", SCHEMES, ids=ids)
def test_equal_bits_on_any_number_of_ranks(scheme, shards):
    expected = training(scheme, shards)
    for size, bucket_bytes in ((2, 20_000), (3, 50_000), (5, 1 << 22)):
        for sums in run_threads(training, size, scheme, shards, bucket_bytes, timeout_s=20):
            assert all(same_bits(a, b) for a, b in zip(sums, expected, strict=True)), (size, bucket_bytes)


@pytest.mark.parametrize("scheme", [Int8(), OneBit(256), TopK(0.05), PowerSGD(2)], ids=str)
def test_residuals_do_not_move_before_the_commit(scheme):
    """Steps that were given up and sums that were done again leave no trace."""
    expected = training(scheme, 3)
    assert same_bits(training(scheme, 3, given_up=True)[-1], expected[-1])
    for sums in run_threads(lambda: training(scheme, 3, again=True), 2, timeout_s=20):
        assert all(same_bits(a, b) for a, b in zip(sums, expected, strict=True))


@pytest.mark.parametrize("scheme", [OneBit(256), TopK(0.05), PowerSGD(2)], ids=str)
def test_nothing_is_lost(scheme):
    """What was sent and what the residuals hold is all that there was to send."""
    exchange = exchange_for(scheme, setting(0, 1, 3))
    comm = AloneCommunicator()
    sent, given = np.zeros(LENGTH), np.zeros(LENGTH)
    for step in range(STEPS):
        sent += one_step(exchange, comm, step)
        exchange.commit(())
        for shard in range(3):
            leaf = gradient(step, shard).astype(np.float64) * weight(step, shard)
            for lo, hi in unused(step, shard):
                leaf[lo:hi] = 0
            given += leaf
    left = sum(exchange.residuals.committed(owner).astype(np.float64) for owner in exchange.residuals.owners())
    np.testing.assert_allclose(sent + left, given, atol=2e-4)
    assert np.abs(left).max() > 0.1


def test_a_parameter_that_nobody_used_keeps_its_residual():
    exchange, comm = exchange_for(TopK(0.01), setting(0, 1, 2)), AloneCommunicator()
    one_step(exchange, comm, 0)
    exchange.commit(())
    lo, hi = FIELDS[3].lo, FIELDS[3].hi
    before = {owner: exchange.residuals.committed(owner)[lo:hi].copy() for owner in (-1, 0, 1)}
    one_step(exchange, comm, 1)
    exchange.commit([(lo, hi)])
    for owner, residual in before.items():
        assert same_bits(residual, exchange.residuals.committed(owner)[lo:hi])
    assert any(residual.any() for residual in before.values())


@pytest.mark.parametrize("scheme", [Half(), OneBit(256), TopK(0.05), PowerSGD(2)], ids=str)
def test_not_finite_arrives_and_does_not_stay(scheme):
    """A NaN in one shard's gradient is seen by all; the next steps are clean."""
    exchange, comm = exchange_for(scheme, setting(0, 1, 2)), AloneCommunicator()
    poison = gradient(0, 1).copy()
    poison[FIELDS[3].lo + 5] = np.nan
    sums = []
    for bad in (True, False, False):
        out = np.zeros(LENGTH, np.float32)
        for number in range(len(exchange.setting.buckets)):
            exchange.take(number, 0, Leaf(gradient(0, 0), 1.0))
            exchange.take(number, 1, Leaf(poison if bad else gradient(0, 1), 1.0))
            comm.run(lambda m, n=number, o=out: exchange.exchange(m, n, o), name="bucket").wait()
        exchange.commit(())
        sums.append(np.isfinite(out).all())
    assert sums == [False, True, True]


@pytest.mark.parametrize("shards", [2, 8])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("scheme", SCHEMES[:-1], ids=ids[:-1])
def test_bytes_as_on_paper(scheme, size, shards):
    """The transport's own counter over a step, and the formula."""

    def main():
        comm = current_communicator()
        exchange = exchange_for(scheme, setting(comm.rank, comm.size, shards))
        before = comm.sent_bytes
        one_step(exchange, comm, 0)
        return comm.sent_bytes - before

    for rank, sent in enumerate(run_threads(main, size, timeout_s=20)):
        assert sent == bytes_per_step(scheme, setting(rank, size, shards), rank)


def test_bytes_by_hand():
    """One matrix of 4 chunks, 2 ranks with one shard each: each sends half of its leaf's code and half of the sum's."""
    n = 4 * CHUNK
    buckets = tuple(plan_buckets([0], n, 4))
    here = Setting(0, ((0, 1), (1, 2)), 2, 0, n, buckets, (Field("w", 0, 0, n, (256, 256)),))
    flag = 4
    assert bytes_per_step(Int8(1024), here, 0) == flag + (n + 4 * 64)
    assert bytes_per_step(Half("bfloat16"), here, 1) == flag + 2 * n
    assert bytes_per_step(OneBit(1024), here, 0) == flag + n // 8 + 8 * 64
    assert bytes_per_step(TopK(0.01), here, 0) == flag + 2 * 6 * 164 + 2 * 2 * 6 * 164  # the sum: of both shards
    assert bytes_per_step(PowerSGD(4), here, 0) == 2 * (1 + 256 * 4 * 4)  # small: each factor whole, in one round


def test_power_sgd_goes_on_from_its_last_factor():
    """One power iteration a step: with a gradient that stays, the approximation turns towards the largest directions."""
    exchange, comm = exchange_for(PowerSGD(2), setting(0, 1, 1)), AloneCommunicator()
    field, errors = FIELDS[3], []
    left, _, right = np.linalg.svd(np.random.default_rng(0).standard_normal(field.shape), full_matrices=False)
    matrix = (left * 0.9 ** np.arange(100)) @ right
    values = np.zeros(LENGTH, np.float32)
    values[field.lo : field.hi] = matrix.reshape(-1)
    for _ in range(6):
        exchange.residuals = type(exchange.residuals)(LENGTH)  # without feedback: the factor alone learns
        out = np.zeros(LENGTH, np.float32)
        for number in range(len(exchange.setting.buckets)):
            exchange.take(number, 0, Leaf(values, 1.0))
            comm.run(lambda m, n=number, o=out: exchange.exchange(m, n, o), name="bucket").wait()
        exchange.commit(())
        errors.append(np.linalg.norm(out[field.lo : field.hi] - matrix.reshape(-1)))
    best = np.linalg.norm(0.9 ** np.arange(2, 100))
    assert errors[0] > 1.1 * best and errors[-1] < 1.02 * best, (errors, best)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("scheme", [TopK(0.05), OneBit(256), PowerSGD(2)], ids=str)
def test_residuals_follow_their_parameters_into_another_layout(scheme, size):
    """One parameter goes, the others lie elsewhere in other buckets: what is left out of each, and of the sum, comes along."""
    shards = 8  # above four, so that the sum of the largest has a residual too

    def main():
        comm = current_communicator() or AloneCommunicator()
        old = exchange_for(scheme, setting(comm.rank, comm.size, shards))
        for step in range(2):
            one_step(old, comm, step)
            old.commit(())
        fields, end = [], 0
        for number, f in enumerate(reversed([f for f in FIELDS if f.index != 1])):
            fields.append(Field(f.name, number, end, end + f.hi - f.lo, f.shape))
            end += -(-(f.hi - f.lo) // 64) * 64
        buckets = plan_buckets([f.lo for f in fields], end, 4, 100_000, 100_000)
        new = exchange_for(
            scheme, Setting(comm.rank, old.setting.ranges, shards, SEED, end, tuple(buckets), tuple(fields))
        )
        carry.over(old, new)
        comm.run(lambda m: new.begin(m, 0), name="gather").wait()
        return old, new

    before, after = zip(*run_threads(main, size, timeout_s=20), strict=True)
    for owner in (-1, *range(shards)):
        holders = range(size) if owner == -1 else [r for r in range(size) if owner in before[r].setting.owned]
        for rank in holders:
            for f in after[rank].setting.fields:
                old = next(g for g in FIELDS if g.name == f.name)
                got, expected = after[rank].residuals.committed(owner)[f.lo : f.hi], np.zeros(f.hi - f.lo, np.float32)
                if owner == -1:  # each part from whoever kept it
                    for other in before:
                        for g, first, stop in other.sums_kept(other.setting.rank):
                            if g.name == f.name:
                                expected[first:stop] = other.residuals.committed(-1)[g.lo + first : g.lo + stop]
                else:
                    expected = before[rank].residuals.committed(owner)[old.lo : old.hi]
                if after[rank].remembers(f):
                    assert same_bits(got, expected)
                    assert got.any() or isinstance(scheme, PowerSGD) or f.hi - f.lo == 1
    assert {exchange.step for exchange in after} == {2}
    for exchange, old in zip(after, before, strict=True):
        assert all(same_bits(q, old.factors()[name]) for name, q in exchange.factors().items())


def test_long_parameters_are_coded_in_pieces_and_kept_in_one():
    """20 chunks: several runs for each rank, one range of the sum's residual for each; the same sums as from one rank."""
    n = 20 * CHUNK + 5
    values = np.random.default_rng(0).standard_normal(n).astype(np.float32)

    def main():
        comm = current_communicator() or AloneCommunicator()
        ranges = tuple(owned_range(r, comm.size, 5) for r in range(comm.size))
        place = Setting(comm.rank, ranges, 5, 0, n, tuple(plan_buckets([0], n, 4)), (Field("w", 0, 0, n, (n,)),))
        exchange, out = exchange_for(OneBit(), place), np.zeros(n, np.float32)
        for _ in range(2):
            for shard in place.owned:
                exchange.take(0, shard, Leaf(values, 1.0 + shard))
            comm.run(lambda m: exchange.exchange(m, 0, out), name="bucket").wait()
            exchange.commit(())
        return out, [exchange.sums_kept(rank) for rank in range(comm.size)]

    (expected, _), results = run_threads(main, 1)[0], run_threads(main, 2, timeout_s=20)
    for out, kept in results:
        assert same_bits(out, expected)
        ((_, a, b),), ((_, c, d),) = kept
        assert a == 0 < b == c < d == n
