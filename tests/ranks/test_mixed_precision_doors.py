"""Mixed precision by one word: the Trainer's ``precision`` and Keras's policy, on any number of ranks and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import callbacks, keras
from phalanx.core.errors import RangeError
from phalanx.core.hashing import hash_array
from phalanx.dist.communicators.threads import run_threads
from tests.ranks.trainer_runs import data, result, trainer

pytestmark = pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")


def fit(size: int, precision: str, folder: Path | None = None, epochs: int = 3) -> list[Any]:
    def main() -> Any:
        phalanx.init(shards=4, seed=1)
        of = trainer(precision=precision, clip_norm=0.8)
        train, held_out = data()
        chosen = [] if folder is None else [callbacks.Checkpoint(folder, every=4)]
        if precision == "fp16":
            of.precision.scaler._set(2.0**24)  # type: ignore[attr-defined]  # so that some steps overflow
            of.precision.scaler.set_growth_interval(5)  # type: ignore[attr-defined]
        of.fit(train, held_out, epochs, batch_size=20, callbacks=chosen, verbose=0)
        found = result(of), of.precision.state(), of.evaluate(held_out), hash_array(of.predict(held_out.tensors[0]))
        phalanx.shutdown()
        return found

    return run_threads(main, size, timeout_s=60)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_equal_bits_and_resumed(precision: str, tmp_path: Path) -> None:
    (expected,) = fit(1, precision)
    for got in fit(3, precision):
        assert got == expected
    fit(2, precision, tmp_path, epochs=2)
    for got in fit(3, precision, tmp_path):
        assert got == expected
    assert bool(expected[1]) == (precision == "fp16")
    losses = [float(value) for value in expected[0]["history"]["loss"]]
    assert losses[-1] < losses[0] < 3.0
    ((plain, _, _, _),) = fit(1, "float32")
    assert plain["weights"] != expected[0]["weights"]
    assert losses[-1] == pytest.approx(float(plain["history"]["loss"][-1]), rel=0.2)


@pytest.mark.parametrize(
    ("policy", "dtype"), [("mixed_bfloat16", "bfloat16"), ("mixed_float16", "float16"), ("float32", "float32")]
)
def test_policy_of_keras(policy: str, dtype: str) -> None:
    seen: set[str] = set()

    class Looks(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            seen.add(inputs.dtype.name)
            return inputs

    keras.mixed_precision.set_global_policy(policy)
    try:
        phalanx.manual_seed(1)
        model = keras.Sequential(
            [keras.layers.Dense(16, activation="relu"), Looks(), keras.layers.Dense(4, activation="softmax")]
        )
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", ["accuracy"])
        train, _ = data()
        x, y = (tensor.numpy() for tensor in train.tensors)
        history = model.fit(x, y, epochs=12, batch_size=20, verbose=0).history
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert dtype in seen and seen <= {dtype, "float32"}
    assert history["loss"][-1] < 0.8 * history["loss"][0] and history["accuracy"][-1] > 0.6
    assert all(weight.dtype == np.float32 for weight in model.weights)


def test_unknown_policy() -> None:
    with pytest.raises(RangeError, match="'mixed_bfloat16', got 'low'"):
        keras.mixed_precision.set_global_policy("low")
