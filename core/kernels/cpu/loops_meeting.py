"""The end of a step between ranks that share memory, as one compiled call: meet, merge states, mean of the gradients, meet.

It comes once a step between large products, when no cache holds anything of it: a thousand lines of an interpreter are then a
thousand waits for memory. So all that is the same from step to step lies ready, and one array says where: an array less to hand over
is some lines less to wait for.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import carray

from ..bound import BOUND
from ..reference_meeting import (
    ALL_HERE,
    AREA,
    ARRIVED,
    ARRIVED_AGAIN,
    BATCHES,
    BEGIN,
    CHANNELS,
    CHANNELS_OF,
    CONSTANT_NBYTES,
    CONTROL,
    DATA,
    DATA_NBYTES,
    DONE,
    EXPECTED,
    FROM,
    HEAD,
    INDEX,
    JOINED,
    LENGTHS,
    MEAN,
    MERGINGS,
    MIDDLE,
    MIDDLE_AGAIN,
    MIDDLE_AGAIN_NBYTES,
    MIDDLE_NBYTES,
    MOMENTS,
    NOTE,
    OF_CONSTANT,
    OF_DATA,
    OF_NOTE,
    ONE,
    OTHER,
    OWN_NOTE,
    OWN_NOTE_NBYTES,
    PAIRS,
    PHASE,
    POLLS,
    PRODUCT,
    ROW,
    RUNNING,
    RUNNING_LENGTH,
    SHARE,
    SHARES,
    SIZE,
    SIZES,
    SLEEPERS,
    START,
    STOP,
    TEXT,
    TOTALS,
    VARIANCE,
    WAKE,
    WIDTH,
    YIELDS,
)
from .compiled import inline, loop
from .loops_running import _move
from .ordered import load_first, pause, pointer, store_last, yield_core

Array = Any
f4, f8, u1, u4, i8 = np.float32, np.float64, np.uint8, np.uint32, np.int64
MASK, HALF = 0xFFFFFFFF, 0x80000000
ZERO = ord("0")
POLLS_A_YIELD = 1000
"""A yield may take some milliseconds where others want the core: few of them, so that nobody is deaf for long."""


def _crc_table() -> np.ndarray:
    """What a byte makes of a CRC-32."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, np.uint32(0xEDB88320) ^ (table >> 1), table >> 1).astype(np.uint32)
    return table


CRC = _crc_table()


@inline
def _checksum(control, at, count, start):  # type: ignore[no-untyped-def]
    """As ``zlib.crc32``, of ``count`` bytes."""
    crc = u4(start) ^ u4(MASK)
    for i in range(count):
        crc = CRC[(crc ^ control[at + i]) & u4(255)] ^ (crc >> u4(8))
    return crc ^ u4(MASK)


@inline
def _write(control, at, data):  # type: ignore[no-untyped-def]
    for i in range(data.size):
        control[at + i] = data[i]
    return at + data.size


@inline
def _write_number(control, at, number):  # type: ignore[no-untyped-def]
    """In decimals; where they end."""
    digits, rest = 1, number // 10
    while rest > 0:
        digits, rest = digits + 1, rest // 10
    rest = number
    for i in range(digits):
        control[at + digits - 1 - i] = ZERO + rest % 10
        rest //= 10
    return at + digits


