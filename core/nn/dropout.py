"""Dropout."""

from __future__ import annotations

from ..errors import RangeError
from ..tensor import Tensor
from . import functional as F
from .module import Module


class Dropout(Module):
    """In training, zeroes each element with probability ``p`` and multiplies the others by 1 / (1 - p).

    The mask is keyed by (seed, step, shard, call): it does not depend on which rank draws it. Hinton et al., 2012.

    >>> import phalanx
    >>> Dropout(0.5).eval()(phalanx.ones(2)).tolist()
    [1.0, 1.0]
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise RangeError(f"{type(self).__name__}: p is a probability in [0, 1], got {p}")
        self.p, self.inplace = p, inplace

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return F.dropout(input, self.p, self.training)

    def extra_repr(self) -> str:
        """Probability."""
        return f"p={self.p}, inplace={self.inplace}"
