"""Optimizers by Keras's names, with Keras's defaults, on the engine's own."""

from __future__ import annotations

from typing import Any

from ..names import by_name
from . import schedules
from .base import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Lion, Nadam, Optimizer, RMSprop

_KNOWN = {
    "sgd": SGD, "adam": Adam, "adamw": AdamW, "adamax": Adamax, "nadam": Nadam, "rmsprop": RMSprop, "adagrad": Adagrad,
    "adadelta": Adadelta, "lion": Lion,
}  # fmt: skip


def get(identifier: Any) -> Any:
    """The optimizer of that name; Optimizers and functions of parameters as they are.

    >>> from phalanx import keras
    >>> keras.optimizers.get("adam").name
    'adam'
    """
    found = by_name("optimizer", identifier.lower() if isinstance(identifier, str) else identifier, _KNOWN)
    if isinstance(found, type):
        return found()
    if not callable(found):
        raise TypeError(f"an optimizer is a name, an Optimizer or a function of parameters, got {identifier!r}")
    return found


__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Nadam",
    "Optimizer",
    "RMSprop",
    "get",
    "schedules",
]
