"""A recurrent layer over the sequences of several shards at once: the walk through time is made once for all of them.

A sequence is computed for itself, so nothing that it gives depends on which others go beside it, as long as a row of a product has the
same bits however many rows there are. That is tried, with the shapes at hand, once in a process; where it is not so each shard
walks alone. Sums over sequences, the gradients of weights, are made for each shard over what it would have alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..kernels.cpu.threads import threads
from ..kernels.table import chosen
from ..op import TABLE, Array, Op
from .recurrent import Gradients, Walk, gru_back, lstm_back, rnn_back, weights


class _Form(NamedTuple):
    """Inputs of an op: x, then ``states``, then the weights; ``gates`` times as many rows as units."""

    states: int
    gates: int
    back: Callable[..., Walk]


FORMS = {"lstm": _Form(2, 4, lstm_back), "gru": _Form(1, 3, gru_back), "rnn": _Form(1, 1, rnn_back)}
"""By the op's name: an op is another key while some thread records, which exchanges its functions."""


class _Walked(NamedTuple):
    """What forward saved of several shards."""

    saved: Any
    x: Array
    w_ih: Array
    sequences: int
    """Of each shard."""


class Share(NamedTuple):
    """What one shard holds of it."""

    walked: _Walked
    number: int


def can_walk(op: Op, given: Sequence[Any], attributes: dict[str, Any]) -> bool:
    """Whether shards whose op has these inputs and attributes can walk together: rectangles in host memory, no projection."""
    x = given[0]
    plain = type(x) is np.ndarray and x.ndim == 3 and x.size > 0 and attributes.get("sizes") is None
    return (
        op.name in FORMS and plain and x.dtype.kind == "f" and (op.name != "lstm" or len(given) < 8 or given[7] is None)
    )


def forward(op: Op, given: Sequence[Sequence[Any]], attributes: dict[str, Any]) -> list[tuple[Any, Any]]:
    """``op.forward`` of each shard; ``given``: the inputs of each, which share the weights."""
    first = given[0]
    if len(given) == 1 or not all(can_walk(op, inputs, attributes) for inputs in given):
        return [op.forward(*inputs, **attributes) for inputs in given]
    x, form = first[0], FORMS[op.name]
    biases = tuple(w is not None for w in first[3 + form.states :])
    about = (op.name, x.shape, x.dtype.str, first[1].shape[1], len(given), biases, tuple(sorted(attributes.items())))
    if not _agree(about, threads(), chosen()):
        return [op.forward(*inputs, **attributes) for inputs in given]
    return _forward(op, given, attributes)


def vjp(
    op: Op, saved: Sequence[Any], gradients: Sequence[Any], needs: Sequence[bool], slots: Sequence[Any]
) -> list[Gradients]:
    """``op.vjp`` of each shard; ``needs`` is one for all."""
    if not isinstance(saved[0], Share):
        return [op.vjp(*each, needs, into) for *each, into in zip(saved, gradients, slots, strict=True)]
    walked, form = saved[0].walked, FORMS[op.name]
    together = tuple(_beside(parts, axis) for parts, axis in zip(zip(*gradients, strict=True), (1, 0, 0), strict=False))
    inputs, hidden, before, states = form.back(walked.saved, together, any(needs[1 : 1 + form.states]))
    found = []
    for (_, number), into in zip(saved, slots, strict=True):
        lo, hi = number * walked.sequences, (number + 1) * walked.sequences
        gates = _rows(inputs, walked.x, lo, hi)
        given = (gates, gates if hidden is inputs else _rows(hidden, walked.x, lo, hi), _rows(before, walked.x, lo, hi))
        picked = [0, *range(1 + form.states, len(needs))]
        wanted, places = [needs[k] for k in picked] + [False] * 5, [into[k] for k in picked] + [None] * 5
        x = np.ascontiguousarray(walked.x[:, lo:hi])
        own = weights(x, walked.w_ih, *given, wanted[:5], places[:5])
        firsts = (None if state is None else state[lo:hi] for state in states)
        found.append((own[0], *firsts, *own[1:], None)[: len(needs)])
    return found


def _forward(op: Op, given: Sequence[Sequence[Any]], attributes: dict[str, Any]) -> list[tuple[Any, Any]]:
    states, count = FORMS[op.name].states, given[0][0].shape[1]
    columns = list(zip(*given, strict=True))
    x = np.concatenate(columns[0], 1)
    first = [np.concatenate(column) for column in columns[1 : 1 + states]]
    (y, *last), saved = op.forward(x, *first, *given[0][1 + states :], **attributes)
    walked = _Walked(saved, x, given[0][1 + states], count)
    found = []
    for number in range(len(given)):
        lo, hi = number * count, (number + 1) * count
        parts = (np.ascontiguousarray(y[:, lo:hi]), *(state[lo:hi] for state in last))
        found.append((parts, Share(walked, number)))
    return found


def _beside(parts: Sequence[Array | None], axis: int) -> Array | None:
    """One after another along ``axis``, as they lie."""
    arrays = [part for part in parts if part is not None]
    if not arrays:
        return None
    if axis and arrays[0].swapaxes(0, 1).flags.c_contiguous:
        return np.concatenate([part.swapaxes(0, 1) for part in arrays]).swapaxes(0, 1)
    return np.concatenate(arrays, axis)


def _rows(array: Array, x: Array, lo: int, hi: int) -> Array:
    """The rows of sequences lo to hi, as they would lie alone."""
    steps, count, _ = x.shape
    return array.reshape(steps, count, -1)[:, lo:hi].reshape(steps * (hi - lo), -1)


@lru_cache(256)
def _agree(about: tuple[Any, ...], threads: int, kernels: str) -> bool:
    """Whether all that several shards give together is what they give alone, to the bit: tried on random numbers."""
    name, shape, dtype, units, shards, biases, attributes = about
    op = TABLE[name]
    states, gates, _ = FORMS[op.name]
    draw = np.random.default_rng(len(shape))
    rows = gates * units
    sizes = [(rows, shape[2]), (rows, units), *([(rows,)] * len(biases))]
    wanted = [True, True, *biases]
    matrices = [
        (draw.standard_normal(size) / np.sqrt(units)).astype(dtype) if want else None
        for size, want in zip(sizes, wanted, strict=True)
    ]
    given, gradients = [], []
    for _ in range(shards):
        first = [draw.standard_normal((shape[1], units)).astype(dtype) for _ in range(states)]
        given.append([draw.standard_normal(shape).astype(dtype), *first, *matrices])
        gradients.append(
            tuple(
                draw.standard_normal((*shape[:1] * (k == 0), shape[1], units)).astype(dtype) for k in range(1 + states)
            )
        )
    options, needs = dict(attributes), [True] * (1 + states) + wanted
    together = _forward(op, given, options)
    alone = [op.forward(*inputs, **options) for inputs in given]
    slots = [[None] * len(needs)] * shards
    back_together = vjp(op, [saved for _, saved in together], gradients, needs, slots)
    back_alone = [
        op.vjp(saved, gradient, needs, slots[0]) for (_, saved), gradient in zip(alone, gradients, strict=True)
    ]
    pairs = [(a[0], b[0]) for a, b in zip(together, alone, strict=True)] + list(
        zip(back_together, back_alone, strict=True)
    )
    return all(_same(x, y) for first, second in pairs for x, y in zip(first, second, strict=True))


def _same(x: Array | None, y: Array | None) -> bool:
    return x is y or (x is not None and y is not None and x.tobytes() == y.tobytes())
