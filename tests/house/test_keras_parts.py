"""Losses, metrics, optimizers, schedules, callbacks and helpers of the Keras door beside numbers worked out by hand."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import keras
from phalanx.core.errors import RangeError
from phalanx.keras import layers, losses, metrics, optimizers
from tests.ranks.trainer_runs import on_ranks, same


@pytest.fixture(autouse=True)
def names_from_the_start() -> Any:
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    yield
    phalanx.shutdown()


Y = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
P = np.array([[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]])
A = np.array([[1.0, 2.0], [3.0, 5.0]])
B = np.array([[1.5, 2.0], [1.0, 9.0]])

BY_HAND: dict[str, tuple[Any, np.ndarray, np.ndarray, float]] = {
    # Keras's documentation gives 1.177 for this pair
    "categorical": (losses.CategoricalCrossentropy(), Y, P, -(math.log(0.95) + math.log(0.1)) / 2),
    "categorical, logits": (
        losses.CategoricalCrossentropy(from_logits=True), Y, P, float((np.log(np.exp(P).sum(1)) - (Y * P).sum(1)).mean())
    ),
    "categorical, smooth": (
        losses.CategoricalCrossentropy(label_smoothing=0.3), Y, np.full((2, 3), 1 / 3), math.log(3)
    ),
    "sparse": (losses.SparseCategoricalCrossentropy(), np.array([1, 2]), P, -(math.log(0.95) + math.log(0.1)) / 2),
    "sparse, nothing of the class": (losses.SparseCategoricalCrossentropy(), np.array([2]), P[:1], -math.log(1e-7)),
    "binary": (
        losses.BinaryCrossentropy(), np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([[0.6, 0.4], [0.4, 0.6]]),
        -(math.log(0.4) * 3 + math.log(0.6)) / 4,
    ),
    "binary, certain and wrong": (losses.BinaryCrossentropy(), np.array([1.0]), np.array([0.0]), -math.log(1e-7)),
    "binary, logits": (losses.BinaryCrossentropy(from_logits=True), np.array([1.0]), np.array([2.0]), math.log(1 + math.exp(-2))),
    "mse": (losses.MeanSquaredError(), A, B, (0.25 + 4 + 16) / 4),
    "mae": (losses.MeanAbsoluteError(), A, B, (0.5 + 2 + 4) / 4),
    "mape": (losses.MeanAbsolutePercentageError(), A, B, 100 * (0.5 + 2 / 3 + 0.8) / 4),
    "msle": (losses.MeanSquaredLogarithmicError(), A, B, float(((np.log1p(A) - np.log1p(B)) ** 2).mean())),
    "huber": (losses.Huber(delta=1.0), A, B, (0.125 + 1.5 + 3.5) / 4),
    "log cosh": (losses.LogCosh(), A, B, float(np.log(np.cosh(A - B)).mean())),
    "kl": (losses.KLDivergence(), np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]]), 0.5 * math.log(2) + 0.5 * math.log(2 / 3)),
    "poisson": (losses.Poisson(), A, B, float((B - A * np.log(B)).mean())),
    "hinge": (losses.Hinge(), np.array([[0.0, 1.0]]), np.array([[0.5, 0.25]]), (1.5 + 0.75) / 2),
    "squared hinge": (losses.SquaredHinge(), np.array([[-1.0, 1.0]]), np.array([[0.5, 0.5]]), (2.25 + 0.25) / 2),
    "categorical hinge": (losses.CategoricalHinge(), Y, P, ((1 + 0.05 - 0.95) + (1 + 0.8 - 0.1)) / 2),
    "cosine": (losses.CosineSimilarity(), A, B, -float(((A * B).sum(1) / np.linalg.norm(A, axis=1) / np.linalg.norm(B, axis=1)).mean())),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_loss(name: str) -> None:
    loss, y, p, expected = BY_HAND[name]
    value = loss(y, phalanx.tensor(p.astype(np.float32)))
    assert value.item() == pytest.approx(expected, rel=2e-5) and value.weight
    weighted = loss(y, phalanx.tensor(p.astype(np.float32)), sample_weight=np.full(len(y), 0.5))
    assert weighted.item() == pytest.approx(0.5 * expected, rel=2e-5)


def test_loss_forms() -> None:
    y, p = np.array([1.0, 2.0]), phalanx.tensor([[1.0], [4.0]])
    assert losses.MeanSquaredError()(y, p).item() == 2.0  # (N,) beside (N, 1)
    assert losses.MeanSquaredError(reduction="sum")(y, p).item() == 4.0
    assert losses.MeanSquaredError(reduction=None)(y, p).tolist() == [0.0, 4.0]
    assert losses.get(lambda t, q: (t - q) ** 2)(y, p.reshape(2)).item() == 2.0
    sequence = losses.SparseCategoricalCrossentropy(from_logits=True)(np.zeros((2, 5), int), phalanx.zeros(2, 5, 4))
    assert sequence.item() == pytest.approx(math.log(4)) and sequence.weight == 10.0
    with pytest.raises(ValueError, match="sparse_categorical"):
        losses.CategoricalCrossentropy()(np.array([1, 2]), phalanx.tensor(P))
    with pytest.raises(ValueError, match="one shape"):
        losses.MeanSquaredError()(np.ones((2, 3)), phalanx.ones(2, 2))


def test_metrics_by_hand() -> None:
    labels, scores = np.array([1, 1, 0, 0]), np.array([0.9, 0.4, 0.6, 0.1])
    for metric, expected in (
        (metrics.BinaryAccuracy(), 0.5), (metrics.Precision(), 0.5), (metrics.Recall(), 0.5), (metrics.AUC(), 0.75),
        (metrics.TruePositives(), 1.0), (metrics.FalseNegatives(), 1.0), (metrics.Precision(thresholds=0.7), 1.0),
        (metrics.MeanSquaredError(), float(((labels - scores) ** 2).mean())), (metrics.get("mae"), 0.35),
        (metrics.BinaryCrossentropy(), float(-(np.log([0.9, 0.4, 0.4, 0.9])).mean())),
    ):  # fmt: skip
        metric.update_state(labels[:3], scores[:3])
        metric.update_state(labels[3:], scores[3:])
        assert metric.result() == pytest.approx(expected, rel=1e-5), metric
        metric.reset_state()
        metric.update_state(labels[:, None], scores[:, None])
        assert metric.result() == pytest.approx(expected, rel=1e-5), metric
    assert metrics.CategoricalAccuracy()(Y, P) == metrics.get("accuracy")(Y, P) == 0.5
    assert metrics.SparseTopKCategoricalAccuracy(k=2)([1, 2], P) == 0.5 + 0.5 * (P[1, 2] >= P[1, 0])
    assert metrics.SparseCategoricalAccuracy()(np.array([[1, 0]]), np.array([[[0.1, 0.9], [0.2, 0.8]]])) == 0.5
    assert metrics.F1Score(average="macro")(np.eye(2), np.eye(2)) == 1.0
    weighted = metrics.SparseCategoricalAccuracy()
    weighted.update_state([1, 2], P, sample_weight=[3.0, 1.0])
    assert weighted.result() == 0.75
    with pytest.raises(ValueError, match="known: "):
        metrics.get("acuracy")


def test_weights_count_in_weighted_metrics_only() -> None:
    x, y, weight = np.eye(4, 2), np.array([1.0, 0.0, 0.0, 0.0]), np.array([3.0, 1.0, 0.0, 0.0])
    model = keras.Sequential([layers.Dense(1, kernel_initializer="zeros", input_shape=(2,))])
    model.compile(optimizers.SGD(0.0), "mse", metrics=["mae"], weighted_metrics=["mse"])
    history = model.fit(x, y, sample_weight=weight, verbose=0).history
    assert history["mae"] == [0.25] and history["mse"] == [0.75] and history["loss"] == [pytest.approx(0.75)]


# -- optimizers ----------------------------------------------------------------------------------------------------------

G = 0.3
"""The gradient in each step of what follows."""


def _adam(w: float, t: int, s: dict[str, float]) -> float:
    s["m"], s["v"] = 0.9 * s.get("m", 0) + 0.1 * G, 0.999 * s.get("v", 0) + 0.001 * G * G
    return w - 0.001 * (s["m"] / (1 - 0.9**t)) / (math.sqrt(s["v"] / (1 - 0.999**t)) + 1e-7)


def _adamw(w: float, t: int, s: dict[str, float]) -> float:
    return _adam(w - 0.001 * 0.004 * w, t, s)


def _momentum(w: float, t: int, s: dict[str, float]) -> float:
    s["v"] = 0.9 * s.get("v", 0) - 0.01 * G
    return w + s["v"]


def _nesterov(w: float, t: int, s: dict[str, float]) -> float:
    s["v"] = 0.9 * s.get("v", 0) - 0.01 * G
    return w + 0.9 * s["v"] - 0.01 * G


def _rmsprop(w: float, t: int, s: dict[str, float]) -> float:
    s["v"] = 0.9 * s.get("v", 0) + 0.1 * G * G
    return w - 0.001 * G / (math.sqrt(s["v"]) + 1e-7)


def _adagrad(w: float, t: int, s: dict[str, float]) -> float:
    s["v"] = s.get("v", 0.1) + G * G
    return w - 0.001 * G / (math.sqrt(s["v"]) + 1e-7)


def _adamax(w: float, t: int, s: dict[str, float]) -> float:
    s["m"], s["u"] = 0.9 * s.get("m", 0) + 0.1 * G, max(0.999 * s.get("u", 0), G)
    return w - 0.001 / (1 - 0.9**t) * s["m"] / (s["u"] + 1e-7)


def _nadam(w: float, t: int, s: dict[str, float]) -> float:
    mu, after = (0.9 * (1 - 0.5 * 0.96**n) for n in (t, t + 1))
    s["p"] = s.get("p", 1.0) * mu
    s["m"], s["v"] = 0.9 * s.get("m", 0) + 0.1 * G, 0.999 * s.get("v", 0) + 0.001 * G * G
    m = after * s["m"] / (1 - s["p"] * after) + (1 - mu) * G / (1 - s["p"])
    return w - 0.001 * m / (math.sqrt(s["v"] / (1 - 0.999**t)) + 1e-7)


def _adadelta(w: float, t: int, s: dict[str, float]) -> float:
    s["g"] = 0.95 * s.get("g", 0) + 0.05 * G * G
    step = G * math.sqrt(s.get("d", 0) + 1e-7) / math.sqrt(s["g"] + 1e-7)
    s["d"] = 0.95 * s.get("d", 0) + 0.05 * step * step
    return w - 0.001 * step


STEPS = {
    "sgd": (lambda: optimizers.SGD(), lambda w, t, s: w - 0.01 * G), "momentum": (lambda: optimizers.SGD(momentum=0.9), _momentum),
    "nesterov": (lambda: optimizers.SGD(momentum=0.9, nesterov=True), _nesterov), "adam": (lambda: "adam", _adam),
    "adamw": (lambda: optimizers.AdamW(), _adamw), "rmsprop": (lambda: optimizers.RMSprop(), _rmsprop),
    "adagrad": (lambda: "adagrad", _adagrad), "adadelta": (lambda: "adadelta", _adadelta), "adamax": (lambda: "adamax", _adamax),
    "nadam": (lambda: "nadam", _nadam), "lion": (lambda: "lion", lambda w, t, s: w - 0.001),
    "clipnorm": (lambda: optimizers.SGD(0.01, clipnorm=0.1), lambda w, t, s: w - 0.01 * 0.1),
    "clipvalue": (lambda: optimizers.SGD(0.01, clipvalue=0.1), lambda w, t, s: w - 0.01 * 0.1),
    "global_clipnorm": (lambda: optimizers.SGD(0.01, global_clipnorm=0.1), lambda w, t, s: w - 0.01 * 0.1),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_optimizer_by_hand(name: str) -> None:
    """Four steps with one gradient, Keras's formulas and defaults in Python numbers."""
    make, formula = STEPS[name]
    model = keras.Sequential([layers.Dense(1, use_bias=False, kernel_initializer="ones", input_shape=(1,))])
    model.compile(make(), lambda y, p: p[:, 0] * G)
    model.fit(np.ones((4, 1)), np.zeros(4), batch_size=1, verbose=0)
    expected, state = 1.0, dict[str, float]()
    for step in range(1, 5):
        expected = formula(expected, step, state)
    assert model.get_weights()[0].item() == pytest.approx(expected, rel=2e-6)


