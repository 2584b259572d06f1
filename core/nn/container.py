"""Sequential, ModuleList and ModuleDict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import RangeError
from . import fusion
from .module import Module


class _Listed(Module):
    """Modules in order, called "0", "1", ...: indexing, slicing, insertion and removal."""

    def _names(self) -> list[str]:
        return list(self._module_names)

    def _name(self, index: int) -> str:
        names = self._names()
        if not -len(names) <= index < len(names):
            raise IndexError(f"index {index} of {type(self).__name__} with {len(names)} modules")
        return names[index]

    def _rebuild(self, modules: Iterable[Module]) -> None:
        modules = list(modules)
        for name in self._names():
            delattr(self, name)
        for number, module in enumerate(modules):
            self.add_module(str(number), module)

    def __len__(self) -> int:
        return len(self._module_names)

    def __iter__(self) -> Iterator[Any]:
        return iter([self.__dict__[name] for name in self._module_names])

    def __contains__(self, module: object) -> bool:
        return any(own is module for own in self)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)._of({name: self.__dict__[name] for name in self._names()[index]})
        return self.__dict__[self._name(index)]

    @classmethod
    def _of(cls, modules: dict[str, Module]) -> Any:
        built = cls.__new__(cls)
        Module.__init__(built)
        built._rebuild(modules.values())
        return built

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name(index), module)

    def __delitem__(self, index: int | slice) -> None:
        names = self._names()
        gone = set(names[index]) if isinstance(index, slice) else {self._name(index)}
        self._rebuild([self.__dict__[name] for name in names if name not in gone])

    def append(self, module: Module) -> Any:
        """Add at the end; returns self."""
        self.add_module(str(len(self)), module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Add before ``index``; returns self."""
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__}.insert expects a Module, got {type(module).__name__}")
        modules = list(self)
        modules.insert(index, module)
        self._rebuild(modules)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add all at the end; returns self."""
        for module in list(modules):
            self.append(module)
        return self

    def pop(self, index: int = -1) -> Module:
        """Remove and return one."""
        module = self[index]
        del self[index]
        return module


class Sequential(_Listed):
    """Modules applied one after another; names are 0, 1, ... or the keys of an OrderedDict.

    Indexing, slicing, ``append``, ``insert``, ``extend``, ``pop``, ``+`` and ``*`` are those of a list.

    >>> model = nn.Sequential(nn.Sequential(), nn.Sequential())
    >>> len(model), len(model[:1])
    (2, 1)
    """

    def __init__(self, *args: Module | Mapping[str, Module]) -> None:
        super().__init__()
        named: Mapping[str, Any] = {str(number): module for number, module in enumerate(args)}
        if len(args) == 1 and isinstance(args[0], Mapping):
            named = args[0]
        for name, module in named.items():
            self.add_module(name, module)

    @classmethod
    def _of(cls, modules: dict[str, Module]) -> Sequential:
        return cls(modules)

    def forward(self, input: Any) -> Any:
        """The output of the last module."""
        if fusion.available(input):
            return fusion.run([self.__dict__[name] for name in self._module_names], input)
        for name in self._module_names:
            input = self.__dict__[name](input)
        return input

    def __add__(self, other: Sequential) -> Sequential:
        return Sequential(*self, *other) if isinstance(other, Sequential) else NotImplemented

    def __iadd__(self, other: Iterable[Module]) -> Sequential:  # type: ignore[misc]
        return self.extend(other)

    def __mul__(self, other: int) -> Sequential:
        return Sequential(*list(self) * _times(other))

    __rmul__ = __mul__

    def __imul__(self, other: int) -> Sequential:
        return self.extend(list(self) * (_times(other) - 1))


def _times(count: Any) -> int:
    if not hasattr(count, "__index__") or isinstance(count, bool) or count < 1:
        raise RangeError(f"a Sequential is repeated a whole number of times, at least 1, not {count!r}")
    return int(count)


class ModuleList(_Listed):
    """A list of modules that owns them; it has no forward.

    >>> layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    >>> len(layers), len(list(layers.parameters()))
    (3, 6)
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        self.extend(modules or ())

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *other])

    def __iadd__(self, other: Iterable[Module]) -> ModuleList:
        return self.extend(other)

    def __repr__(self) -> str:
        """Equal neighbours are told once."""
        groups: list[tuple[int, int, str]] = []
        for number, module in enumerate(self):
            text = repr(module)
            if groups and groups[-1][2] == text:
                groups[-1] = (groups[-1][0], number, text)
            else:
                groups.append((number, number, text))
        lines = [f"({lo}): {text}" if lo == hi else f"({lo}-{hi}): {hi - lo + 1} x {text}" for lo, hi, text in groups]
        body = "\n".join(lines).replace("\n", "\n  ")
        return f"{type(self).__name__}(\n  {body}\n)" if lines else f"{type(self).__name__}()"


class ModuleDict(Module):
    """A dict of modules that owns them, in order of insertion; it has no forward.

    >>> heads = nn.ModuleDict({"animal": nn.Linear(4, 3), "colour": nn.Linear(4, 5)})
    >>> heads["colour"](phalanx.ones(2, 4)).shape
    (2, 5)
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, key: str) -> Any:
        if key not in self._module_names:
            raise KeyError(f"no module {key!r} in ModuleDict; it has {', '.join(self._module_names) or 'none'}")
        return self.__dict__[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        self[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._module_names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._module_names)

    def __contains__(self, key: str) -> bool:
        return key in self._module_names

    def keys(self) -> Iterable[str]:
        """Names."""
        return self._module_names.keys()

    def values(self) -> Iterable[Any]:
        """Modules."""
        return [self.__dict__[name] for name in self._module_names]

    def items(self) -> Iterable[tuple[str, Any]]:
        """Names and modules."""
        return [(name, self.__dict__[name]) for name in self._module_names]

    def update(self, modules: Mapping[str, Module] | ModuleDict | Iterable[tuple[str, Module]]) -> None:
        """Add or replace modules."""
        for name, module in modules.items() if isinstance(modules, (Mapping, ModuleDict)) else modules:
            self[name] = module

    def pop(self, key: str) -> Module:
        """Remove and return one."""
        module = self[key]
        del self[key]
        return module

    def clear(self) -> None:
        """Remove all."""
        for name in list(self._module_names):
            delattr(self, name)
