"""What a Checkpointer saves by a name of the user's: state of any form, at any number of ranks, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phalanx.core.errors import CheckpointError, RangeError, StateError
from phalanx.core.tensor import Tensor
from phalanx.dist.named_state import take_apart
from tests.ranks.small_run import Run, on_ranks, resumed

STATE = {
    "count": 3, "best": float("-inf"), "worst": float("nan"), "word": "a.b", "none": None, "flags": [True, [0.1, -0.0]],
    "milestones": {30: 1, 80: 2}, "mean": np.arange(6, dtype=np.float64).reshape(2, 3) / 7, "empty": {},
    "weights": {"fc.weight": Tensor(np.full((2, 2), 0.3, np.float32)), "deep": [np.array(True), np.zeros((0, 2), np.int8)]},
}  # fmt: skip


class Thing:
    """Holds what it is given."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


def text(value: Any) -> str:
    """Every bit of a state."""

    def shown(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return ["Tensor", shown(leaf.array)]
        if isinstance(leaf, dict):
            return sorted([repr(k), shown(v)] for k, v in leaf.items())
        if isinstance(leaf, list):
            return [shown(v) for v in leaf]
        return [str(leaf.dtype), leaf.shape, leaf.tobytes().hex()] if isinstance(leaf, np.ndarray) else repr(leaf)

    return json.dumps(shown(value))


@pytest.mark.parametrize(("writers", "readers"), [(1, 3), (3, 2), (2, 1)])
def test_comes_back_bit_for_bit(tmp_path: Path, writers: int, readers: int) -> None:
    on_ranks(writers, lambda: Run(tmp_path, state={"a": Thing(STATE), "ab": Thing([1.5])}).checkpointer.save())

    def go_on() -> tuple[str, str]:
        a, ab = Thing(None), Thing(None)
        resumed(tmp_path, state={"ab": ab, "a": a})
        return text(a.state), text(ab.state)

    assert on_ranks(readers, go_on) == [(text(STATE), text([1.5]))] * readers


def test_what_was_not_saved_is_named(tmp_path: Path) -> None:
    Run(tmp_path, state={"schedule": Thing(1)}).checkpointer.save()
    average = Thing("as it was")
    with pytest.raises(StateError, match=r"no state of average \(it has: schedule\)"):
        resumed(tmp_path, state={"average": average})
    run = Run(tmp_path, state={"average": average})
    assert run.checkpointer.resume(allow=("state",)) == 0
    assert average.state == "as it was"
    assert resumed(tmp_path)[0] == 0  # who does not ask for it does without


def test_refusals(tmp_path: Path) -> None:
    for state, error, words in (
        ({"a b": Thing(1)}, RangeError, "identifiers, got 'a b'"),
        ({"a": object()}, TypeError, "state 'a' needs state_dict"),
    ):
        with pytest.raises(error, match=words):
            Run(tmp_path, state=state)
    with pytest.raises(CheckpointError, match=r"state/a\.b: a checkpoint holds JSON"):
        take_apart({"a": Thing({"b": object()})})
    with pytest.raises(CheckpointError, match=r"two arrays .* state/a\.b\.c"):
        take_apart({"a": Thing({"b.c": np.zeros(1), "b": {"c": np.zeros(1)}})})
