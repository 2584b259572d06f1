"""Penalties on weights, by Keras's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.nn.penalty import L1L2 as Penalty
from .names import by_name


@dataclass(frozen=True)
class Regularizer:
    """Base of penalties: ``regularizer(weight)`` gives a number.

    >>> from phalanx import keras
    >>> keras.regularizers.L2(0.5)(phalanx.tensor([2.0])).item()
    2.0
    """

    def __call__(self, x: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no __call__()")


@dataclass(frozen=True)
class L1L2(Regularizer):
    """``l1 * sum(|w|) + l2 * sum(w^2)``.

    >>> from phalanx import keras
    >>> keras.regularizers.L1L2(l1=1.0, l2=1.0)(phalanx.tensor([-2.0])).item()
    6.0
    """

    l1: float = 0.0
    l2: float = 0.0

    def __call__(self, x: Any) -> Any:
        return Penalty(self.l1 or 0.0, self.l2 or 0.0)(x)


@dataclass(frozen=True)
class L1(Regularizer):
    """``l1 * sum(|w|)``.

    >>> from phalanx import keras
    >>> keras.regularizers.L1(1.0)(phalanx.tensor([-2.0])).item()
    2.0
    """

    l1: float = 0.01

    def __call__(self, x: Any) -> Any:
        return Penalty(l1=self.l1)(x)


@dataclass(frozen=True)
class L2(Regularizer):
    """``l2 * sum(w^2)``.

    >>> from phalanx import keras
    >>> layer = keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2(1e-4))
    """

    l2: float = 0.01

    def __call__(self, x: Any) -> Any:
        return Penalty(l2=self.l2)(x)


def l1_l2(l1: float = 0.01, l2: float = 0.01) -> L1L2:
    """``L1L2`` by its old name.

    >>> from phalanx import keras
    >>> keras.regularizers.l1_l2()
    L1L2(l1=0.01, l2=0.01)
    """
    return L1L2(l1, l2)


l1, l2 = L1, L2


def get(identifier: Any) -> Any:
    """The regularizer of that name ("l1", "l2", "l1_l2"), or what was given.

    >>> from phalanx import keras
    >>> keras.regularizers.get("l2")
    L2(l2=0.01)
    """
    found = by_name("regularizer", identifier, {"l1": L1, "l2": L2, "l1_l2": l1_l2, "l1l2": l1_l2})
    return found() if isinstance(identifier, str) else found


__all__ = ["L1", "L1L2", "L2", "Regularizer", "get", "l1", "l1_l2", "l2"]
