"""JSON and arrays in one message: words and numbers as text, arrays as raw bytes behind it. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.bfloat16 import of_word, word

_ALIGNMENT_BYTES = 16


def pack(words: Any, arrays: Sequence[np.ndarray]) -> bytes:
    """``words`` (JSON) and ``arrays`` (no objects) as bytes.

    >>> words, arrays = unpack(pack({"rank": 1}, [np.arange(3)]))
    >>> words, arrays[0].tolist()
    ({'rank': 1}, [0, 1, 2])
    """
    table = [[word(array.dtype), list(array.shape)] for array in arrays]
    head = json.dumps([words, table]).encode()
    head += b" " * (-(len(head) + 4) % _ALIGNMENT_BYTES)
    parts = [len(head).to_bytes(4, "little"), head]
    for array in arrays:
        data = np.ascontiguousarray(array).tobytes()
        parts += [data, b"\0" * (-len(data) % _ALIGNMENT_BYTES)]
    return b"".join(parts)


def unpack(data: bytes) -> tuple[Any, list[np.ndarray]]:
    """The inverse of :func:`pack`; the arrays cannot be written to."""
    at = 4 + int.from_bytes(data[:4], "little")
    words, table = json.loads(data[4:at])
    arrays = []
    for kind, shape in table:
        dtype = of_word(kind)
        count = int(np.prod(shape))
        arrays.append(np.frombuffer(data, dtype, count=count, offset=at).reshape(shape))
        nbytes = count * dtype.itemsize
        at += nbytes + -nbytes % _ALIGNMENT_BYTES
    return words, arrays