def test_schedules() -> None:
    of = optimizers.schedules
    for schedule, expected in (
        (of.ExponentialDecay(0.1, 10, 0.5), [0.1, 0.1 * 0.5**0.3, 0.05 * 0.5**0.2]),
        (of.ExponentialDecay(0.1, 10, 0.5, staircase=True), [0.1, 0.1, 0.05]),
        (of.PiecewiseConstantDecay([3, 10], [1.0, 0.5, 0.1]), [1.0, 1.0, 0.1]),
        (of.PolynomialDecay(0.1, 10, end_learning_rate=0.0), [0.1, 0.07, 0.0]),
        (of.InverseTimeDecay(0.1, 10, 1.0), [0.1, 0.1 / 1.3, 0.1 / 2.2]),
        (of.CosineDecay(0.1, 10), [0.1, 0.05 * (1 + math.cos(0.3 * math.pi)), 0.0]),
        (of.CosineDecay(0.0, 10, warmup_target=0.1, warmup_steps=6), [0.0, 0.05, 0.05 * (1 + math.cos(0.6 * math.pi))]),
        (of.CosineDecayRestarts(0.1, 10), [0.1, 0.05 * (1 + math.cos(0.3 * math.pi)), 0.05 * (1 + math.cos(0.1 * math.pi))]),
    ):  # fmt: skip
        assert [schedule(step) for step in (0, 3, 12)] == pytest.approx(expected, abs=1e-12), schedule


