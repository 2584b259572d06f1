"""A model as JSON and back: the class of each module and what it was built with. Nothing is pickled.

A module is ``{"class": NAME, "config": {argument: value}}``; NAME is that of a layer in ``phalanx.nn``, or ``module:Class`` of a class of the
user's. Sequential, ModuleList and ModuleDict list their modules instead, ``{"class": ..., "modules": {name: module}}``, so that they are
written as they are now, not as they were built. Values that JSON has no word for are ``{"kind": value}``, as in ``_ENCODED``.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import nn
from ..core.backend import Device
from ..core.checkpoint.format import byte_view
from ..core.errors import CheckpointError, StateError
from ..core.nn.module import Module
from ..core.nn.recorded import Built, Lost, Sized
from ..core.tensor import Tensor

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_ENCODED = ("module", "again", "class", "function", "dtype", "device", "tuple", "dict", "array", "zeros", "dataclass")


class Describer:
    """Writes modules down; one that comes twice is written once."""

    def __init__(self) -> None:
        self._seen: dict[int, dict[str, Any]] = {}
        self.kinds: dict[str, type] = {}
        """Every class that was named, by its name."""

    def module(self, module: Module) -> dict[str, Any]:
        """The JSON form. Raises StateError that names the layer's argument that has none."""
        if id(module) in self._seen:
            row = self._seen[id(module)]
            row.setdefault("id", len([r for r in self._seen.values() if "id" in r]))
            return {"again": row["id"]}
        row = self._seen[id(module)] = {"class": self._name(type(module))}
        own = getattr(module, "config", None)
        if type(module) in _CONTAINERS:
            row["modules"] = {name: self.module(child) for name, child in module._branches()}
        elif callable(own):
            row["config"] = {key: self.value(module, key, value) for key, value in own().items()}
        else:
            row |= self._built(module.__dict__["_built"], module)
        return row

    def _built(self, built: Built, module: Module | None) -> dict[str, Any]:
        try:
            names, rest = built.named()
        except TypeError as error:
            raise StateError(f"{built.kind.__name__} cannot be built again from its arguments: {error}") from error
        where = module if module is not None else built.kind
        row: dict[str, Any] = {"config": {key: self.value(where, key, value) for key, value in names.items()}}
        if rest:
            row["more"] = [self.value(where, f"argument {number}", value) for number, value in enumerate(rest)]
        return row

    def value(self, owner: Any, key: str, value: Any) -> Any:
        """The JSON form of the argument ``key`` of ``owner``."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list):
            return [self.value(owner, key, item) for item in value]
        if isinstance(value, tuple) and type(value) is tuple:
            return {"tuple": [self.value(owner, key, item) for item in value]}
        if isinstance(value, Mapping):
            return {"dict": [[name, self.value(owner, key, item)] for name, item in value.items()]}
        if isinstance(value, Module):
            return {"module": self.module(value)}
        if isinstance(value, Built):
            return {"module": self._live(owner, value)}
        if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
            return {"dtype": np.dtype(value).name}
        if isinstance(value, Device):
            return {"device": str(value)}
        if isinstance(value, Tensor):
            value = value.array
        if isinstance(value, np.ndarray):
            data = base64.b64encode(byte_view(value)).decode()
            return {"array": {"dtype": value.dtype.name, "shape": list(value.shape), "data": data}}
        if isinstance(value, Sized):
            return {"zeros": {"dtype": value.dtype.name, "shape": list(value.shape)}}
        if isinstance(value, type) and issubclass(value, Module):
            return {"class": self._name(value)}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            wanted = inspect.signature(type(value)).parameters  # a subclass may take fewer than the fields
            fields = {name: getattr(value, name) for name in wanted if hasattr(value, name)}
            rows = {name: self.value(owner, f"{key}.{name}", item) for name, item in fields.items()}
            return {"dataclass": {"class": self._name(type(value)), "fields": rows}}
        if (function := _function_name(value)) is not None:
            return {"function": function}
        raise StateError(_no_word(owner, key, value))

    def _live(self, owner: Any, built: Built) -> dict[str, Any]:
        """A module among the arguments: as it is now if ``owner`` holds it, else (it was copied, say) as it was built."""
        if isinstance(owner, Module):
            for child in owner.modules():
                if child is not owner and child.__dict__["_built"] is built:
                    return self.module(child)
        return {"class": self._name(built.kind), **self._built(built, None)}

    def _name(self, kind: type) -> str:
        name = name_of(kind)
        self.kinds[name] = kind
        return name


def _no_word(owner: Any, key: str, value: Any) -> str:
    kind = owner.__name__ if isinstance(owner, type) else type(owner).__name__
    what = value.what if isinstance(value, Lost) else getattr(value, "__qualname__", type(value).__name__)
    return (
        f"save_model: {key} of {kind} is {what}, which JSON cannot hold: numbers, text, arrays, modules, dataclasses and "
        f"functions of phalanx can be written down. Give {kind} a method config() that returns its arguments as such, or make what is a "
        "function a Module"
    )


def name_of(kind: type) -> str:
    """A layer's name in ``phalanx.nn``, or ``module:Class``."""
    if getattr(nn, kind.__name__, None) is kind:
        return kind.__name__
    return f"{kind.__module__}:{kind.__qualname__}"


