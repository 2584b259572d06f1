"""Functions about the shape of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import array_module
from ..errors import RangeError, ShapeError
from ..graph import apply
from ..ops import expect
from ..ops.arithmetic import CAST, EQ
from ..ops.indexing import INDEX_SELECT
from ..ops.pad import PAD
from ..tensor import Tensor

_NUMPY_MODES: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Merge the dimensions ``start_dim`` to ``end_dim`` into one.

    >>> F.flatten(phalanx.ones(2, 3, 4), 1).shape
    (2, 12)
    """
    return input.flatten(start_dim, end_dim)


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """1 at each label, 0 elsewhere: integer labels (...) -> int64 (..., num_classes).

    Without ``num_classes`` it is the largest label plus one. Raises RangeError for a label out of range.

    >>> F.one_hot(phalanx.tensor([2, 0]), 3).tolist()
    [[0, 0, 1], [1, 0, 0]]
    """
    labels = tensor.array
    expect.integers("one_hot", "labels", labels)
    if num_classes == -1:
        if labels.size == 0:
            raise RangeError("one_hot: no labels to take num_classes from; give num_classes")
        num_classes = int(labels.max()) + 1
    expect.within("one_hot", "label", labels, num_classes, f": num_classes is {num_classes}")
    hit = apply(EQ, tensor.unsqueeze(-1), array_module(labels).arange(num_classes))
    return apply(CAST, hit, dtype=np.dtype(np.int64))


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Put a frame around the last dimensions: ``pad`` is (left, right, top, bottom, ...), last dimension first.

    Modes: "constant" (negative numbers cut), "reflect", "replicate", "circular".

    >>> F.pad(phalanx.ones(1, 2), (1, 0)).tolist()
    [[0.0, 1.0, 1.0]]
    """
    numbers = tuple(int(n) for n in pad)
    if len(numbers) % 2 or len(numbers) > 2 * input.ndim:
        raise ShapeError(
            f"pad: expected a pair of numbers for each of at most {input.ndim} dimensions (input of shape {input.shape}), "
            f"got {numbers}"
        )
    edges = [(0, 0)] * input.ndim
    for axis in range(len(numbers) // 2):
        edges[input.ndim - 1 - axis] = (numbers[2 * axis], numbers[2 * axis + 1])
    if mode == "constant":
        return apply(PAD, input, widths=tuple(edges), value=0.0 if value is None else value)
    if mode not in _NUMPY_MODES:
        raise RangeError(f"pad: mode must be constant, {', '.join(_NUMPY_MODES)}, got {mode!r}")
    for axis, (before, after) in enumerate(edges):
        if before or after:
            size = input.shape[axis]
            limit = {"reflect": size - 1, "circular": size}.get(mode, max(before, after))
            if min(before, after) < 0 or max(before, after) > limit or not size:
                raise ShapeError(
                    f"pad: mode {mode!r} cannot put ({before}, {after}) around dimension {axis} of shape {input.shape}"
                )
            index = np.pad(np.arange(size), (before, after), mode=_NUMPY_MODES[mode])
            input = apply(INDEX_SELECT, input, axis=axis, index=array_module(input.array).asarray(index))
    return input
