"""Codecs of gradients by themselves: error bounds, sizes, determinism, and numbers that are odd."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from phalanx.core.errors import RangeError
from phalanx.core.flat import CHUNK
from phalanx.core.rng import Key
from phalanx.dist.compression import Half, Int8, OneBit, PowerSGD, TopK, power_sgd, scheme
from phalanx.dist.compression.codec import Draw, sum_by_halves
from phalanx.dist.compression.half import from_bfloat16, to_bfloat16

CODECS = [
    Half("float16"),
    Half("bfloat16"),
    Int8(),
    Int8(256),
    OneBit(),
    OneBit(1024),
    TopK(0.01),
    TopK(0.3),
    TopK(1.0),
]
SIZES = [1, 2, 7, 8, 63, 256, 1000, 1024, 1025, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 777]
DRAW = Draw(Key(3, 6, 5, 2, 99))
ids = [f"{c}" for c in CODECS]


def gradients(size, seed=0, spread=3.0):
    random = np.random.default_rng([seed, size])
    return (random.standard_normal(size) * 10.0 ** random.uniform(-spread, 0, size)).astype(np.float32)


def there_and_back(codec, values, draw=DRAW):
    data = np.full(codec.nbytes(values.size), 0xA5, np.uint8)
    before = values.copy()
    codec.encode(values, data, draw)
    assert values.tobytes() == before.tobytes(), "the input stays as it is"
    out = np.full(values.size, 7, np.float32)
    codec.decode(data, out)
    return out


def by_chunks(function, values):
    return np.concatenate([function(values[lo : lo + CHUNK]) for lo in range(0, values.size, CHUNK)])


def bound_of(codec, values):
    """The largest error that each element may have, written without any code of the codec."""
    magnitude = np.abs(values)
    if isinstance(codec, Half) and codec.dtype == "bfloat16":
        return magnitude * 2.0**-8
    if isinstance(codec, Half):
        return by_chunks(lambda v: np.maximum(np.abs(v) * 2.0**-11, np.abs(v).max() * 2.0**-38), values)
    if isinstance(codec, Int8):
        return np.concatenate(
            [
                np.full(min(codec.block, values.size - lo), magnitude[lo : lo + codec.block].max() / 127 * 1.001)
                for lo in range(0, values.size, codec.block)
            ]
        )
    if isinstance(codec, OneBit):  # no number is further from its block's mean than the block is wide
        return np.full(values.size, values.max() - values.min() + 1e-30)
    return by_chunks(
        lambda v: np.full(v.size, np.sort(np.abs(v))[v.size - max(1, int(np.ceil(codec.ratio * v.size)))]), values
    )


@pytest.mark.parametrize("codec", CODECS, ids=ids)
def test_error_bounds_at_every_size(codec):
    for size in SIZES:
        values = gradients(size)
        decoded = there_and_back(codec, values)
        error = np.abs(decoded.astype(np.float64) - values)
        assert (error <= bound_of(codec, values) + 1e-45).all(), size
        assert codec.nbytes(size) % 4 == 0


def test_bytes_on_paper():
    n = 3 * CHUNK + 512  # four chunks, 49 blocks of 1024
    assert Half("bfloat16").nbytes(n) == 2 * n
    assert Half("float16").nbytes(n) == 2 * n + 4 * 4
    assert Int8(1024).nbytes(n) == n + 4 * 49
    assert OneBit(1024).nbytes(n) == n // 8 + 8 * 49
    assert TopK(0.01).nbytes(n) == 6 * (3 * 164 + 6)


@pytest.mark.parametrize("codec", CODECS, ids=ids)
def test_runs_may_be_cut_anywhere_on_the_grid(codec):
    """Whoever encodes a chunk, alone or within a longer run: the same numbers arrive."""
    values = gradients(4 * CHUNK + 321)
    whole = there_and_back(codec, values)
    for cuts in ([0, CHUNK, values.size], [0, 3 * CHUNK, 4 * CHUNK, values.size]):
        pieces = [there_and_back(codec, values[a:b].copy(), Draw(DRAW.key, a)) for a, b in pairwise(cuts)]
        assert np.concatenate(pieces).tobytes() == whole.tobytes()


@pytest.mark.parametrize("codec", CODECS, ids=ids)
def test_zeros_and_minus_zeros(codec):
    for zero in (0.0, -0.0):
        assert (there_and_back(codec, np.full(CHUNK + 5, zero, np.float32)) == 0).all()
    mixed = np.zeros(3000, np.float32)
    mixed[17] = -2.5
    decoded = there_and_back(codec, mixed)
    assert decoded[17] == pytest.approx(-2.5, rel=1e-2) and decoded[1] == 0


@pytest.mark.parametrize("codec", CODECS, ids=ids)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_stays_so(codec, bad):
    for place in (0, 1500, CHUNK + 3):
        values = gradients(CHUNK + 9)
        values[place] = bad
        assert not np.isfinite(there_and_back(codec, values)[place])


@pytest.mark.parametrize("codec", CODECS, ids=ids)
@pytest.mark.filterwarnings("error")
def test_very_small_and_very_large(codec):
    """Denormal numbers give no infinity; numbers near float32's largest stay finite (bfloat16 may round them up)."""
    tiny = (np.arange(-500, 500) * 1.4e-45).astype(np.float32)
    decoded = there_and_back(codec, tiny)
    assert np.isfinite(decoded).all() and np.abs(decoded).max() < 1e-41
    large = np.full(300, 3e38, np.float32)
    large[::2] *= -1
    if not isinstance(codec, OneBit):  # the sum behind a mean of 150 of them is infinite
        np.testing.assert_allclose(there_and_back(codec, large)[:3], large[:3], rtol=0.01)


