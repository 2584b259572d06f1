"""What a Trainer and its callbacks refuse, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import callbacks, optim
from phalanx.core.errors import DataError, RangeError, ShapeError, StateError
from phalanx.data import DataLoader, TensorDataset
from tests.ranks.trainer_runs import (
    CLASSES,
    FEATURES,
    left_in_order,
    net,
    trainer,
)  # fmt: skip


@pytest.fixture(autouse=True)
def in_order() -> Iterator[None]:
    with left_in_order():
        yield


X, Y = np.zeros((6, FEATURES), np.float32), np.arange(6) % CLASSES
REFUSALS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "label": ({"train": (X, Y + 3)}, RangeError, r"label|target"),
    "empty": ({"train": (X[:0], Y[:0])}, DataError, "empty"),
    "lengths": ({"train": (X, Y[:4])}, ShapeError, "equal length"),
    "four parts": ({"train": (X, Y, Y, Y)}, DataError, "got 4 parts"),
    "lists": ({"train": (X, list(Y))}, DataError, "in tuples or dicts, got list"),
    "no targets": ({"train": X, "class_weight": {0: 2.0}}, RangeError, "needs targets"),
    "no data": ({"train": 3}, DataError, "got int"),
    "epochs": ({"epochs": 0}, RangeError, "epochs to be an integer of at least 1, got 0"),
    "accumulate": ({"accumulate": 0.5}, RangeError, "accumulate .* got 0.5"),
    "split": ({"validation_split": 1.5}, RangeError, "validation_split"),
    "split and data": ({"validation_split": 0.5, "validation": (X, Y)}, RangeError, "give one of them"),
    "loader and batch": ({"train": DataLoader(TensorDataset(X, Y)), "batch_size": 2}, RangeError, "batch_size"),
    "weights": ({"sample_weight": [1.0, 2.0]}, DataError, "each of the 6 samples"),
    "negative weights": ({"sample_weight": [-1.0] * 6}, DataError, "at least 0"),
    "class weights": ({"class_weight": [1.0, 2.0]}, RangeError, "classes 0 to 1, the targets have 0 to 3"),
    "class names": ({"class_weight": {"cat": 2.0}}, RangeError, "classes 0, 1, ... as keys"),
    "callback class": ({"callbacks": [callbacks.TerminateOnNaN]}, TypeError, "call it to make one"),
    "monitor": ({"callbacks": callbacks.EarlyStopping()}, RangeError, "Give fit.. validation data"),
    "verbose": ({"verbose": 7}, RangeError, "verbose"),
    "scheduler": ({"scheduler": 0.1}, TypeError, "a scheduler with step"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_of_fit(name: str) -> None:
    options, error, words = REFUSALS[name]
    with pytest.raises(error, match=words):
        trainer().fit(**{"train": (X, Y), "verbose": 0} | options)


def test_refusals_of_the_trainer() -> None:
    model = net()
    for options, error, words in (
        ({"clip_norm": 0}, RangeError, "clip_norm"),
        ({"precision": "bf8"}, RangeError, 'precision "float32", "bf16" or "fp16", got \'bf8\''),
        ({"metrics": "accurate"}, RangeError, "is no metric"),
        ({"optimizer": 3}, TypeError, "expects an optimizer"),
        (
            {"optimizer": optim.SGD(net().parameters(), lr=0.1)},
            StateError,
            "updates 6 parameters that are not in the model",
        ),
        ({"loss": 3}, TypeError, "module or function"),
    ):
        with pytest.raises(error, match=words):
            phalanx.Trainer(model, **options)
    with pytest.raises(StateError, match="needs an optimizer"):
        phalanx.Trainer(model).fit((X, Y))
    with pytest.raises(StateError, match="needs a loss"):
        phalanx.Trainer(model, optim.SGD(model.parameters(), lr=0.1)).fit((X, Y))
    own = phalanx.Trainer(model, optim.SGD(model.parameters(), lr=0.1), lambda p, t: (p * 0).sum())
    with pytest.raises(RangeError, match="losses of single samples"):
        own.fit((X, Y), class_weight={0: 2.0}, verbose=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: callbacks.EarlyStopping("reward"), "give mode="),
        (lambda: callbacks.EarlyStopping(patience=-1), "patience"),
        (lambda: callbacks.EarlyStopping(mode="least"), "mode"),
        (lambda: callbacks.Checkpoint("x", save="worst"), "save"),
        (lambda: callbacks.Checkpoint("x", every=0), "every"),
        (lambda: callbacks.Checkpoint("x", save="best", every=5), "whole epochs"),
        (lambda: callbacks.ModelCheckpoint("x", save_freq=0), "save_freq"),
        (lambda: callbacks.ModelCheckpoint("x", save_freq=5, save_best_only=True), "whole epochs"),
        (lambda: callbacks.LRScheduler(lambda e, lr: lr, every="week"), "every"),
        (lambda: callbacks.TensorBoard(every_steps=0), "every_steps"),
        (lambda: callbacks.Timeline("x", steps=0), "steps"),
    ],
)
def test_refusals_of_callbacks(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(RangeError, match=words):
        make()
