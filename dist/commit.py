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
    own = set(parameters) if lanes else set()
    for lane in lanes:
        store, number = lane.store, lane.result.dtype.type(state.weight)
        if own.issuperset(store.parameters):
            np.divide(lane.result, number, out=store.gradient, casting="same_kind")
            continue
        for index, parameter in enumerate(store.parameters):  # the others are of another model
            if parameter in own:
                part = slice(*store.extent(index))
                np.divide(lane.result[part], number, out=store.gradient[part], casting="same_kind")
    for parameter, used in zip(parameters, state.layout.used_by_some, strict=True):
        gradient = parameter._grad
        if not used:
            parameter._grad = None
        elif gradient is None or gradient.array is not parameter._slot:
            parameter._grad = Tensor(parameter._slot)


def commit_statistics(layers: Mapping[str, Any], state: ShardState) -> None:
    """Move running statistics once for each layer and call."""
    mean, m2 = state.moments
    for layer, count, part in state.layout.parts:
        layers[layer].commit(count, mean[part], m2[part])


def unused(
    parameters: Sequence[Parameter], names: Mapping[Parameter, str], state: ShardState
) -> Iterator[tuple[str, str]]:
    """(key, text) for each thing to tell about parameters without gradient."""
    some, every = state.layout.used_by_some, state.layout.used_by_all
    trainable = [(names[p], a, b) for p, a, b in zip(parameters, some, every, strict=True) if p.requires_grad]
    nowhere = [name for name, used, _ in trainable if not used]
    partly = [name for name, used, always in trainable if used and not always]
    if nowhere:
        yield (
            "none",
            f"no shard used these parameters in this step, the optimizer leaves them alone: {_list(nowhere)}",
        )
    if partly:
        yield (
            "some",
            f"only some shards used these parameters in this step, the others count as zero: {_list(partly)}",
        )


def _list(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
