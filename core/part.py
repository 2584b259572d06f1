"""A gradient of which only a part is not zero: that of ``x[key]``.

Where a tensor is cut into pieces (query, key and value out of one product; the gates of a cell) each piece gives back such a part, and
the graph adds them without filling an array of zeros for each: parts that tile the tensor are put side by side, or are left where they
are if a kernel has written them side by side. To NumPy's functions a part is the whole array.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .backend import address, array_module, device_kind, is_array
from .kernels.table import chosen
from .op import Array

Piece = tuple[Any, Array]
"""A key of ints and slices, and the gradient of what it picks."""


class Part:
    """The sum of ``pieces``, zeros elsewhere. Sums and :meth:`whole` have the bits of sums of whole arrays."""

    __slots__ = ("pieces", "shape")

    __array_priority__ = 1000.0  # an array on the left leaves the sum to us

    def __init__(self, shape: tuple[int, ...], pieces: list[Piece]) -> None:
        self.shape, self.pieces = shape, pieces

    @property
    def dtype(self) -> np.dtype:
        """Of the elements."""
        return self.pieces[0][1].dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __add__(self, other: Any) -> Any:
        if other.__class__ is Part:
            return Part(self.shape, self.pieces + other.pieces)
        return self.whole() + other

    def __radd__(self, other: Any) -> Any:
        return other + self.whole()

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        whole = np.asarray(self.whole())
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def whole(self) -> Array:
        """The array."""
        first, *others = self.pieces
        if not others:
            return self._alone(first)
        tiles = self._tiles()
        if tiles is not None:
            return tiles
        total = self._alone(first) + self._alone(others[0])
        for piece in others[1:]:
            total += self._alone(piece)
        return total

    def _alone(self, piece: Piece) -> Array:
        key, gradient = piece
        array = np.zeros_like(gradient, shape=self.shape)
        array[key] = gradient
        return array

    def _tiles(self) -> Array | None:
        """Pieces that lie one behind the other along one dimension and fill it, put together; else None."""
        places = [_place(key, self.shape) for key, _ in self.pieces]
        axis, single = (places[0] or (None, None))[:2]
        if any(place is None or place[:2] != (axis, single) for place in places):
            return None
        order = sorted(range(len(places)), key=lambda n: places[n][2])  # type: ignore[index]
        end = 0
        for n in order:
            start, stop = places[n][2:]  # type: ignore[index]
            if start != end:
                return None
            end = stop
        if end != self.shape[axis]:  # type: ignore[index]
            return None
        gradients = [self.pieces[n][1] for n in order]
        beside = self._beside(gradients, axis, single) if chosen(device_kind(gradients[0])) == "fast" else None
        if beside is not None:
            return beside
        strides = gradients[0].strides
        if any(g.strides != strides for g in gradients) and not all(g.flags.c_contiguous for g in gradients):
            return None
        array = np.empty_like(gradients[0], shape=self.shape)
        for key, gradient in self.pieces:
            np.add(gradient, 0.0, out=array[key])  # as a sum with zeros has it: -0.0 becomes 0.0
        return array

    def _beside(self, gradients: list[Array], axis: Any, single: Any) -> Array | None:
        """The memory that the gradients lie in, if they lie there as they would lie in the whole."""
        first, base = gradients[0], gradients[0].base
        strides = first.strides
        if not is_array(base) or not base.flags.c_contiguous or math.prod(self.shape) != base.size:
            return None
        starts = [address(g) for g in gradients]
        if single:
            step = starts[1] - starts[0]
            steps, strides = [step] * len(gradients), strides[:axis] + (step,) + strides[axis:]
        else:
            steps = [g.shape[axis] * strides[axis] for g in gradients]
        if any(g.base is not base or g.strides != first.strides for g in gradients):
            return None
        if any(b - a != step for a, b, step in zip(starts, starts[1:], steps, strict=False)) or min(strides) <= 0:
            return None
        if starts[0] != address(base) or first.dtype != base.dtype:
            return None
        if isinstance(base, np.ndarray):
            return np.ndarray(self.shape, first.dtype, base, 0, strides)
        return array_module(base).lib.stride_tricks.as_strided(base, self.shape, strides)


def simple(key: Any) -> bool:
    """Whether a key is made of ints and slices."""
    if key.__class__ is tuple:
        return all(part.__class__ is int or part.__class__ is slice or part is Ellipsis for part in key)
    return key.__class__ is int or key.__class__ is slice


def _place(key: Any, shape: tuple[int, ...]) -> tuple[int, bool, int, int] | None:
    """The dimension that a key cuts, whether it picks one place there, and from where to where; None if it cuts another way."""
    parts = key if key.__class__ is tuple else (key,)
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts = parts[:at] + (slice(None),) * (len(shape) - len(parts) + 1) + parts[at + 1 :]
    found = None
    for axis, (part, size) in enumerate(zip(parts, shape, strict=False)):
        if part.__class__ is int:
            start = part % size
            cut = (axis, True, start, start + 1)
        else:
            start, stop, step = part.indices(size)
            if step != 1:
                return None
            if stop - start == size:
                continue
            cut = (axis, False, start, max(start, stop))
        if found is not None:
            return None
        found = cut
    return found
