"""How a kernel moves over images (N, C, H, W): what convolution and pooling share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..backend import array_module
from ..op import Array

Pair = tuple[int, int]
Size = tuple[int, ...]
"""Rows and columns, as they come out of a shape."""


class Window(NamedTuple):
    """How a kernel moves over the input."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair = (1, 1)
    ceil_mode: bool = False

    def output(self, size: Size) -> Pair:
        """Output rows and columns for an input of ``size``: floor((size + 2 padding - reach) / stride) + 1.

        With ``ceil_mode`` it is the ceiling, less a last window that would start beyond input and left padding.
        """
        counts = []
        for axis in (0, 1):
            stride, padding = self.stride[axis], self.padding[axis]
            room = size[axis] + 2 * padding - self.reach(axis)
            count = (-(-room // stride) if self.ceil_mode else room // stride) + 1
            if self.ceil_mode and (count - 1) * stride >= size[axis] + padding:
                count -= 1
            counts.append(count)
        return counts[0], counts[1]

    def reach(self, axis: int) -> int:
        """Rows (axis 0) or columns (axis 1) from a window's first element to its last, both included."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    def padded(self, size: Size, output: Size) -> Pair:
        """Rows and columns of the padded input: the padding, or more where ceil_mode reaches beyond."""
        rows, columns = (
            max(size[a] + 2 * self.padding[a], (output[a] - 1) * self.stride[a] + self.reach(a)) for a in (0, 1)
        )
        return rows, columns

    def inside(self, size: Size) -> tuple[slice, slice]:
        """Where the input lies in the padded input."""
        (top, left), (height, width) = self.padding, size
        return slice(top, top + height), slice(left, left + width)

    def is_pointwise(self) -> bool:
        """A 1x1 kernel with stride 1 and no padding: the input is its own unfolding."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)

    def places(self, output: Size) -> Iterator[tuple[int, int, slice, slice]]:
        """(i, j, rows, columns) of the padded input that kernel element (i, j) meets, in row-major order."""
        for i in range(self.kernel[0]):
            top = i * self.dilation[0]
            rows = slice(top, top + (output[0] - 1) * self.stride[0] + 1, self.stride[0])
            for j in range(self.kernel[1]):
                left = j * self.dilation[1]
                yield i, j, rows, slice(left, left + (output[1] - 1) * self.stride[1] + 1, self.stride[1])


def framed(x: Array, window: Window, output: Size, value: float) -> Array:
    """``x`` inside a frame of ``value``, or ``x`` itself where there is no frame."""
    size = window.padded(x.shape[2:], output)
    if size == x.shape[2:]:
        return x
    framed = array_module(x).full(x.shape[:2] + size, value, x.dtype)
    rows, columns = window.inside(x.shape[2:])
    framed[:, :, rows, columns] = x
    return framed


def without_frame(x: Array, window: Window, size: Size) -> Array:
    if x.shape[2:] == size:
        return x
    rows, columns = window.inside(size)
    return array_module(x).ascontiguousarray(x[:, :, rows, columns])
