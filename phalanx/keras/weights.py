"""The weights of layers, and what initial values and penalties are called."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.backend import to_host
from ..core.errors import ShapeError
from ..core.nn.parameter import Buffer, Parameter
from ..core.tensor import Tensor


class Weight(Parameter):
    """A trained weight, in Keras's layout: ``numpy()`` gives its values, ``assign()`` sets them."""

    __slots__ = ()

    def numpy(self, *, force: Any = True) -> np.ndarray:
        """The values, on the same memory."""
        return super().numpy(force=True)

    def assign(self, value: Any) -> Weight:
        """Take other values, in place."""
        assign(self, value)
        return self


class State(Buffer):
    """A weight that is not trained: a running mean, a count."""

    __slots__ = ()

    def assign(self, value: Any) -> State:
        """Take other values, in place."""
        assign(self, value)
        return self


def assign(weight: Tensor, value: Any) -> None:
    """Copy ``value`` into ``weight``. Raises ShapeError where it does not fit."""
    array = to_host(value.array) if isinstance(value, Tensor) else np.asarray(value)
    if tuple(array.shape) != tuple(weight.shape):
        raise ShapeError(
            f"a weight of shape {tuple(weight.shape)} ({weight.name or 'unnamed'}) cannot take values of shape {array.shape}"
        )
    if weight.is_cuda:
        weight.array[...] = Tensor(array).to(weight.device).array
    else:
        weight.array[...] = array
