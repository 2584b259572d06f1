"""ZeRO: what each rank keeps (property tests of ownership, memory on paper and measured), checkpoints, ledgers."""

from __future__ import annotations

import gc
import json
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import phalanx
from phalanx import nn
from phalanx.core.checkpoint.parts import verify
from phalanx.core.errors import CheckpointError
from phalanx.core.flat import CHUNK
from phalanx.core.owned import OwnPart
from phalanx.data import DataLoader
from phalanx.dist.checkpoint_restore import Restorer
from phalanx.dist.reduction.tree import pending_limit
from phalanx.dist.zero.memory import memory_rows
from phalanx.dist.zero.ownership import ownership, part_of
from phalanx.ledger import Ledger
from tests.ranks.zero_runs import CLASSES, FEATURES, OPTIMIZERS, Mixed, Net, data, digest, on_ranks, train

pytestmark = pytest.mark.filterwarnings("ignore:.*shards? used these parameters")


# -- who owns what ---------------------------------------------------------------------------------------------------------


class Layout:
    """Parameters of the given sizes, each on a 64-element boundary."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.offsets, self.length = sizes, [], 0
        for size in sizes:
            self.offsets.append(self.length)
            self.length += -(-size // 64) * 64


SIZES = st.lists(st.one_of(st.integers(0, 500), st.integers(CHUNK - 70, 3 * CHUNK + 70)), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(SIZES, st.integers(1, 9), st.sampled_from(["element", "parameter", "matrix"]))
def test_ownership(sizes: list[int], size: int, grain: str) -> None:
    layout = Layout(sizes)
    cut = ownership(layout, size, grain)
    assert len(cut) == size and cut[0][0] == 0 and cut[-1][1] == layout.length
    assert all(left[1] == right[0] and left[0] <= left[1] for left, right in pairwise(cut))
    step = CHUNK if grain == "element" else layout.length + 1
    allowed = {o + at for o, n in zip(layout.offsets, sizes, strict=True) for at in range(0, n, step)} | {
        0,
        layout.length,
    }
    assert all(lo in allowed for lo, _ in cut)
    places = sorted(allowed)
    unit = max((b - a for a, b in pairwise(places)), default=0)
    assert all(abs((hi - lo) - layout.length / size) <= unit for lo, hi in cut), "no rank is off by more than one unit"
    assert ownership(layout, size, grain) == cut


@settings(max_examples=100, deadline=None)
@given(SIZES, st.integers(1, 6), st.integers(0, 10**5), st.integers(0, 10**5))
def test_parts_of_a_range_cover_it(sizes: list[int], size: int, first: int, second: int) -> None:
    layout = Layout(sizes)
    lo, hi = sorted((min(first, layout.length), min(second, layout.length)))
    parts = [part for part in part_of(ownership(layout, size, "element"), lo, hi) if part[0] < part[1]]
    assert sum(b - a for a, b in parts) == hi - lo
    assert not parts or (parts[0][0] == 0 and parts[-1][1] == hi - lo)


# -- memory ------------------------------------------------------------------------------------------------------------------


def deep() -> Any:
    """Layers of equal size, so that four ranks can own equal parts."""
    layers: list[Any] = [nn.Linear(FEATURES, 256), nn.ReLU()]
    for _ in range(8):
        layers += [nn.Linear(256, 256), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, CLASSES))


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("shard", [None, "optimizer", "gradients"])
def test_memory_is_as_on_paper(shard: str | None, k: int) -> None:
    """Four ranks with k shards each, Adam: state 2 N / 4; ZeRO-2 holds N / 4 of gradients and what is on its way."""

    def measured(model: Any, optimizer: Any) -> Any:
        assert "optimizer state" in model.memory_report()
        return {row.kind: (row.paper_nbytes, row.measured_nbytes) for row in memory_rows(model.reducer)}

    whole = sum(-(-p.array.nbytes // 256) * 256 for p in deep().parameters())
    rows = on_ranks(4, 4 * k, lambda: train(OPTIMIZERS["adam"], deep, shard=shard, steps=5, then=measured)[0])
    for row in rows:
        for kind, (paper, found) in row.items():
            assert found == pytest.approx(paper, rel=0.05), kind
        assert row["parameters"][1] == whole
    limit = whole * (1.0 if shard is None else 0.25)
    largest = max(row["optimizer state"][1] for row in rows)
    assert largest == pytest.approx(2 * limit, rel=0.05)
    assert sum(row["optimizer state"][1] for row in rows) == 2 * whole * (4 if shard is None else 1)
    assert all(row["pending partial sums"][1] == (k - 1) * whole for row in rows)
    if shard == "gradients":
        bucket = 256 * 256 * 4
        for row in rows:
            gradients = sum(
                row[kind][1] for kind in row if kind not in ("parameters", "pending partial sums", "optimizer state")
            )
            assert gradients <= 1.05 * (whole / 4 + bucket + 8 * 4 * 16384) < whole


def test_pending_partial_sums_grow_with_the_logarithm_of_k() -> None:
    assert [pending_limit(0, k, 64) for k in (1, 2, 4, 8, 16)] == [0, 1, 2, 3, 4]


def test_memory_is_really_free() -> None:
    """Counted by Python's own accounting of all arrays, not by ours, when the gradients of a step are complete."""

    def held(shard: str | None) -> float:
        def main() -> int:
            model = phalanx.DataParallel(deep(), bucket_bytes=16384, shard=shard)
            optimizer = OPTIMIZERS["adam"](model.parameters())
            found = 0
            for step in DataLoader(data(), batch_size=24).steps():
                optimizer.zero_grad()
                for x, y in step:
                    nn.functional.cross_entropy(model(x), y).backward()
                model.synchronize()
                del x, y
                model.group.control.barrier().wait()
                found = tracemalloc.get_traced_memory()[0]
                model.group.control.barrier().wait()
                optimizer.step()
            return found

        gc.collect()
        tracemalloc.start()
        try:
            return max(on_ranks(4, 4, main)) / (4 * sum(p.array.nbytes for p in deep().parameters()))
        finally:
            tracemalloc.stop()

    plain, optimizer, gradients = [held(shard) for shard in (None, None, "optimizer", "gradients")][
        1:
    ]  # the first warms up
    assert plain - optimizer == pytest.approx(1.5, abs=0.2), "three quarters of two states"
    assert optimizer - gradients == pytest.approx(1.75, abs=0.2), "three quarters of the gradient, and the sum"


