"""What a Trainer computes, on ranks that are threads: equal bits, true means, the same as a loop by hand and PyTorch's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import callbacks, nn, optim
from phalanx.data import DataLoader, TensorDataset
from phalanx.dist.communicators.threads import run_threads
from tests.ranks.trainer_runs import (
    CLASSES,
    FEATURES,
    SAMPLES,
    AskForStop,
    data,
    full_fit,
    left_in_order,
    net,
    on_ranks,
    result,
    same,
    trainer,
)  # fmt: skip


@pytest.fixture(autouse=True)
def in_order() -> Iterator[None]:
    with left_in_order():
        yield


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return same(on_ranks(1, lambda: result(full_fit())))


@pytest.mark.parametrize("size", [3, *(pytest.param(n, marks=pytest.mark.whole) for n in (2, 4, 5))])
def test_any_number_of_ranks_gives_the_same_bits(size: int, alone: dict[str, Any]) -> None:
    assert same(on_ranks(size, lambda: result(full_fit()))) == alone
    assert list(alone["history"]) == ["loss", "accuracy", "val_loss", "val_accuracy", "lr"]


BATCH = 21
"""Leaves two samples for the last batch: fewer than shards."""


def by_hand() -> dict[str, Any]:
    """The loop that a Trainer stands for."""
    train, _ = data()
    model = phalanx.DataParallel(net())
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    loader = DataLoader(train, batch_size=BATCH, shuffle=True)
    right, losses = [], []
    for _ in range(2):
        hits = total = 0.0
        model.train()
        for step in loader.steps():
            optimizer.zero_grad()
            for x, y in step:
                output = model(x)
                loss = nn.CrossEntropyLoss()(output, y)
                loss.backward()
                hits += int((output.argmax(1) == y).sum())
                total += loss.item() * len(y)
            optimizer.step()
        right.append(phalanx.sum_over_ranks(hits) / SAMPLES)
        losses.append(phalanx.sum_over_ranks(total) / SAMPLES)
    return {"weights": [t.numpy().tobytes() for t in model.state_dict().values()], "accuracy": right, "loss": losses}


@pytest.mark.parametrize(("size", "shards"), [(1, None), (3, None), (2, 3)])
def test_a_fit_is_the_loop_by_hand(size: int, shards: int | None) -> None:
    def fitted() -> dict[str, Any]:
        of = trainer()
        history = of.fit(data()[0], epochs=2, batch_size=BATCH, verbose=0).history
        weights = [t.numpy().tobytes() for t in of.model.state_dict().values()]
        return {"weights": weights, "accuracy": history["accuracy"], "loss": history["loss"]}

    expected, found = (same(on_ranks(size, f, shards=shards)) for f in (by_hand, fitted))
    assert found["weights"] == expected["weights"] and found["accuracy"] == expected["accuracy"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-12)


def fit_once(train: Any, loss: Any = None, model: Any = None, **options: Any) -> tuple[np.ndarray, float]:
    """Weights and loss after one epoch of a linear model."""
    model = nn.Linear(FEATURES, CLASSES) if model is None else model
    of = phalanx.Trainer(model, lambda p: optim.SGD(p, lr=0.5), loss or nn.CrossEntropyLoss())
    history = of.fit(train, verbose=0, shuffle=False, **{"batch_size": 40} | options)
    return model.weight.detach().numpy().copy(), history.history["loss"][0]


def close(one: tuple[np.ndarray, float], other: tuple[np.ndarray, float]) -> bool:
    return np.allclose(one[0], other[0], atol=2e-6) and one[1] == pytest.approx(other[1], rel=1e-5)


def test_micro_batches_make_the_same_update() -> None:
    train, weights = data()[0], np.linspace(0, 2, SAMPLES)

    def pair(**options: Any) -> tuple[Any, Any]:
        runs = []
        for accumulate in (1, 3):
            phalanx.init(shards=2, seed=1)
            runs.append(fit_once(train, accumulate=accumulate, **options))
        return runs[0], runs[1]

    assert close(*pair())
    assert close(*pair(sample_weight=weights))


@pytest.mark.torch
def test_weights_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    (x, y), factors = data()[0].arrays, np.array([1.0, 2.5, 1.0, 0.25], np.float32)
    phalanx.init(seed=1)
    model = nn.Linear(FEATURES, CLASSES)
    peer = torch.nn.Linear(FEATURES, CLASSES)
    with torch.no_grad():
        peer.weight.copy_(torch.from_numpy(model.weight.detach().numpy()))
        peer.bias.copy_(torch.from_numpy(model.bias.detach().numpy()))
    found = {}
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}

    def function(prediction: Any, target: Any, reduction: str = "mean") -> Any:
        return nn.functional.cross_entropy(prediction, target, reduction=reduction)

    class Own(nn.Module):
        reduction = "mean"

        def forward(self, prediction: Any, target: Any) -> Any:
            return function(prediction, target, self.reduction)

    for name, options in (
        ("a loss that is a function", {"class_weight": factors, "loss": function}),
        ("a module of one's own", {"sample_weight": factors[y], "loss": Own()}),
        ("dict", {"class_weight": {1: 2.5, 3: 0.25}}),
        ("in order", {"class_weight": factors}),
        ("by sample", {"sample_weight": factors[y]}),
    ):
        model.load_state_dict(before)
        found[name] = fit_once((x, y), model=model, batch_size=SAMPLES, **options)
    optimizer = torch.optim.SGD(peer.parameters(), lr=0.5)
    loss = torch.nn.CrossEntropyLoss(weight=torch.from_numpy(factors))(peer(torch.from_numpy(x)), torch.from_numpy(y))
    loss.backward()
    optimizer.step()
    for name in found:
        assert close(found[name], (peer.weight.detach().numpy(), loss.item())), name


@pytest.mark.torch
def test_a_fit_is_the_loop_of_torch() -> None:
    """Clipping and a schedule by steps: losses, weights and running statistics of three epochs."""
    torch = pytest.importorskip("torch")
    (x, y), (held_x, held_y) = (part.arrays for part in data())
    phalanx.init(seed=1)
    model = nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES))
    peer = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, CLASSES)
    )
    peer.load_state_dict({name: torch.from_numpy(t.numpy().copy()) for name, t in model.state_dict().items()})
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=19)
    of = phalanx.Trainer(model, optimizer, nn.CrossEntropyLoss(), clip_norm=0.7)
    steps = callbacks.LRScheduler(schedule, every="step")
    history = of.fit((x, y), (held_x, held_y), 3, batch_size=20, shuffle=False, callbacks=[steps], verbose=0).history
    theirs = torch.optim.SGD(peer.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    their_schedule = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.2, total_steps=19)
    criterion = torch.nn.CrossEntropyLoss()
    for epoch in range(3):
        peer.train()
        total = 0.0
        for at in range(0, SAMPLES, 20):
            theirs.zero_grad()
            part = torch.from_numpy(y[at : at + 20])
            loss = criterion(peer(torch.from_numpy(x[at : at + 20])), part)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(peer.parameters(), 0.7)
            theirs.step()
            their_schedule.step()
            total += loss.item() * len(part)
        peer.eval()
        with torch.no_grad():
            val_loss = criterion(peer(torch.from_numpy(held_x)), torch.from_numpy(held_y)).item()
        assert history["loss"][epoch] == pytest.approx(total / SAMPLES, rel=1e-5)
        assert history["val_loss"][epoch] == pytest.approx(val_loss, rel=1e-5)
    for name, tensor in peer.state_dict().items():
        assert np.allclose(model.state_dict()[name].numpy(), tensor.numpy(), atol=1e-5), name


@pytest.mark.parametrize("form", ["arrays", "tensors", "data set", "list", "loader", "nested", "weighted triples"])
def test_forms_of_data(form: str) -> None:
    x, y = data()[0].arrays

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(FEATURES, CLASSES)
            self.weight = self.linear.weight

        def forward(self, a: Any, b: Any = None) -> Any:
            return self.linear(a if b is None else a + b)

    given = {
        "arrays": (x, y), "tensors": (phalanx.tensor(x), phalanx.tensor(y)), "data set": TensorDataset(x, y),
        "list": list(zip(x, y, strict=True)), "loader": DataLoader(TensorDataset(x, y), batch_size=40), "nested": ((x * 0.5, x * 0.5), y),
        "weighted triples": (x, y, np.ones(SAMPLES, np.float32)),
    }  # fmt: skip
    results = []
    for train in (given["arrays"], given[form]):
        phalanx.init(seed=1)
        options = {"batch_size": None} if form == "loader" and train is given[form] else {}
        results.append(fit_once(train, model=Sum(), **options))
    assert close(*results)
    of = phalanx.Trainer(Sum(), loss=nn.CrossEntropyLoss(), metrics="accuracy")
    assert list(of.evaluate(given[form])) == ["loss", "accuracy"]
    assert of.predict(given[form]).shape == (SAMPLES, CLASSES)


def test_a_stream_with_epochs_of_so_many_steps(tmp_path: Path) -> None:
    x, y = data()[0].arrays
    (tmp_path / "lines").write_text(
        "".join(f"{label} {' '.join(map(str, row))}\n" for row, label in zip(x, y, strict=True))
    )

    def parse(line: str) -> tuple[np.ndarray, int]:
        label, *numbers = line.split()
        return np.array(numbers, np.float32), int(label)

    def main() -> Any:
        stream = phalanx.data.StreamingDataset([tmp_path / "lines"], parse=parse)
        of = trainer()
        of.fit(stream, epochs=4, batch_size=20, steps_per_epoch=4, checkpoint_dir=tmp_path / "run", verbose=0)
        return result(of)

    found = same(on_ranks(2, main))
    assert found["step"] == 16 and found["epochs"] == [0, 1, 2, 3]
    (tmp_path / "run").rename(tmp_path / "first")
    assert same(on_ranks(1, main)) == found
    of = trainer()
    stream = phalanx.data.StreamingDataset([tmp_path / "lines"], parse=parse)
    of.fit(stream, epochs=1, batch_size=20, verbose=0)
    assert of.step == 6


def test_inputs_by_name_and_the_norm_of_the_gradient() -> None:
    x, y = data()[0].arrays

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(FEATURES, CLASSES)

        def forward(self, *, left: Any, right: Any) -> Any:
            return self.linear(left + right)

    norms: list[float] = []
    see = callbacks.LambdaCallback(on_step_end=lambda step, logs: norms.append(logs["gradient_norm"]))
    model = Named()
    of = phalanx.Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), clip_norm=1e-3)
    of.fit(({"left": x, "right": x}, y), batch_size=40, callbacks=[see], verbose=0)
    assert len(norms) == 3 and min(norms) > 1e-3
    of.fit(({"left": x, "right": x * np.nan}, y), callbacks=[callbacks.TerminateOnNaN()], verbose=0)
    assert of.stopped is not None and of.stopped.endswith("is in input")


def test_validation_split_holds_out_the_last() -> None:
    x, y = data()[0].arrays
    of = trainer()
    of.fit((x, y), validation_split=0.2, verbose=0)
    assert of.history.history["val_loss"] == [of.evaluate((x[85:], y[85:]))["loss"]]


def test_steps_per_epoch_and_a_second_fit() -> None:
    of = trainer()
    of.model.eval()  # as somebody's evaluation may have left it
    seen: list[tuple[int, int]] = []
    told = callbacks.LambdaCallback(on_step_end=lambda step, logs: seen.append((step, of.epoch)))
    of.fit(data()[0], epochs=3, batch_size=20, steps_per_epoch=4, callbacks=[told], verbose=0)
    assert seen == [(step, step // 4) for step in range(12)]
    of.fit(data()[0], epochs=1, batch_size=20, callbacks=[told], verbose=0)
    assert seen[12:] == [(step, 0) for step in range(12, 18)]
    assert of.history.epoch == [0]
    assert of.model.training and of.module[1].num_batches_tracked.item() == 18


WAYS: dict[str, dict[str, Any]] = {
    "ZeRO-1": {"shard": "optimizer"}, "ZeRO-2": {"shard": "gradients"}, "no overlap": {"overlap": False},
    "together": {"together": True},
}  # fmt: skip


@pytest.mark.parametrize(
    "way", [pytest.param(w, marks=pytest.mark.whole if w in ("ZeRO-1", "no overlap") else ()) for w in WAYS]
)
def test_options_of_data_parallel_change_no_bit(way: str, tmp_path: Path) -> None:
    def main(options: dict[str, Any], folder: Path, epochs: int = 3) -> dict[str, Any]:
        of = trainer(clip_norm=0.5, **options)
        chosen = [callbacks.EMA(0.7), callbacks.EarlyStopping(patience=9, restore_best_weights=True)]
        of.fit(*data(), epochs, batch_size=20, callbacks=chosen, checkpoint_dir=folder, accumulate=2, verbose=0)
        return result(of)

    plain = same(on_ranks(1, lambda: main({}, tmp_path / "plain")))
    assert same(on_ranks(2, lambda: main(WAYS[way], tmp_path / "way", 2)))["step"] == 12
    assert same(on_ranks(3, lambda: main(WAYS[way], tmp_path / "way"))) == plain


def test_residuals_of_compression_go_on(tmp_path: Path) -> None:
    def main(folder: Path, *more: callbacks.Callback) -> dict[str, Any]:
        of = trainer(compression="int8")
        of.fit(*data(), 2, batch_size=20, checkpoint_dir=folder, callbacks=more, verbose=0)
        return result(of)

    whole = same(on_ranks(1, lambda: main(tmp_path / "whole")))
    assert on_ranks(2, lambda: main(tmp_path / "cut", AskForStop(8))) == ["exit 0"] * 2
    assert same(on_ranks(3, lambda: main(tmp_path / "cut"))) == whole


def test_layers_that_need_the_whole_batch() -> None:
    def main() -> dict[str, Any]:
        model = nn.Sequential(nn.Linear(FEATURES, 8), nn.SyncBatchNorm(8), nn.ReLU(), nn.Linear(8, CLASSES))
        of = phalanx.Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), ["accuracy"])
        of.fit(*data(), 2, batch_size=20, verbose=0)
        return result(of)

    assert same(on_ranks(1, main)) == same(on_ranks(3, main))


def test_validation_now_and_then_and_epochs_from_a_number_on() -> None:
    of = trainer()
    stopping = callbacks.EarlyStopping("val_loss", patience=2, mode="max")
    best = callbacks.ReduceLROnPlateau("val_loss", patience=9)
    of.fit(*data(), 9, batch_size=20, validation_every=2, initial_epoch=3, callbacks=[stopping, best], verbose=0)
    assert of.history.epoch == [3, 4, 5, 6, 7] and len(of.history.history["val_loss"]) == 3  # after 3, 5, 7
    assert stopping.best_epoch == 3 and stopping.wait == 2
    of.fit(*data(), 3, batch_size=20, validation_every=2, verbose=0)
    assert len(of.history.history["val_loss"]) == 2, "the last epoch has one in any case"


def test_penalties_are_part_of_the_loss() -> None:
    """On any number of shards once: an L2 penalty of half lambda is a weight decay of lambda."""

    def fitted(decay: float, penalty: float) -> tuple[bytes, dict[str, Any]]:
        phalanx.manual_seed(1)
        model = nn.Linear(FEATURES, CLASSES)
        if penalty:
            model.register_penalty("weight", nn.L2(penalty))
        groups = [{"params": [model.weight], "weight_decay": decay}, {"params": [model.bias]}]
        of = phalanx.Trainer(model, optim.SGD(groups, lr=0.1), nn.CrossEntropyLoss())
        of.fit(*data(), accumulate=2, verbose=0)
        return model.weight.detach().numpy().copy(), of.history.history

    plain, (weights, history) = on_ranks(1, lambda: (fitted(0.2, 0.0), fitted(0.0, 0.1)))[0]
    assert np.allclose(weights, plain[0], atol=1e-6)
    norm = 0.1 * float((weights.astype(np.float64) ** 2).sum())
    assert history["val_loss"][0] == pytest.approx(plain[1]["val_loss"][0] + norm, rel=1e-5)
    assert history["loss"][0] > plain[1]["loss"][0]


class AutoEncoder(phalanx.Trainer):
    """No targets, a model of two outputs, a loss of both and of the input."""

    def compute_loss(self, x: Any, y: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        output, code = self.model(x)
        return nn.functional.mse_loss(output, x) + 0.1 * (code * code).mean(), output


class Narrow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.rest = nn.Linear(FEATURES, 5), nn.Linear(5, FEATURES), nn.Dropout(0.5)

    def forward(self, x: Any) -> tuple[Any, Any]:
        code = self.down(x)
        return self.up(self.rest(code)), code


@pytest.mark.filterwarnings("ignore:this loss does not say")
def test_a_loss_of_ones_own() -> None:
    """... is what is trained and validated; metrics see the prediction that comes with it."""

    def main() -> tuple[Any, ...]:
        x, held_out = (part.arrays[0] for part in data())
        zero = phalanx.metrics.MeanOf(lambda prediction, target: (prediction * 0).sum(1), "zero")
        model = Narrow()
        of = AutoEncoder(model, optim.Adam(model.parameters(), lr=0.01), metrics=[zero])
        of.fit(x, held_out, 2, batch_size=20, verbose=0)
        output, code = of.predict(held_out)
        expected = ((output - held_out) ** 2).mean() + 0.1 * (code**2).mean()
        assert of.history.history["val_loss"][-1] == pytest.approx(float(expected), rel=1e-5)
        assert of.evaluate(held_out) == {"loss": of.history.history["val_loss"][-1], "zero": 0.0}
        return (result(of),)

    assert same(on_ranks(1, main)) == same(on_ranks(3, main))


def test_an_average_is_evaluated_and_training_goes_on_without_it(tmp_path: Path) -> None:
    def main(epochs: int = 3, keep: bool = False, folder: Path | None = None) -> tuple[Any, ...]:
        of = trainer()
        average = callbacks.EMA(0.8, keep=keep)
        of.fit(*data(), epochs, batch_size=20, callbacks=[average], checkpoint_dir=folder, verbose=0)
        assert of.evaluate(data()[1])["loss"] == of.history.history["val_loss"][-1]
        output = phalanx.tensor(of.predict(data()[1]))
        right = int((output.argmax(1) == phalanx.tensor(data()[1].arrays[1])).sum())
        assert right / len(output) == of.history.history["val_accuracy"][-1]
        return result(of), {name: array.tobytes() for name, array in average.average.averages().items()}

    plain = same(on_ranks(1, lambda: (of := trainer(), of.fit(*data(), 3, batch_size=20, verbose=0), result(of))[-1]))
    averaged, averages = same(on_ranks(2, main))
    assert averaged["weights"] == plain["weights"] and averaged["history"]["loss"] == plain["history"]["loss"]
    assert averaged["history"]["val_loss"] != plain["history"]["val_loss"]
    assert same(on_ranks(3, lambda: main(2, folder=tmp_path)))[0]["step"] == 12
    assert same(on_ranks(1, lambda: main(3, folder=tmp_path))) == (averaged, averages)
    kept = same(on_ranks(1, lambda: main(keep=True)))
    assert kept[0]["weights"] != plain["weights"] and kept[0]["history"] == averaged["history"]


def test_the_best_weights_are_those_that_were_evaluated(tmp_path: Path) -> None:
    def main() -> Any:
        of = trainer()
        chosen = [
            callbacks.EMA(0.9),
            callbacks.EarlyStopping(restore_best_weights=True, patience=9),
            callbacks.ModelCheckpoint(tmp_path / "best", save_best_only=True),
        ]
        history = of.fit(*data(), 3, batch_size=20, callbacks=chosen, verbose=0).history
        bare = phalanx.evaluate(of.module, data()[1], loss=nn.CrossEntropyLoss())["loss"]
        of.module.load_state_dict(phalanx.load(tmp_path / "best"))
        written = phalanx.evaluate(of.module, data()[1], loss=nn.CrossEntropyLoss())["loss"]
        assert bare == written == min(history["val_loss"])
        return result(of)

    assert same(on_ranks(1, main)) == same(on_ranks(2, main))


def test_a_trainer_finds_the_ranks_and_keeps_the_seed() -> None:
    def main() -> tuple[int, int, int]:
        phalanx.manual_seed(7)
        of = trainer()
        of.fit(data()[0], batch_size=20, verbose=0)
        try:
            return of.group.size, of.group.seed, phalanx.initial_seed()
        finally:
            phalanx.shutdown()

    assert run_threads(main, 2, timeout_s=20.0) == [(2, 7, 7)] * 2
