"""Casting to 16 bits: half precision with a power of two per chunk, or bfloat16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...core.errors import RangeError
from ...core.flat import CHUNK
from .codec import Codec, Draw, aligned, blocks, rows

_TOP = 15
"""The largest number of a chunk is brought to [2**14, 2**15): below float16's largest, 65504."""
_LARGEST_SHIFT = 126
_NAN = np.uint16(0x7FC0)


@dataclass(frozen=True, slots=True)
class Half(Codec):
    """16 bits a number, rounded to the nearest (ties to even); 2 bytes an element.

    ``"float16"`` keeps 11 bits; each chunk of 16,384 elements is scaled by a power of two (exact) so that neither sums over
    many samples overflow nor small gradients vanish: 4 bytes a chunk. ``"bfloat16"`` keeps 8 bits and float32's range.
    Micikevicius et al., "Mixed precision training", ICLR 2018.

    >>> phalanx.compression.Half("bfloat16").nbytes(1000)
    2000
    """

    feedback: ClassVar[bool] = False
    dtype: str = "float16"
    """``"float16"`` or ``"bfloat16"``."""

    def __post_init__(self) -> None:
        if self.dtype not in ("float16", "bfloat16"):
            raise RangeError(f"Half expects dtype to be 'float16' or 'bfloat16', got {self.dtype!r}")

    def nbytes(self, size: int) -> int:
        return aligned(2 * size) + (4 * blocks(size, CHUNK) if self.dtype == "float16" else 0)

    def encode(self, values: np.ndarray, out: np.ndarray, draw: Draw) -> None:
        if self.dtype == "bfloat16":
            out[: 2 * values.size].view(np.uint16)[:] = to_bfloat16(values)
            return
        scales, halves = self._split(out, values.size)
        for part, (numbers, cast) in rows(CHUNK, values, halves):
            scales[part] = _scales(numbers)
            cast[...] = numbers * scales[part, None]

    def decode(self, data: np.ndarray, out: np.ndarray) -> None:
        if self.dtype == "bfloat16":
            from_bfloat16(data[: 2 * out.size].view(np.uint16), out)
            return
        scales, halves = self._split(data, out.size)
        for part, (numbers, cast) in rows(CHUNK, out, halves):
            np.divide(cast, scales[part, None], out=numbers)

    def _split(self, data: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        head = 4 * blocks(size, CHUNK)
        return data[:head].view(np.float32), data[head : head + 2 * size].view(np.float16)


def _scales(numbers: np.ndarray) -> np.ndarray:
    """The power of two for each row; 1 where the largest number is zero or not finite."""
    peak = np.abs(numbers).max(axis=1)
    usable = np.isfinite(peak) & (peak > 0)
    _, exponent = np.frexp(np.where(usable, peak, np.float32(1)))
    shift = np.where(usable, np.clip(_TOP - exponent, -_LARGEST_SHIFT, _LARGEST_SHIFT), 0)
    return np.ldexp(np.float32(1), shift).astype(np.float32)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The upper 16 bits of float32 ``values``, rounded to the nearest, ties to even, as uint16; a NaN stays one.

    >>> [hex(x) for x in to_bfloat16(np.array([1.0, 1.00390625, 1.01171875], np.float32))]
    ['0x3f80', '0x3f80', '0x3f82']
    """
    bits = values.view(np.uint32)
    upper = bits >> np.uint32(16)
    rounded = ((bits + np.uint32(0x7FFF) + (upper & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    is_nan = np.isnan(values)
    if is_nan.any():
        rounded[is_nan] = _NAN
    return rounded


def from_bfloat16(halves: np.ndarray, out: np.ndarray) -> None:
    """The float32 numbers that ``halves`` (uint16) are the upper bits of."""
    np.left_shift(halves, np.uint32(16), out=out.view(np.uint32), dtype=np.uint32)
