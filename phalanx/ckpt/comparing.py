"""``phalanx ckpt diff``: in what two checkpoints differ."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..core.checkpoint.manifest import Manifest, TensorEntry
from . import finding
from .listing import table
from .tensors import load

_ABOUT = ("step", "seed", "shards", "cursor", "config", "fingerprint", "scalars")
_ABSENT = "(absent)"


def compare(options: argparse.Namespace) -> int:
    """Print what differs, then how many tensors are equal; 1 when anything differs."""
    (first, one), (second, other) = finding.one(options.first), finding.one(options.second)
    about = [] if options.tensors else list(_about(one, other))
    for line in about:
        print(line)
    theirs = {entry.name: entry for entry in other.tensors}
    rows: list[tuple[str, ...]] = []
    equal = 0
    for entry in one.tensors:
        match = theirs.pop(entry.name, None)
        if match is None:
            rows.append((entry.name, f"only in {first.name}" if first.name != second.name else "only in the first"))
        elif (entry.dtype, entry.shape, entry.checksum) == (match.dtype, match.shape, match.checksum):
            equal += 1
        elif (entry.dtype, entry.shape) != (match.dtype, match.shape):
            rows.append((entry.name, f"{_form(entry)} there, {_form(match)} in the second"))
        else:
            rows.append((entry.name, _values(load(first, one, entry), load(second, other, match))))
    rows += [(name, f"only in {second.name}" if first.name != second.name else "only in the second") for name in theirs]
    if rows:
        print(table(rows))
    print(f"{equal} tensors equal, {len(rows)} differ")
    return int(bool(about or rows))


def _form(entry: TensorEntry) -> str:
    return f"{entry.dtype}{list(entry.shape)}"


def _values(a: np.ndarray, b: np.ndarray) -> str:
    """How many elements differ, and by how much at most.

    >>> _values(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    '1 of 2 elements differ, by at most 0.5'
    """
    different = (a != b) & ~((a != a) & (b != b))  # NaN and NaN are equal here
    count = int(np.count_nonzero(different))
    if count == 0:
        return f"all {a.size} elements are equal in value, not in bits (0 and -0, or NaNs)"
    with np.errstate(all="ignore"):
        most = np.nanmax(np.abs(a[different].astype(np.float64) - b[different].astype(np.float64)))
    return f"{count} of {a.size} elements differ, by at most {most:.6g}"


def _about(one: Manifest, other: Manifest) -> Iterator[str]:
    for name in _ABOUT:
        for place, a, b in _leaves(getattr(one, name), getattr(other, name), name):
            yield f"{place}: {a} | {b}"


def _leaves(a: Any, b: Any, place: str) -> Iterator[tuple[str, str, str]]:
    """Where two JSON values differ, and both values there."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from _leaves(a.get(key, _ABSENT), b.get(key, _ABSENT), f"{place}.{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _leaves(x, y, f"{place}.{number}")
    elif a != b:
        yield place, _word(a), _word(b)


def _word(value: Any) -> str:
    return value if value == _ABSENT else json.dumps(value)
