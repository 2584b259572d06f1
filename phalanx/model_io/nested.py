"""What training scripts save beside weights (dicts in dicts, numbers, text): its form as JSON, its tensors apart.

A leaf stands as itself, a tensor as ``{"tensor": name}``, a list, tuple or dict as ``{"list": [...]}``, ``{"tuple": [...]}``,
``{"dict": [[key, value], ...]}``: keys may be numbers, as in an optimizer's state.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..core.errors import CheckpointError, DTypeError
from ..core.nn.module import Module
from ..core.nn.state import array_of as array_of
from ..core.tensor import Tensor

_PLAIN = (bool, int, float, str)


def is_tensor(value: Any) -> bool:
    """A Tensor, an array, or a tensor of PyTorch."""
    return isinstance(value, Tensor | np.ndarray) or (hasattr(value, "shape") and hasattr(value, "dtype") and
        not isinstance(value, np.generic))  # fmt: skip


def is_flat(value: Any) -> bool:
    """A state dict: text keys and tensors."""
    return isinstance(value, Mapping) and all(isinstance(key, str) and is_tensor(item) for key, item in value.items())


def flatten(value: Any, place: str, tensors: dict[str, Any]) -> Any:
    """The JSON form of ``value``; its tensors go into ``tensors`` by their place. Raises DTypeError for what has no form."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, _PLAIN):
        return value
    if is_tensor(value):
        name = place or "tensor"
        tensors[name] = array_of(value)
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[_key(key, place), flatten(item, _join(place, key), tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        rows = [flatten(item, _join(place, index), tensors) for index, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": rows}
    advice = "save its state_dict()" if hasattr(value, "state_dict") else "turn it into numbers or text first"
    where = f" at {place}" if place else ""
    raise DTypeError(
        f"save: tensors, numbers, text, None, and lists, tuples and dicts of them can be saved, got "
        f"{type(value).__name__}{where}: {advice}"
    )


def _key(key: Any, place: str) -> Any:
    if not isinstance(key, str | int | float | bool | None):
        raise DTypeError(f"save: the keys of a dict are text or numbers, got {key!r} at {place or 'the top'}")
    return key


def _join(place: str, key: Any) -> str:
    return f"{place}/{key}" if place else str(key)


def unflatten(form: Any, tensor_of: Callable[[str], Any]) -> Any:
    """The value that :func:`flatten` was given. Raises CheckpointError for a form that it never writes."""
    if not isinstance(form, dict):
        return form
    kind, rows = next(iter(form.items()), (None, None))
    if kind == "tensor" and isinstance(rows, str):
        return tensor_of(rows)
    if kind in ("list", "tuple") and isinstance(rows, list):
        items = [unflatten(row, tensor_of) for row in rows]
        return items if kind == "list" else tuple(items)
    if kind == "dict" and isinstance(rows, list) and all(_is_item(row) for row in rows):
        return {key: unflatten(row, tensor_of) for key, row in rows}
    raise CheckpointError(f"unknown form {form!r} in the file's metadata")


def _is_item(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 2 and not isinstance(row[0], list | dict)


def state_of(model: Module) -> dict[str, Any]:
    """Arrays of a model's state dict by name."""
    return OrderedDict((name, tensor.array) for name, tensor in model.state_dict().items())
