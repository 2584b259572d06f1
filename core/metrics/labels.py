"""What PyTorch's and Keras's users give for classes, brought to one form: predicted and true labels side by side.

Dimensions: N samples, C classes; what follows are places of a sample (pixels, tokens).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..bfloat16 import is_floating
from ..errors import RangeError, ShapeError
from .metric import per_sample

Labels = tuple[np.ndarray, np.ndarray, "np.ndarray | None"]
"""Predicted labels, true labels, weights (None: all 1), flat and of one length."""


def expect_target(metric: str, target: Any) -> None:
    """A metric of classes or values needs something to compare with."""
    if target is None:
        raise ShapeError(f"{metric}: update(prediction, target) needs a target")


def squeezed(prediction: np.ndarray, target: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Without a class dimension of size 1 that only one of them has, or whose partner has more classes."""
    if target.ndim == prediction.ndim > 1 and target.shape[axis] == 1 != prediction.shape[axis]:
        target = target.squeeze(axis)
    elif prediction.ndim == target.ndim + 1 and prediction.shape[axis] == 1:
        prediction = prediction.squeeze(axis)
    return prediction, target


def are_scores(metric: str, prediction: np.ndarray, target: np.ndarray, axis: int) -> bool:
    """Whether ``prediction`` has a score for each class where ``target`` has a label; False: both have one shape."""
    if prediction.shape == target.shape:
        return False
    places = prediction.shape[:axis] + prediction.shape[axis:][1:] if axis >= 0 else prediction.shape[:axis]
    if prediction.ndim == target.ndim + 1 and places == target.shape:
        return True
    raise ShapeError(
        f"{metric}: expected scores (N, C, ...) with labels (N, ...), or prediction and target of one shape, got "
        f"{prediction.shape} and {target.shape}"
    )


def hold_classes(prediction: np.ndarray, target: np.ndarray, axis: int) -> bool:
    """Whether two arrays of one shape hold scores and one-hot targets rather than one value for each place."""
    return is_floating(prediction.dtype) and prediction.ndim > 1 and prediction.shape[axis] > 1


def labels(
    metric: str,
    prediction: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None,
    *,
    axis: int = 1,
    threshold: float | None = 0.5,
    ignore_index: int | None = None,
) -> Labels:
    """Labels from scores (the highest), one-hot targets, decisions at ``threshold``, or labels as they are."""
    expect_target(metric, target)
    prediction, target = squeezed(prediction, target, axis)
    if are_scores(metric, prediction, target, axis):
        check_labels(metric, target, prediction.shape[axis], ignore_index)
        prediction = prediction.argmax(axis=axis)
    elif hold_classes(prediction, target, axis):
        prediction, target = prediction.argmax(axis=axis), target.argmax(axis=axis)
    elif is_floating(prediction.dtype):
        prediction = prediction > (0.5 if threshold is None else threshold)
    return flat(metric, prediction, target, weight, ignore_index)


def flat(
    metric: str, prediction: np.ndarray, target: np.ndarray, weight: np.ndarray | None, ignore_index: int | None = None
) -> Labels:
    """Labels of one shape as integers in one dimension, without ignored ones."""
    weights = per_sample(metric, weight, target.shape)
    mine, truth = prediction.reshape(-1).astype(np.int64), target.reshape(-1).astype(np.int64)
    weights = None if weights is None else weights.reshape(-1)
    if ignore_index is not None:
        kept = truth != ignore_index
        mine, truth, weights = mine[kept], truth[kept], None if weights is None else weights[kept]
    return mine, truth, weights


def check_labels(metric: str, target: np.ndarray, classes: int, ignore_index: int | None = None) -> None:
    """True labels must be classes."""
    if is_floating(target.dtype) and not (target == np.floor(target)).all():
        raise RangeError(f"{metric}: labels must be whole numbers, got {target.dtype} with fractions")
    wrong = (target < 0) | (target >= classes)
    if ignore_index is not None:
        wrong &= target != ignore_index
    if wrong.any():
        raise RangeError(f"{metric}: labels must be in [0, {classes}), got {target[wrong].reshape(-1)[0]}")


def count_by_class(members: np.ndarray, weight: np.ndarray | None, classes: int) -> np.ndarray:
    """How many of each class, weighted: (C,)."""
    return np.bincount(members, weights=weight, minlength=classes)


def padded(array: np.ndarray, classes: int) -> np.ndarray:
    """``array`` with every dimension grown to ``classes`` by zeros: classes that were not met yet."""
    return np.pad(array, [(0, classes - size) for size in array.shape])
