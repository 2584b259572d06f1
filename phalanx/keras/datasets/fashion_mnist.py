"""60,000 and 10,000 pictures of clothes in ten classes (Xiao et al., 2017)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.data.datasets import FashionMNIST

__all__ = ["load_data"]

Arrays = tuple[np.ndarray, np.ndarray]


def load_data(path: Any = None) -> tuple[Arrays, Arrays]:
    """((x_train, y_train), (x_test, y_test)): uint8 images (N, 28, 28) and labels (N,). Fetched once, checked and cached.

    >>> from phalanx import keras
    >>> (x, y), test = keras.datasets.fashion_mnist.load_data()  # doctest: +SKIP
    >>> x.shape  # doctest: +SKIP
    (60000, 28, 28)
    """
    train, test = FashionMNIST(train=True), FashionMNIST(train=False)
    return (train.data, train.targets.astype(np.uint8)), (test.data, test.targets.astype(np.uint8))
