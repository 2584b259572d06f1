"""64-bit hashes of tensors, made to tell replicas and runs apart: equal bits, equal hash.

The hash is a sum of mixed (word, position) pairs, so that a GPU or many threads compute it in any order; it is a
fingerprint against accidents, not against an adversary.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from .backend import device_kind
from .kernels.table import kernel
from .rng import splitmix64

_MASK = 0xFFFFFFFFFFFFFFFF


def hash_array(array: Any) -> int:
    """The 64-bit hash of an array's bytes and size (shape and dtype are not part of it).

    >>> import numpy as np
    >>> hash_array(np.zeros(3, np.float32)) != hash_array(-np.zeros(3, np.float32))
    True
    """
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8) if array.size else np.empty(0, np.uint8)
    whole = raw.size // 4 * 4
    mix = kernel("hash_words", device_kind(array))
    total = mix(raw[:whole].view(np.uint32), 0)
    if whole < raw.size:
        tail = int.from_bytes(raw[whole:].tobytes(), "little")
        total += mix(np.array([tail], np.uint32), whole // 4)
    return splitmix64((total + raw.size) & _MASK)


def hash_named(arrays: Mapping[str, Any]) -> int:
    """One hash for named arrays, whatever their order: each name is mixed into its array's hash."""
    total = 0
    for name, array in arrays.items():
        total += splitmix64(hash_array(array) ^ zlib.crc32(name.encode()) << 16)
    return splitmix64(total & _MASK)
