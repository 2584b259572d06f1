"""Small helpers by Keras's names."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from ...core import rng
from ...core.errors import RangeError
from ...core.tensor import Tensor
from ..names import clear_session as clear_session


def to_categorical(x: Any, num_classes: int | None = None) -> np.ndarray:
    """Integer labels (N, ...) as one-hot rows (N, ..., num_classes).

    >>> from phalanx import keras
    >>> keras.utils.to_categorical([0, 2]).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    labels = np.asarray(x.numpy() if isinstance(x, Tensor) else x).astype(np.int64)
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    classes = int(labels.max(initial=-1)) + 1 if num_classes is None else num_classes
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= max(classes, 1):
        raise RangeError(f"to_categorical: labels must be in [0, {classes}), got {labels.min()} to {labels.max()}")
    return np.eye(classes, dtype=np.float32)[labels]


def set_random_seed(seed: int) -> None:
    """Seed initial values, dropout and the order of samples, and ``random`` and ``numpy.random``. Call it first.

    >>> from phalanx import keras
    >>> keras.utils.set_random_seed(42)
    """
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    rng.manual_seed(seed)


def normalize(x: Any, axis: int = -1, order: int = 2) -> np.ndarray:
    """Rows of norm 1 along ``axis``.

    >>> from phalanx import keras
    >>> keras.utils.normalize(np.array([[3.0, 4.0]])).tolist()
    [[0.6, 0.8]]
    """
    x = np.asarray(x)
    norm = np.linalg.norm(x, order, axis, keepdims=True)
    return x / np.where(norm == 0, 1, norm)


def pad_sequences(
    sequences: Any,
    maxlen: int | None = None,
    dtype: Any = "int32",
    padding: str = "pre",
    truncating: str = "pre",
    value: float = 0.0,
) -> np.ndarray:
    """Sequences of unequal length as one array (N, maxlen), filled with ``value`` and cut in front or behind.

    >>> from phalanx import keras
    >>> keras.utils.pad_sequences([[1, 2, 3], [4]], maxlen=2).tolist()
    [[2, 3], [0, 4]]
    """
    for name, place in (("padding", padding), ("truncating", truncating)):
        if place not in ("pre", "post"):
            raise RangeError(f"pad_sequences expects {name} 'pre' or 'post', got {place!r}")
    rows = [np.asarray(row) for row in sequences]
    length = max((len(row) for row in rows), default=0) if maxlen is None else maxlen
    tail = next((row.shape[1:] for row in rows if len(row)), ())
    found = np.full((len(rows), length, *tail), value, dtype)
    for number, row in enumerate(rows):
        if not length or not len(row):
            continue
        row = row[-length:] if truncating == "pre" else row[:length]
        if padding == "post":
            found[number, : len(row)] = row
        else:
            found[number, length - len(row) :] = row
    return found


__all__ = ["clear_session", "normalize", "pad_sequences", "set_random_seed", "to_categorical"]
