"""The state of an optimizer that a user has written in PyTorch's manner: whatever its ``step()`` puts into ``self.state[p]``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..backend import as_dtype, is_array
from ..nn.parameter import Parameter
from ..tensor import Tensor


class OwnState(defaultdict[Parameter, dict[str, Any]]):
    """Parameter -> name -> Tensor, array, number or text; a parameter that is new has an empty dict.

    >>> weight = nn.Parameter(phalanx.ones(2))
    >>> state = OwnState(dict)
    >>> state[weight]["step"] = 1
    >>> state[weight]["mean"] = phalanx.zeros(2)
    >>> state.scalars({weight: "weight"})["weight"]["step"], list(state.arrays({weight: "weight"}))
    (1, ['mean/weight'])
    """

    def arrays(self, names: Mapping[Parameter, str]) -> dict[str, Any]:
        """Live arrays, keyed "what/parameter name"."""
        return {
            f"{key}/{names[p]}": _array(value)
            for p, entry in self.items()
            for key, value in entry.items()
            if p in names and _is_array(value)
        }

    def scalars(self, names: Mapping[Parameter, str]) -> dict[str, Any]:
        """The rest, and what the arrays are like."""
        return {
            names[p]: {key: _described(value) if _is_array(value) else value for key, value in entry.items()}
            for p, entry in self.items()
            if p in names and entry
        }

    def prepare(self, scalars: Mapping[str, Any], names: Mapping[Parameter, str]) -> None:
        """Take what :meth:`scalars` gave; arrays are Tensors of zeros, to be read into."""
        self.clear()
        for parameter, name in names.items():
            for key, value in scalars.get(name, {}).items():
                if isinstance(value, Mapping):
                    value = Tensor(np.zeros(tuple(value["shape"]), as_dtype(value["dtype"])))
                self[parameter][key] = value

    def copies(self, parameter: Parameter) -> dict[str, Any]:
        """The state of one parameter; arrays are copies."""
        return {key: _array(v).copy() if _is_array(v) else v for key, v in self.get(parameter, {}).items()}

    def take(self, parameter: Parameter, entry: Mapping[str, Any]) -> None:
        """What :meth:`copies` gave."""
        self[parameter] = {k: Tensor(_array(v).copy()) if _is_array(v) else v for k, v in entry.items()}


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or is_array(value)


def _array(value: Any) -> Any:
    return value.array if isinstance(value, Tensor) else value


def _described(value: Any) -> dict[str, Any]:
    array = _array(value)
    return {"shape": list(array.shape), "dtype": str(array.dtype)}