@inline
def _arrive(plan, control, words, number, operation, step, middle, note, data):  # type: ignore[no-untyped-def]
    """Write this rank's area and say so; WAKE if somebody sleeps until then, else 0."""
    row = plan[INDEX] * plan[ROW]
    start = row + plan[HEAD] + (number & 1) * plan[AREA]
    at = _write_number(control, start, operation)
    at = _write(control, at, middle)
    text_nbytes = _write_number(control, at, step) - start
    at = start + plan[TEXT]
    _write(control, at, note)
    _write(control, at + plan[NOTE], data)
    said = (row + plan[LENGTHS]) // 4 + 4 * (number & 1)
    words[said] = text_nbytes
    words[said + 1] = note.size
    words[said + 2] = data.size
    words[said + 3] = _checksum(control, at, note.size, _checksum(control, start, text_nbytes, data.size))
    store_last(words, (row + plan[PHASE]) // 4, u4(number))
    asleep = 0
    for rank in range(plan[SIZE]):
        asleep |= control[row + plan[SLEEPERS] + rank]
    return WAKE if asleep != 0 else 0


@inline
def _all_are_here(plan, words, number):  # type: ignore[no-untyped-def]
    """Whether every rank has come within a short while."""
    for rank in range(plan[SIZE]):
        if rank != plan[INDEX]:
            word, tries = (rank * plan[ROW] + plan[PHASE]) // 4, 0
            while ((i8(load_first(words, word)) - number) & MASK) >= HALF:
                tries += 1
                if tries > plan[POLLS]:
                    if tries > plan[POLLS] + plan[YIELDS] * POLLS_A_YIELD:
                        return False
                    if tries % POLLS_A_YIELD == 0:
                        yield_core()
                pause()
    return True


@inline
def _differ(control, at, wanted, count):  # type: ignore[no-untyped-def]
    differ = 0
    for i in range(count):
        differ |= control[at + i] ^ wanted[i]
    return differ != 0


@inline
def _say(plan, control, words, number, expected, sizes, brought):  # type: ignore[no-untyped-def]
    """Whether every other rank says what this one does, and of itself what is expected; nothing where nothing is ``brought``."""
    mine = plan[INDEX] * plan[ROW]
    own = mine + plan[HEAD] + (number & 1) * plan[AREA]
    text_nbytes = i8(words[(mine + plan[LENGTHS]) // 4 + 4 * (number & 1)])
    for rank in range(plan[SIZE]):
        if rank == plan[INDEX]:
            continue
        row = rank * plan[ROW]
        at = row + plan[HEAD] + (number & 1) * plan[AREA]
        said = (row + plan[LENGTHS]) // 4 + 4 * (number & 1)
        note = brought * sizes[rank, OF_NOTE]
        if words[said] != text_nbytes or words[said + 1] != note or words[said + 2] != brought * sizes[rank, OF_DATA]:
            return False
        if _differ(control, at, control[own:], text_nbytes) or _differ(control, at + plan[TEXT], expected[rank], note):
            return False
        if _differ(control, at + plan[TEXT] + plan[NOTE], expected[rank, note:], brought * sizes[rank, OF_CONSTANT]):
            return False
    return True


@inline
def _merge(plan, values, number, sizes, pairs, share, product, totals, moments):  # type: ignore[no-untyped-def]
    """Weight, loss and moments of all ranks, in the order of ``pairs``; the result is in row 0."""
    channels = share.shape[1]
    for rank in range(plan[SIZE]):
        at = rank * plan[ROW] + plan[HEAD] + (number & 1) * plan[AREA] + plan[TEXT] + plan[NOTE]
        at = (at + sizes[rank, OF_CONSTANT]) // 8
        totals[rank, 0] = values[at]
        totals[rank, 1] = values[at + 1]
        for i in range(channels):
            moments[rank, 0, i] = values[at + 2 + i]
            moments[rank, 1, i] = values[at + 2 + channels + i]
    for step in range(pairs.shape[0]):
        a, b = pairs[step, 0], pairs[step, 1]
        totals[a, 0] += totals[b, 0]
        totals[a, 1] += totals[b, 1]
        for i in range(channels):
            delta = moments[b, 0, i] - moments[a, 0, i]
            moments[a, 0, i] = moments[a, 0, i] + delta * share[step, i]
            moments[a, 1, i] = (moments[a, 1, i] + moments[b, 1, i]) + delta * delta * product[step, i]


@inline
def _mean(first, second, divisor):  # type: ignore[no-untyped-def]
    """Of two arrays, in both; the inverse of a small power of two is exact, so the product is the quotient."""
    mantissa, exponent = math.frexp(divisor)
    if mantissa == 0.5 and -100 < exponent < 100:
        factor = f4(1.0 / divisor)
        for i in range(first.size):  # of what begins elsewhere indices might be negative: not vectorised
            mean = (first[i] + second[i]) * factor
            first[i] = mean
            second[i] = mean
    else:
        number = f4(divisor)
        for i in range(first.size):
            mean = (first[i] + second[i]) / number
            first[i] = mean
            second[i] = mean


@inline
def _move_layer(running, shares, seen):  # type: ignore[no-untyped-def]
    channels, first = running[CHANNELS_OF], running[FROM]
    mean, variance = carray(pointer(running[MEAN], f4), channels), carray(pointer(running[VARIANCE], f4), channels)
    batches = carray(pointer(running[BATCHES], i8), 1)
    _move(mean, variance, batches, seen[0, first:], seen[1, first:], shares[0], shares[1])


@loop("i8, i8[:], i8, i8, i8, f8, f8, i8", exact=True)
def meeting_loop(stage, plan, number, operation, step, weight, loss, layers):  # type: ignore[no-untyped-def]
    ranks, channels, merges = plan[SIZE], plan[CHANNELS], plan[MERGINGS]
    nbytes = ranks * plan[ROW]
    control, words = carray(pointer(plan[CONTROL], u1), nbytes), carray(pointer(plan[CONTROL], u4), nbytes // 4)
    note, data = (
        carray(pointer(plan[OWN_NOTE], u1), plan[OWN_NOTE_NBYTES]),
        carray(pointer(plan[DATA], u1), plan[DATA_NBYTES]),
    )
    expected = carray(pointer(plan[EXPECTED], u1), (ranks, plan[WIDTH]))
    sizes = carray(pointer(plan[SIZES], i8), (ranks, 3))
    if stage == BEGIN:
        own = carray(pointer(plan[DATA] + plan[CONSTANT_NBYTES], f8), 2)
        own[0], own[1] = weight, loss
        middle = carray(pointer(plan[MIDDLE], u1), plan[MIDDLE_NBYTES])
        wake = _arrive(plan, control, words, number, operation, step, middle, note, data)
        if wake != 0 or not _all_are_here(plan, words, number):
            return ARRIVED + wake
    elif stage != ARRIVED:
        return stage
    if not _say(plan, control, words, number, expected, sizes, 1):
        return ALL_HERE
    values = carray(pointer(plan[CONTROL], f8), nbytes // 8)
    pairs = carray(pointer(plan[PAIRS], i8), (merges, 2))
    share = carray(pointer(plan[SHARE], f8), (merges, channels))
    product = carray(pointer(plan[PRODUCT], f8), (merges, channels))
    turn = step & 1  # what was merged in the step before is kept: a rank that is lost may leave others without it
    totals = carray(pointer(plan[TOTALS], f8), (2, ranks, 2))[turn]
    moments = carray(pointer(plan[MOMENTS], f8), (2, ranks, 2, channels))[turn]
    _merge(plan, values, number, sizes, pairs, share, product, totals, moments)
    start, stop = plan[START], plan[STOP]
    if start == stop:
        return JOINED
    one, other = carray(pointer(plan[ONE], f4), stop), carray(pointer(plan[OTHER], f4), stop)
    total = totals[0, 0]
    _mean(one[start:], other[start:], total if total != 0.0 else 1.0)
    number = (number + 1) & MASK
    middle = carray(pointer(plan[MIDDLE_AGAIN], u1), plan[MIDDLE_AGAIN_NBYTES])
    wake = _arrive(plan, control, words, number, operation, step, middle, note[:0], data[:0])
    if wake != 0 or not _all_are_here(plan, words, number):
        return ARRIVED_AGAIN + wake
    if not _say(plan, control, words, number, expected, sizes, 0):
        return ARRIVED_AGAIN
    running, shares = (
        carray(pointer(plan[RUNNING], i8), (layers, RUNNING_LENGTH)),
        carray(pointer(plan[SHARES], f8), (layers, 2)),
    )
    for layer in range(layers):
        _move_layer(running[layer], shares[layer], moments[0])
    return DONE


def end_of_step(stage: int, *arguments: Any) -> int:
    """As the reference, whatever can be done without the interpreter."""
    return int(meeting_loop(0, stage, *arguments))


KERNELS = {"end_of_step": end_of_step}
BOUND[end_of_step] = meeting_loop.serial
