"""The sums of :mod:`.expression` where the gradients lie on a GPU: the same tree, the same bits, on the current stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...core.backend import array_module
from ...core.kernels.cuda.launch import launch
from .expression import Expression, Term, expression
from .tree import Node

_THREADS = 256
_PER_THREAD = 8
_BLOCKS_LIMIT = 2048
_NAMES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "float64": "f64"}


def write_leaf(out: Any, array: Any, scale: float | None) -> None:
    """``out = array * scale`` (None: 1), rounded once to the type of sums."""
    _launch(
        f"fold_leaf_{_name(array)}", out.size, out, array, np.float64(1.0 if scale is None else out.dtype.type(scale))
    )


def add(left: Any, right: Any, out: Any) -> Any:
    """``out = left + right``; ``out`` may be one of them."""
    _launch(f"fold_sum_{_name(out)}", out.size, out, left, right)
    return out


def value_of(order: Expression, terms: Mapping[Node, Term], dtype: np.dtype) -> Any:
    """The value of ``order`` as an array: a term's own memory where nothing is to be computed, else new memory."""
    return _value(order, terms, dtype)[0]


def evaluate(order: Expression | None, terms: Mapping[Node, Term], out: Any, empty: float = 0.0) -> None:
    """Write the value of ``order`` into ``out``, which may be the memory of a term; ``empty`` where there is none."""
    if order is None:
        out[...] = empty
    elif isinstance(order[0], int):
        term = terms[order]
        if term.array.data.ptr != out.data.ptr or term.scale not in (None, 1.0):
            write_leaf(out, term.array, term.scale)
    else:
        (left, _), (right, _) = (_value(half, terms, out.dtype) for half in order)
        add(left, right, out)


def node_sums(terms: Mapping[Node, Term | None], nodes: Sequence[Node], dtype: np.dtype) -> dict[Node, Any]:
    """For each of ``nodes`` its value from the terms below it: an array, or None where none is present."""
    present = {node: term for node, term in terms.items() if term is not None}
    found: dict[Node, Any] = {}
    for a, b in nodes:
        order = expression((a, b), [n for n in present if a <= n[0] and n[1] <= b])
        found[a, b] = None if order is None else value_of(order, present, dtype)
    return found


def _value(order: Expression, terms: Mapping[Node, Term], dtype: np.dtype) -> tuple[Any, bool]:
    """(value, whether its memory is new)."""
    if isinstance(order[0], int):
        term = terms[order]
        if term.scale in (None, 1.0) and term.array.dtype == dtype:
            return term.array, False
        out = array_module(term.array).empty(term.array.size, dtype)
        write_leaf(out, term.array, term.scale)
        return out, True
    (left, left_new), (right, right_new) = (_value(half, terms, dtype) for half in order)
    out = left if left_new else right if right_new else array_module(left).empty(left.size, dtype)
    return add(left, right, out), True


def _name(array: Any) -> str:
    return _NAMES[array.dtype.name]


def _launch(kernel: str, count: int, *arguments: Any) -> None:
    blocks = min(-(-count // (_THREADS * _PER_THREAD)), _BLOCKS_LIMIT)
    launch("fold", kernel, blocks, _THREADS, *arguments, count)
