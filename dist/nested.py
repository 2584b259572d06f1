"""Outputs of models: tensors in nested tuples, lists and dicts, taken apart and put together again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.backend import is_array, to_host
from ..core.errors import ShapeError
from ..core.node import Variable


def take_apart(output: Any, samples: int) -> tuple[Any, list[np.ndarray]]:
    """The form of ``output`` (JSON) and its arrays on the host, in order; each must have ``samples`` rows."""
    arrays: list[np.ndarray] = []

    def visit(part: Any) -> Any:
        if part is None:
            return None
        if isinstance(part, Mapping):
            return ["dict", [[key, visit(value)] for key, value in part.items()]]
        if isinstance(part, tuple | list):
            return ["tuple" if isinstance(part, tuple) else "list", [visit(value) for value in part]]
        if not isinstance(part, Variable) and not is_array(part):
            raise TypeError(
                f"a model that predicts must return Tensors, or tuples, lists and dicts of them, got {part!r:.60}"
            )
        array = to_host(part.array if isinstance(part, Variable) else part)
        if array.ndim == 0 or len(array) != samples:
            raise ShapeError(
                f"a model that predicts must return one row for each sample: got an output of shape {array.shape} for {samples} samples"
            )
        arrays.append(array)
        return "array"

    return visit(output), arrays


def put_together(form: Any, arrays: list[Any]) -> Any:
    """The inverse of :func:`take_apart`.

    >>> put_together(["dict", [["a", "array"], ["b", ["tuple", ["array", None]]]]], [1, 2])
    {'a': 1, 'b': (2, None)}
    """
    rest = iter(arrays)

    def build(part: Any) -> Any:
        if part is None:
            return None
        if part == "array":
            return next(rest)
        kind, inner = part
        if kind == "dict":
            return {key: build(value) for key, value in inner}
        built = [build(value) for value in inner]
        return tuple(built) if kind == "tuple" else built

    return build(form)
