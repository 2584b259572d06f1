"""Evaluation and prediction: each sample once, equal bits on any number of ranks, errors everywhere."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import phalanx
from phalanx import metrics, nn
from phalanx.core.data.sampling import sample_random
from phalanx.core.errors import DataError, RangeError, ShapeError
from phalanx.data import DataLoader, Dataset, IterableDataset, TensorDataset
from phalanx.dist import evaluation
from phalanx.dist.errors import CommunicatorError
from tests.ranks.test_data_parallel import on_ranks

SAMPLES, FEATURES, CLASSES = 53, 12, 4


def arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.standard_normal((SAMPLES, FEATURES)).astype(np.float32), rng.integers(0, CLASSES, SAMPLES)


def net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, CLASSES)
    )


def everything() -> list[Any]:
    return [
        "accuracy", metrics.TopKAccuracy(2), metrics.Precision("macro"), metrics.Recall("micro"), metrics.F1("weighted"),
        metrics.F1(None, name="f1 by class"), metrics.AUC(), metrics.AUC("PR", name="average precision"),
        metrics.ConfusionMatrix(), metrics.Perplexity(),
        metrics.MeanOf(lambda p, t: p.pow(2).mean(dim=1), "energy"),
    ]  # fmt: skip


def bits(results: dict[str, Any]) -> list[tuple[str, bytes]]:
    return [(name, np.asarray(value).tobytes()) for name, value in results.items()]


def measured(batch_size: int = 3) -> tuple[Any, ...]:
    """Results, and the bits of predictions, of a model that is in training mode and wrapped."""
    model = phalanx.DataParallel(net())
    model.module[1].eval()  # a layer that somebody froze
    x, y = arrays()
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    results = phalanx.evaluate(model, loader, everything(), loss=nn.CrossEntropyLoss(), batch_size=batch_size)
    values = phalanx.evaluate(model, (x, np.eye(CLASSES)[y]), ["mae", "mse", "rmse", "r2"], batch_size=batch_size)
    assert model.training and model.module[3].training and not model.module[1].training
    predicted = phalanx.predict(model, (x, y), batch_size=batch_size)
    assert predicted.shape == (SAMPLES, CLASSES) and model.module[1].running_mean.array.max() == 0
    return results, bits(results) + bits(values), predicted.tobytes()


@pytest.mark.parametrize("shards", [None, 4])
def test_equal_bits_on_any_number_of_ranks(shards: int | None) -> None:
    results, found, predicted = on_ranks(1, shards, measured)[0]
    x, y = arrays()
    whole = on_ranks(1, None, lambda: net().eval()(phalanx.tensor(x)).detach())[0]
    assert results["loss"] == pytest.approx(nn.functional.cross_entropy(whole, phalanx.tensor(y)).item(), rel=1e-6)
    assert results["accuracy"] == (whole.numpy().argmax(axis=1) == y).mean()
    assert results["confusion_matrix"].sum() == SAMPLES
    np.testing.assert_allclose(np.frombuffer(predicted, np.float32).reshape(SAMPLES, CLASSES), whole.numpy(), atol=1e-6)
    for size in (2, 3, 4):
        for _, other, rows in on_ranks(size, shards, measured):
            assert other == found
            assert rows == predicted


def test_more_ranks_than_chunks() -> None:
    (_, found, predicted), *_ = on_ranks(1, None, lambda: measured(50))
    for _, other, rows in on_ranks(4, None, lambda: measured(50)):
        assert (other, rows) == (found, predicted)


def test_sums_in_the_order_of_ranks_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: with a sum that is no tree over chunk numbers, bits differ."""
    (_, found, _), *_ = on_ranks(1, None, measured)
    monkeypatch.setattr(evaluation, "fold", lambda node, partials, join: functools.reduce(join, partials.values()))
    (_, other, _), *_ = on_ranks(3, None, measured)
    assert [name for name, _ in other] == [name for name, _ in found]
    assert other != found


