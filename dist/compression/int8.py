"""Eight bits a number, with a scale per block and keyed stochastic rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .codec import Codec, Draw, aligned, blocks, require_block, rows

_LARGEST = np.float32(127)


@dataclass(frozen=True, slots=True)
class Int8(Codec):
    """One byte a number and a float32 scale per block: the largest magnitude of the block over 127.

    A number lies between two codes; which of them it becomes is drawn with 8 random bits, keyed by (seed, step, shard,
    parameter, element), so that the mean of what arrives is right to 1/512 of a code: no residual is needed. Alistarh et
    al., "QSGD", NIPS 2017. A block with a number that is not finite comes out as NaN.

    >>> phalanx.compression.Int8(block=1024).nbytes(4096)
    4112
    """

    feedback: ClassVar[bool] = False
    block: int = 1024
    """Elements that share a scale."""

    def __post_init__(self) -> None:
        require_block("Int8", self.block)

    def nbytes(self, size: int) -> int:
        return 4 * blocks(size, self.block) + aligned(size)

    def encode(self, values: np.ndarray, out: np.ndarray, draw: Draw) -> None:
        scales, codes = self._split(out, values.size)
        dither = draw.random_bytes(values.size)
        for part, (numbers, cast, random) in rows(self.block, values, codes, dither):
            with np.errstate(all="ignore"):
                scale = np.abs(numbers).max(axis=1) / _LARGEST
                scale[~np.isfinite(scale)] = np.nan
                scaled = numbers / np.where(scale > 0, scale, np.float32(np.inf))[:, None]
            scaled += (random + np.float32(0.5)) * np.float32(1 / 256)
            np.floor(scaled, out=scaled)
            np.clip(scaled, -_LARGEST, _LARGEST, out=scaled)
            if np.isnan(scale).any():
                scaled[np.isnan(scale)] = 0
            scales[part], cast[...] = scale, scaled

    def decode(self, data: np.ndarray, out: np.ndarray) -> None:
        scales, codes = self._split(data, out.size)
        for part, (numbers, cast) in rows(self.block, out, codes):
            np.multiply(cast, scales[part, None], out=numbers)

    def _split(self, data: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        head = 4 * blocks(size, self.block)
        return data[:head].view(np.float32), data[head : head + size].view(np.int8)
