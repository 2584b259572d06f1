"""Loss: the base of losses, which weighs the samples and sums up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...core.errors import RangeError, ShapeError
from .. import names
from ..described import Described
from .functions import tensor


class Loss(Described):
    """Base of losses: ``call(y_true, y_pred)`` gives a number for each sample, calling it the mean over the batch.

    Args:
        reduction: ``"sum_over_batch_size"``: the mean; ``"sum"``; None: a number for each sample.

    Weights of samples multiply their losses; the mean still divides by their number, as in Keras.

    >>> from phalanx import keras
    >>> class Cubic(keras.losses.Loss):
    ...     def call(self, y_true, y_pred):
    ...         return (y_pred - y_true).abs() ** 3
    >>> Cubic()(phalanx.zeros(2), phalanx.tensor([0.0, 2.0])).item()
    4.0
    """

    def __init__(self, name: str | None = None, reduction: Any = "sum_over_batch_size", dtype: Any = None) -> None:
        if reduction not in ("sum_over_batch_size", "mean", "sum", "auto", "none", None):
            raise RangeError(
                f"{type(self).__name__}: reduction is 'sum_over_batch_size', 'sum' or None, got {reduction!r}"
            )
        self.name = name or names.snake_case(type(self).__name__)
        self.reduction = {"auto": "sum_over_batch_size", "mean": "sum_over_batch_size", "none": None}.get(
            reduction, reduction
        )

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """A number for each sample."""
        raise NotImplementedError(f"{type(self).__name__} defines no call()")

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None) -> Any:
        return reduced(self.call(y_true, tensor(y_pred)), sample_weight, self.reduction, mask)

    def get_config(self) -> dict[str, Any]:
        """The options."""
        return {"name": self.name, "reduction": self.reduction}


def reduced(losses: Any, sample_weight: Any, reduction: str | None = "sum_over_batch_size", mask: Any = None) -> Any:
    """Weigh the losses of samples, and sum up; places that ``mask`` leaves out do not count."""
    losses = tensor(losses)
    if mask is not None and tuple(mask.shape) == tuple(losses.shape):
        losses = losses * tensor(mask).to(losses.dtype)
    else:
        mask = None
    if sample_weight is not None:
        weight = tensor(sample_weight).to(losses.dtype)
        if not losses.ndim:
            raise ShapeError(
                "weights of samples need a loss that gives a number for each sample, this one gives one for the batch"
            )
        while weight.ndim > losses.ndim and weight.shape[-1] == 1:
            weight = weight.squeeze(-1)
        losses = losses * weight.reshape(*weight.shape, *[1] * (losses.ndim - weight.ndim))
    if reduction is None or not losses.ndim:
        return losses
    loss = losses.sum()
    if reduction == "sum":
        return loss
    count = float(losses.array.size) if mask is None else float(mask.array.sum())
    loss = loss / max(count, 1.0)
    loss.weight = count
    return loss


class LossFunction(Loss):
    """A loss made of a function of targets and predictions.

    >>> from phalanx import keras
    >>> keras.losses.LossFunction(keras.losses.hinge)(phalanx.ones(2), phalanx.ones(2)).item()
    0.0
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str | None = None,
        reduction: Any = "sum_over_batch_size",
        **options: Any,
    ) -> None:
        super().__init__(name or getattr(function, "__name__", "loss"), reduction)
        self.function, self.options = function, options

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """What the function gives."""
        return self.function(y_true, y_pred, **self.options)

    def get_config(self) -> dict[str, Any]:
        """The options."""
        return super().get_config() | self.options
