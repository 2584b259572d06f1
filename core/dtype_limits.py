"""What numbers a dtype can hold, and which dtype two meet in: ``finfo``, ``iinfo``, ``result_type``, ``promote_types``."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import promotion
from .backend import as_dtype
from .bfloat16 import is_floating, limits
from .errors import DTypeError
from .graph import Variable


def finfo(dtype: Any = np.float32) -> Any:
    """Limits of a floating dtype: ``eps``, ``max``, ``min``, ``tiny``, ``bits``.

    >>> float(phalanx.finfo(phalanx.float32).eps)
    1.1920928955078125e-07
    """
    found = as_dtype(dtype)
    if not is_floating(found):
        raise DTypeError(f"finfo: a floating dtype expected, got {found}; see iinfo")
    return limits(found)


def iinfo(dtype: Any) -> Any:
    """Limits of an integer dtype: ``max``, ``min``, ``bits``.

    >>> phalanx.iinfo(phalanx.int8).max
    127
    """
    found = as_dtype(dtype)
    if found.kind not in "iu":
        raise DTypeError(f"iinfo: an integer dtype expected, got {found}; see finfo")
    return np.iinfo(found)


def result_type(tensor1: Any, tensor2: Any) -> np.dtype:
    """The dtype of what an operation of two tensors or numbers gives.

    >>> phalanx.result_type(phalanx.tensor([1]), 1.5)
    dtype('float32')
    """
    arrays = [x.array if isinstance(x, Variable) else np.asarray(x) for x in (tensor1, tensor2)]
    numbers = [a.astype(np.float32) if a.dtype == np.float64 and not isinstance(x, Variable) else a
               for a, x in zip(arrays, (tensor1, tensor2), strict=True)]  # fmt: skip
    return promotion.result_type(*numbers)


def promote_types(type1: Any, type2: Any) -> np.dtype:
    """The dtype that two dtypes meet in.

    >>> phalanx.promote_types(phalanx.int64, phalanx.float32)
    dtype('float32')
    """
    return promotion.result_type(np.empty(1, as_dtype(type1)), np.empty(1, as_dtype(type2)))
