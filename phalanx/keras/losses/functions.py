"""Losses as functions of targets and predictions: a number for each sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.backend import as_array, is_array
from ...core.bfloat16 import is_floating
from ...core.errors import ShapeError
from ...core.nn import functional as F
from ...core.tensor import Tensor

EPSILON = 1e-7
"""Probabilities are cut to [EPSILON, 1 - EPSILON], as in Keras."""


def tensor(value: Any) -> Tensor:
    """A Tensor as it is, or one of an array or numbers."""
    if isinstance(value, Tensor):
        return value
    return Tensor(value if is_array(value) else as_array(np.asarray(value)))


def _pair(y_true: Any, y_pred: Any) -> tuple[Tensor, Tensor]:
    """Both floating, of one shape: (N,) and (N, 1) are alike."""
    y_true, y_pred = tensor(y_true), tensor(y_pred)
    if not is_floating(y_pred.dtype):
        y_pred = y_pred.to(np.float32)
    y_true = y_true.to(y_pred.dtype)
    if y_true.ndim == y_pred.ndim - 1 and y_pred.shape[-1] == 1:
        y_true = y_true.unsqueeze(-1)
    elif y_true.ndim == y_pred.ndim + 1 and y_true.shape[-1] == 1:
        y_true = y_true.squeeze(-1)
    if tuple(y_true.shape) != tuple(y_pred.shape):
        raise ShapeError(
            f"the loss expects targets and predictions of one shape, got {tuple(y_true.shape)} and {tuple(y_pred.shape)}"
        )
    return y_true, y_pred


def _mean(values: Tensor) -> Tensor:
    return values.mean(dim=-1) if values.ndim > 1 else values


def mean_squared_error(y_true: Any, y_pred: Any) -> Tensor:
    """The mean of ``(y_true - y_pred)^2`` over the last dimension: one number for each sample.

    >>> from phalanx import keras
    >>> keras.losses.mean_squared_error(np.zeros((1, 2)), phalanx.tensor([[1.0, 3.0]])).tolist()
    [5.0]
    """
    y_true, y_pred = _pair(y_true, y_pred)
    return _mean((y_pred - y_true) ** 2)


def mean_absolute_error(y_true: Any, y_pred: Any) -> Tensor:
    """The mean of ``|y_true - y_pred|``.

    >>> from phalanx import keras
    >>> keras.losses.mean_absolute_error(np.zeros((1, 2)), phalanx.tensor([[1.0, 3.0]])).tolist()
    [2.0]
    """
    y_true, y_pred = _pair(y_true, y_pred)
    return _mean((y_pred - y_true).abs())


def mean_absolute_percentage_error(y_true: Any, y_pred: Any) -> Tensor:
    """The mean of ``100 * |y_true - y_pred| / |y_true|``.

    >>> from phalanx import keras
    >>> round(keras.losses.mean_absolute_percentage_error(np.ones((1, 1)), phalanx.tensor([[1.5]])).item(), 3)
    50.0
    """
    y_true, y_pred = _pair(y_true, y_pred)
    return _mean((y_true - y_pred).abs() / y_true.abs().clamp(min=EPSILON)) * 100.0


def mean_squared_logarithmic_error(y_true: Any, y_pred: Any) -> Tensor:
    """The mean of ``(log(1 + y_true) - log(1 + y_pred))^2``, negative values count as 0.

    >>> from phalanx import keras
    >>> keras.losses.mean_squared_logarithmic_error(np.zeros((1, 1)), phalanx.zeros(1, 1)).item()
    0.0
    """
    y_true, y_pred = _pair(y_true, y_pred)
    return _mean(((y_pred.clamp(min=EPSILON) + 1.0).log() - (y_true.clamp(min=EPSILON) + 1.0).log()) ** 2)


def huber(y_true: Any, y_pred: Any, delta: float = 1.0) -> Tensor:
    """``e^2 / 2`` where the error is at most ``delta``, ``delta * (|e| - delta / 2)`` elsewhere.

    >>> from phalanx import keras
    >>> keras.losses.huber(np.zeros((1, 1)), phalanx.tensor([[3.0]])).item()
    2.5
    """
    y_true, y_pred = _pair(y_true, y_pred)
    return _mean(F.huber_loss(y_pred, y_true, reduction="none", delta=delta))


def log_cosh(y_true: Any, y_pred: Any) -> Tensor:
    """``log(cosh(y_pred - y_true))``.

    >>> from phalanx import keras
    >>> keras.losses.log_cosh(np.zeros((1, 1)), phalanx.zeros(1, 1)).item()
    0.0
    """
    y_true, y_pred = _pair(y_true, y_pred)
    error = y_pred - y_true
    return _mean(error + F.softplus(-2.0 * error) - float(np.log(2.0)))


def binary_crossentropy(y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0) -> Tensor:
    """``-(y log p + (1 - y) log(1 - p))``, the mean over the last dimension; p cut to [1e-7, 1 - 1e-7].

    >>> from phalanx import keras
    >>> round(keras.losses.binary_crossentropy(np.ones((1, 1)), phalanx.tensor([[0.5]])).item(), 4)
    0.6931
    """
    y_true, y_pred = _pair(y_true, y_pred)
    if label_smoothing:
        y_true = y_true * (1.0 - label_smoothing) + 0.5 * label_smoothing
    if from_logits:
        return _mean(F.binary_cross_entropy_with_logits(y_pred, y_true, reduction="none"))
    p = y_pred.clamp(EPSILON, 1.0 - EPSILON)
    return _mean(-(y_true * p.log() + (1.0 - y_true) * (1.0 - p).log()))


def categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Tensor:
    """``-sum(y log p)`` for one-hot targets; p is scaled to sum 1 and cut to [1e-7, 1 - 1e-7].

    >>> from phalanx import keras
    >>> round(keras.losses.categorical_crossentropy(np.eye(2), phalanx.tensor([[0.5, 0.5], [0.1, 0.9]]))[0].item(), 4)
    0.6931
    """
    y_true, y_pred = tensor(y_true), tensor(y_pred)
    if tuple(y_true.shape) != tuple(y_pred.shape):
        raise ShapeError(
            f"categorical_crossentropy expects one-hot targets of the predictions' shape {tuple(y_pred.shape)}, got "
            f"{tuple(y_true.shape)}; for integer labels use sparse_categorical_crossentropy"
        )
    y_true = y_true.to(y_pred.dtype)
    if label_smoothing:
        y_true = y_true * (1.0 - label_smoothing) + label_smoothing / y_pred.shape[axis]
    if from_logits:
        return -(y_true * F.log_softmax(y_pred, dim=axis)).sum(dim=axis)
    p = (y_pred / y_pred.sum(dim=axis, keepdim=True)).clamp(EPSILON, 1.0 - EPSILON)
    return -(y_true * p.log()).sum(dim=axis)


def sparse_categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, ignore_class: int | None = None, axis: int = -1
) -> Tensor:
    """``-log p[y]`` for integer labels; p is cut to [1e-7, 1 - 1e-7].

    >>> from phalanx import keras
    >>> round(keras.losses.sparse_categorical_crossentropy(np.array([1]), phalanx.tensor([[0.5, 0.5]])).item(), 4)
    0.6931
    """
    y_true, y_pred = tensor(y_true), tensor(y_pred)
    if y_true.ndim == y_pred.ndim and y_true.shape[-1] == 1:
        y_true = y_true.squeeze(-1)
    if y_true.ndim != y_pred.ndim - 1:
        raise ShapeError(
            f"sparse_categorical_crossentropy expects labels (N, ...) for predictions (N, ..., classes), got {tuple(y_true.shape)} and "
            f"{tuple(y_pred.shape)}; for one-hot targets use categorical_crossentropy"
        )
    labels = y_true.to(np.int64)
    scores = y_pred if from_logits else y_pred.clamp(EPSILON, 1.0 - EPSILON).log()
    classes = scores.shape[-1]
    ignored: dict[str, Any] = {} if ignore_class is None else {"ignore_index": ignore_class}
    flat = F.cross_entropy(scores.reshape(-1, classes), labels.reshape(-1), reduction="none", **ignored)
    return flat.reshape(*labels.shape)


def kl_divergence(y_true: Any, y_pred: Any) -> Tensor:
    """``sum(y_true * log(y_true / y_pred))``.

    >>> from phalanx import keras
    >>> keras.losses.kl_divergence(np.array([[0.5, 0.5]]), phalanx.tensor([[0.5, 0.5]])).item()
    0.0
    """
    y_true, y_pred = _pair(y_true, y_pred)
    y_true, y_pred = y_true.clamp(EPSILON, 1.0), y_pred.clamp(EPSILON, 1.0)
    return (y_true * (y_true.log() - y_pred.log())).sum(dim=-1)


def poisson(y_true: Any, y_pred: Any) -> Tensor:
    """``y_pred - y_true * log(y_pred)``.

    >>> from phalanx import keras
    >>> round(keras.losses.poisson(np.ones((1, 1)), phalanx.ones(1, 1)).item(), 4)
    1.0
    """
    y_true, y_pred = _pair(y_true, y_pred)
    return _mean(y_pred - y_true * (y_pred + EPSILON).log())


def _signs(y_true: Tensor) -> Tensor:
    """0 and 1 become -1 and 1."""
    values = y_true.array
    if bool(((values == 0) | (values == 1)).all()):
        return y_true * 2.0 - 1.0
    return y_true


def hinge(y_true: Any, y_pred: Any) -> Tensor:
    """``max(1 - y_true * y_pred, 0)``, targets -1 and 1 (or 0 and 1).

    >>> from phalanx import keras
    >>> keras.losses.hinge(np.ones((1, 1)), phalanx.tensor([[0.25]])).item()
    0.75
    """
    y_true, y_pred = _pair(y_true, y_pred)
    return _mean(F.relu(1.0 - _signs(y_true) * y_pred))


def squared_hinge(y_true: Any, y_pred: Any) -> Tensor:
    """The square of hinge.

    >>> from phalanx import keras
    >>> keras.losses.squared_hinge(np.ones((1, 1)), phalanx.tensor([[0.5]])).item()
    0.25
    """
    y_true, y_pred = _pair(y_true, y_pred)
    return _mean(F.relu(1.0 - _signs(y_true) * y_pred) ** 2)


def categorical_hinge(y_true: Any, y_pred: Any) -> Tensor:
    """``max(0, 1 + the highest other score - the true class's)`` for one-hot targets.

    >>> from phalanx import keras
    >>> keras.losses.categorical_hinge(np.array([[0.0, 1.0]]), phalanx.tensor([[0.5, 1.0]])).item()
    0.5
    """
    y_true, y_pred = _pair(y_true, y_pred)
    positive, others = (y_true * y_pred).sum(dim=-1), ((1.0 - y_true) * y_pred).amax(dim=-1)
    return F.relu(others - positive + 1.0)


def cosine_similarity(y_true: Any, y_pred: Any, axis: int = -1) -> Tensor:
    """Minus the cosine of the angle between both: -1 where they agree.

    >>> from phalanx import keras
    >>> round(keras.losses.cosine_similarity(np.ones((1, 2)), phalanx.ones(1, 2)).item(), 4)
    -1.0
    """
    y_true, y_pred = _pair(y_true, y_pred)
    return -(F.normalize(y_true, dim=axis, eps=EPSILON) * F.normalize(y_pred, dim=axis, eps=EPSILON)).sum(dim=axis)