def test_bytes_sent_are_as_on_paper() -> None:
    """Of N bytes of parameters on P ranks: 2 N (P - 1) / P a step, as unsharded; ZeRO-1, whose gradients are whole, half more."""

    def sent(shard: str | None) -> float:
        model = phalanx.DataParallel(deep(), shard=shard)
        optimizer = OPTIMIZERS["adam"](model.parameters())
        whole = sum(-(-p.array.nbytes // 256) * 256 for p in model.parameters())
        for step in DataLoader(data(), batch_size=23).steps():
            before = model.group.communicator.sent_bytes
            for x, y in step:
                nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            found = (model.group.communicator.sent_bytes - before) / whole
        return found

    for shard, paper in ((None, 1.5), ("optimizer", 2.25), ("gradients", 1.5)):
        rows = on_ranks(4, 4, lambda shard=shard: sent(shard))
        assert sum(rows) / 4 == pytest.approx(paper, rel=0.01), shard


# -- checkpoints and ledgers ---------------------------------------------------------------------------------------------------


def run(
    directory: Path | None,
    steps: int,
    shard: str | None,
    *,
    which: str = "none",
    net: Any = Net,
    ledger: Path | None = None,
) -> Any:
    model = phalanx.DataParallel(net(), shard=shard, bucket_bytes=16384)
    optimizer = OPTIMIZERS["momentum" if net is Mixed else "amsgrad"](model.parameters())
    loader = DataLoader(data(), batch_size=16, shuffle=True)
    checkpointer = phalanx.Checkpointer(directory, model=model, optimizer=optimizer, loader=loader, every=2)
    checkpointer.block_nbytes = 4096
    checkpointer.resume(which)
    lines = Ledger(ledger, model, optimizer)
    while loader.step < steps:
        for step in loader.steps():
            optimizer.zero_grad()
            for x, y in step:
                nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            lines.record(loader.step)
            checkpointer.after_step()
            if loader.step == steps:
                break
    return digest(model, optimizer)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("net", [Net, Mixed])
def test_any_run_goes_on_from_any_checkpoint(tmp_path: Path, net: Any) -> None:
    """Saved by four ranks with ZeRO-2: the same files as from one rank; one rank and three with ZeRO-1 go on alike."""
    (whole,) = on_ranks(1, 8, lambda: run(tmp_path / "whole", 7, None, net=net))
    on_ranks(4, 8, lambda: run(tmp_path / "spread", 5, "gradients", net=net))
    reference = files(tmp_path / "whole" / "step-00000004")
    assert files(tmp_path / "spread" / "step-00000004") == reference
    verify(tmp_path / "spread" / "step-00000004")
    assert on_ranks(1, 8, lambda: run(tmp_path / "spread", 7, None, which="auto", net=net)) == [whole]
    here = str(tmp_path / "spread" / "step-00000004")
    for size, shard in ((3, "optimizer"), (4, "gradients")):
        got = on_ranks(size, 8, lambda shard=shard: run(tmp_path / f"to-{shard}", 7, shard, which=here, net=net))
        assert got == [whole] * size
        assert files(tmp_path / f"to-{shard}" / "step-00000006") == files(tmp_path / "whole" / "step-00000006")


def test_each_rank_writes_and_reads_its_own_state_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody holds a whole state while saving or resuming."""
    from phalanx.dist.zero.ownership import Zero

    def never(*args: Any) -> None:
        raise AssertionError("state was gathered")

    def save_and_resume() -> bool:
        model = phalanx.DataParallel(Net(), shard="gradients")
        optimizer = OPTIMIZERS["adam"](model.parameters())
        for step in DataLoader(data(), batch_size=45).steps():
            for x, y in step:
                nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        checkpointer = phalanx.Checkpointer(tmp_path, model=model, optimizer=optimizer)
        checkpointer.save()
        names = {p: name for name, p in model.named_parameters()}
        parts = optimizer.state_arrays(names)
        assert all(isinstance(part, OwnPart) for part in parts.values())
        before = {name: part.array.copy() for name, part in parts.items()}
        for part in parts.values():
            part.array[...] = 7
        checkpointer.resume()
        return all((part.array == before[name]).all() for name, part in optimizer.state_arrays(names).items())

    monkeypatch.setattr(Zero, "whole", never)
    assert on_ranks(4, 4, save_and_resume) == [True] * 4


def test_damage_in_a_spread_tensor_is_found_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the file changes after it was verified: the parts' checksums are joined."""
    on_ranks(2, 4, lambda: run(tmp_path, 2, "optimizer"))
    real = Restorer.restore
    path = tmp_path / "step-00000002" / "optimizer.safetensors"

    def damaged(self: Any, *args: Any, **options: Any) -> None:
        self.group.control.barrier().wait()
        if self.group.rank == 0:
            raw = bytearray(path.read_bytes())
            raw[-1000] ^= 1
            path.write_bytes(bytes(raw))
        self.group.control.barrier().wait()
        real(self, *args, **options)

    monkeypatch.setattr(Restorer, "restore", damaged)
    with pytest.raises(CheckpointError, match=r"the checksum of tensor optimizer/.* differs"):
        on_ranks(3, 4, lambda: run(tmp_path, 4, "gradients", which="auto"))


def test_ledgers_are_equal(tmp_path: Path) -> None:
    on_ranks(1, 8, lambda: run(None, 5, None, ledger=tmp_path / "1"))
    expected = (tmp_path / "1").read_text().splitlines()
    assert len(expected) == 5 and set(json.loads(expected[0])) >= {"step", "loss", "weights", "optimizer", "buffers"}
    for size, shard in ((4, "optimizer"), (3, "gradients")):
        on_ranks(size, 8, lambda size=size, shard=shard: run(None, 5, shard, ledger=tmp_path / str(size)))
        assert (tmp_path / str(size)).read_text().splitlines() == expected


def test_parts_of_odd_dtypes_hash_as_the_whole() -> None:
    from phalanx.core.hashing import hash_array, hash_of_sums, sum_of_part

    for dtype in (np.float16, np.float32, np.float64):
        whole = np.random.default_rng(0).standard_normal(2 * CHUNK + 5).astype(dtype)
        parts = [sum_of_part(whole[at : at + CHUNK], at * whole.itemsize) for at in range(0, whole.size, CHUNK)]
        assert hash_of_sums(parts, whole.nbytes) == hash_array(whole)
