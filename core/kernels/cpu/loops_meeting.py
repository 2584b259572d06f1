"""The end of a step between ranks that share memory, as one compiled call: meet, merge states, mean of the gradients, meet.

It comes once a step between large products, when no cache holds anything of it: a thousand lines of an interpreter are then a
thousand waits for memory.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..reference_meeting import ALL_HERE, ARRIVED, ARRIVED_AGAIN, BEGIN, DONE, JOINED, WAKE
from .compiled import inline, loop
from .ordered import load_first, pause, store_last

Array = Any
f4, u4 = np.float32, np.uint32
MASK, HALF = 0xFFFFFFFF, 0x80000000

# indices into ``place``: sizes and offsets in bytes; this rank's index among how many; how often to look before the interpreter waits
ROW, HEAD, AREA, TEXT, NOTE, PHASE, LENGTHS, SLEEPERS, INDEX, SIZE, POLLS = range(11)
# indices into a rank's ``sizes``: bytes of the note, of what is constant in the data, of the data
OF_NOTE, OF_CONSTANT, OF_DATA = range(3)


@inline
def _write(control, at, data):  # type: ignore[no-untyped-def]
    for i in range(data.size):
        control[at + i] = data[i]


@inline
def _arrive(control, words, place, number, whole, text, note, data):  # type: ignore[no-untyped-def]
    """Write this rank's area and say so; WAKE if somebody sleeps until then, else 0."""
    row = place[INDEX] * place[ROW]
    at = row + place[HEAD] + (number & 1) * place[AREA]
    _write(control, at, text)
    at += place[TEXT]
    _write(control, at, note)
    _write(control, at + place[NOTE], data)
    said = (row + place[LENGTHS]) // 4 + 4 * (number & 1)
    words[said] = text.size
    words[said + 1] = note.size
    words[said + 2] = data.size
    words[said + 3] = whole
    store_last(words, (row + place[PHASE]) // 4, u4(number))
    asleep = 0
    for rank in range(place[SIZE]):
        asleep |= control[row + place[SLEEPERS] + rank]
    return WAKE if asleep != 0 else 0


@inline
def _all_are_here(words, place, number):  # type: ignore[no-untyped-def]
    """Whether every rank has come within a short while."""
    for rank in range(place[SIZE]):
        if rank != place[INDEX]:
            word, tries = (rank * place[ROW] + place[PHASE]) // 4, 0
            while ((np.int64(load_first(words, word)) - number) & MASK) >= HALF:
                tries += 1
                if tries > place[POLLS]:
                    return False
                pause()
    return True


@inline
def _differ(control, at, wanted, count):  # type: ignore[no-untyped-def]
    differ = 0
    for i in range(count):
        differ |= control[at + i] ^ wanted[i]
    return differ != 0


@inline
def _say(control, words, place, number, text, expected, sizes):  # type: ignore[no-untyped-def]
    """Whether every other rank says ``text``, and of itself what is expected."""
    for rank in range(place[SIZE]):
        if rank == place[INDEX]:
            continue
        row = rank * place[ROW]
        at = row + place[HEAD] + (number & 1) * place[AREA]
        said = (row + place[LENGTHS]) // 4 + 4 * (number & 1)
        note = sizes[rank, OF_NOTE]
        if words[said] != text.size or words[said + 1] != note or words[said + 2] != sizes[rank, OF_DATA]:
            return False
        if _differ(control, at, text, text.size) or _differ(control, at + place[TEXT], expected[rank], note):
            return False
        if _differ(control, at + place[TEXT] + place[NOTE], expected[rank, note:], sizes[rank, OF_CONSTANT]):
            return False
    return True


@inline
def _merge(numbers, place, number, sizes, pairs, share, product, totals, moments):  # type: ignore[no-untyped-def]
    """Weight, loss and moments of all ranks, in the order of ``pairs``; the result is in row 0."""
    channels = share.shape[1]
    for rank in range(place[SIZE]):
        at = rank * place[ROW] + place[HEAD] + (number & 1) * place[AREA] + place[TEXT] + place[NOTE]
        at = (at + sizes[rank, OF_CONSTANT]) // 8
        totals[rank, 0] = numbers[at]
        totals[rank, 1] = numbers[at + 1]
        for i in range(channels):
            moments[rank, 0, i] = numbers[at + 2 + i]
            moments[rank, 1, i] = numbers[at + 2 + channels + i]
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


@loop(
    "i8, u1[:] out, u4[:] out, f8[:], i8[:], i8, u1[:], u1[:], u1[:], u1[:], i8, i8, u1[:,:], i8[:,:], i8[:,:], f8[:,:], f8[:,:], "
    "f8[:,:] out, f8[:,:,:] out, f4[:] out, f4[:] out, i8, i8",
    exact=True,
)
def meeting_loop(  # type: ignore[no-untyped-def]
    stage, control, words, numbers, place, number, text, note, data, again, whole, whole_again,
    expected, sizes, pairs, share, product, totals, moments, first, second, start, stop,
):  # fmt: skip
    if stage == BEGIN:
        wake = _arrive(control, words, place, number, whole, text, note, data)
        if wake != 0 or not _all_are_here(words, place, number):
            return ARRIVED + wake
    elif stage != ARRIVED:
        return stage
    if not _say(control, words, place, number, text, expected, sizes):
        return ALL_HERE
    _merge(numbers, place, number, sizes, pairs, share, product, totals, moments)
    if first.size == 0:
        return JOINED
    weight = totals[0, 0]
    _mean(first[start:stop], second[start:stop], weight if weight != 0.0 else 1.0)
    number = (number + 1) & MASK
    wake = _arrive(control, words, place, number, whole_again, again, note[:0], data[:0])
    if wake != 0 or not _all_are_here(words, place, number):
        return ARRIVED_AGAIN + wake
    if not _say(control, words, place, number, again, expected, np.zeros_like(sizes)):
        return ARRIVED_AGAIN
    return DONE


def end_of_step(stage: int, *arguments: Any) -> int:
    """As the reference, whatever can be done without the interpreter."""
    return int(meeting_loop(0, stage, *arguments))


KERNELS = {"end_of_step": end_of_step}
