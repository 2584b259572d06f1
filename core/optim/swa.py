"""Stochastic weight averaging: a model that holds the average, a rate to average at, and batch norms that fit it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..bfloat16 import is_floating
from ..data.feed import arrived
from ..data.loader import DataLoader
from ..data.placement import placement
from ..errors import DataError, RangeError
from ..mode import no_grad
from ..nn.module import Module
from ..tensor import Tensor
from ..void import is_void
from .optimizer import Optimizer
from .schedules.base import LRScheduler, by_group, require_optimizer

AverageOne = Callable[[Tensor, Tensor, Tensor], Tensor]
AverageAll = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor], None]


def get_swa_avg_fn() -> AverageOne:
    """The mean of all so far: ``average + (parameter - average) / (n + 1)``, for :class:`AveragedModel`.

    >>> mean = optim.swa_utils.get_swa_avg_fn()
    >>> mean(phalanx.tensor(2.0), phalanx.tensor(8.0), phalanx.tensor(1)).item()
    5.0
    """

    def average(averaged: Tensor, current: Tensor, num_averaged: Tensor) -> Tensor:
        return averaged + (current - averaged) * (1.0 / (int(num_averaged) + 1))

    return average


def get_ema_avg_fn(decay: float = 0.999) -> AverageOne:
    """``decay average + (1 - decay) parameter``, for :class:`AveragedModel`; :class:`phalanx.optim.EMA` does it on the flat store.

    Raises RangeError for a decay out of [0, 1].

    >>> ema = optim.swa_utils.get_ema_avg_fn(decay=0.75)
    >>> ema(phalanx.tensor(0.0), phalanx.tensor(8.0), phalanx.tensor(1)).item()
    2.0
    """
    if not 0.0 <= decay <= 1.0:
        raise RangeError(f"get_ema_avg_fn expects decay in [0, 1], got {decay!r}")

    def average(averaged: Tensor, current: Tensor, num_averaged: Tensor) -> Tensor:
        return averaged * decay + current * (1.0 - decay)

    return average


def _all_at_once(average: AverageOne) -> AverageAll:
    def averages(averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Tensor) -> None:
        for mine, other in zip(averaged, current, strict=True):
            mine.array[...] = average(mine, other, num_averaged).array

    return averages


def get_swa_multi_avg_fn() -> AverageAll:
    """As :func:`get_swa_avg_fn`, for lists of Tensors, in place.

    >>> averages = [phalanx.tensor(2.0)]
    >>> optim.swa_utils.get_swa_multi_avg_fn()(averages, [phalanx.tensor(8.0)], phalanx.tensor(1))
    >>> averages[0].item()
    5.0
    """
    return _all_at_once(get_swa_avg_fn())


def get_ema_multi_avg_fn(decay: float = 0.999) -> AverageAll:
    """As :func:`get_ema_avg_fn`, for lists of Tensors, in place.

    >>> averages = [phalanx.tensor(0.0)]
    >>> optim.swa_utils.get_ema_multi_avg_fn(0.75)(averages, [phalanx.tensor(8.0)], phalanx.tensor(1))
    >>> averages[0].item()
    2.0
    """
    return _all_at_once(get_ema_avg_fn(decay))


class AveragedModel(Module):
    """A copy of ``model`` that holds the average of its parameters over all :meth:`update_parameters`; the first copies them.

    ``avg_fn(average, parameter, n)`` returns the new average of one Tensor, ``multi_avg_fn(averages, parameters, n)`` changes
    lists in place; without either it is the mean. Buffers are averaged with ``use_buffers``, else copied. A model in a
    DataParallel is looked through: the copy is a plain module, equal on all ranks. A Checkpointer takes it as a second model:
    ``model={"model": model, "average": averaged}``. Izmailov et al., "Averaging weights leads to wider optima and better
    generalization", UAI 2018.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> averaged = optim.swa_utils.AveragedModel(model)
    >>> for value in (2.0, 4.0):
    ...     _ = nn.init.constant_(model.weight, value)
    ...     averaged.update_parameters(model)
    >>> averaged(phalanx.ones(1, 1)).item(), averaged.n_averaged.item()
    (3.0, 2)
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: AverageOne | None = None,
        multi_avg_fn: AverageAll | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise RangeError("AveragedModel expects avg_fn or multi_avg_fn, got both")
        self.module = copy.deepcopy(looked_through(model))
        self.register_buffer("n_averaged", Tensor(np.zeros((), np.int64)))
        if device is not None:
            self.to(device)
        self.avg_fn, self.multi_avg_fn, self.use_buffers = avg_fn, multi_avg_fn, use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged model computes."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take the parameters of ``model`` as they are now into the average. Not in a step that is void."""
        if is_void():
            return
        source = looked_through(model)
        pairs: list[tuple[Tensor, Tensor]] = list(zip(self.module.parameters(), source.parameters(), strict=True))
        buffers = list(zip(self.module.buffers(), source.buffers(), strict=True))
        if self.use_buffers:
            pairs += [pair for pair in buffers if is_floating(pair[0].array.dtype)]
            buffers = [pair for pair in buffers if not is_floating(pair[0].array.dtype)]
        with no_grad():
            if not int(self.n_averaged):
                buffers += pairs
            else:
                average = self.multi_avg_fn or _all_at_once(self.avg_fn or get_swa_avg_fn())
                average([mine.detach() for mine, _ in pairs], [other.detach() for _, other in pairs], self.n_averaged)
            for mine, other in buffers:
                mine.array[...] = other.array
        self.n_averaged.array[...] += 1


