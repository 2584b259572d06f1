"""What a kernel finds wrong in its input reaches the host without the host waiting for it at each call.

A kernel that checks writes two words into pinned memory of the host, and only if something is wrong. Whenever the host has waited for a
device anyway (a loss is read, a tensor is copied to the CPU) it looks there, and raises. Each rank has a place of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from ...backend import Array, on_waited
from ...errors import RangeError
from ...rank_local import of_rank
from ..reference_checks import out_of_range
from .dense import INT64, THREADS, blocks_for, plain
from .launch import launch
from .scalars import pinned

PLACE_BITS = 40
"""Of the first word; the others hold the number of the check."""
MOST_CHECKS = 1 << 16
"""So many are remembered by op and shape; reports of others say less."""
UNNAMED = MOST_CHECKS + 1

Check = tuple[str, str, tuple[int, ...], int, str]


class _State(threading.local):
    report: np.ndarray | None = None


_state = of_rank(_State())
_checks: dict[Check, int] = {}
"""Each check's number, from 1 on: op, name, shape of the values, count, hint."""
_lock = threading.Lock()


def _number(check: Check) -> int:
    found = _checks.get(check)
    if found is None:
        with _lock:
            if check not in _checks and len(_checks) >= MOST_CHECKS:
                return UNNAMED
            found = _checks.setdefault(check, len(_checks) + 1)
    return found


def check_within(op: str, name: str, values: Array, count: int, hint: str, skip: int | None) -> None:
    """As ``reference_checks.check_within``; the error comes when the host next waits for the device."""
    if not values.size:
        return
    if _state.report is None:
        _state.report = pinned(16).view(np.int64)
        _state.report[:] = 0
    launch(
        "embedding", "check_within", blocks_for(values.size), THREADS, plain(values, INT64), values.size, count,
        0 if skip is None else skip, skip is not None, _number((op, name, values.shape, count, hint)),
        np.uint64(_state.report.ctypes.data),
    )  # fmt: skip


def look() -> None:
    """Raise RangeError if a kernel of this rank has reported something; the device must have been waited for."""
    report = _state.report
    if report is None or not report[0]:
        return
    first, value = (int(word) for word in report)
    report[:] = 0
    number, place = first >> PLACE_BITS, first & ((1 << PLACE_BITS) - 1)
    said = f"an index or label {value} at position {place} is out of range"
    for (op, name, shape, count, hint), known in _checks.items():
        if known == number:
            at = tuple(int(index) for index in np.unravel_index(place, shape))
            said = out_of_range(op, name, value, at, count, hint)
    raise RangeError(
        f"{said}; the GPU found it and the program heard of it when it next waited: the call was earlier, and what came of it is "
        "NaN. phalanx.kernels.choose('reference') finds such a call at once"
    )


on_waited(look)

KERNELS: dict[str, Callable[..., Any]] = {"check_within": check_within}
