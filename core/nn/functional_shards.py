"""Functions of the whole global batch, from inside of one shard."""

from __future__ import annotations

from typing import Any

from .. import collective
from ..graph import apply
from ..ops.gather_shards import GATHER_OVER_SHARDS
from ..tensor import Tensor
from . import statistics


def gather_over_shards(input: Tensor, *, name: str = "gather_over_shards") -> Tensor:
    """The rows of ``input`` of all shards of the step, in shard order, on each of them: (n, ...) -> (N, ...).

    For losses over pairs of the whole batch (contrastive losses). The gradient of a shard's rows comes from the losses of all
    shards, each weighted as its gradients are. All shards must call it; where a rank owns several of them, inside of
    ``phalanx.run_shards``. Alone, and outside of a shard, it is ``input``.

    Args:
        input: shapes may differ in dimension 0 alone.
        name: for messages, where a model gathers more than once.

    Raises GraphError where shards cannot meet.

    >>> phalanx.gather_over_shards(phalanx.ones(3, 2)).shape
    (3, 2)
    """
    others = collective.meeting(name, silenced=statistics.silenced())
    if others is None:
        return apply(GATHER_OVER_SHARDS, input)
    where = others

    def meet(part: str, leaf: Any, merge: Any) -> Any:
        return collective.merged(where, f"{name}, {part}", leaf, merge)

    return apply(GATHER_OVER_SHARDS, input, meet=meet, shard=where.shard(), weight_of_pass=collective.pass_weight)