def _function_name(value: Any) -> str | None:
    """Where a function of ours is found: in ``phalanx.nn.functional``, ``phalanx.nn.init`` or ``phalanx``. None for another's."""
    name = getattr(value, "__name__", "")
    for home, prefix in (
        (nn.functional, "nn.functional."),
        (nn.init, "nn.init."),
        (importlib.import_module("phalanx"), ""),
    ):
        if name and getattr(home, name, None) is value:
            return prefix + name
    return None


# ---- and back


class Builder:
    """Builds modules from their JSON form. ``classes``: by the name in the file, or the class's own, instead of an import."""

    def __init__(self, classes: Mapping[str, type] | None = None) -> None:
        self._classes = dict(classes or {})
        self._built: dict[int, Module] = {}

    def module(self, row: Any) -> Module:
        """The module. Raises CheckpointError for a form that is none or a class that cannot be had."""
        if not isinstance(row, dict):
            raise CheckpointError(f"a module is described by {row!r}")
        if "again" in row:
            if row["again"] not in self._built:
                raise CheckpointError(f"a module is described as {row!r}, which none was before")
            return self._built[row["again"]]
        kind = self.kind(row.get("class"))
        if "modules" in row:
            modules = {name: self.module(part) for name, part in row["modules"].items()}
            made = kind(modules) if kind is not nn.ModuleList else kind(list(modules.values()))
        else:
            made = self._made(kind, row)
        if "id" in row:
            self._built[row["id"]] = made
        return made

    def _made(self, kind: Any, row: Mapping[str, Any]) -> Module:
        config = {key: self.value(value) for key, value in row.get("config", {}).items()}
        more = [self.value(value) for value in row.get("more", [])]
        try:
            return kind(*config.values(), *more) if more else kind(**config)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"{kind.__name__} of today does not take what the model was built with: {error}"
            ) from error

    def kind(self, name: Any) -> Any:
        """The Module class of that name."""
        kind = self._class(name)
        if not issubclass(kind, Module):
            raise CheckpointError(f"{name} is no Module")
        return kind

    def _class(self, name: Any) -> Any:
        if not isinstance(name, str):
            raise CheckpointError(f"a class is called {name!r}")
        given = self._classes.get(name, self._classes.get(name.rpartition(":")[2]))
        found = given if given is not None else self._imported(name)
        if not isinstance(found, type):
            raise CheckpointError(f"{name} is no class")
        return found

    def _imported(self, name: str) -> Any:
        home, colon, path = name.partition(":")
        if not colon:
            found = getattr(nn, name, None)
            if found is None:
                raise CheckpointError(f"phalanx.nn has no layer {name!r}: the model was saved by another version")
            return found
        try:
            found = importlib.import_module(home)
            for part in path.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            script = " (it was defined in a script)" if home == "__main__" else ""
            raise CheckpointError(
                f"the model's class {path} is not found in module {home!r}{script}: give it, as in "
                f'load_model(folder, classes={{"{path}": {path}}}), or --code FILE on the command line ({error})'
            ) from error
        return found

    def value(self, form: Any) -> Any:
        """What a JSON form means."""
        if isinstance(form, list):
            return [self.value(item) for item in form]
        if not isinstance(form, dict):
            return form
        kind, value = next(iter(form.items()), (None, None))
        try:
            return self._decoded(str(kind), value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"an argument of a module is described by {form!r}") from error

    def _decoded(self, kind: str, value: Any) -> Any:
        if kind == "module":
            return self.module(value)
        if kind == "class":
            return self.kind(value)
        if kind == "tuple":
            return tuple(self.value(item) for item in value)
        if kind == "dict":
            return {key: self.value(item) for key, item in value}
        if kind == "dtype":
            return np.dtype(value)
        if kind == "device":
            return Device(value)
        if kind == "array":
            array = np.frombuffer(base64.b64decode(value["data"]), np.dtype(value["dtype"]).newbyteorder("<"))
            return Tensor(array.astype(value["dtype"]).reshape(value["shape"]))
        if kind == "zeros":
            return Tensor(np.zeros(value["shape"], value["dtype"]))
        if kind == "dataclass":
            fields = {name: self.value(item) for name, item in value["fields"].items()}
            made = self._class(value["class"])
            if not hasattr(made, "__dataclass_fields__"):
                raise CheckpointError(f"{value['class']} is no dataclass")
            return made(**fields)
        if kind == "function":
            found: Any = importlib.import_module("phalanx")
            for part in value.split("."):
                found = getattr(found, part)
            if _function_name(found) != value:
                raise ValueError(value)
            return found
        raise ValueError(f"unknown kind; known are {', '.join(_ENCODED)}")
