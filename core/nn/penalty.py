"""Penalties on parameters: what a layer's weights add to the loss.

``loss = criterion(model(x), y) + model.penalty()``. A penalty averages no items, so its weight is 0, and the sum keeps the weight of the
loss: in each shard the whole penalty is added, shards are averaged by the losses' weights, and the gradient is that of the mean loss
plus the penalty, once, whatever the number of shards.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import RangeError
from ..tensor import Tensor


@dataclass(frozen=True)
class L1L2:
    """``l1 * sum(|w|) + l2 * sum(w^2)``, as in Keras. Both factors are at least 0.

    >>> nn.L1L2(0.5, 0.25)(phalanx.tensor([1.0, -2.0])).item()
    2.75
    """

    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        for name in ("l1", "l2"):
            factor = getattr(self, name)
            if not isinstance(factor, (int, float)) or not 0.0 <= factor < float("inf"):
                raise RangeError(f"{type(self).__name__}: {name} is a finite number of at least 0, got {factor!r}")

    def __call__(self, tensor: Tensor) -> Tensor:
        terms = [tensor.abs().sum() * self.l1] if self.l1 else []
        terms += [(tensor * tensor).sum() * self.l2] if self.l2 else []
        total = terms[0] + terms[1] if len(terms) == 2 else terms[0] if terms else tensor.sum() * 0.0
        total.weight = 0.0
        return total


class L1(L1L2):
    """``l1 * sum(|w|)``: drives weights to 0. Tibshirani, "Regression Shrinkage and Selection via the Lasso", 1996.

    >>> layer = nn.Linear(3, 2)
    >>> layer.register_penalty("weight", nn.L1(0.01))
    >>> layer.penalty().weight
    0.0
    """

    def __init__(self, l1: float = 0.01) -> None:
        super().__init__(l1=l1)


class L2(L1L2):
    """``l2 * sum(w^2)``: keeps weights small. With plain SGD the same as ``weight_decay=2 * l2`` for that parameter alone.

    >>> nn.L2(0.5)(phalanx.tensor([3.0, 4.0])).item()
    12.5
    """

    def __init__(self, l2: float = 0.01) -> None:
        super().__init__(l2=l2)