def test_int8_is_right_on_average_and_keyed():
    values = gradients(5000, spread=1.0)
    draws = [there_and_back(Int8(), values, Draw(Key(1, 6, step, 0, 0))) for step in range(400)]
    spread = np.abs(values[:1024]).max() / 127
    mean_error = np.abs(np.mean(draws, axis=0) - values)[:1024] / spread
    assert mean_error.mean() < 0.03, "the mean of 400 draws is within a small part of a code"
    assert draws[0].tobytes() != draws[1].tobytes()
    same = there_and_back(Int8(), values, Draw(Key(1, 6, 0, 0, 0)))
    assert same.tobytes() == draws[0].tobytes()
    other = there_and_back(Int8(), values, Draw(Key(1, 6, 0, 1, 0)))
    assert other.tobytes() != draws[0].tobytes()


def test_half_does_not_overflow_or_vanish():
    """Sums over a million samples, and gradients of 1e-9: plain float16 makes them infinity and zero."""
    for factor in (1e6, 1e-9, 1e30, 1e-30):
        values = gradients(1000, spread=1.0) * np.float32(factor)
        np.testing.assert_allclose(there_and_back(Half("float16"), values), values, rtol=2.0**-10)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_bfloat16_rounds_to_nearest_even():
    bits = np.random.default_rng(0).integers(0, 1 << 32, 100_000, dtype=np.uint32)
    values = bits.view(np.float32)
    back = np.empty_like(values)
    from_bfloat16(to_bfloat16(values), back)
    finite = np.isfinite(values)
    assert (np.isnan(back) == np.isnan(values)).all()
    lower = (bits & 0xFFFF0000).view(np.float32).astype(np.float64)
    upper = ((bits & 0xFFFF0000).astype(np.uint64) + 0x10000).astype(np.uint32).view(np.float32).astype(np.float64)
    wide = values.astype(np.float64)
    usable = finite & np.isfinite(upper)
    down, up = np.abs(wide - lower), np.abs(upper - wide)
    even = (bits >> 16) & 1 == 0
    expected = np.where((down < up) | ((down == up) & even), lower, upper)
    assert (back[usable] == expected[usable]).all()


def test_top_k_takes_the_largest_and_of_equal_ones_the_first():
    values = np.zeros(CHUNK + 300, np.float32)
    values[[5, 9, 400, 401, 402]] = [1, -3, 2, 2, 2]
    decoded = there_and_back(TopK(3 / CHUNK), values)
    assert np.flatnonzero(decoded[:CHUNK]).tolist() == [9, 400, 401]
    equal = np.full(200, -0.5, np.float32)
    assert np.flatnonzero(there_and_back(TopK(0.1), equal)).tolist() == list(range(20))


