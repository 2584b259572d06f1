"""DataParallel(compression=...): equal bits on any number of ranks, overlap, refusals, checkpoints, and what it says."""

from __future__ import annotations

import copy
import functools
import warnings

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.compression import Half, Int8, OneBit, PowerSGD, TopK
from phalanx.core.errors import DTypeError, NonFiniteError, RangeError
from phalanx.core.hashing import hash_array
from phalanx.data import DataLoader, TensorDataset
from phalanx.dist.errors import MismatchError
from tests.ranks.zero_runs import on_ranks

pytestmark = pytest.mark.filterwarnings("ignore:.*shards? used these parameters")
SCHEMES = [Int8(256), OneBit(64), TopK(0.05), PowerSGD(2), Half(), Half("bfloat16")]


def quick(*default, of=SCHEMES):
    """The cases of every run; the others are whole."""
    return [case if case in default else pytest.param(case, marks=pytest.mark.whole) for case in of]


NAMES = ["topk", "powersgd", "1bit", "int8"]
SAMPLES, FEATURES, CLASSES = 53, 12, 4


class Net(nn.Module):
    """Batch norm, dropout, a parameter over the chunk grid, one that no shard uses, and one that only some do."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(FEATURES, 140), nn.BatchNorm1d(140)
        self.wide, self.never, self.sometimes = nn.Linear(140, 140), nn.Linear(3, 3), nn.Linear(140, CLASSES)
        self.drop, self.last = nn.Dropout(0.2), nn.Linear(140, CLASSES)

    def forward(self, x):
        h = self.drop(phalanx.relu(self.wide(phalanx.relu(self.norm(self.first(x))))))
        return self.last(h) + self.sometimes(h) if float(x.array[0, 0]) > 0 else self.last(h)


def data():
    random = np.random.default_rng(3)
    x = random.standard_normal((SAMPLES, FEATURES)).astype(np.float32)
    return TensorDataset(phalanx.tensor(x), phalanx.tensor(random.integers(0, CLASSES, SAMPLES)))


def digest(model):
    return [(name, hash_array(tensor.array)) for name, tensor in model.state_dict().items()] + [model.step_loss]


def train(scheme, *, passes=lambda step: 1, change=False, steps=9, folder=None, **options):
    """Batches of 12 and a last one of 5: with 8 shards some have no samples. Returns the bits and how much overlapped."""
    options.setdefault("bucket_bytes", 40_000)
    model = phalanx.DataParallel(Net(), compression=scheme, **options)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    loader = DataLoader(data(), batch_size=12, shuffle=True)
    checkpoint = phalanx.Checkpointer(folder, model=model, optimizer=optimizer, loader=loader, every=4, keep=None)
    checkpoint.resume("auto" if folder else "none")
    overlapped = 0
    while loader.step < steps:
        for step in loader.steps():
            if change and step.index == 4:
                model.module.last = nn.Linear(140, CLASSES)
                optimizer.add_param_group({"params": model.module.last.parameters()})
            optimizer.zero_grad()
            for x, y in step:
                count = passes(step.index)
                for _ in range(count):
                    (nn.functional.cross_entropy(model(x), y) / count).backward()
                overlapped += model.reducer.fold.in_flight
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            checkpoint.after_step()
            if loader.step == steps:
                break
    return digest(model), overlapped


@functools.cache
def alone(scheme, shards, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ((bits, _),) = on_ranks(1, shards, lambda: train(scheme, **options))
    return bits


@pytest.mark.parametrize("scheme", quick(*SCHEMES[:4]), ids=str)
def test_equal_bits(scheme):
    expected = alone(scheme, 8)
    for size in (2, 3, 5):
        for got, overlapped in on_ranks(size, 8, lambda: train(scheme)):
            assert got == expected, f"{size} ranks"
            assert overlapped > 0 or size > 3
    assert alone(scheme, 3) != expected, "the number of shards counts"
    assert alone(None, 8) != expected, "and the compression"


@pytest.mark.parametrize("scheme", [Int8(256), TopK(0.05), PowerSGD(2)], ids=str)
def test_overlap_and_bucket_size_change_nothing(scheme):
    expected = alone(scheme, 3)
    assert on_ranks(2, 3, lambda: train(scheme, overlap=False)) == [(expected, 0)] * 2
    assert on_ranks(2, 3, lambda: train(scheme, bucket_bytes=1 << 22)[0]) == [expected] * 2
    assert on_ranks(2, 3, lambda: train(scheme, shard="optimizer")[0]) == [expected] * 2, "ZeRO-1"


@pytest.mark.parametrize("scheme", quick(TopK(0.05), PowerSGD(2), of=SCHEMES[:4]), ids=str)
def test_a_surprising_backward_pass_voids_the_sums(scheme):
    def surprising():
        return train(scheme, passes=lambda step: 2 if step % 4 == 3 else 1)

    ((expected, _),) = on_ranks(1, 3, surprising)
    for got, overlapped in on_ranks(2, 3, surprising):
        assert got == expected and overlapped > 0


@pytest.mark.parametrize("scheme", [TopK(0.05), PowerSGD(2)], ids=str)
def test_residuals_follow_a_structural_change(scheme):
    expected = alone(scheme, 4, change=True)
    for size in (3, 5):
        assert on_ranks(size, 4, lambda: train(scheme, change=True)[0]) == [expected] * size
    assert expected != alone(scheme, 4)


@pytest.mark.parametrize("scheme", quick("topk", "powersgd", of=NAMES))
def test_resumed_on_another_number_of_ranks_equals_uninterrupted(scheme, tmp_path):
    """Nine steps, saved after 4 and 8; again from step 4 on, on other numbers of ranks: same weights, same files."""
    expected = on_ranks(2, 3, lambda: train(scheme, folder=tmp_path / "whole"))[0][0]
    saved = files(tmp_path / "whole")
    names = {name for name in saved if "compression" in name}
    assert len(names) == 2
    for size in (1, 3, 5):
        folder = tmp_path / str(size)
        on_ranks(2, 3, lambda to=folder: train(scheme, folder=to, steps=4))
        for got, _ in on_ranks(size, 3, lambda to=folder: train(scheme, folder=to)):
            assert got == expected, f"{size} ranks"
        assert files(folder) == saved


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.parametrize("scheme", quick("topk", "powersgd", of=NAMES))
def test_lost_residuals_would_be_noticed(scheme, tmp_path, monkeypatch):
    """Negative control of the test above: without the saved residuals the bits differ."""
    monkeypatch.setattr("phalanx.dist.extra_state.arrays", lambda models: {})
    expected = on_ranks(2, 3, lambda: train(scheme, steps=9))[0][0]
    on_ranks(2, 3, lambda: train(scheme, folder=tmp_path, steps=4))
    assert on_ranks(2, 3, lambda: train(scheme, folder=tmp_path))[0][0] != expected


@pytest.mark.parametrize("scheme", quick(TopK(0.05), PowerSGD(2), of=SCHEMES[1:4]), ids=str)
def test_fast_mode_deals_residuals_out_to_other_ranks(scheme, tmp_path, capfd):
    """Three ranks' residuals become two: their sum stays what it was, and one line says so."""
    sums = {}

    def main(steps):
        model = phalanx.DataParallel(Net(), compression=scheme)
        optimizer = optim.SGD(model.parameters(), lr=0.01)
        loader = DataLoader(data(), batch_size=12)
        checkpoint = phalanx.Checkpointer(tmp_path, model=model, optimizer=optimizer, loader=loader)
        checkpoint.resume("auto")
        exchange = model.reducer.compressed.compressor.exchange
        if not steps:
            own = exchange.setting.owned[0]
            return exchange.residuals.committed(own).astype(np.float64), sums_of(exchange), exchange.step
        for step in loader.steps():
            optimizer.zero_grad()
            for x, y in step:
                nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            if loader.step == steps:
                break
        checkpoint.save()
        own = exchange.setting.owned[0]
        sums[phalanx.rank()] = sums_of(exchange)
        return exchange.residuals.committed(own).astype(np.float64)

    def sums_of(exchange):
        whole = np.zeros(exchange.setting.length, np.float32)
        for field, first, stop in exchange.sums_kept(exchange.setting.rank):
            part = slice(field.lo + first, field.lo + stop)
            whole[part] = exchange.residuals.committed(-1)[part]
        return whole

    before = on_ranks(3, None, lambda: main(3))
    after = on_ranks(2, None, lambda: main(0))
    assert np.abs(sum(before)).max() > 0.01
    np.testing.assert_allclose(sum(row for row, _, _ in after), sum(before), atol=1e-5)
    assert (after[0][0] == after[1][0]).all()
    assert (sum(row for _, row, _ in after) == sum(sums.values())).all()
    assert [step for _, _, step in after] == [3, 3]
    assert capfd.readouterr().err.count("were saved by 3 shards: their sum is dealt out evenly to 2; bits differ") == 1
    again = on_ranks(3, None, lambda: main(0))
    assert all((a == b).all() for a, (b, _, _) in zip(before, again, strict=True)), "the same number: exactly"


