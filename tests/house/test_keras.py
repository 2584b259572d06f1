"""The Keras door: a model is compiled, fitted, evaluated and saved as in Keras, with equal bits on any number of ranks."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import keras, nn
from phalanx.core.errors import DataError, RangeError, StateError
from phalanx.core.hashing import hash_array
from phalanx.data import DataLoader, TensorDataset
from phalanx.keras import layers
from tests.jobs import run_job
from tests.ranks.trainer_runs import on_ranks, same

SAMPLES, FEATURES, CLASSES = 107, 8, 3


@pytest.fixture(autouse=True)
def names_from_the_start() -> Any:
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    yield
    phalanx.shutdown()


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((SAMPLES, FEATURES))
    return x, x[:, :CLASSES].argmax(axis=1)


def mlp(**options: Any) -> Any:
    model = keras.Sequential(
        [
            layers.Dense(16, activation="relu", input_shape=(FEATURES,)),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Dense(CLASSES, activation="softmax", kernel_regularizer=keras.regularizers.L2(1e-3)),
        ]
    )
    model.compile(
        **{"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], **options}
    )
    return model


def linear(x: np.ndarray, y: np.ndarray, optimizer: Any = "sgd", loss: Any = "mse", **options: Any) -> tuple[Any, Any]:
    """A linear model that starts at 0 and is fitted without shuffling."""
    model = keras.Sequential([layers.Dense(1, kernel_initializer="zeros", input_shape=(x.shape[1],))])
    model.compile(optimizer, loss)
    return model, model.fit(x, y, **{"shuffle": False, "verbose": 0, "batch_size": 4, **options})


def everything() -> dict[str, Any]:
    """A fit with all sorts of things in it: every bit that it leaves."""
    x, y = data()
    rate = keras.optimizers.schedules.CosineDecay(0.02, 20)
    model = mlp(optimizer=keras.optimizers.AdamW(rate, global_clipnorm=1.0))
    history = model.fit(
        x, y, batch_size=20, epochs=3, validation_split=0.2, class_weight={1: 2.0}, verbose=0,
        callbacks=[keras.callbacks.EarlyStopping("val_accuracy", patience=2, restore_best_weights=True)],
    )  # fmt: skip
    return {
        "history": {name: list(map(repr, values)) for name, values in history.history.items()},
        "weights": [f"{hash_array(w):016x}" for w in model.get_weights()],
        "evaluated": model.evaluate(x, y, verbose=0),
        "predicted": model.predict(x).tobytes(),
        "rate": model.optimizer.learning_rate,
    }


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return same(on_ranks(1, everything))


@pytest.mark.parametrize("size", [3, *(pytest.param(n, marks=pytest.mark.whole) for n in (2, 4, 5))])
def test_any_number_of_ranks_gives_the_same_bits(size: int, alone: dict[str, Any]) -> None:
    assert same(on_ranks(size, everything)) == alone
    assert list(alone["history"]) == ["loss", "accuracy", "val_loss", "val_accuracy"]


@pytest.mark.parametrize("how", ["run 2", pytest.param("mpirun 2", marks=pytest.mark.whole)])
def test_same_bits_however_it_is_started(how: str, tmp_path: Path) -> None:
    """One file, no word about ranks in it but ``phalanx.init(shards=4)``; what is printed once is printed once."""
    script = tmp_path / "script.py"
    script.write_text(
        "import phalanx\nphalanx.init(shards=4)\nfrom tests.house.test_keras import data, everything, mlp\n"
        "mlp().summary()\nx, y = data()\nmlp().fit(x, y, verbose=2)\nfound = everything()\n"
        "print('found', found['history'], found['weights'], found['evaluated'])\n"
    )
    lines = []
    for started in ("alone", how):
        code, output = run_job(started, script=str(script), timeout_s=60)
        assert code == 0, output[-2000:]
        assert output.count('Model: "sequential') == 1 and output.count("Epoch 1/1") == 1
        lines.append(next(re.sub(r"^\[[\d-]+\] ", "", line) for line in output.splitlines() if "found {" in line))
    assert lines[0] == lines[1]


# -- fit -----------------------------------------------------------------------------------------------------------------


def test_a_fit_learns_and_keeps_its_history() -> None:
    x, y = data()
    model = mlp(optimizer=keras.optimizers.Adam(0.02))
    history = model.fit(x, y, epochs=8, validation_data=(x, y), verbose=0)
    assert history.epoch == list(range(8)) and model.history is history
    assert history.history["loss"][-1] < 0.7 * history.history["loss"][0] and history.history["val_accuracy"][-1] > 0.75
    loss, accuracy = model.evaluate(x, y, verbose=0)
    assert [loss, accuracy] == [history.history["val_loss"][-1], history.history["val_accuracy"][-1]]
    assert model.evaluate(x, y, return_dict=True, verbose=0) == {"loss": loss, "accuracy": accuracy}
    assert (model.predict(x).argmax(axis=1) == y).mean() == pytest.approx(accuracy)
    assert model.metrics_names == ["loss", "accuracy"]


def test_one_step_of_sgd_by_hand() -> None:
    """Weighted losses are divided by the number of samples, as in Keras; the penalty is part of the loss."""
    rng = np.random.default_rng(1)
    x, y, weight = rng.standard_normal((4, 3)), rng.standard_normal(4), np.array([1.0, 0.0, 2.0, 0.5])
    model, history = linear(x, y, keras.optimizers.SGD(0.1), sample_weight=weight)
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(kernel[:, 0], 0.1 * 2 * (x * (weight * y)[:, None]).sum(0) / 4, rtol=1e-5)
    np.testing.assert_allclose(bias, [0.1 * 2 * (weight * y).sum() / 4], rtol=1e-5)
    assert history.history["loss"][0] == pytest.approx((weight * y**2).sum() / 4, rel=1e-6)
    classes = np.array([0, 1, 1, 0])
    _, by_class = linear(x, classes, loss="mse", class_weight={0: 1.0, 1: 3.0})
    assert by_class.history["loss"][0] == pytest.approx(6 / 4)
    assert "penalty" not in by_class.history


def test_validation_split_takes_the_last_samples() -> None:
    x, y = np.zeros((10, 2)), np.arange(10.0)
    _, history = linear(x, y, keras.optimizers.SGD(0.0), validation_split=0.3, shuffle=True)
    assert history.history["val_loss"][0] == pytest.approx((y[7:] ** 2).mean())
    assert history.history["loss"][0] == pytest.approx((y[:7] ** 2).mean())


def test_two_fits_go_on(tmp_path: Path) -> None:
    x, y = data()
    model = mlp()
    first = model.fit(x, y, epochs=2, verbose=0)
    second = model.fit(x, y, epochs=4, initial_epoch=2, verbose=0)
    assert first.epoch + second.epoch == [0, 1, 2, 3]
    assert second.history["loss"][-1] < first.history["loss"][0]
    step = model.trainer.step
    loss = model.train_on_batch(x[:16], y[:16])
    assert model.trainer.step == step + 1 and len(loss) == 2
    assert model.predict_on_batch(x[:5]).shape == (5, CLASSES)


def test_data_sets_and_loaders() -> None:
    x, y = data()
    dataset = TensorDataset(x.astype(np.float32), y)
    model = mlp()
    model.fit(DataLoader(dataset, batch_size=16, shuffle=True), epochs=1, verbose=0, validation_data=dataset)
    assert model.predict(dataset).shape == (SAMPLES, CLASSES)
    assert model.evaluate(dataset, verbose=0) == model.evaluate(x, y, verbose=0)
    with pytest.raises(DataError, match="holds its own"):
        model.fit(dataset, y)
    with pytest.raises(DataError, match="generators"):
        model.fit((row for row in x), verbose=0)


def test_lines_of_a_fit(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = data()
    mlp().fit(x, y, epochs=2, validation_data=(x, y))
    number = r"\d\.\d{4}"
    line = rf"4/4 ━{{20}} \d+s \d+ms/step - accuracy: {number} - loss: {number} - val_accuracy: {number} - val_loss: {number}\n"
    assert re.fullmatch(f"Epoch 1/2\n{line}Epoch 2/2\n{line}", capsys.readouterr().out)


# -- models --------------------------------------------------------------------------------------------------------------


def two_inputs() -> Any:
    a, b = keras.Input(shape=(FEATURES,), name="numbers"), keras.Input(shape=(5,), dtype="int32", name="words")
    words = layers.LSTM(6)(layers.Embedding(11, 4, mask_zero=True)(b))
    shared = layers.Dense(6, activation="relu", name="shared")
    together = layers.concatenate([shared(a), shared(layers.Dense(FEATURES)(words)), words])
    gate = 1.0 - layers.Dense(18, activation="sigmoid")(together)
    together = together * gate
    kind = layers.Dense(CLASSES, activation="softmax", name="kind")(together)
    amount = layers.Dense(1, name="amount")(together[:, :9])
    return keras.Model(inputs=[a, b], outputs=[kind, amount])


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    x, y = data()
    words = np.random.default_rng(2).integers(0, 11, (SAMPLES, 5))
    model = two_inputs()
    model.compile(
        "adam", {"kind": "sparse_categorical_crossentropy", "amount": "mse"}, loss_weights={"amount": 0.25},
        metrics={"kind": "accuracy", "amount": ["mae"]},
    )  # fmt: skip
    history = model.fit({"numbers": x, "words": words}, {"kind": y, "amount": x[:, 0]}, epochs=2, verbose=0)
    assert list(history.history) == ["loss", "kind_loss", "amount_loss", "kind_accuracy", "amount_mae"]
    found = model.evaluate([x, words], [y, x[:, 0]], return_dict=True, verbose=0)
    assert found["loss"] == pytest.approx(found["kind_loss"] + 0.25 * found["amount_loss"], rel=1e-6)
    kind, amount = model.predict([x, words])
    assert kind.shape == (SAMPLES, CLASSES) and amount.shape == (SAMPLES, 1)
    assert found["amount_mae"] == pytest.approx(np.abs(amount[:, 0] - x[:, 0]).mean(), rel=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for mine, theirs in zip(again.predict([x, words]), (kind, amount), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert again.evaluate([x, words], [y, x[:, 0]], return_dict=True, verbose=0) == found


def test_parts_of_a_graph_are_models() -> None:
    model = mlp()
    inner = keras.Model(model.inputs, model.layers[0].output)
    x, _ = data()
    np.testing.assert_allclose(inner(x).numpy(), np.maximum(x @ model.get_weights()[0], 0), rtol=1e-4, atol=1e-5)
    head = keras.Sequential([inner, layers.Dense(2)])
    assert head.output_shape == (None, 2) and len(head.weights) == 4
    inner.trainable = False
    assert len(head.trainable_weights) == 2 and len(model.trainable_weights) == 4


def test_a_chain_is_built_by_its_first_batch() -> None:
    x, y = data()
    model = keras.Sequential()
    model.add(layers.Dense(4))
    model.add(layers.Dense(1))
    with pytest.raises(ValueError, match="no weights yet"):
        model.save_weights("nowhere")
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0)
    assert model.count_params() == 9 * 4 + 5 and model.input_shape == (None, FEATURES)
    assert model.pop().name == "dense_1" and model.output_shape == (None, 4)


class Residual(keras.Model):
    """As people subclass."""

    def __init__(self, units: int = 8) -> None:
        super().__init__()
        self.first = layers.Dense(units)
        self.blocks = [layers.Dense(units, activation="relu") for _ in range(2)]
        self.drop = layers.Dropout(0.5)
        self.out = layers.Dense(1)

    def call(self, inputs: Any, training: bool = False) -> Any:
        x = self.first(inputs)
        for block in self.blocks:
            x = x + self.drop(block(x), training=training)
        return self.out(x)


def test_a_subclass() -> None:
    x, _ = data()
    model = Residual()
    model.compile(
        keras.optimizers.RMSprop(0.01), keras.losses.Huber(), [keras.metrics.RootMeanSquaredError(name="rmse")]
    )
    history = model.fit(x, x[:, :1], epochs=4, verbose=0)
    assert history.history["rmse"][-1] < history.history["rmse"][0]
    assert [layer.name for layer in model.layers] == ["dense", "dense_1", "dense_2", "dropout", "dense_3"]
    np.testing.assert_array_equal(model(x).numpy(), model(x).numpy())
    assert not np.array_equal(model(x, training=True).detach().numpy(), model(x).numpy())
    assert model(x, training=True).requires_grad and not model(x).requires_grad


def test_a_layer_of_ones_own(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input(shape=(3,)), Scale(2.0), layers.Dense(1)])
    assert [w.shape for w in model.get_weights()] == [(3,), (3, 1), (1,)]
    model.save(tmp_path / "model")
    again = keras.models.load_model(tmp_path / "model", custom_objects={"Scale": Scale})
    assert again.layers[0].by == 2.0
    with pytest.raises(StateError, match="JSON"):
        keras.Sequential([keras.Input(shape=(3,)), layers.Lambda(lambda x: x)]).save(tmp_path / "other")


class Scale(layers.Layer):
    """A layer with weights."""

    def __init__(self, by: float, **options: Any) -> None:
        super().__init__(**options)
        self.by = by

    def build(self, input_shape: Any) -> None:
        self.factor = self.add_weight(shape=(input_shape[-1],), initializer="ones", trainable=True, name="factor")

    def call(self, inputs: Any) -> Any:
        return inputs * self.factor * self.by


def test_weights_and_files(tmp_path: Path) -> None:
    x, y = data()
    model = mlp(
        loss=keras.losses.SparseCategoricalCrossentropy(), metrics=[keras.metrics.SparseTopKCategoricalAccuracy(k=2)]
    )
    model.fit(x, y, verbose=0)
    model.save_weights(tmp_path / "a.weights.h5")
    other = mlp()
    other.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(other.predict(x), model.predict(x))
    other.set_weights([w * 0 for w in other.get_weights()])
    np.testing.assert_allclose(other.predict(x), 1 / CLASSES)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.evaluate(x, y, return_dict=True, verbose=0) == model.evaluate(x, y, return_dict=True, verbose=0)
    assert again.layers[-1].kernel_regularizer == keras.regularizers.L2(1e-3)
    with pytest.raises(StateError, match="mismatched"):
        keras.Sequential([layers.Dense(3, input_shape=(8,), name="dense"), layers.Dense(1)]).load_weights(
            tmp_path / "a.weights.h5"
        )
    copy = keras.models.clone_model(model)
    assert [w.shape for w in copy.get_weights()] == [w.shape for w in model.get_weights()]
    assert not np.array_equal(copy.get_weights()[0], model.get_weights()[0])


def test_copies_are_models_of_their_own() -> None:
    x, y = data()
    for model in (mlp(), two_inputs()):
        given: Any = x if len(model.inputs) == 1 else [x, np.ones((SAMPLES, 5), int)]
        if model.compiled:
            model.fit(given, y, verbose=0)
        twin = copy.deepcopy(model)
        before = model.predict(given, verbose=0)
        for mine, theirs in zip(nest_of(twin.predict(given, verbose=0)), nest_of(before), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        if model.compiled:
            twin.fit(given, y, verbose=0)
            assert not np.array_equal(twin.predict(given, verbose=0), before)
            np.testing.assert_array_equal(model.predict(given, verbose=0), before)


def nest_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_summary_looks_like_keras(capsys: pytest.CaptureFixture[str]) -> None:
    mlp().summary()
    assert capsys.readouterr().out.splitlines()[1:5] == [
        "┏━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━┳━━━━━━━━━┓",
        "┃ Layer (type)                             ┃ Output Shape ┃ Param # ┃",
        "┡━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━╇━━━━━━━━━┩",
        "│ dense (Dense)                            │ (None, 16)   │     144 │",
    ]
    lines: list[str] = []
    two_inputs().summary(print_fn=lines.append)
    assert "shared[0][0], shared[1][0], lstm[0][0]" in lines[0] or "Connected to" in lines[0]
    assert " Total params: " in lines[0] and " Non-trainable params: 0" in lines[0]


def test_wrong_use_is_told() -> None:
    x, y = data()
    model = keras.Sequential([layers.Dense(3)])
    with pytest.raises(StateError, match="compile"):
        model.fit(x, y)
    with pytest.raises(ValueError, match="known: "):
        model.compile("adan", "mse")
    with pytest.raises(ValueError, match="known: "):
        model.compile("adam", "categorical_crossentropie")
    with pytest.raises(RangeError, match="clipnorm"):
        keras.optimizers.Adam(clipnorm=1.0, clipvalue=1.0)
    with pytest.raises(TypeError, match="learning"):
        keras.optimizers.Adam(learning=1.0)
    model = mlp()
    with pytest.raises(DataError, match="without targets"):
        model.fit(x)
    with pytest.raises(ValueError, match="has shape"):
        model.predict(x[:, :5])
    with pytest.raises(ValueError, match="called 'same'"):
        keras.Sequential([layers.Dense(1, name="same"), layers.Dense(1, name="same")])
    with pytest.raises(ValueError, match="not among the inputs"):
        keras.Model(keras.Input(shape=(3,)), layers.Dense(1)(keras.Input(shape=(3,))))
    with pytest.raises(TypeError, match=r"keras\.layers"):
        keras.Sequential([nn.Linear(2, 1)])