def test_one_bit_keeps_the_mean_of_each_sign():
    values = gradients(1024)
    decoded = there_and_back(OneBit(1024), values)
    assert decoded.min() == pytest.approx(values[values < 0].mean(), rel=1e-5)
    assert decoded.max() == pytest.approx(values[values >= 0].mean(), rel=1e-5)
    assert ((decoded < 0) == (values < 0)).all()


def test_error_feedback_sends_everything_in_the_end():
    """The sum of what arrives stays near the sum of what was to be sent: the residual is bounded."""
    for codec in (OneBit(), TopK(0.02)):
        residual, sent = np.zeros(5000, np.float32), np.zeros(5000)
        values = gradients(5000, spread=1.0)
        for _ in range(200):
            total = values + residual
            decoded = there_and_back(codec, total)
            residual = total - decoded
            sent += decoded
        error = np.linalg.norm(sent / 200 - values) / np.linalg.norm(values)
        assert error < 0.25, codec


def test_sum_by_halves():
    matrix = np.random.default_rng(0).integers(-9, 9, (4, 777)).astype(np.float64)
    assert (sum_by_halves(matrix.copy()) == matrix.sum(axis=1)).all()


# -- low rank --------------------------------------------------------------------------------------------------------


def test_orthonormal_columns():
    p = np.random.default_rng(1).standard_normal((200, 4)).astype(np.float32) * np.float32(1e20)
    p[:, 3] = p[:, 0] * 2 + p[:, 1]
    basis = power_sgd.orthonormal(p).astype(np.float64)
    np.testing.assert_allclose(basis.T @ basis, np.diag([1, 1, 1, 0]), atol=1e-6)
    assert (basis[:, 3] == 0).all(), "what depends on earlier columns is no noise of length 1"
    assert (power_sgd.orthonormal(np.zeros((5, 2), np.float32)) == 0).all()


def test_a_matrix_of_low_rank_arrives_whole():
    random = np.random.default_rng(2)
    matrix = (random.standard_normal((60, 2)) @ random.standard_normal((2, 90))).astype(np.float32)
    p = power_sgd.orthonormal(matrix @ power_sgd.start(90, 3, Key(0, 6, 0, 0, 0)))
    q = matrix.T @ p
    out = power_sgd.product(p, q, np.empty((60, 90), np.float32), np.empty((60, 90), np.float32))
    np.testing.assert_allclose(out, matrix, atol=1e-4)


def test_lost_columns_are_drawn_anew():
    q = np.ones((9, 3), np.float32)
    q[:, 1], q[4, 2] = 0, np.nan
    new = power_sgd.refill(q, Key(0, 6, 1, 0, 0))
    assert (new[:, 0] == 1).all() and np.isfinite(new).all() and (new[:, 1:] != 0).any(axis=0).all()
    assert power_sgd.refill(new, Key(0, 6, 2, 0, 0)) is new


# -- names and options ------------------------------------------------------------------------------------------------


def test_names():
    assert scheme("fp16") == Half("float16") and scheme("1bit") == OneBit() and scheme(TopK(0.1)) == TopK(0.1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: scheme("zip"), "'fp16', 'bf16', 'int8', '1bit', 'topk', 'powersgd'"),
        (lambda: scheme(TopK), r"write TopK\(\)"),
        (lambda: scheme(["int8"]), "one of"),
        (lambda: Half("float8"), "'bfloat16', got 'float8'"),
        (lambda: Int8(1000), "power of two from 8 to 16384, got 1000"),
        (lambda: OneBit(block=True), "power of two"),
        (lambda: TopK(0), "above 0"),
        (lambda: TopK(ratio="0.1"), "above 0"),
        (lambda: PowerSGD(rank=0), "at least 1, got 0"),
        (lambda: PowerSGD(start_step=-1), "at least 0, got -1"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(RangeError, match=words):
        make()
