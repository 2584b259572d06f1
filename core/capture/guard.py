"""What a replay takes for granted beside shapes: attributes of modules, what the step's function refers to, frozen parameters.

Everything is compared by identity first, so that a check costs well below a microsecond a module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from operator import attrgetter, is_
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from ..graph import _PACKAGE
from ..live import structure
from ..nn.module import Module
from ..node import Variable
from .reference import _same

_DEPTH = 3
_LONGEST = 64
"""So many items of a list or dict of the user's are looked at; of longer ones the length."""
_missing = object()
_layout = attrgetter("shape", "dtype", "strides", "__class__")
_HYPERPARAMETERS = frozenset(["param_groups", "get_last_lr", "get_lr"])


class Guard:
    """The state of what ``step`` and the ``modules`` and ``tensors`` that it uses are now."""

    def __init__(self, step: Callable[..., Any], modules: list[Any], tensors: list[Any]) -> None:
        self.refusal: str | None = None
        """Why the step cannot be replayed, seen from its code."""
        self._stamp: Any = None
        """Of the structure when modules were looked at last."""
        self._modules: list[tuple[str, dict[str, Any], list[Any]]] = []
        self._spaces: list[tuple[str, dict[str, Any], list[Any]]] = []
        self._names: list[tuple[str, Any, str, Any]] = []
        self._cells: list[tuple[str, Any, Any]] = []
        self._containers: list[tuple[str, Any, Any]] = []
        self._seen: set[int] = set()
        self._registries: list[tuple[str, Any]] = []
        self._function("the step", step, _DEPTH)
        for module in modules:
            for part in module.modules():  # a Sequential does several of its layers at once without calling them
                self._module(part)
        self._lengths = [len(each) for _, each in self._registries]
        self._as_before = [(x, x.array, x.requires_grad) for x in tensors]

    def difference(self) -> str | None:
        """What is not as it was, in words; None if all is."""
        if structure.stamp is not self._stamp:
            stamp = structure.stamp
            if (changed := _different(self._modules)) is not None:
                return changed
            if [len(each) for _, each in self._registries] != self._lengths:
                lengths = zip(self._registries, self._lengths, strict=True)
                name = next(name for (name, each), length in lengths if len(each) != length)
                return f"{name} has grown or shrunk (hooks are such a thing)"
            self._stamp = stamp
        if self._spaces and (changed := _different(self._spaces)) is not None:
            return changed
        for name, space, key, value in self._names:
            if (now := space.get(key, _missing)) is not value and not _same_kind(now, value):
                return f"{name} has changed"
        for name, cell, value in self._cells:
            if (now := _content(cell)) is not value and not _same_kind(now, value):
                return f"{name} has changed"
        for name, container, items in self._containers:
            if len(container) != len(items) or not all(map(_same_kind, _items(container), items)):
                return f"{name} has changed"
        for tensor, array, wanted in self._as_before:
            if tensor.array is not array or tensor._hooks is not None or tensor.requires_grad is not wanted:
                return self._of_tensors()
        return None

    def _of_tensors(self) -> str | None:
        """What is not as it was with a tensor; other arrays that lie alike are taken over."""
        found = []
        for tensor, before, wanted in self._as_before:
            array, hooks = tensor.array, tensor._hooks
            if tensor.requires_grad != wanted:
                return "a parameter was frozen or unfrozen"
            if hooks is not None and (hooks or hooks.after):
                return "a hook on a parameter"
            if array is not before and _layout(array) != _layout(before):
                return "a parameter has another shape or dtype"
            found.append((tensor, array, wanted))
        self._as_before = found
        return None

    # -- what there is to look at ----------------------------------------------------------------------------------------

    def _function(self, name: str, function: Any, depth: int) -> None:
        if isinstance(function, functools.partial):
            self._value(f"an argument of {name}", (*function.args, *function.keywords.values()), depth)
            function = function.func
        if isinstance(function, MethodType):
            self._value(f"the object of {name}", function.__self__, depth)
            function = function.__func__
        if not isinstance(function, FunctionType):
            self._value(name, function, depth)
            return
        if id(function) in self._seen or function.__code__.co_filename.startswith(_PACKAGE):
            return
        self._seen.add(id(function))
        if read := _HYPERPARAMETERS.intersection(_global_names(function.__code__)):
            self.refusal = f"{name} uses {min(read)}: a rate that Python reads or sets is not seen by a replay"
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            value = _content(cell)
            self._cells.append((f"{variable!r}, which {name} refers to,", cell, value))
            self._value(f"{variable!r}, which {name} refers to,", value, depth - 1)
        space = function.__globals__
        for variable in dict.fromkeys(_global_names(function.__code__)):
            if variable in space and not isinstance(space[variable], ModuleType):
                self._names.append((f"the global {variable!r}", space, variable, space[variable]))
                self._value(f"the global {variable!r}", space[variable], depth - 1)
        self._value(f"a default of {name}", function.__defaults__ or (), depth - 1)

    def _value(self, name: str, value: Any, depth: int) -> None:
        if depth <= 0 or id(value) in self._seen or isinstance(value, Variable | type | ModuleType):
            return
        if isinstance(value, Module):
            for module in value.modules():
                self._module(module)
        elif isinstance(value, FunctionType | MethodType | functools.partial):
            self._function(name, value, depth)
        elif isinstance(value, list | tuple | dict | set):
            self._seen.add(id(value))
            if not isinstance(value, tuple):
                self._containers.append((name, value, list(_items(value))))
            for item in list(_items(value)):
                self._value(f"something in {name}", item, depth - 1)
        elif hasattr(value, "__dict__") and not type(value).__module__.startswith("phalanx."):
            self._seen.add(id(value))
            space = vars(value)
            if isinstance(space, dict):
                self._spaces.append((name, space, list(space.values())))
                for key, item in list(space.items()):
                    self._value(f"{key!r} of {name}", item, depth - 1)

    def _module(self, module: Any) -> None:
        if id(module) in self._seen:
            return
        self._seen.add(id(module))
        space, name = module.__dict__, type(module).__name__
        self._modules.append((name, space, list(space.values())))
        for key, value in space.items():
            if isinstance(value, dict | list | set):
                self._registries.append((f"{key} of {name}", value))


def _different(spaces: list[tuple[str, dict[str, Any], list[Any]]]) -> str | None:
    """The first attribute that is not what it was; equal numbers that are other objects now are taken over."""
    for place, (name, space, values) in enumerate(spaces):
        if len(space) != len(values) or not all(map(is_, space.values(), values)):
            now = list(space.values())
            if len(now) != len(values) or not all(map(_same_kind, now, values)):
                return _changed_name(name, space, values)
            spaces[place] = name, space, now
    return None


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return _missing


def _items(container: Any) -> Iterator[Any]:
    if len(container) > _LONGEST:
        return iter([None] * len(container))
    return iter(container.values() if isinstance(container, dict) else list(container))


def _global_names(code: CodeType) -> Iterator[str]:
    """The names that the code and what is defined inside of it look up; attributes are among them."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


def _same_kind(a: Any, b: Any) -> bool:
    return a is b or (not isinstance(a, Variable) and not hasattr(a, "shape") and _same(a, b))


def _changed_name(name: str, space: dict[str, Any], values: list[Any]) -> str:
    for (key, now), before in zip(space.items(), values, strict=False):
        if not _same_kind(now, before):
            return f"{key!r} of {name} has changed"
    return f"{name} has other attributes"
