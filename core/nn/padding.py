"""Padding as modules: a frame of a constant, of zeros, or of the input's own elements."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RangeError, ShapeError
from ..tensor import Tensor
from . import functional as F
from .module import Module


class _Pad(Module):
    """A pad of the last ``dimensions`` dimensions: one number for all sides, or (left, right, top, bottom, ...)."""

    dimensions: int
    mode = "constant"
    value = 0.0

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        sides = 2 * self.dimensions
        given = (padding,) * sides if isinstance(padding, int) else tuple(padding)
        if len(given) != sides:
            raise RangeError(f"{type(self).__name__}: padding must be an integer or {sides} of them, got {padding!r}")
        self.padding = given

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, *) or (C, *) -> the same, padded."""
        count = self.dimensions
        if self.mode != "constant" and input.ndim not in (count + 1, count + 2):
            raise ShapeError(
                f"{type(self).__name__} expects {count + 2} dimensions, or {count + 1}, got {tuple(input.shape)}"
            )
        return F.pad(input, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        """Sides."""
        return f"{self.padding}"


class _ConstantPad(_Pad):
    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def extra_repr(self) -> str:
        """Sides and value."""
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPad):
    """(N, C, L) in a frame of ``value``; ``padding`` is one number or (left, right).

    >>> nn.ConstantPad1d((1, 0), 7.0)(phalanx.tensor([[[1.0, 2.0]]])).tolist()
    [[[7.0, 1.0, 2.0]]]
    """

    dimensions = 1


class ConstantPad2d(_ConstantPad):
    """(N, C, H, W) in a frame of ``value``; ``padding`` is one number or (left, right, top, bottom).

    >>> nn.ConstantPad2d(1, 7.0)(phalanx.ones(1, 3, 4, 5)).shape
    (1, 3, 6, 7)
    """

    dimensions = 2


class ConstantPad3d(_ConstantPad):
    """(N, C, D, H, W) in a frame of ``value``; ``padding`` is one number or (left, right, top, bottom, front, back).

    >>> nn.ConstantPad3d(1, 7.0)(phalanx.ones(1, 3, 2, 4, 5)).shape
    (1, 3, 4, 6, 7)
    """

    dimensions = 3


class ZeroPad1d(_Pad):
    """(N, C, L) in a frame of zeros; ``padding`` is one number or (left, right).

    >>> nn.ZeroPad1d((1, 0))(phalanx.tensor([[[1.0, 2.0]]])).tolist()
    [[[0.0, 1.0, 2.0]]]
    """

    dimensions = 1


class ZeroPad2d(_Pad):
    """(N, C, H, W) in a frame of zeros; ``padding`` is one number or (left, right, top, bottom).

    >>> nn.ZeroPad2d(1)(phalanx.ones(1, 3, 4, 5)).shape
    (1, 3, 6, 7)
    """

    dimensions = 2


class ZeroPad3d(_Pad):
    """(N, C, D, H, W) in a frame of zeros; ``padding`` is one number or (left, right, top, bottom, front, back).

    >>> nn.ZeroPad3d(1)(phalanx.ones(1, 3, 2, 4, 5)).shape
    (1, 3, 4, 6, 7)
    """

    dimensions = 3


class ReflectionPad1d(_Pad):
    """(N, C, L) in a frame of its elements mirrored at the edge, which is not repeated; ``padding`` is one number or (left, right).

    >>> nn.ReflectionPad1d((1, 0))(phalanx.tensor([[[1.0, 2.0]]])).tolist()
    [[[2.0, 1.0, 2.0]]]
    """

    dimensions = 1
    mode = "reflect"


class ReflectionPad2d(_Pad):
    """(N, C, H, W) in a frame of its elements mirrored at the edge, which is not repeated; ``padding`` is one number or (left, right, top, bottom).

    >>> nn.ReflectionPad2d(1)(phalanx.ones(1, 3, 4, 5)).shape
    (1, 3, 6, 7)
    """

    dimensions = 2
    mode = "reflect"


class ReflectionPad3d(_Pad):
    """(N, C, D, H, W) in a frame of its elements mirrored at the edge, which is not repeated; ``padding`` is one number or (left, right, top, bottom, front, back).

    >>> nn.ReflectionPad3d(1)(phalanx.ones(1, 3, 2, 4, 5)).shape
    (1, 3, 4, 6, 7)
    """

    dimensions = 3
    mode = "reflect"


class ReplicationPad1d(_Pad):
    """(N, C, L) in a frame of its edge, repeated; ``padding`` is one number or (left, right).

    >>> nn.ReplicationPad1d((1, 0))(phalanx.tensor([[[1.0, 2.0]]])).tolist()
    [[[1.0, 1.0, 2.0]]]
    """

    dimensions = 1
    mode = "replicate"


class ReplicationPad2d(_Pad):
    """(N, C, H, W) in a frame of its edge, repeated; ``padding`` is one number or (left, right, top, bottom).

    >>> nn.ReplicationPad2d(1)(phalanx.ones(1, 3, 4, 5)).shape
    (1, 3, 6, 7)
    """

    dimensions = 2
    mode = "replicate"


class ReplicationPad3d(_Pad):
    """(N, C, D, H, W) in a frame of its edge, repeated; ``padding`` is one number or (left, right, top, bottom, front, back).

    >>> nn.ReplicationPad3d(1)(phalanx.ones(1, 3, 2, 4, 5)).shape
    (1, 3, 4, 6, 7)
    """

    dimensions = 3
    mode = "replicate"


class CircularPad1d(_Pad):
    """(N, C, L) in a frame of its elements from the other end; ``padding`` is one number or (left, right).

    >>> nn.CircularPad1d((1, 0))(phalanx.tensor([[[1.0, 2.0]]])).tolist()
    [[[2.0, 1.0, 2.0]]]
    """

    dimensions = 1
    mode = "circular"


class CircularPad2d(_Pad):
    """(N, C, H, W) in a frame of its elements from the other end; ``padding`` is one number or (left, right, top, bottom).

    >>> nn.CircularPad2d(1)(phalanx.ones(1, 3, 4, 5)).shape
    (1, 3, 6, 7)
    """

    dimensions = 2
    mode = "circular"


class CircularPad3d(_Pad):
    """(N, C, D, H, W) in a frame of its elements from the other end; ``padding`` is one number or (left, right, top, bottom, front, back).

    >>> nn.CircularPad3d(1)(phalanx.ones(1, 3, 2, 4, 5)).shape
    (1, 3, 4, 6, 7)
    """

    dimensions = 3
    mode = "circular"
