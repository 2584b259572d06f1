"""50,000 and 10,000 colour pictures in a hundred classes (Krizhevsky, 2009)."""

from __future__ import annotations

import numpy as np

from ...core.data.datasets import CIFAR100

__all__ = ["load_data"]

Arrays = tuple[np.ndarray, np.ndarray]


def load_data(label_mode: str = "fine") -> tuple[Arrays, Arrays]:
    """((x_train, y_train), (x_test, y_test)): uint8 images (N, 32, 32, 3) and labels (N, 1). Fetched once, checked and cached.

    >>> from phalanx import keras
    >>> (x, y), test = keras.datasets.cifar100.load_data()  # doctest: +SKIP
    >>> x.shape, y.shape  # doctest: +SKIP
    ((50000, 32, 32, 3), (50000, 1))
    """
    if label_mode != "fine":
        raise ValueError(f"cifar100.load_data knows label_mode 'fine', got {label_mode!r}")
    train, test = CIFAR100(train=True), CIFAR100(train=False)
    return (train.data, train.targets.astype(np.uint8)[:, None]), (test.data, test.targets.astype(np.uint8)[:, None])
