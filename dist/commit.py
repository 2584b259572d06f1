"""What changes at the end of a step, once every rank is known to hold the complete sum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.tensor import Tensor
from .lane import Lane
from .shard_state import ShardState

if TYPE_CHECKING:
    from ..core.nn.parameter import Parameter


def write_means(lanes: Sequence[Lane], parameters: Sequence[Parameter], state: ShardState) -> None:
    """Divide the sums by the total weight, once, into the gradient slots; no gradient where no shard used a parameter."""
    own = set(parameters)
    for lane in lanes:
        store, number = lane.store, lane.result.dtype.type(state.weight)
        if own.issuperset(store.parameters):
            np.divide(lane.result, number, out=store.gradient, casting="same_kind")
            continue
        for index, parameter in enumerate(store.parameters):  # the others are of another model
            if parameter in own:
                part = slice(*store.extent(index))
                np.divide(lane.result[part], number, out=store.gradient[part], casting="same_kind")
    for parameter, used in zip(parameters, state.used_by_some, strict=True):
        parameter._grad = Tensor(parameter._slot) if used else None


def commit_statistics(layers: Mapping[str, Any], state: ShardState) -> None:
    """Move running statistics once for each layer and call."""
    if state.statistics:
        for key, (n, mean, m2) in state.statistics.items():
            layers[key.rpartition("#")[0]].commit(n, mean, m2)


def unused(
    parameters: Sequence[Parameter], names: Mapping[Parameter, str], state: ShardState
) -> Iterator[tuple[str, str]]:
    """(key, text) for each thing to tell about parameters without gradient."""
    trainable = np.array([p.requires_grad for p in parameters], bool)
    nowhere = trainable & ~state.used_by_some
    partly = trainable & state.used_by_some & ~state.used_by_all
    if nowhere.any():
        yield (
            "none",
            "no shard used these parameters in this step, the optimizer leaves them alone: "
            + _list([names[p] for p, flag in zip(parameters, nowhere, strict=True) if flag]),
        )
    if partly.any():
        yield (
            "some",
            "only some shards used these parameters in this step, the others count as zero: "
            + _list([names[p] for p, flag in zip(parameters, partly, strict=True) if flag]),
        )


def _list(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