class SWALR(LRScheduler):
    """From the rate at its first step to ``swa_lr`` within ``anneal_epochs`` steps, then constant.

    Made at the start, stepped from the time on when averaging begins. ``swa_lr``: one number, or one a group;
    ``anneal_strategy``: "cos" or "linear".

    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.8)
    >>> scheduler = optim.swa_utils.SWALR(optimizer, swa_lr=0.0, anneal_epochs=4, anneal_strategy="linear")
    >>> seen = []
    >>> for _ in range(5):
    ...     optimizer.step()
    ...     scheduler.step()
    ...     seen += scheduler.get_last_lr()
    >>> [round(rate, 3) for rate in seen]
    [0.6, 0.4, 0.2, 0.0, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | Sequence[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        require_optimizer("SWALR", optimizer)
        if anneal_strategy not in ("cos", "linear"):
            raise RangeError(f"SWALR expects anneal_strategy to be 'cos' or 'linear', got {anneal_strategy!r}")
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise RangeError(f"SWALR expects anneal_epochs to be an integer of at least 0, got {anneal_epochs!r}")
        for group, rate in zip(
            optimizer.param_groups, by_group("SWALR", "swa_lr", swa_lr, optimizer.param_groups), strict=True
        ):
            group["swa_lr"] = rate
        self.anneal_epochs, self.anneal_strategy = anneal_epochs, anneal_strategy
        self._from: list[float] = []
        """What each group's way began at, as long as nobody else changed the rates."""
        super().__init__(optimizer, last_epoch)

    def _done(self, step: int) -> float:
        """The share of the way after ``step`` steps."""
        share = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return (1 - math.cos(math.pi * share)) / 2 if self.anneal_strategy == "cos" else share

    def get_lr(self) -> list[float]:
        groups, step = self.optimizer.param_groups, self._step_count - 1
        step = max(1, step) if self.anneal_epochs == 0 else step
        rates = [group["lr"] for group in groups]
        if not self._from or rates != self._last_lr:
            before = self._done(step - 1)
            self._from = [
                g["swa_lr"] if before == 1 else (g["lr"] - before * g["swa_lr"]) / (1 - before) for g in groups
            ]
        now = self._done(step)
        return [g["swa_lr"] * now + start * (1 - now) for g, start in zip(groups, self._from, strict=True)]

    def _jump(self, epoch: float) -> None:
        self._step_count = int(epoch) + 1
        super()._jump(epoch)


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Compute the running statistics of all batch norms in ``model`` anew, by one pass over ``loader``; every batch counts alike.

    A batch is the input, or a list or tuple that begins with it. Of a DataLoader the data set is read in the order of its first
    epoch, in whole global batches, by every rank for itself: it stays where it stands, and all ranks end alike. Anything
    else is iterated as it is, and must be the same on all ranks.

    >>> averaged = optim.swa_utils.AveragedModel(nn.BatchNorm1d(2))
    >>> optim.swa_utils.update_bn([phalanx.tensor([[1.0, 0.0], [3.0, 8.0]])], averaged)
    >>> averaged.module.running_mean.tolist()
    [2.0, 4.0]
    """
    module = looked_through(model)
    norms = [layer for layer in module.modules() if hasattr(layer, "num_batches_tracked") and hasattr(layer, "commit")]
    if not norms:
        return
    momenta = [layer.momentum for layer in norms]  # type: ignore[attr-defined]
    was_training = [(layer, layer.training) for layer in module.modules()]
    for layer in norms:
        layer.reset_running_stats()  # type: ignore[attr-defined]
        layer.momentum = None
    module.train()
    try:
        with no_grad():
            for batch in _batches(loader):
                inputs = batch[0] if isinstance(batch, list | tuple) else batch
                module(inputs if device is None else inputs.to(device))
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
        for layer, mode in was_training:
            layer.training = mode


def _batches(loader: Iterable[Any]) -> Iterator[Any]:
    if not isinstance(loader, DataLoader) or loader.length is None:
        if isinstance(loader, DataLoader) and placement().shard_count > 1:
            raise DataError(
                "update_bn: of a stream each rank reads its part, and statistics would differ; give batches that are the same on "
                "all ranks"
            )
        yield from loader
        return
    maker, order, size = loader._batch_maker(), loader._order(0), loader.batch_size
    for start in range(0, len(order) - (size - 1 if loader.drop_last else 0), size):
        yield arrived(maker.make(0, order[start : start + size]))


def looked_through(model: Module) -> Module:
    """The module inside a wrapper that has its module's names (a DataParallel), else ``model``."""
    inner = model.__dict__.get("module")
    if isinstance(inner, Module) and type(model).named_parameters is not Module.named_parameters:
        return inner
    return model
