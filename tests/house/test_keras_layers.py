"""Every layer of the Keras door gives what Keras's formula gives, for weights in Keras's layout; graphs, masks and initial values too."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import keras
from phalanx.core.errors import RangeError, ShapeError
from phalanx.keras import layers
from tests.house.keras_cases import CASES, Case, attention, lstm
from tests.ranks.trainer_runs import on_ranks, same


def _random(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _built(case: Case, x: np.ndarray) -> Any:
    """The layer with weights that are nowhere 0 or 1."""
    layer = case.make()
    layer(x)
    layer.set_weights([np.abs(_random(w.shape, 7 + n)) * 0.5 + 0.1 for n, w in enumerate(layer.get_weights())])
    return layer


@pytest.mark.parametrize("name", CASES)
def test_layer(name: str) -> None:
    """Alone, within a Sequential that is saved and loaded, and in a graph; shapes are known before there is data."""
    case = CASES[name]
    x = _random(case.shape, 1)
    layer = _built(case, x)
    weights = layer.get_weights()
    if case.shapes:
        assert tuple(w.shape for w in weights) == case.shapes
    expected = case.expected(x.astype(np.float64), [w.astype(np.float64) for w in weights])
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=2e-4, atol=2e-5)
    symbolic = layer(keras.Input(shape=case.shape[1:]))
    assert symbolic.shape == (None, *expected.shape[1:])


@pytest.mark.parametrize("name", CASES)
def test_layer_is_saved(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    x = _random(case.shape, 1)
    begin = keras.Input(shape=case.shape[1:])
    model = keras.Model(begin, case.make()(begin))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    np.testing.assert_array_equal(again.predict_on_batch(x), model.predict_on_batch(x))


def test_attention_and_its_masks() -> None:
    x = phalanx.tensor(_random((2, 5, 6), 1))
    layer = layers.MultiHeadAttention(num_heads=2, key_dim=3)
    y = layer(x, x)
    assert [w.shape for w in layer.get_weights()] == [(6, 2, 3), (2, 3)] * 3 + [(2, 3, 6), (6,)]
    np.testing.assert_allclose(y.detach().numpy(), attention(x.numpy(), layer.get_weights()), rtol=1e-4, atol=1e-5)
    causal, scores = layer(x, x, use_causal_mask=True, return_attention_scores=True)
    assert (np.triu(scores.detach().numpy(), 1) == 0).all()
    np.testing.assert_allclose(causal[:, -1].detach().numpy(), y[:, -1].detach().numpy(), rtol=1e-5, atol=1e-6)
    masked = layer(x, x, attention_mask=np.tri(5, dtype=bool)[None].repeat(2, 0))
    np.testing.assert_allclose(masked.detach().numpy(), causal.detach().numpy(), atol=1e-6)


def test_masks_pass_through_a_model() -> None:
    """Zeros of an Embedding with mask_zero are no steps for what stands behind it, also behind a Dropout."""
    model = keras.Sequential(
        [layers.Embedding(9, 4, mask_zero=True), layers.Dropout(0.1), layers.LSTM(3), layers.Dense(2)]
    )
    ids = np.array([[5, 3, 0, 0], [1, 2, 8, 4]])
    y = model(ids).numpy()
    table, *weights = model.get_weights()
    alone = lstm(table[ids[:1, :2]].astype(np.float64), [w.astype(np.float64) for w in weights[:3]])
    np.testing.assert_allclose(y[:1], alone @ weights[3] + weights[4], rtol=1e-4, atol=1e-5)
    pooled = keras.Sequential([layers.Embedding(9, 4, mask_zero=True), layers.GlobalAveragePooling1D()])
    np.testing.assert_allclose(pooled(ids).numpy()[0], pooled.get_weights()[0][[5, 3]].mean(axis=0), rtol=1e-5)


def test_masks_reach_loss_and_metrics() -> None:
    """Padded steps of a sequence count neither in the loss nor in the accuracy, with shards of unequal numbers of steps either."""
    ids = np.array([[5, 3, 0, 0], [1, 2, 8, 4], [7, 0, 0, 0]])
    labels = ids % 2

    def measured() -> Any:
        keras.backend.clear_session()
        model = keras.Sequential(
            [
                layers.Embedding(9, 4, mask_zero=True),
                layers.GRU(3, return_sequences=True),
                layers.Dense(2, activation="softmax"),
            ]
        )
        model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", ["accuracy"])
        history = model.fit(ids, labels, verbose=0, batch_size=3).history
        p = model.predict(ids, verbose=0)
        there = ids != 0
        own = np.take_along_axis(p, labels[..., None], axis=2)[..., 0]
        expected = [-np.log(own[there]).mean(), (p.argmax(axis=2) == labels)[there].mean()]
        np.testing.assert_allclose(model.evaluate(ids, labels, verbose=0), expected, rtol=1e-5)
        np.testing.assert_allclose([history["loss"][0], history["accuracy"][0]], expected, rtol=1e-5)
        return model.evaluate(ids, labels, verbose=0)

    same(on_ranks(2, measured, shards=2))


def test_merging_layers() -> None:
    a, b = _random((2, 3), 1), _random((2, 3), 2)
    for layer, expected in (
        (layers.Add(), a + b), (layers.Subtract(), a - b), (layers.Multiply(), a * b), (layers.Average(), (a + b) / 2),
        (layers.Maximum(), np.maximum(a, b)), (layers.Minimum(), np.minimum(a, b)),
        (layers.Concatenate(), np.concatenate([a, b], axis=-1)), (layers.Dot(axes=1), (a * b).sum(axis=1, keepdims=True)),
    ):  # fmt: skip
        np.testing.assert_allclose(layer([a, b]).numpy(), expected, rtol=1e-6)


def test_batch_norm_moves_as_in_keras() -> None:
    layer = layers.BatchNormalization(momentum=0.9)
    x = _random((6, 3), 1)
    y = layer(x, training=True).detach().numpy()
    np.testing.assert_allclose(y, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean.numpy(), 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance.numpy(), 0.9 + 0.1 * x.var(0), rtol=1e-5)  # the biased variance
    layer.trainable = False
    before = layer.moving_mean.numpy().copy()
    layer(x, training=True)
    np.testing.assert_array_equal(layer.moving_mean.numpy(), before)


def test_initial_values() -> None:
    limit = math.sqrt(6.0 / (3 * 3 * 8 + 3 * 3 * 16))  # glorot_uniform counts fans in Keras's layout
    layer = layers.Conv2D(16, 3)
    layer.build_with((None, 9, 9, 8))
    kernel, bias = layer.get_weights()
    assert limit * 0.98 < np.abs(kernel).max() <= limit and not bias.any()
    he = keras.initializers.get("he_normal")((200, 50)).numpy()
    assert he.std() == pytest.approx(math.sqrt(2.0 / 200), rel=0.05)
    assert np.abs(he).max() <= 2 * math.sqrt(2.0 / 200) / 0.8796 + 1e-6
    recurrent = layers.LSTM(4)
    recurrent.build_with((None, 5, 3))
    assert recurrent.get_weights()[2].tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8  # the forget gate
    embedding = layers.Embedding(50, 8)
    embedding.build_with((None, 4))
    assert 0.04 < np.abs(embedding.get_weights()[0]).max() <= 0.05
    assert keras.initializers.Constant(3.0)((2,)).tolist() == [3.0, 3.0]


def test_random_layers_draw_in_training_only() -> None:
    x = _random((4, 6, 6, 2), 1)
    for make in (
        lambda: layers.Dropout(0.5), lambda: layers.SpatialDropout2D(0.5), lambda: layers.GaussianNoise(0.3),
        lambda: layers.GaussianDropout(0.3), lambda: layers.AlphaDropout(0.3), lambda: layers.RandomFlip(),
        lambda: layers.RandomRotation(0.2), lambda: layers.RandomTranslation(0.3, 0.3), lambda: layers.RandomZoom(0.4),
        lambda: layers.RandomContrast(0.4),
    ):  # fmt: skip
        layer = make()
        np.testing.assert_array_equal(layer(x).numpy(), x)
        changed = layer(x, training=True).numpy()
        assert changed.shape == x.shape and not np.array_equal(changed, x), layer
    spatial = layers.SpatialDropout2D(0.5)(np.ones((8, 3, 3, 4), np.float32), training=True).numpy()
    assert (spatial.std(axis=(1, 2)) == 0).all() and set(np.unique(spatial)) == {0.0, 2.0}
    flipped = layers.RandomFlip("horizontal")(x, training=True).numpy()
    assert all(np.array_equal(a, b) or np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, x, strict=True))


def test_normalization_adapts() -> None:
    x = _random((50, 3), 1) * 4 + 2
    layer = layers.Normalization()
    layer.adapt(x)
    y = layer(x).numpy()
    np.testing.assert_allclose([y.mean(0), y.var(0)], [[0] * 3, [1] * 3], atol=1e-5)
    given = layers.Normalization(mean=2.0, variance=4.0)(np.array([[6.0]])).item()
    assert given == 2.0


def test_states_of_recurrent_layers() -> None:
    x = _random((2, 5, 3), 1)
    layer = layers.LSTM(4, return_sequences=True, return_state=True)
    y, h, _ = layer(x)
    np.testing.assert_array_equal(y[:, -1].detach().numpy(), h.detach().numpy())
    _, h1, c1 = layer(x[:, :2])
    rest, *_ = layer(x[:, 2:], initial_state=[h1, c1])
    np.testing.assert_allclose(rest.detach().numpy(), y[:, 2:].detach().numpy(), rtol=1e-5, atol=1e-6)
    merged = layers.Bidirectional(layers.GRU(4, return_sequences=True), merge_mode="sum")
    assert merged(x).shape == (2, 5, 4)


def test_wrong_options_are_told() -> None:
    x = np.ones((2, 4), np.float32)
    for wrong, error, words in (
        (lambda: layers.Dense(0), RangeError, "at least 1"),
        (lambda: layers.Dense(3, activation="rely"), ValueError, "known: "),
        (lambda: layers.Dense(3, kernel_initializer="glorot")(x), ValueError, "glorot_uniform"),
        (lambda: layers.Conv2D(4, 3)(x), ShapeError, "4 dimensions"),
        (lambda: layers.Conv2D(4, 3, data_format="channels_first"), RangeError, "channels_last"),
        (lambda: layers.Conv2D(4, 3, padding="full"), RangeError, "'valid' or 'same'"),
        (lambda: layers.LSTM(3, recurrent_dropout=0.1), RangeError, "recurrent_dropout"),
        (lambda: layers.LSTM(3, activation="relu"), RangeError, "tanh"),
        (lambda: layers.Dropout(1.5), RangeError, "rate"),
        (lambda: layers.Dense(3, activity_regularizer="l2"), RangeError, "activity_regularizer"),
        (lambda: layers.Dense(3)(keras.Input(shape=(None,))), ShapeError, "not known yet"),
        (lambda: layers.BatchNormalization(axis=1)(np.ones((2, 3, 4, 5))), RangeError, "last dimension"),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            wrong()
