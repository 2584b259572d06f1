"""How safetensors calls element types, and how those that NumPy lacks become float32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..core import bfloat16

WORDS = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}
"""NumPy's name of a dtype -> safetensors' word."""

_PLAIN = {word: np.dtype(name).newbyteorder("<") for name, word in WORDS.items() if name != "bfloat16"}


def _from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """The upper half of a float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _from_e5m2(bits: np.ndarray) -> np.ndarray:
    """The upper half of a float16."""
    return (bits.astype(np.uint16) << np.uint16(8)).view(np.float16).astype(np.float32)


def _from_e4m3(bits: np.ndarray) -> np.ndarray:
    """1 sign, 4 exponent (bias 7) and 3 mantissa bits; no infinity, NaN is S.1111.111 (Micikevicius et al., 2022)."""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    size = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    table = np.where((codes & 127) == 127, np.nan, np.where(codes < 128, size, -size)).astype(np.float32)
    return table[bits]


_WIDENED: dict[str, tuple[np.dtype, Callable[[np.ndarray], np.ndarray]]] = {
    "BF16": (np.dtype("<u2"), _from_bfloat16),
    "F8_E5M2": (np.dtype("u1"), _from_e5m2),
    "F8_E4M3": (np.dtype("u1"), _from_e4m3),
}


def stored_dtype(word: str) -> np.dtype | None:
    """The dtype of the bytes in the file; None for a word that is not known."""
    return _PLAIN.get(word) if word not in _WIDENED else _WIDENED[word][0]


def to_tensor(word: str, stored: np.ndarray) -> np.ndarray:
    """What the bytes mean, bfloat16 as such where the package for it is installed."""
    return stored.view(bfloat16.load()) if word == "BF16" and bfloat16.installed() else to_numpy(word, stored)


def to_numpy(word: str, stored: np.ndarray) -> np.ndarray:
    """What the bytes mean: NumPy's dtype of that word, or float32 where NumPy has none."""
    if word in _WIDENED:
        return _WIDENED[word][1](stored)
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)
