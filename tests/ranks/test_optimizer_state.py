"""Optimizers, schedules and averages on several ranks: checkpoints of each, with ZeRO and without, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.errors import StateError
from phalanx.core.hashing import hash_array
from phalanx.data import DataLoader
from phalanx.optim import lr_scheduler, swa_utils
from tests.core.test_optimizers import ByHand
from tests.ranks.zero_runs import FEATURES, OPTIMIZERS, Net, data, digest, on_ranks

pytestmark = pytest.mark.filterwarnings("ignore:.*shards? used these parameters")


MAKERS = {name: make for name, make in OPTIMIZERS.items() if name not in ("layerwise", "rows")} | {"by hand": ByHand}


def run(directory: Path | None, steps: int, name: str, shard: str | None = None) -> Any:
    """Two schedules, one within the other, and an average; goes on from what is there."""
    model = phalanx.DataParallel(Net(), shard=shard if name != "by hand" else None, bucket_bytes=16384)
    optimizer = MAKERS[name](model.parameters())
    parts = [lr_scheduler.LinearLR(optimizer, 0.5, total_iters=3), lr_scheduler.CosineAnnealingLR(optimizer, 9)]
    schedule = lr_scheduler.SequentialLR(optimizer, parts, [3])
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.7)
    ema = optim.EMA(model, decay=0.8)
    loader = DataLoader(data(), batch_size=16, shuffle=True)
    state = {"schedule": schedule, "plateau": plateau, "average": ema}
    checkpointer = phalanx.Checkpointer(
        directory, model=model, optimizer=optimizer, loader=loader, every=2, state=state
    )
    checkpointer.resume("auto")
    while loader.step < steps:
        for step in loader.steps():
            optimizer.zero_grad()
            for x, y in step:
                nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
            plateau.step(model.step_loss)
            ema.update()
            checkpointer.after_step()
            if loader.step == steps:
                break
    with ema.swapped():
        averaged = {name: hash_array(p.array) for name, p in model.named_parameters()}
    return digest(model, optimizer), averaged, schedule.state_dict(), plateau.state_dict()


@pytest.mark.parametrize("name", MAKERS)
def test_resumed_elsewhere_with_schedule_and_average(name: str, tmp_path: Path) -> None:
    """Saved after four of seven steps by three ranks with ZeRO-2; one rank, and two with ZeRO-1, go on to equal bits."""
    (whole,) = on_ranks(1, 4, lambda: run(None, 7, name))
    assert whole[0] != whole[1]
    on_ranks(3, 4, lambda: run(tmp_path, 5, name, "gradients"))
    assert on_ranks(2, 4, lambda: run(tmp_path, 7, name, "optimizer")) == [whole] * 2
    (tmp_path / "step-00000006").rename(tmp_path / "gone")
    assert on_ranks(1, 4, lambda: run(tmp_path, 7, name)) == [whole]


def test_a_step_by_hand_knows_no_parts() -> None:
    def main() -> None:
        model = phalanx.DataParallel(Net(), shard="optimizer")
        optimizer = ByHand(model.parameters())
        for step in DataLoader(data(), batch_size=12).steps():
            for x, y in step:
                nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    with pytest.raises(StateError, match=r"ByHand has a step\(\) of its own, which knows nothing of parts"):
        on_ranks(2, 4, main)


@pytest.mark.parametrize("shard", [None, "optimizer", "gradients"])
def test_averages_of_any_rank_count(shard: str | None) -> None:
    """The average, its state dict and the trained bits beside it; before and after the swap the parameters are the same."""

    def averaged(shard: str | None) -> Any:
        model = phalanx.DataParallel(Net(), shard=shard, bucket_bytes=16384)
        optimizer = optim.AdamW(model.parameters(), lr=0.01)
        ema = optim.EMA(optimizer, decay=0.7)
        found = []
        for step in DataLoader(data(), batch_size=12, shuffle=True).steps():
            optimizer.zero_grad()
            for x, y in step:
                nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            ema.update()
            before = digest(model, optimizer)
            with ema.swapped():
                found.append({name: hash_array(p.array) for name, p in model.named_parameters()})
            assert digest(model, optimizer) == before
        found.append({name: hash_array(array) for name, array in ema.state_dict()["averages"].items()})
        loaded = optim.EMA(optimizer)
        loaded.load_state_dict(ema.state_dict())
        loaded.copy_to()
        return found, digest(model, optimizer)

    (expected,) = on_ranks(1, 4, lambda: averaged(None))
    assert expected[0][0] != expected[0][1]
    assert on_ranks(3, 4, lambda: averaged(shard)) == [expected] * 3


def test_swa_of_any_rank_count(tmp_path: Path) -> None:
    """The averaged copy, its checkpoint, and batch norms that fit it, from a loader that stays where it stands."""

    def averaged() -> Any:
        model = phalanx.DataParallel(Net(), bucket_bytes=16384)
        average = swa_utils.AveragedModel(model)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        schedule = swa_utils.SWALR(optimizer, swa_lr=0.02, anneal_epochs=2)
        loader = DataLoader(data(), batch_size=12, shuffle=True)
        for step in loader.steps():
            optimizer.zero_grad()
            for x, y in step:
                nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            if step.index == 1:
                swa_utils.update_bn(loader, average)
                between = hash_array(average.module.norm.running_var.array)
        names = {"model": model, "average": average}
        checkpointer = phalanx.Checkpointer(tmp_path, model=names, optimizer={"model": optimizer}, group=model.group)
        checkpointer.save()
        swa_utils.update_bn(loader, average)
        average.update_parameters(model)
        checkpointer.resume()
        swa_utils.update_bn(loader, average)
        average.eval()
        y = average(phalanx.tensor(np.ones((2, FEATURES), np.float32)))
        return (
            between,
            {k: hash_array(t.array) for k, t in average.state_dict().items()},
            hash_array(y.array),
            loader.step,
        )

    (expected,) = on_ranks(1, 4, averaged)
    assert on_ranks(3, 4, averaged) == [expected] * 3
    assert expected[3] == 4
