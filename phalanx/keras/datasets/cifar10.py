"""50,000 and 10,000 colour pictures in ten classes (Krizhevsky, 2009)."""

from __future__ import annotations

import numpy as np

from ...core.data.datasets import CIFAR10

__all__ = ["load_data"]

Arrays = tuple[np.ndarray, np.ndarray]


def load_data() -> tuple[Arrays, Arrays]:
    """((x_train, y_train), (x_test, y_test)): uint8 images (N, 32, 32, 3) and labels (N, 1). Fetched once, checked and cached.

    >>> from phalanx import keras
    >>> (x, y), test = keras.datasets.cifar10.load_data()  # doctest: +SKIP
    >>> x.shape, y.shape  # doctest: +SKIP
    ((50000, 32, 32, 3), (50000, 1))
    """
    train, test = CIFAR10(train=True), CIFAR10(train=False)
    return (train.data, train.targets.astype(np.uint8)[:, None]), (test.data, test.targets.astype(np.uint8)[:, None])
