"""How a kernel moves over sequences, images or volumes (N, C, ...): what convolution and pooling share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

from ..backend import array_module
from ..op import Array

Size = tuple[int, ...]
"""One number for each dimension behind batch and channels: (length,), (rows, columns) or (depth, rows, columns)."""


class Window(NamedTuple):
    """How a kernel moves over the input."""

    kernel: Size
    stride: Size
    padding: Size
    dilation: Size = (1, 1)
    ceil_mode: bool = False

    def output(self, size: Size) -> Size:
        """Places along each dimension of an input of ``size``: floor((size + 2 padding - reach) / stride) + 1.

        With ``ceil_mode`` it is the ceiling, less a last window that would start beyond input and left padding.
        """
        counts = []
        for axis in range(len(self.kernel)):
            stride, padding = self.stride[axis], self.padding[axis]
            room = size[axis] + 2 * padding - self.reach(axis)
            count = (-(-room // stride) if self.ceil_mode else room // stride) + 1
            if self.ceil_mode and (count - 1) * stride >= size[axis] + padding:
                count -= 1
            counts.append(count)
        return tuple(counts)

    def reach(self, axis: int) -> int:
        """Elements along ``axis`` from a window's first to its last, both included."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    def padded(self, size: Size, output: Size) -> Size:
        """Size of the padded input: the padding, or more where ceil_mode reaches beyond."""
        return tuple(
            max(size[a] + 2 * self.padding[a], (output[a] - 1) * self.stride[a] + self.reach(a))
            for a in range(len(self.kernel))
        )

    def inside(self, size: Size) -> tuple[slice, ...]:
        """Where the input lies in the padded input."""
        return tuple(slice(before, before + n) for before, n in zip(self.padding, size, strict=True))

    def is_pointwise(self) -> bool:
        """A kernel of one element with stride 1 and no padding: the input is its own unfolding."""
        return math.prod(self.kernel) == 1 and max(self.stride) == 1 and max(self.padding) == 0

    def places(self, output: Size) -> Iterator[tuple[Size, tuple[slice, ...]]]:
        """(kernel element, slices of the padded input that it meets), in row-major order."""
        lines = []
        for axis, count in enumerate(self.kernel):
            stride, span = self.stride[axis], (output[axis] - 1) * self.stride[axis] + 1
            starts = [i * self.dilation[axis] for i in range(count)]
            lines.append([(i, slice(start, start + span, stride)) for i, start in enumerate(starts)])
        for place in itertools.product(*lines):
            yield tuple(i for i, _ in place), tuple(along for _, along in place)


def framed(x: Array, window: Window, output: Size, value: float) -> Array:
    """``x`` inside a frame of ``value``, or ``x`` itself where there is no frame."""
    size = window.padded(x.shape[2:], output)
    if size == x.shape[2:]:
        return x
    framed = array_module(x).full(x.shape[:2] + size, value, x.dtype)
    framed[(..., *window.inside(x.shape[2:]))] = x
    return framed


def without_frame(x: Array, window: Window, size: Size) -> Array:
    if x.shape[2:] == size:
        return x
    return array_module(x).ascontiguousarray(x[(..., *window.inside(size))])
