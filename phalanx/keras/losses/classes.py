"""The losses as classes, with options."""

from __future__ import annotations

from typing import Any

from . import functions
from .base import LossFunction


class BinaryCrossentropy(LossFunction):
    """Yes or no for each number of the prediction, a probability or with ``from_logits`` a logit.

    >>> from phalanx import keras
    >>> round(keras.losses.BinaryCrossentropy(from_logits=True)(np.ones((1, 1)), phalanx.zeros(1, 1)).item(), 4)
    0.6931
    """

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Any = "sum_over_batch_size",
        name: str = "binary_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            functions.binary_crossentropy, name, reduction, from_logits=from_logits, label_smoothing=label_smoothing
        )


class CategoricalCrossentropy(LossFunction):
    """One-hot targets against probabilities, or with ``from_logits`` logits.

    >>> from phalanx import keras
    >>> round(keras.losses.CategoricalCrossentropy(from_logits=True)(np.eye(2), phalanx.zeros(2, 2)).item(), 4)
    0.6931
    """

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Any = "sum_over_batch_size",
        name: str = "categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            functions.categorical_crossentropy,
            name,
            reduction,
            from_logits=from_logits,
            label_smoothing=label_smoothing,
            axis=axis,
        )


class SparseCategoricalCrossentropy(LossFunction):
    """Integer labels against probabilities, or with ``from_logits`` logits.

    >>> from phalanx import keras
    >>> round(keras.losses.SparseCategoricalCrossentropy(from_logits=True)([0, 1], phalanx.zeros(2, 2)).item(), 4)
    0.6931
    """

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: Any = "sum_over_batch_size",
        name: str = "sparse_categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            functions.sparse_categorical_crossentropy,
            name,
            reduction,
            from_logits=from_logits,
            ignore_class=ignore_class,
        )


class MeanSquaredError(LossFunction):
    """The mean of squared errors.

    >>> from phalanx import keras
    >>> keras.losses.MeanSquaredError()(phalanx.zeros(2, 1), phalanx.ones(2, 1)).item()
    1.0
    """

    def __init__(
        self, reduction: Any = "sum_over_batch_size", name: str = "mean_squared_error", dtype: Any = None
    ) -> None:
        super().__init__(functions.mean_squared_error, name, reduction)


class MeanAbsoluteError(LossFunction):
    """The mean of absolute errors.

    >>> from phalanx import keras
    >>> keras.losses.MeanAbsoluteError()(phalanx.zeros(2, 1), phalanx.ones(2, 1)).item()
    1.0
    """

    def __init__(
        self, reduction: Any = "sum_over_batch_size", name: str = "mean_absolute_error", dtype: Any = None
    ) -> None:
        super().__init__(functions.mean_absolute_error, name, reduction)


class MeanAbsolutePercentageError(LossFunction):
    """The mean of relative errors, in percent.

    >>> from phalanx import keras
    >>> keras.losses.MeanAbsolutePercentageError()(phalanx.ones(2, 1), phalanx.zeros(2, 1)).item()
    100.0
    """

    def __init__(
        self, reduction: Any = "sum_over_batch_size", name: str = "mean_absolute_percentage_error", dtype: Any = None
    ) -> None:
        super().__init__(functions.mean_absolute_percentage_error, name, reduction)


class MeanSquaredLogarithmicError(LossFunction):
    """The mean of squared differences of logarithms.

    >>> from phalanx import keras
    >>> keras.losses.MeanSquaredLogarithmicError()(phalanx.ones(2, 1), phalanx.ones(2, 1)).item()
    0.0
    """

    def __init__(
        self, reduction: Any = "sum_over_batch_size", name: str = "mean_squared_logarithmic_error", dtype: Any = None
    ) -> None:
        super().__init__(functions.mean_squared_logarithmic_error, name, reduction)


class Huber(LossFunction):
    """Squares for small errors, absolute values for large ones.

    >>> from phalanx import keras
    >>> keras.losses.Huber()(phalanx.zeros(2, 1), phalanx.ones(2, 1)).item()
    0.5
    """

    def __init__(
        self, delta: float = 1.0, reduction: Any = "sum_over_batch_size", name: str = "huber", dtype: Any = None
    ) -> None:
        super().__init__(functions.huber, name, reduction, delta=delta)


class LogCosh(LossFunction):
    """``log(cosh(error))``.

    >>> from phalanx import keras
    >>> keras.losses.LogCosh()(phalanx.zeros(2, 1), phalanx.zeros(2, 1)).item()
    0.0
    """

    def __init__(self, reduction: Any = "sum_over_batch_size", name: str = "log_cosh", dtype: Any = None) -> None:
        super().__init__(functions.log_cosh, name, reduction)


class KLDivergence(LossFunction):
    """``sum(y_true * log(y_true / y_pred))``.

    >>> from phalanx import keras
    >>> keras.losses.KLDivergence()(phalanx.ones(2, 1), phalanx.ones(2, 1)).item()
    0.0
    """

    def __init__(self, reduction: Any = "sum_over_batch_size", name: str = "kl_divergence", dtype: Any = None) -> None:
        super().__init__(functions.kl_divergence, name, reduction)


class Poisson(LossFunction):
    """``y_pred - y_true * log(y_pred)``, for counts.

    >>> from phalanx import keras
    >>> round(keras.losses.Poisson()(phalanx.ones(2, 1), phalanx.ones(2, 1)).item(), 4)
    1.0
    """

    def __init__(self, reduction: Any = "sum_over_batch_size", name: str = "poisson", dtype: Any = None) -> None:
        super().__init__(functions.poisson, name, reduction)


class Hinge(LossFunction):
    """``max(1 - y_true * y_pred, 0)``.

    >>> from phalanx import keras
    >>> keras.losses.Hinge()(phalanx.ones(2, 1), phalanx.zeros(2, 1)).item()
    1.0
    """

    def __init__(self, reduction: Any = "sum_over_batch_size", name: str = "hinge", dtype: Any = None) -> None:
        super().__init__(functions.hinge, name, reduction)


class SquaredHinge(LossFunction):
    """The square of hinge.

    >>> from phalanx import keras
    >>> keras.losses.SquaredHinge()(phalanx.ones(2, 1), phalanx.zeros(2, 1)).item()
    1.0
    """

    def __init__(self, reduction: Any = "sum_over_batch_size", name: str = "squared_hinge", dtype: Any = None) -> None:
        super().__init__(functions.squared_hinge, name, reduction)


class CategoricalHinge(LossFunction):
    """Hinge for one-hot targets.

    >>> from phalanx import keras
    >>> keras.losses.CategoricalHinge()(np.eye(2), phalanx.zeros(2, 2)).item()
    1.0
    """

    def __init__(
        self, reduction: Any = "sum_over_batch_size", name: str = "categorical_hinge", dtype: Any = None
    ) -> None:
        super().__init__(functions.categorical_hinge, name, reduction)


class CosineSimilarity(LossFunction):
    """Minus the cosine between targets and predictions.

    >>> from phalanx import keras
    >>> round(keras.losses.CosineSimilarity()(phalanx.ones(1, 2), phalanx.ones(1, 2)).item(), 4)
    -1.0
    """

    def __init__(
        self, axis: int = -1, reduction: Any = "sum_over_batch_size", name: str = "cosine_similarity", dtype: Any = None
    ) -> None:
        super().__init__(functions.cosine_similarity, name, reduction, axis=axis)
