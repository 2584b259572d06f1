"""64-bit hashes of tensors, made to tell replicas and runs apart: equal bits, equal hash.

The hash is a sum of mixed (word, position) pairs, so that a GPU or many threads compute it in any order; it is a
fingerprint against accidents, not against an adversary.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .backend import array_module, device_kind, to_host
from .kernels.table import kernel
from .rng import splitmix64

_MASK = 0xFFFFFFFFFFFFFFFF


def hash_array(array: Any) -> int:
    """The 64-bit hash of an array's bytes and size (shape and dtype are not part of it).

    >>> import numpy as np
    >>> hash_array(np.zeros(3, np.float32)) != hash_array(-np.zeros(3, np.float32))
    True
    """
    return hash_of_sums([sum_of_part(array)], array.nbytes)


def sum_of_part(array: Any, start: int = 0) -> int:
    """What a part of a tensor adds to its hash, for ranks that each hold a part; ``start``: its first byte in the tensor.

    ``start`` must be a multiple of 4, and so must be the part's size unless it is the last.

    >>> import numpy as np
    >>> whole = np.arange(9, dtype=np.float32)
    >>> parts = [sum_of_part(whole[:4]), sum_of_part(whole[4:], 16)]
    >>> hash_of_sums(parts, whole.nbytes) == hash_array(whole)
    True
    """
    if array.size == 0:
        return 0
    raw = array_module(array).ascontiguousarray(array).reshape(-1).view(np.uint8)
    whole = raw.size // 4 * 4
    total = kernel("hash_words", device_kind(array))(raw[:whole].view(np.uint32), start // 4)
    if whole < raw.size:
        tail = int.from_bytes(to_host(raw[whole:]).tobytes(), "little")
        total += kernel("hash_words")(np.array([tail], np.uint32), (start + whole) // 4)
    return int(total) & _MASK


def hash_of_sums(sums: Iterable[int], nbytes: int) -> int:
    """The hash of a tensor of ``nbytes`` bytes from what all its parts add (:func:`sum_of_part`)."""
    return splitmix64((sum(sums) + nbytes) & _MASK)


def hash_named(arrays: Mapping[str, Any]) -> int:
    """One hash for named arrays, whatever their order: each name is mixed into its array's hash."""
    return hash_named_hashes({name: hash_array(array) for name, array in arrays.items()})


def hash_named_hashes(hashes: Mapping[str, int]) -> int:
    """What :func:`hash_named` gives, from the arrays' own hashes."""
    total = sum(splitmix64(value ^ zlib.crc32(name.encode()) << 16) for name, value in hashes.items())
    return splitmix64(total & _MASK)
