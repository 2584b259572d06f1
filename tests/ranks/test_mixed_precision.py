"""Mixed precision under shards: bits do not depend on the number of ranks, on ZeRO, on replays or on a resume; nor do overflows."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.amp import GradScaler
from phalanx.data import DataLoader, TensorDataset
from phalanx.dist.communicators.threads import run_threads
from phalanx.dist.group import current
from tests.ranks.zero_runs import digest, on_ranks

SAMPLES, CLASSES, SHARDS = 45, 5, 4
pytestmark = pytest.mark.filterwarnings(
    "ignore:overflow", "ignore:invalid value", "ignore:capture. the step stays eager"
)


class Net(nn.Module):
    """Convolution, batch and layer norm, dropout, attention, and a weight that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.mix, self.rows = nn.MultiheadAttention(16, 2, batch_first=True), nn.LayerNorm(16)
        self.wide, self.twin = nn.Linear(128, 128), nn.Linear(128, 128)
        self.twin.weight = self.wide.weight
        self.drop, self.last = nn.Dropout(0.2), nn.Linear(128, CLASSES)

    def forward(self, x: Any) -> Any:
        h = phalanx.relu(self.norm(self.conv(x))).reshape(len(x), 8, 16)
        h = self.rows(h + self.mix(h, h, h)[0]).flatten(1)
        return self.last(self.drop(phalanx.relu(self.twin(phalanx.relu(self.wide(h))))))


def data() -> TensorDataset:
    numbers = np.random.default_rng(3)
    x = numbers.standard_normal((SAMPLES, 1, 4, 4)).astype(np.float32)
    return TensorDataset(phalanx.tensor(x), phalanx.tensor(numbers.integers(0, CLASSES, SAMPLES)))


def train(
    dtype: str,
    *,
    steps: int = 9,
    capture: bool = False,
    folder: Path | None = None,
    until: int | None = None,
    **options: Any,
) -> Any:
    """Digest, losses and scales; float16 begins with a scale that overflows. With ``folder`` it saves at ``until`` and goes on from there."""
    model = phalanx.DataParallel(Net(), bucket_bytes=16384, **options)
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    scaler = GradScaler("cpu", init_scale=2.0**22, growth_interval=2, enabled=dtype == "float16")
    loader = DataLoader(data(), batch_size=16, shuffle=True)
    checkpointer = None
    if folder is not None:
        checkpointer = phalanx.Checkpointer(
            folder, model=model, optimizer=optimizer, loader=loader, state={"scaler": scaler}
        )
        checkpointer.resume()

    def shard(x: Any, y: Any) -> None:
        with phalanx.autocast("cpu", dtype=dtype):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()

    run = phalanx.capture(shard) if capture else shard
    rows = []
    while loader.step < steps:
        for step in loader.steps():
            optimizer.zero_grad()
            for x, y in step:
                run(x, y)
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.3)
            scaler.step(optimizer)
            scaler.update()
            rows.append((loader.step, model.step_loss, scaler.get_scale()))
            if loader.step == until and checkpointer is not None:
                checkpointer.save()
                return rows
            if loader.step == steps:
                break
    if capture:
        assert run.replays, run.why
    return digest(model, optimizer), rows


@functools.cache
def alone(dtype: str) -> Any:
    (found,) = on_ranks(1, SHARDS, lambda: train(dtype))
    return found


def test_overflows_are_left_out_and_losses_are_not_scaled() -> None:
    """The first steps overflow, later ones not; the ledger's losses are the model's."""
    _, rows = alone("float16")
    scales = [scale for _, _, scale in rows]
    assert scales[0] < 2.0**22 and max(scales) > min(scales)
    grown = [b for a, b in itertools.pairwise(scales) if b > a]
    assert grown
    assert all(0.5 < loss < 4.0 for _, loss, _ in rows)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("size", "options"),
    [(2, {}), (4, {}), (3, {}), (2, {"shard": "optimizer"}), (4, {"shard": "gradients"}), (2, {"capture": True}), (1, {"capture": True})],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)  # fmt: skip
def test_equal_bits(dtype: str, size: int, options: dict[str, Any]) -> None:
    for got in on_ranks(size, SHARDS, lambda: train(dtype, **options)):
        assert got == alone(dtype), f"{size} ranks"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_resumed_on_other_ranks(dtype: str, tmp_path: Path) -> None:
    """Killed while the scale is on its way; two ranks go on where one stopped."""
    (rows,) = on_ranks(1, SHARDS, lambda: train(dtype, folder=tmp_path, until=4))
    expected, all_rows = alone(dtype)
    assert rows == all_rows[:4]
    for got, rest in on_ranks(2, SHARDS, lambda: train(dtype, folder=tmp_path)):
        assert got == expected and rest == all_rows[4:]


def test_it_is_not_float32() -> None:
    """Or the proofs above would prove nothing."""

    digests = [alone(dtype)[0] for dtype in ("bfloat16", "float16")]
    assert digests[0] != digests[1]
    losses = [[loss for _, loss, _ in alone(dtype)[1]] for dtype in ("bfloat16", "float16")]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=0.02) and losses[0][0] != losses[1][0]


def test_all_ranks_leave_out_the_same_step() -> None:
    """Infinity on one rank alone, in the fast mode, too."""

    def main() -> Any:
        group = phalanx.init()
        model = phalanx.DataParallel(nn.Linear(2, 1, bias=False))
        optimizer, scaler = optim.SGD(model.parameters(), lr=0.1), GradScaler("cpu", init_scale=2.0)
        before = model.module.weight.array.copy()
        x = phalanx.full((1, 2), float("inf") if group.rank == 1 else 1.0)
        loss = (model(x).nan_to_num(0.0, 0.0, 0.0) if group.rank == 1 else model(x)).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        found = scaler.found_inf(optimizer)
        scaler.update()
        return found, scaler.get_scale(), bool((model.module.weight.array == before).all())

    assert run_threads(main, 2, timeout_s=30) == [(True, 1.0, True)] * 2


def all_low(folder: Path) -> Any:
    """Parameters, gradients and optimizer state in bfloat16; saved, and gone on with."""
    group = current()
    model = phalanx.DataParallel(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 140), nn.ReLU(), nn.Linear(140, CLASSES)).bfloat16()
    )
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    dataset = TensorDataset(data().tensors[0].bfloat16(), data().tensors[1])
    loader = DataLoader(dataset, batch_size=16, shuffle=True)
    checkpointer = phalanx.Checkpointer(folder, model=model, optimizer=optimizer, loader=loader)
    begun = checkpointer.resume()
    for step in loader.steps():
        optimizer.zero_grad()
        for x, y in step:
            nn.functional.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    checkpointer.save()
    predicted = phalanx.predict(model, dataset.tensors[0])
    total = np.full(3000, group.rank + 1, phalanx.bfloat16)
    group.communicator.all_reduce(total, name="total").wait()
    assert predicted.dtype == phalanx.bfloat16 and float(total[-1]) == group.size * (group.size + 1) / 2
    return begun, digest(model, optimizer), predicted.tobytes()


def test_everything_in_bfloat16(tmp_path: Path) -> None:
    (first,) = on_ranks(1, SHARDS, lambda: all_low(tmp_path / "a"))
    (second,) = on_ranks(1, SHARDS, lambda: all_low(tmp_path / "a"))
    for size in (2, 4):
        folder = tmp_path / str(size)
        assert on_ranks(size, SHARDS, lambda folder=folder: all_low(folder)) == [first] * size
        assert on_ranks(3, SHARDS, lambda folder=folder: all_low(folder)) == [second] * 3
    assert second[0] == 3 and second[1] != first[1]
