"""Parameter: a leaf tensor that a Module owns and an optimizer updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import as_dtype, to_device
from ..errors import RangeError
from ..owned import is_absent
from ..tensor import Tensor


class Parameter(Tensor):
    """A Tensor with ``requires_grad`` that becomes part of a Module when assigned to its attribute.

    ``_store`` and ``_index`` say where in which flat store its values lie; ``core/flat.py`` sets them.

    >>> nn.Parameter(phalanx.ones(2)).requires_grad
    True
    """

    __slots__ = ("_index", "_store")

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data.array if isinstance(data, Tensor) else data, requires_grad=requires_grad)
        self._store: Any = None
        self._index: int | None = None

    @classmethod
    def empty(cls, shape: Sequence[int], dtype: Any = None, device: Any = None) -> Parameter:
        """A new parameter of ``shape`` that waits for its initial values; float32 unless said otherwise."""
        if not all(hasattr(size, "__index__") and size >= 0 for size in shape):
            raise RangeError(f"a parameter's sizes must be integers of at least 0, got {tuple(shape)}")
        return cls(to_device(np.zeros(tuple(shape), as_dtype(np.float32 if dtype is None else dtype)), device))

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        """A free parameter (in no store) of equal values and gradient; tied ones stay tied within one deepcopy."""
        twin = type(self)(self.array.copy(), self.requires_grad)
        twin.name = self.name
        if self._grad is not None and not is_absent(self._grad.array):  # read-only: with ZeRO it lies with other ranks
            twin._grad = Tensor(self._grad.array.copy())
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self), (self.array, self.requires_grad)

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


class Buffer(Tensor):
    """A Tensor that becomes a buffer of a Module when assigned to its attribute: part of its state, not trained.

    One that is not ``persistent`` is left out of the state dict. The same as ``register_buffer``.

    >>> layer = nn.Identity()
    >>> layer.seen = nn.Buffer(phalanx.zeros(2))
    >>> list(layer.state_dict())
    ['seen']
    """

    __slots__ = ("persistent",)

    def __init__(self, data: Any = (), *, persistent: bool = True) -> None:
        super().__init__(data.array if isinstance(data, Tensor) else data)
        self.persistent = persistent