class Pair(nn.Module):
    """Two inputs, several outputs in a form of their own, and noise of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, 3)

    def forward(self, a: Any, b: Any) -> Any:
        assert not phalanx.is_grad_enabled() and not self.training
        out = self.linear(a + b)
        return {"sum": out, "parts": (out > 0, None, [phalanx.randn(len(a), 2)])}


def test_forms_of_outputs() -> None:
    x, y = arrays()

    def main() -> Any:
        return phalanx.predict(Pair(), ((x, phalanx.tensor(x)), y), batch_size=10)

    alone = on_ranks(1, None, main)[0]
    assert alone["sum"].shape == (SAMPLES, 3)
    flags, nothing, (noise,) = alone["parts"]
    assert flags.dtype == bool and nothing is None and noise.shape == (SAMPLES, 2)
    assert len(np.unique(noise)) == noise.size  # each chunk draws its own
    for found in on_ranks(3, None, main):
        np.testing.assert_array_equal(found["sum"], alone["sum"])
        np.testing.assert_array_equal(found["parts"][0], flags)
        np.testing.assert_array_equal(found["parts"][2][0], noise)


def test_by_keyword_and_without_targets() -> None:
    x, _ = arrays()

    class Named(nn.Module):
        def forward(self, *, first: Any, second: Any) -> Any:
            return first - second

    for data in ({"first": x, "second": x}, ({"first": x, "second": x},)):
        assert not phalanx.predict(Named(), data).any()
    assert phalanx.predict(nn.Identity(), x).tobytes() == x.tobytes()
    assert phalanx.predict(nn.Identity(), TensorDataset(x)).tobytes() == x.tobytes()


def test_weights_of_samples() -> None:
    x, y = arrays()
    w = np.random.default_rng(1).integers(0, 3, SAMPLES).astype(np.float32)
    model = net()
    twice = np.repeat(np.arange(SAMPLES), w.astype(int))
    weighted = phalanx.evaluate(model, (x, y, w), ["accuracy", "auc", metrics.F1("macro")], batch_size=8)
    repeated = phalanx.evaluate(model, (x[twice], y[twice]), ["accuracy", "auc", metrics.F1("macro")], batch_size=8)
    assert weighted == pytest.approx(repeated, rel=1e-12)


class Keyed(Dataset):
    """Samples that are fetched one by one, with a random part, by threads of the loader."""

    keyed = True

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        x, y = arrays()
        return x[index] + np.float32(sample_random().random()), y[index]


class Stream(IterableDataset):
    keyed = True

    def __init__(self, samples: int = SAMPLES) -> None:
        self.samples = samples

    def __iter__(self) -> Any:
        x, y = arrays()
        return iter([(x[i], y[i]) for i in range(self.samples)])


SOURCES: dict[str, Any] = {
    "a data set": Keyed,
    "a loader with threads": lambda: DataLoader(Keyed(), batch_size=3, num_workers=2, shuffle=True),
    "a stream": Stream,
    "a loader of a stream": lambda: DataLoader(Stream(), batch_size=3),
}


@pytest.mark.parametrize("source", SOURCES)
def test_equal_bits_from_any_source(source: str) -> None:
    def main() -> Any:
        model, data = net(), SOURCES[source]()
        results = phalanx.evaluate(model, data, ["accuracy", metrics.AUC(), metrics.Perplexity()], batch_size=3)
        return bits(results), phalanx.predict(model, data, batch_size=3).tobytes()

    alone = on_ranks(1, None, main)[0]
    if "stream" in source:
        x, y = arrays()
        known = on_ranks(1, None, lambda: phalanx.predict(net(), (x, y), batch_size=3))[0]
        assert known.tobytes() == alone[1]
    for found in on_ranks(3, None, main):
        assert found == alone


def test_streams_that_end_elsewhere_on_another_rank() -> None:
    def main() -> Any:
        with pytest.raises(DataError, match=r"do not see the same data: \[53, 52, 53\] samples on ranks 0 to 2"):
            phalanx.evaluate(net(), Stream(SAMPLES - (phalanx.rank() == 1)), "accuracy", batch_size=3)
        with pytest.raises(DataError, match="do not see the same data"):
            phalanx.predict(net(), Stream(SAMPLES - (phalanx.rank() == 1)))
        with pytest.raises(DataError, match="is empty"):
            phalanx.predict(net(), Stream(0))

    on_ranks(3, None, main)


class Broken(Dataset):
    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        if index == 30:
            raise OSError("a sector cannot be read")
        return np.zeros(FEATURES, np.float32), 0


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_an_error_on_one_rank_reaches_all_and_the_job_goes_on(verb: str) -> None:
    def main() -> Any:
        model = net()
        with pytest.raises((DataError, CommunicatorError)) as caught:
            if verb == "evaluate":
                phalanx.evaluate(model, Broken(), "accuracy", batch_size=8)
            else:
                phalanx.predict(model, Broken(), batch_size=8)
        assert model.training
        phalanx.evaluate(model, arrays(), "accuracy")
        return type(caught.value), str(caught.value), getattr(caught.value, "from_peer", False)

    first, second, third = on_ranks(3, None, main)
    assert second[0] is DataError and "sample 30 of Broken" in second[1]
    for kind, words, from_peer in (first, third):
        assert kind is CommunicatorError and from_peer
        assert words.startswith("rank 1 of 3 failed in this evaluation: DataError: sample 30 of Broken")


class Counter:
    """A metric of somebody else: nothing but the methods."""

    name = "count"

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.count = 0

    def update(self, prediction: Any, target: Any, weight: Any = None) -> None:
        self.count += len(prediction)

    def state(self) -> dict[str, np.ndarray]:
        return {"count": np.array(self.count)}

    def merge(self, state: dict[str, Any]) -> None:
        self.count += int(state.get("count", 0))

    def compute(self) -> float:
        return float(self.count)


def test_a_metric_is_whoever_has_its_methods() -> None:
    assert (
        on_ranks(3, None, lambda: phalanx.evaluate(net(), arrays(), Counter(), batch_size=3))
        == [{"count": SAMPLES}] * 3
    )


def test_threads_of_numeric_libraries() -> None:
    seen: list[set[int]] = []

    def look(x: Any) -> Any:
        seen.append({pool["num_threads"] for pool in threadpool_info()})
        return x

    with threadpool_limits(2):
        before = {pool["num_threads"] for pool in threadpool_info()}
        phalanx.predict(_Returns(look), arrays()[0])
        phalanx.predict(_Returns(look), arrays()[0], threads=None)
        assert {pool["num_threads"] for pool in threadpool_info()} == before
    assert seen == [{1}, before]


def test_refusals() -> None:
    x, y = arrays()
    model = net()
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: phalanx.evaluate(model, (x, y)), RangeError, "nothing to measure"),
        (lambda: phalanx.evaluate(model, (x, y), "accuray"), RangeError, "'accuray' is no metric; known: acc, accuracy"),
        (lambda: phalanx.evaluate(model, (x, y), ["acc", metrics.Mean("acc")]), RangeError, "two metrics are called 'acc'"),
        (lambda: phalanx.evaluate(model, (x, y[:-1]), "acc"), ShapeError, r"equally many samples .* got \[52, 53\]"),
        (lambda: phalanx.evaluate(model, (x[:0], y[:0]), "acc"), DataError, "no sample"),
        (lambda: phalanx.evaluate(model, (x, y), "acc", batch_size=0), RangeError, "batch_size must be an integer"),
        (lambda: phalanx.evaluate(model, x, "acc"), ShapeError, "accuracy|acc: update.* needs a target"),
        (lambda: phalanx.evaluate(model, (x, y + 1), "acc"), RangeError, r"acc: labels must be in \[0, 4\), got 4"),
        (lambda: phalanx.evaluate(model, (x, y), loss=nn.CrossEntropyLoss(reduction="none")), ShapeError, "one number"),
        (lambda: phalanx.evaluate(lambda x: x, (x, y), "acc"), TypeError, "expected a Module"),
        (lambda: phalanx.evaluate(model, 5, "acc"), DataError, "__len__"),
        (lambda: phalanx.predict(_Returns(lambda x: x.sum()), x), ShapeError, "one row for each sample"),
        (lambda: phalanx.predict(_Returns(lambda x: 1), x), TypeError, "must return Tensors"),
        (lambda: phalanx.predict(_Returns(lambda x: x[:, : len(x)]), x[:, :8], batch_size=7), ShapeError, "differ between chunks"),
    ]  # fmt: skip
    for call, kind, words in cases:
        with pytest.raises(kind, match=words):
            call()


class _Returns(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def test_progress_and_random_numbers_are_left_alone() -> None:
    x, _ = arrays()
    phalanx.manual_seed(3)
    before = phalanx.randn(2).tolist()
    phalanx.manual_seed(3)
    seen: list[int] = []

    def watch(numbers: Any) -> Any:
        for number in numbers:
            seen.append(number)
            yield number

    phalanx.predict(_Returns(lambda x: x + phalanx.randn(len(x), 1)), x, batch_size=20, progress=watch)
    assert seen == [0, 1, 2]
    assert phalanx.randn(2).tolist() == before