# -- callbacks -----------------------------------------------------------------------------------------------------------


def fitted(callbacks: Any, epochs: int = 3, optimizer: Any = "sgd", **options: Any) -> Any:
    x = np.random.default_rng(1).standard_normal((20, 3))
    model = keras.Sequential([layers.Dense(1, input_shape=(3,))])
    model.compile(optimizer, "mse")
    history = model.fit(x, x[:, 0], batch_size=5, epochs=epochs, verbose=0, callbacks=callbacks, **options)
    return model, history


class Told(keras.callbacks.Callback):
    """Writes down which hooks are called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.calls.append(f"begin {self.params['epochs']}")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.calls.append(f"epoch {epoch}")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.calls.append(f"batch {batch} {sorted(logs)}")

    def on_test_begin(self, logs: Any = None) -> None:
        self.calls.append("test")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.calls.append(f"end {sorted(logs)}")

    def on_train_end(self, logs: Any = None) -> None:
        self.calls.append(f"done {self.model.name}")


def test_hooks_of_callbacks() -> None:
    told = Told()
    fitted([told], 1, validation_split=0.25)
    assert told.calls == [
        "begin 1", "epoch 0", "batch 0 ['loss']", "batch 1 ['loss']", "batch 2 ['loss']", "test", "end ['loss', 'val_loss']",
        "done sequential",
    ]  # fmt: skip


class StopOnOneRank(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1 and phalanx.rank() == phalanx.size() - 1:
            self.model.stop_training = True


def test_stops_are_agreed_by_all_ranks() -> None:
    def epochs(callback: Any) -> Any:
        return lambda: fitted([callback()], 9)[1].epoch

    assert same(on_ranks(3, epochs(StopOnOneRank))) == [0, 1]
    stopping = lambda: keras.callbacks.EarlyStopping("loss", min_delta=1e9, patience=2)  # noqa: E731
    assert same(on_ranks(2, epochs(stopping))) == [0, 1, 2]


def test_learning_rates_by_callback() -> None:
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, lr: lr * 0.5)
    model, history = fitted([halve])
    assert history.history["learning_rate"] == pytest.approx([0.005, 0.0025, 0.00125])
    assert model.optimizer.learning_rate == pytest.approx(0.00125)
    # wait 1 >= patience 1 in the second epoch, then in every one
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e9)
    model, _ = fitted([plateau], 4)
    assert model.optimizer.learning_rate == pytest.approx(0.01 * 0.5**3)
    model, _ = fitted([], 2, optimizers.SGD(optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)))
    assert model.optimizer.learning_rate == pytest.approx(0.1 * 0.5**7)


def test_saving_and_logging_callbacks(tmp_path: Path) -> None:
    chosen = [
        keras.callbacks.ModelCheckpoint(tmp_path / "at-{epoch:02d}-{loss:.1f}.keras"),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "best.weights.h5", monitor="loss", save_best_only=True, save_weights_only=True
        ),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    model, history = fitted(chosen, 3)
    at = [f"at-{epoch + 1:02d}-{history.history['loss'][epoch]:.1f}.keras" for epoch in range(3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*at, "best.weights.h5", "log.csv"])
    last = keras.models.load_model(tmp_path / at[-1])
    np.testing.assert_array_equal(last.get_weights()[0], model.get_weights()[0])
    with (tmp_path / "log.csv").open() as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == history.history["loss"]


def test_backup_goes_on(tmp_path: Path) -> None:
    def run(epochs: int, folder: str) -> Any:
        keras.backend.clear_session()
        keras.utils.set_random_seed(5)
        phalanx.shutdown()
        return fitted([keras.callbacks.BackupAndRestore(tmp_path / folder)], epochs, "adam")

    whole, history = run(4, "whole")
    run(2, "parts")
    parts, resumed = run(4, "parts")
    np.testing.assert_array_equal(parts.get_weights()[0], whole.get_weights()[0])
    assert resumed.history == history.history


def test_nan_ends_a_fit() -> None:
    model = keras.Sequential([layers.Dense(1, input_shape=(1,))])
    model.compile("sgd", "mse")
    history = model.fit(
        np.full((4, 1), np.nan), np.ones(4), epochs=3, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN()]
    )
    assert len(history.epoch) == 1


# -- helpers -------------------------------------------------------------------------------------------------------------


def test_helpers() -> None:
    assert keras.utils.to_categorical(np.array([[1], [0]]), 3).tolist() == [[0, 1, 0], [1, 0, 0]]
    with pytest.raises(RangeError, match="to_categorical"):
        keras.utils.to_categorical([3], 3)
    rows = [[1, 2, 3, 4], [5]]
    assert keras.preprocessing.sequence.pad_sequences(rows, 3).tolist() == [[2, 3, 4], [0, 0, 5]]
    post = keras.utils.pad_sequences(rows, 3, padding="post", truncating="post", value=9)
    assert post.tolist() == [[1, 2, 3], [5, 9, 9]] and post.dtype == np.int32
    assert keras.backend.epsilon() == 1e-7


def test_seeds_make_equal_models() -> None:
    made = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        layer = layers.Dense(4)
        layer(np.ones((1, 5)))
        made.append(layer.get_weights()[0])
    np.testing.assert_array_equal(*made)
