"""Each module remembers how it was built, so that it can be written down and built again without pickle."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

import numpy as np

from ..backend import Device, is_array, to_host
from ..node import Variable

_PLAIN = (bool, int, float, str, type(None), np.dtype, type, FunctionType, BuiltinFunctionType, np.ufunc, Device)
MOST_KEPT = 4096
"""Elements of an array among the arguments that are remembered; larger ones live on as state."""


class Lost(NamedTuple):
    """An argument that was not remembered."""

    what: str


class Sized(NamedTuple):
    """A large array among the arguments: its values are the module's business, its form is remembered."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Built:
    """A class and the arguments that one of its instances was built with. Copies of the instance share it."""

    __slots__ = ("arguments", "kind", "options")

    def __init__(self, kind: type, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        self.kind = kind
        self.arguments = tuple(_kept(value) for value in arguments)
        self.options = {key: _kept(value) for key, value in options.items()}

    def __deepcopy__(self, memo: Any) -> Built:
        return self

    def named(self) -> tuple[dict[str, Any], tuple[Any, ...]]:
        """Arguments by name, and those behind them that have none."""
        parameters = list(inspect.signature(self.kind).parameters.values())
        bound = inspect.signature(self.kind).bind(*self.arguments, **self.options)
        names, rest = dict(bound.arguments), ()
        for parameter in parameters:
            if parameter.kind is parameter.VAR_POSITIONAL:
                rest = names.pop(parameter.name, ())
            elif parameter.kind is parameter.VAR_KEYWORD:
                names |= names.pop(parameter.name, {})
        return names, rest


class Recorded:
    """Base of Module: ``built`` is what the instance was built with."""

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        made = super().__new__(cls)
        made.__dict__["_built"] = Built(cls, arguments, options)
        return made


def _kept(value: Any) -> Any:
    """What is remembered of an argument: no tensor, module or object of somebody's stays alive for it."""
    if isinstance(value, FunctionType) and "<" in value.__qualname__:  # a lambda or a local one: nothing finds it again
        return Lost(value.__qualname__)
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Recorded):
        return value.__dict__["_built"]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_kept(item) for item in value)
    if isinstance(value, Mapping):
        return {key: _kept(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return copy.copy(value)
    array = value.array if isinstance(value, Variable) else value
    if is_array(array):
        if array.size > MOST_KEPT:
            return Sized(tuple(array.shape), array.dtype)
        return np.array(to_host(array))
    return Lost(type(value).__name__)
