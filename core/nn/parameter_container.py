"""ParameterList and ParameterDict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import RangeError
from .module import Module
from .parameter import Parameter


def _parameter(value: Any) -> Parameter:
    if value is None:
        raise RangeError("a list or dict of parameters holds no None")
    return value if isinstance(value, Parameter) else Parameter(value)


class ParameterList(Module):
    """A list of parameters that owns them; plain tensors become parameters.

    >>> scales = nn.ParameterList([phalanx.ones(2), phalanx.ones(3)])
    >>> [p.shape for p in scales], scales[-1].requires_grad
    ([(2,), (3,)], True)
    """

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self.extend(values or ())

    def __len__(self) -> int:
        return len(self._parameter_names)

    def __iter__(self) -> Iterator[Any]:
        return iter([self.__dict__[name] for name in self._parameter_names])

    def __getitem__(self, index: int | slice) -> Any:
        values = list(self)
        return ParameterList(values[index]) if isinstance(index, slice) else values[index]

    def __setitem__(self, index: int, value: Any) -> None:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of ParameterList with {len(self)} parameters")
        setattr(self, str(index % len(self)), _parameter(value))

    def __iadd__(self, other: Iterable[Any]) -> ParameterList:
        return self.extend(other)

    def append(self, value: Any) -> ParameterList:
        """Add at the end; returns self."""
        self.register_parameter(str(len(self)), _parameter(value))
        return self

    def extend(self, values: Iterable[Any]) -> ParameterList:
        """Add all at the end; returns self."""
        for value in list(values):
            self.append(value)
        return self

    def extra_repr(self) -> str:
        """Shapes."""
        return ", ".join(f"({name}): {tuple(self.__dict__[name].shape)}" for name in self._parameter_names)


class ParameterDict(Module):
    """A dict of parameters that owns them, in order of insertion; plain tensors become parameters.

    >>> weights = nn.ParameterDict({"left": phalanx.ones(2), "right": phalanx.zeros(2)})
    >>> [name for name, _ in weights.named_parameters()], weights["left"].tolist()
    (['left', 'right'], [1.0, 1.0])
    """

    def __init__(self, parameters: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None) -> None:
        super().__init__()
        self.update(parameters or {})

    def __getitem__(self, key: str) -> Any:
        if key not in self._parameter_names:
            raise KeyError(
                f"no parameter {key!r} in ParameterDict; it has {', '.join(self._parameter_names) or 'none'}"
            )
        return self.__dict__[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.register_parameter(key, _parameter(value))

    def __delitem__(self, key: str) -> None:
        self[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._parameter_names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameter_names)

    def __reversed__(self) -> Iterator[str]:
        return reversed(list(self._parameter_names))

    def __contains__(self, key: str) -> bool:
        return key in self._parameter_names

    def __or__(self, other: Mapping[str, Any] | ParameterDict) -> ParameterDict:
        both = self.copy()
        both.update(other)
        return both

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **dict(self.items())}

    def __ior__(self, other: Mapping[str, Any] | ParameterDict) -> ParameterDict:
        self.update(other)
        return self

    def keys(self) -> Iterable[str]:
        """Names."""
        return self._parameter_names.keys()

    def values(self) -> Iterable[Any]:
        """Parameters."""
        return [self.__dict__[name] for name in self._parameter_names]

    def items(self) -> Iterable[tuple[str, Any]]:
        """Names and parameters."""
        return [(name, self.__dict__[name]) for name in self._parameter_names]

    def update(self, parameters: Mapping[str, Any] | ParameterDict | Iterable[tuple[str, Any]]) -> None:
        """Add or replace parameters."""
        for name, value in parameters.items() if isinstance(parameters, (Mapping, ParameterDict)) else parameters:
            self[name] = value

    def get(self, key: str, default: Any = None) -> Any:
        """The parameter ``key``, or ``default`` if there is none."""
        return self.__dict__[key] if key in self._parameter_names else default

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The parameter ``key``; ``default`` becomes it if there is none."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str) -> Any:
        """Remove and return one."""
        parameter = self[key]
        del self[key]
        return parameter

    def popitem(self) -> tuple[str, Any]:
        """Remove and return the last one with its name."""
        if not len(self):
            raise KeyError("popitem of an empty ParameterDict")
        key = next(reversed(self))
        return key, self.pop(key)

    def clear(self) -> None:
        """Remove all."""
        for name in list(self._parameter_names):
            delattr(self, name)

    def copy(self) -> ParameterDict:
        """A dict of the same parameters."""
        return ParameterDict(self.items())

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> ParameterDict:
        """A dict with a parameter of ``default``'s values for each key."""
        return ParameterDict((key, default) for key in keys)

    def extra_repr(self) -> str:
        """Shapes."""
        return ", ".join(f"({name}): {tuple(value.shape)}" for name, value in self.items())
