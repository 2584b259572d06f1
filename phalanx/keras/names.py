"""Names of layers and models that got none: ``dense``, ``dense_1``, ..."""

from __future__ import annotations

import re
import threading
from typing import Any

from ..core.rank_local import of_rank


class _Counts(threading.local):
    def __init__(self) -> None:
        self.counts: dict[str, int] = {}


_taken = of_rank(_Counts())


def snake_case(name: str) -> str:
    """As Keras writes the names of classes.

    >>> snake_case("MaxPooling2D"), snake_case("LSTM")
    ('max_pooling2d', 'lstm')
    """
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def unique(base: str) -> str:
    """``base``, and with a number behind it from the second time on."""
    count = _taken.counts.get(base, 0)
    _taken.counts[base] = count + 1
    return base if not count else f"{base}_{count}"


def clear_session(free_memory: bool = True) -> None:
    """Count names of layers from the beginning again.

    >>> from phalanx import keras
    >>> keras.backend.clear_session()
    >>> keras.layers.Dense(1).name
    'dense'
    """
    _taken.counts.clear()


def by_name(kind: str, identifier: Any, known: dict[str, Any], base: Any = None) -> Any:
    """What a string, a class, or an object stands for. Raises ValueError that lists the known names."""
    if isinstance(identifier, str):
        key = identifier if identifier in known else snake_case(identifier)
        if key not in known:
            raise ValueError(f"{identifier!r} is no {kind}; known: {', '.join(sorted(known))}")
        return known[key]
    return identifier
