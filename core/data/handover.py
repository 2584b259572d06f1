"""Batches and tasks over a socket between a process and its workers: a JSON tree, then the arrays' bytes as they are."""

from __future__ import annotations

import importlib
import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..bfloat16 import of_word, word
from ..errors import DataError
from ..tensor import Tensor

HEAD = struct.Struct("<Q")


class Closed(Exception):
    """The other side has gone."""


def send(connection: socket.socket, value: Any) -> None:
    """``value``: None, numbers, strings, bytes, arrays, Tensors, or tuples, lists and dicts of them."""
    arrays: list[np.ndarray] = []
    tree = _tree(value, arrays)
    shapes = [(word(array.dtype), array.shape) for array in arrays]
    head = json.dumps([tree, shapes]).encode()
    try:
        connection.sendall(HEAD.pack(len(head)) + head)
        for array in arrays:
            if array.size:
                connection.sendall(_raw(array))
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Closed from error


def check(value: Any) -> None:
    """Raises DataError if ``value`` cannot be sent."""
    _tree(value, [])


def receive(connection: socket.socket) -> Any:
    """What the other side sent."""
    (length,) = HEAD.unpack(_bytes(connection, HEAD.size))
    tree, shapes = json.loads(bytes(_bytes(connection, length)))
    arrays = []
    for dtype, shape in shapes:
        array = np.empty(shape, of_word(dtype))
        if array.size:
            _fill(connection, _raw(array))
        arrays.append(array)
    return _value(tree, arrays)


def _raw(array: np.ndarray) -> memoryview:
    flat: Any = array.reshape(-1).view(np.uint8)
    return memoryview(flat)


def _bytes(connection: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    _fill(connection, memoryview(data))
    return data


def _fill(connection: socket.socket, view: memoryview) -> None:
    while len(view):
        try:
            count = connection.recv_into(view)
        except ConnectionResetError as error:
            raise Closed from error
        if not count:
            raise Closed
        view = view[count:]


def _tree(value: Any, arrays: list[np.ndarray]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return {"tensor": _add(value.array, arrays)}
    if isinstance(value, np.ndarray | np.generic):
        return {"array" if isinstance(value, np.ndarray) else "scalar": _add(value, arrays)}
    if isinstance(value, bytes):
        return {"bytes": _add(np.frombuffer(value, np.uint8), arrays)}
    if isinstance(value, Mapping):
        return {"dict": [[_tree(key, arrays), _tree(part, arrays)] for key, part in value.items()]}
    if isinstance(value, list):
        return [_tree(part, arrays) for part in value]
    if isinstance(value, tuple):
        parts = [_tree(part, arrays) for part in value]
        kind = type(value)
        return {"named": [kind.__module__, kind.__qualname__, parts]} if hasattr(value, "_fields") else {"tuple": parts}
    raise DataError(
        f"a worker process cannot hand over a {type(value).__name__}: make batches of arrays, Tensors, numbers, strings, or "
        "tuples, lists and dicts of them, or use threads (no multiprocessing_context)"
    )


def _add(value: Any, arrays: list[np.ndarray]) -> int:
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    if array.dtype.hasobject:
        raise DataError("a worker process cannot hand over an array of objects: make it one of numbers")
    arrays.append(array)
    return len(arrays) - 1


def _value(tree: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(tree, list):
        return [_value(part, arrays) for part in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return Tensor(arrays[content])
    if kind in ("array", "scalar"):
        return arrays[content] if kind == "array" else arrays[content][()]
    if kind == "bytes":
        return arrays[content].tobytes()
    if kind == "dict":
        return {_value(key, arrays): _value(part, arrays) for key, part in content}
    if kind == "tuple":
        return tuple(_value(part, arrays) for part in content)
    module, name, parts = content
    named: Any = importlib.import_module(module)
    for part in name.split("."):
        named = getattr(named, part)
    return named(*(_value(part, arrays) for part in parts))