def test_without_compression_residuals_stay_on_disk(tmp_path, capfd):
    on_ranks(2, 3, lambda: train("topk", folder=tmp_path, steps=4))
    on_ranks(2, 3, lambda: train(None, folder=tmp_path, steps=5))
    assert capfd.readouterr().err.count("holds residuals of compression, which this run does not use") == 1
    on_ranks(2, 3, lambda: train("powersgd", folder=tmp_path, steps=6))


def test_price_is_said_once(capfd):
    on_ranks(2, 8, lambda: train("int8", steps=3))
    lines = [line for line in capfd.readouterr().err.splitlines() if "compression" in line]
    assert len(lines) == 1
    assert "Int8(block=1024): " in lines[0] and "bytes a step from each rank instead of" in lines[0]
    assert "4 encoded leaves travel one by one" in lines[0]


def test_alone_without_shards_it_does_nothing(capfd):
    ((bits, _),) = on_ranks(1, None, lambda: train("1bit", steps=3))
    assert capfd.readouterr().err.count("compression does nothing") == 1
    assert bits == on_ranks(1, None, lambda: train(None, steps=3))[0][0]


def test_fast_mode_replicas_stay_equal():
    for scheme in SCHEMES[:4]:
        rows = on_ranks(3, None, lambda s=scheme: train(s, steps=5)[0])
        assert rows[0] == rows[1] == rows[2]


