"""Evaluation where a Trainer computes loss and prediction in a way of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.nn.module import Module
from .batch import count

Compute = Callable[[Any, Any, Any], tuple[Any, Any]]


class WholeLoss(Module):
    """Stands for the model in ``phalanx.evaluate``, which asks for the output of the inputs first and for the loss then.

    What it gives as output waits for the targets, and has the prediction for metrics once :func:`loss_of` was asked.
    """

    def __init__(self, module: Module, compute: Compute) -> None:
        super().__init__()
        self.module, self.compute = module, compute

    def forward(self, *inputs: Any, **named: Any) -> Output:
        """The inputs, kept."""
        return Output(self.compute, named or (inputs if len(inputs) > 1 else inputs[0]))


class Output:
    """Inputs that become a prediction when their targets come."""

    def __init__(self, compute: Compute, inputs: Any) -> None:
        self.compute, self.inputs = compute, inputs
        self.prediction: Any = None

    def __len__(self) -> int:
        return count(self.inputs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.prediction.numpy(), dtype)


def loss_of(output: Output, targets: Any, sample_weight: Any = None) -> Any:
    """The loss, by the Trainer's ``compute_loss``."""
    loss, output.prediction = output.compute(output.inputs, targets, sample_weight)
    return loss
