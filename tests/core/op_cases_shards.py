"""Cases of the ops in which shards meet: alone, and with a second shard whose part is fixed and whose own loss is zero."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.core.definitions import batch_norm_train
from tests.core.op_cases import Case
from tests.core.op_cases_nn import torch_batch_norm_train

_random = np.random.default_rng(31)
OTHER = _random.normal(size=(4, 3, 2)) + 0.5
ROWS = _random.normal(size=(2, 3))
CASES: list[Case] = []


def meet_moments(part: str, leaf: Any, merge: Any) -> Any:
    """The moments of OTHER, forward; nothing comes back from it, backward."""
    if part == "backward":
        return leaf
    mean = OTHER.mean(axis=(0, 2))
    theirs = np.float64(8), mean, np.square(OTHER - mean[:, None]).sum(axis=(0, 2))
    return theirs if leaf is None else merge(leaf, theirs)


def together(x: Any, weight: Any = None, bias: Any = None) -> Any:
    """Batch norm over both shards, of which this one's rows are looked at."""
    return batch_norm_train(np.concatenate([x, OTHER]), weight, bias)[0][: len(x)]


def meet_rows(part: str, leaf: Any, merge: Any) -> Any:
    """ROWS of shard 0 before those of this shard."""
    if part == "backward":
        return leaf
    theirs = ROWS.astype(leaf[0].dtype) if leaf is not None else ROWS, np.array([[0, 2]])
    return theirs if leaf is None else merge(theirs, leaf)


for shape in [(6, 3), (4, 3, 5), (0, 3, 2)]:
    for affine in (0, 2):
        parameters = [_random.normal(size=3) for _ in range(affine)]
        CASES.append(
            Case(
                "sync_batch_norm",
                (_random.normal(size=shape) + 1, *parameters),
                numpy=batch_norm_train if shape[0] else lambda x, w=None, b=None: x,
                torch=torch_batch_norm_train if shape[0] else None,
                name=f"alone, {shape} with {affine}",
                rtol=1e-4,
            )
        )
for parameters in ([], [_random.normal(size=3), _random.normal(size=3)]):
    CASES.append(
        Case(
            "sync_batch_norm",
            (_random.normal(size=(3, 3, 2)), *parameters),
            {"meet": meet_moments},
            numpy=together,
            name=f"with another shard, with {len(parameters)}",
            rtol=1e-4,
        )
    )
CASES += [
    Case("gather_over_shards", (_random.normal(size=(3, 2)),), numpy=lambda x: x, name="alone"),
    Case("gather_over_shards", (_random.normal(size=(0, 2)),), numpy=lambda x: x, name="alone, empty"),
    Case(
        "gather_over_shards",
        (_random.normal(size=(4, 3)),),
        {"meet": meet_rows, "shard": 1},
        numpy=lambda x: np.concatenate([ROWS, x]),
        name="with another shard",
    ),
]
