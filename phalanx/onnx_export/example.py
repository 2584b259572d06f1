"""The example that a model is run on: its arrays apart from the form that they stand in, and their names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.backend import is_array, to_host
from ..core.errors import RangeError
from ..core.nn.module import Module
from ..core.tensor import Tensor


@dataclass(frozen=True)
class _Slot:
    """Where an array stood."""

    number: int


class Example:
    """Arguments of forward, positional and by name; arrays and Tensors may lie in tuples, lists and dicts."""

    def __init__(self, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
        self.arrays: list[np.ndarray] = []
        self._arguments = [self._taken(value) for value in arguments]
        self._options = {key: self._taken(value) for key, value in options.items()}

    def _taken(self, value: Any) -> Any:
        if isinstance(value, Tensor) or is_array(value):
            self.arrays.append(np.array(to_host(value.array if isinstance(value, Tensor) else value)))
            return _Slot(len(self.arrays) - 1)
        if isinstance(value, Mapping):
            return {key: self._taken(item) for key, item in value.items()}
        if isinstance(value, list | tuple) and type(value) in (list, tuple):
            return type(value)(self._taken(item) for item in value)
        return value

    def filled(self, tensors: Sequence[Tensor]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with other tensors in the places of the arrays."""
        return [_put(value, tensors) for value in self._arguments], {
            k: _put(v, tensors) for k, v in self._options.items()
        }

    def names(self, model: Module, given: Sequence[str] | None) -> list[str]:
        """Of the arrays: those of forward's arguments, with numbers behind them in tuples, or ``given``."""
        parameters = list(inspect.signature(model.forward).parameters.values())
        words = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        words += [f"input_{n}" for n in range(len(words), len(self._arguments))]
        rows = [*zip(words, self._arguments, strict=False), *self._options.items()]
        names = [name for word, value in rows for name in _named(word, value)]
        if given is None:
            return names
        if len(given) != len(names) or len(set(given)) < len(given):
            raise RangeError(
                f"export: {len(names)} different input_names expected (for {', '.join(names)}), got {list(given)}"
            )
        return list(given)


def _put(form: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(form, _Slot):
        return tensors[form.number]
    if isinstance(form, dict):
        return {key: _put(item, tensors) for key, item in form.items()}
    if isinstance(form, list | tuple) and type(form) in (list, tuple):
        return type(form)(_put(item, tensors) for item in form)
    return form


def _named(word: str, form: Any) -> Iterator[str]:
    if isinstance(form, _Slot):
        yield word
    elif isinstance(form, list | tuple | dict):
        for key, item in form.items() if isinstance(form, dict) else enumerate(form):
            yield from _named(f"{word}_{key}", item)