@pytest.mark.parametrize("scheme", SCHEMES[:4], ids=str)
def test_memory_as_on_paper(scheme):
    def main():
        model = phalanx.DataParallel(Net(), compression=scheme)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for step in DataLoader(data(), batch_size=24).steps():
            for x, y in step:
                nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        assert "compression" in model.memory_report()
        return model.reducer.compressed.memory()

    for formula, paper, measured in on_ranks(2, 6, main):
        assert formula.startswith("L + ") and measured == pytest.approx(paper, rel=0.05)


def test_a_copy_compresses_too():
    def main():
        model = copy.deepcopy(phalanx.DataParallel(nn.Linear(3, 2), compression="topk"))
        return str(model.reducer.compressed.compressor.scheme)

    assert on_ranks(2, None, main) == ["TopK(ratio=0.01)"] * 2


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:divide by zero")
@pytest.mark.parametrize("scheme", quick(Int8(256), TopK(0.05)), ids=str)
def test_a_gradient_that_is_not_a_number_is_still_found(scheme):
    """Its own loss is finite; the code brings it to all ranks, and the next loss says so."""

    def main():
        model = phalanx.DataParallel(nn.Linear(FEATURES, CLASSES), compression=scheme)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for step in DataLoader(data(), batch_size=24).steps():
            optimizer.zero_grad()
            for x, y in step:
                output = model(x)
                loss = nn.functional.cross_entropy(output, y)
                if step.shard == 1:
                    loss = loss + phalanx.sqrt(phalanx.abs(output) * 0).sum()  # 0, with a slope of infinity times 0
                    loss.weight = len(x)
                loss.backward()
            optimizer.step()

    with pytest.raises(NonFiniteError, match="the loss is nan in step 1"):
        on_ranks(2, 4, main)


def wrap(module=None, **options):
    return lambda: phalanx.DataParallel(nn.Linear(3, 2) if module is None else module(), **options)


def odd_one_out():
    scheme = TopK(0.02) if phalanx.rank() == 1 else TopK(0.01)
    train(scheme, steps=1)


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (wrap(compression="gzip"), RangeError, "'1bit', 'topk', 'powersgd'.*got 'gzip'"),
        (
            wrap(compression="int8", shard="gradients"),
            RangeError,
            'compression and shard="gradients" do not go together',
        ),
        (wrap(lambda: nn.Linear(3, 2).double(), compression="int8"), DTypeError, "float32 on the cpu, got float64"),
        (wrap(lambda: nn.Linear(3, 2).half(), compression="1bit"), DTypeError, "got float16.*compression=None"),
        (odd_one_out, MismatchError, r"TopK\(ratio=0.02\)"),
    ],
)
def test_refusals(body, error, words):
    with pytest.raises(error, match="(?s)" + words):
        on_ranks(2, 4, body)
