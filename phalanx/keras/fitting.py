"""What a compiled model gives the Trainer: the model as it calls it, the loss over all outputs, the metrics of each."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.metrics import Metric
from ..core.nn.module import Module
from ..core.tensor import Tensor
from . import losses, metrics, nest, scope


class Runner(Module):
    """Stands before the model: several inputs come as arguments or by name, and go on as Keras gives them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the model gives for the inputs of a batch."""
        given = named or (inputs[0] if len(inputs) == 1 else list(inputs))
        with scope.of_engine(), scope.entered():
            output = self.model(given)
            scope.keep_masks(nest.flat(output))
        return tuple(output) if isinstance(output, list) else output


def outputs_of(value: Any, names: list[str]) -> list[Any]:
    """Predictions or targets, one for each output, in order."""
    if isinstance(value, dict):
        return [value[name] for name in names] if set(value) == set(names) else list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]


class ModelLoss:
    """The weighted sum of the losses of all outputs, a mean over the samples of a batch."""

    def __init__(self, parts: list[Any], factors: list[float], names: list[str]) -> None:
        self.parts, self.factors, self.names = parts, factors, names

    def __call__(self, prediction: Any, target: Any, sample_weight: Any = None) -> Any:
        predictions, targets = outputs_of(prediction, self.names), outputs_of(target, self.names)
        if len(targets) != len(predictions):
            raise ValueError(f"the model has {len(predictions)} outputs, the data has targets for {len(targets)}")
        total: Any = None
        counted: list[float] = []
        for index, (part, factor, y, p) in enumerate(zip(self.parts, self.factors, targets, predictions, strict=True)):
            if part is None:
                continue
            mask = scope.kept_mask(index)
            loss = part(y, p, sample_weight) if mask is None else part(y, p, sample_weight, mask=mask)
            if mask is not None:
                counted.append(float(loss.weight or 0.0))
            loss = loss if factor == 1.0 else loss * factor
            total = loss if total is None else total + loss
        # a lone loss that masks leave places out of is a mean over those that are left
        total.weight = counted[0] if counted and len(self.parts) == 1 else float(len(predictions[0]))
        return total


class OfOutput(Metric):
    """A metric of one output, with or without the samples' weights."""

    def __init__(self, inner: Any, index: int, names: list[str], name: str, weighted: bool) -> None:
        super().__init__(name)
        self.inner, self.index, self.names, self.weighted = inner, index, names, weighted

    def update(self, prediction: Any, target: Any = None, weight: Any = None) -> None:
        """Take a batch."""
        own, truth = outputs_of(prediction, self.names)[self.index], outputs_of(target, self.names)[self.index]
        self.inner.update(
            own, truth, _masked_weight(scope.kept_mask(self.index), weight if self.weighted else None, own)
        )

    def reset(self) -> None:
        self.inner.reset()

    def state(self) -> Any:
        return self.inner.state()

    def merge(self, state: Any) -> None:
        self.inner.merge(state)

    def compute(self) -> Any:
        return self.inner.compute()


def _masked_weight(mask: Any, weight: Any, output: Any) -> Any:
    """What each place counts: nothing where a mask leaves it out. A mask that is not of this output's shape says nothing of it."""
    if mask is None or tuple(mask.shape) != tuple(output.shape)[: mask.ndim]:
        return weight
    counts = host(mask).astype(np.float64)
    if weight is None:
        return counts
    given = np.asarray(host(weight) if isinstance(weight, Tensor) else weight, np.float64)
    return counts * given.reshape(given.shape + (1,) * (counts.ndim - given.ndim))


def by_output(who: str, given: Any, names: list[str]) -> list[Any]:
    """What ``compile`` got for the outputs, one for each: a dict by name, a list in order, or one for all."""
    if isinstance(given, dict):
        unknown = sorted(given.keys() - set(names))
        if unknown:
            raise ValueError(f"compile: {who} names {', '.join(unknown)}; the outputs are {', '.join(names)}")
        return [given.get(name) for name in names]
    if isinstance(given, list | tuple):
        if len(given) != len(names):
            raise ValueError(f"compile: {who} has {len(given)} entries, the model {len(names)} outputs")
        return list(given)
    return [given] * len(names)


def model_loss(given: Any, factors: Any, names: list[str]) -> ModelLoss:
    """From what ``compile`` got."""
    if given is None:
        raise ValueError("compile() got no loss: give it loss=...")
    parts = [losses.get(part) for part in by_output("loss", given, names)]
    weights = [1.0 if factor is None else float(factor) for factor in by_output("loss_weights", factors, names)]
    return ModelLoss(parts, weights, names)


def model_metrics(given: Any, weighted: Any, loss: ModelLoss, names: list[str]) -> list[Any]:
    """From what ``compile`` got; their names as Keras derives them."""
    found: list[Any] = []
    if len(names) > 1:
        found += [
            OfOutput(metrics.MeanMetricWrapper(part, "loss"), index, names, f"{names[index]}_loss", True)
            for index, part in enumerate(loss.parts)
            if part is not None
        ]
    for group, counts in ((given, False), (weighted, True)):
        for index, own in enumerate(_metrics_by_output(group, names)):
            for metric in own:
                inner = metrics.get(metric, loss.parts[index])
                prefix = f"{names[index]}_" if len(names) > 1 else ""
                found.append(OfOutput(inner, index, names, f"{prefix}{inner.name}", counts))
    taken: set[str] = set()
    for metric in found:
        while metric.name in taken:
            metric.name += "_1"
        taken.add(metric.name)
    return found


def _metrics_by_output(given: Any, names: list[str]) -> list[list[Any]]:
    if given is None:
        return [[] for _ in names]
    if len(names) == 1 and not isinstance(given, dict):
        return [nest.flat(given)]
    if (
        isinstance(given, list | tuple)
        and not any(isinstance(part, list | tuple) for part in given)
        and len(given) != len(names)
    ):
        return [list(given) for _ in names]
    return [[] if own is None else nest.flat(own) for own in by_output("metrics", given, names)]


def host(value: Tensor) -> Any:
    """As an array."""
    return value.detach().cpu().numpy()
