"""Where a value of a recorded step comes from, and what of two recordings of it is the same.

A :class:`Reference` is a kind and a value:

=========== ============================================== =======================================
slot        array number n: an input or made by the step   n
wrap        a Tensor around such an array                  n
number      a Python float that the step computes          n
array       the array of a Tensor that was there before    (Tensor, its array when recorded)
tensor      that Tensor itself                             Tensor
constant    an array that the step made past the ops       array
value       a Python number, a function, any other object  the object
tuple, ...  what lies in a tuple, list, dict or slice      its References
=========== ============================================== =======================================
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..backend import to_host

_ATOMS = (int, float, complex, str, bytes, bool, type(None))


class Reference(NamedTuple):
    """See above."""

    kind: str
    value: Any


class DifferentError(Exception):
    """Two recordings of a step did different things; the text says which."""


def merged(first: Any, second: Any, where: str) -> Any:
    """What both say, the later one's arrays. Raises DifferentError."""
    if (first.kind, second.kind) == ("constant", "array"):  # two recordings have agreed on it before
        return Reference("constant", _equal(first.value, second.value[1], where))
    if (first.kind, second.kind) == ("fixed", "tensor"):
        _equal(first.value.array, second.value.array, where)
        return first
    if first.kind != second.kind:
        raise DifferentError(f"{where} comes from elsewhere at each call")
    a, b, kind = first.value, second.value, first.kind
    if kind in ("slot", "wrap", "number"):
        if a != b:
            raise DifferentError(f"{where} comes from elsewhere at each call")
    elif kind == "array":
        if a[0] is not b[0]:
            return Reference("constant", _equal(a[1], b[1], where))
    elif kind == "tensor":
        if a is not b:
            _equal(a.array, b.array, where)
            return Reference("fixed", b)
    elif kind == "constant":
        _equal(a, b, where)
    elif kind == "value":
        if not _same(a, b):
            raise DifferentError(f"{where} is {_short(a)} in one call and {_short(b)} in the next")
    elif kind == "dict":
        if list(a) != list(b):
            raise DifferentError(f"{where} has other names at each call")
        return Reference(kind, {key: merged(a[key], b[key], f"{key!r} of {where}") for key in a})
    else:
        if len(a) != len(b):
            raise DifferentError(f"{where} has another length at each call")
        return Reference(kind, [merged(x, y, where) for x, y in zip(a, b, strict=True)])
    return second


def _equal(a: Any, b: Any, where: str) -> Any:
    if a is b:
        return b
    alike = type(a) is type(b) and a.shape == b.shape and a.dtype == b.dtype and a.strides == b.strides
    if alike and to_host(a).tobytes() == to_host(b).tobytes():
        return b
    raise DifferentError(f"{where} is an array that the step makes past the ops, other values at each call")


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, _ATOMS):
        return repr(a) == repr(b)
    if isinstance(a, np.generic):
        return a.tobytes() == b.tobytes()
    try:
        return bool(a == b)
    except Exception:  # an object of the user's that cannot be compared
        return False


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
