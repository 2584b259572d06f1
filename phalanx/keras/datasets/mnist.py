"""60,000 and 10,000 handwritten digits (LeCun et al., 1998)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.data.datasets import MNIST

__all__ = ["load_data"]

Arrays = tuple[np.ndarray, np.ndarray]


def load_data(path: Any = None) -> tuple[Arrays, Arrays]:
    """((x_train, y_train), (x_test, y_test)): uint8 images (N, 28, 28) and labels (N,). Fetched once, checked and cached.

    >>> from phalanx import keras
    >>> (x, y), test = keras.datasets.mnist.load_data()  # doctest: +SKIP
    >>> x.shape  # doctest: +SKIP
    (60000, 28, 28)
    """
    train, test = MNIST(train=True), MNIST(train=False)
    return (train.data, train.targets.astype(np.uint8)), (test.data, test.targets.astype(np.uint8))
