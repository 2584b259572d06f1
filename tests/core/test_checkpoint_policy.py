"""Which checkpoints remain: as a rule alone, and on disk after each save."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phalanx.core.checkpoint.format import plan, share
from phalanx.core.checkpoint.manifest import Manifest
from phalanx.core.checkpoint.parts import complete, write
from phalanx.core.checkpoint.policy import Policy, scalars_of, score_of
from phalanx.core.checkpoint.store import Store, step_of
from phalanx.core.errors import CheckpointError
from tests.core.small_checkpoint import MANIFEST, flip

SCORES = {10: 0.5, 20: 0.1, 30: None, 40: 0.9, 50: 0.1, 60: 0.3, 70: None}


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (Policy(), [10, 20, 30, 40, 50, 60, 70]),
        (Policy(every=20, best=1), [10, 20, 30, 40, 50, 60, 70]),
        (Policy(last=2), [60, 70]),
        (Policy(last=1, every=20), [20, 40, 60, 70]),
        (Policy(last=1, best=1), [20, 70]),
        (Policy(last=1, best=3), [20, 50, 60, 70]),
        (Policy(last=1, best=1, mode="max"), [40, 70]),
        (Policy(last=1, best=9), [10, 20, 40, 50, 60, 70]),
        (Policy(last=2, every=30, best=2, mode="max"), [10, 30, 40, 60, 70]),
    ],
)
def test_what_each_policy_keeps(policy: Policy, kept: list[int]) -> None:
    assert [step for step in SCORES if step not in policy.doomed(SCORES)] == kept


def test_the_newest_and_the_best_always_remain() -> None:
    numbers = random.Random(0)
    for _ in range(200):
        steps = numbers.sample(range(1, 500), numbers.randint(1, 30))
        scores = {step: numbers.choice([None, numbers.random()]) for step in steps}
        policy = Policy(numbers.randint(1, 4), numbers.choice([None, 7]), 1, numbers.choice(["min", "max"]))
        gone = policy.doomed(scores)
        assert max(steps) not in gone and not set(policy.ranking(scores)[:1]) & set(gone)
        assert policy.doomed({step: scores[step] for step in steps if step not in gone}) == [], "asked again, no more"


@pytest.mark.parametrize("options", [{"keep_every": 0}, {"keep_best": True}, {"keep_best": -1}, {"mode": "best"}])
def test_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(options))):
        Store(tmp_path, **options)


def save(store: Store, step: int, score: float | None) -> Path:
    arrays = {"model/w": np.full(3, step, np.float32)}
    layout = plan(arrays)
    folder = store.begin(step, layout)
    files, tensors = complete(layout, write(folder, layout, share(layout.files, 1)[0], arrays))
    return store.commit(folder, Manifest(step, scalars=scalars_of(score), files=files, tensors=tensors))


def steps(store: Store) -> list[int | None]:
    return [step_of(path) for path in store.list()]


def test_after_each_save(tmp_path: Path) -> None:
    store = Store(tmp_path, keep=1, keep_every=30, keep_best=1, mode="max")
    seen = []
    for step, score in ((10, 0.5), (20, float("nan")), (30, 0.7), (40, float("inf")), (50, 0.6), (60, None), (70, 0.9)):
        save(store, step, score)
        seen.append(steps(store))
    assert seen == [[10], [10, 20], [30], [30, 40], [30, 50], [30, 60], [30, 60, 70]]
    assert [store.scores()[step] for step in (30, 60, 70)] == [0.7, None, 0.9]


def test_a_new_process_knows_the_best(tmp_path: Path) -> None:
    """... from the manifests alone; one that cannot be read has no score, and does not make a save fail."""
    save(Store(tmp_path), 10, 0.1)
    save(Store(tmp_path), 20, 0.05)
    flip(tmp_path / "step-00000020" / MANIFEST, 40)
    save(Store(tmp_path, keep=1, keep_best=1), 30, 0.4)
    assert steps(Store(tmp_path)) == [10, 30]


@pytest.mark.parametrize(("scalars", "score"), [({}, None), ({"score": 3}, None), ({"score": {"value": 2}}, 2.0)])
def test_a_score_that_is_none(scalars: dict[str, Any], score: float | None) -> None:
    assert score_of(Manifest(1, scalars=scalars)) == score
