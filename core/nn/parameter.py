"""Parameter: a leaf tensor that a Module owns and an optimizer updates."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tensor import Tensor


class Parameter(Tensor):
    """A Tensor with ``requires_grad`` that becomes part of a Module when assigned to its attribute.

    ``_store`` and ``_index`` say where in which flat store its values lie; ``core/flat.py`` sets them.

    >>> import phalanx
    >>> Parameter(phalanx.ones(2)).requires_grad
    True
    """

    __slots__ = ("_index", "_store")

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        array = data.array if isinstance(data, Tensor) else np.asarray(data)
        super().__init__(array, requires_grad=requires_grad)
        self._store: Any = None
        self._index: int | None = None
