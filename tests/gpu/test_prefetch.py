"""Batches that a loader sends to the GPU: the same as without, in memory that is used again and never too early."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx.core.backend import to_host
from phalanx.core.data.feed import Feed
from phalanx.data import DataLoader, Dataset, IterableDataset, TensorDataset

N = 37


class Words(Dataset):
    """Samples of many kinds."""

    keyed = True

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixels": np.full((3, 2), index, np.uint8), "more": (float(index), index), "name": f"number {index}"}


class Numbers(IterableDataset):
    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        return ((np.full(5, i, np.float32), i) for i in range(N))


def loaders(kind: str, device: str | None) -> DataLoader:
    """The loaders of one kind, which differ in nothing but where batches go."""
    arrays = TensorDataset(np.arange(N * 4, dtype=np.float32).reshape(N, 4), np.arange(N))
    return {
        "arrays": lambda: DataLoader(arrays, 5, shuffle=True, device=device),
        "no prefetch": lambda: DataLoader(arrays, 5, prefetch=0, device=device),
        "samples": lambda: DataLoader(Words(), 5, shuffle=True, num_workers=3, device=device),
        "stream": lambda: DataLoader(Numbers(), 5, device=device),
        "processes": lambda: DataLoader(
            arrays, 5, shuffle=True, num_workers=2, multiprocessing_context="spawn", device=device
        ),
    }[kind]()


def plain(batch: Any) -> Any:
    if isinstance(batch, dict):
        return {key: plain(value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return [plain(value) for value in batch]
    return to_host(batch.array).tolist() if hasattr(batch, "array") else batch


def tensors(batch: Any) -> list[Any]:
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else [batch]
    return [batch] if hasattr(batch, "array") else [t for part in parts if part is not batch for t in tensors(part)]


@pytest.mark.parametrize("kind", ["arrays", "no prefetch", "samples", "stream", "processes"])
def test_the_same_batches_on_the_gpu(device: str, kind: str) -> None:
    here, there = loaders(kind, None), loaders(kind, device)
    for epoch in range(2):
        expected = [plain(batch) for step in here.steps() for batch in step]
        found = []
        for step in there.steps():
            for batch in step:
                assert {str(t.device).partition(":")[0] for t in tensors(batch)} == {"cuda"}
                found.append(plain(batch))
        assert found == expected, epoch
    assert [plain(batch) for batch in there] == [plain(batch) for batch in here]


def test_what_a_loop_keeps_stays_as_it_is(device: str) -> None:
    loader = loaders("arrays", device)
    kept = [x[1:3] for step in loader.steps() for x, _ in step]  # views of views
    twice = [x for step in loader.steps() for x, _ in step]
    again = [plain(x) for step in loaders("arrays", None).steps() for x, _ in step]
    assert [plain(x) for x in kept] == [x[1:3] for x in again]
    assert len({t.array.data.ptr for t in twice}) == len(twice)


def test_memory_is_used_again(device: str) -> None:
    """And only behind what reads it, which the host does not wait for here."""
    loader, places, sums = loaders("arrays", device), set(), []
    for _ in range(3):
        for step in loader.steps():
            for x, _ in step:
                places.add(x.array.data.ptr)
                sums.append((x * 2).sum())
                del x
    assert len(places) <= 6
    assert sum(total.item() for total in sums) == 3 * 2 * sum(range(4 * N))
    feed = loader._batch_maker().feed  # type: ignore[union-attr]
    assert len(feed._places) <= 6


def test_a_loop_that_ends_early_gives_its_places_back(device: str) -> None:
    loader = loaders("arrays", device)
    for _ in range(10):
        for step in loader.steps():
            for _batch in step:
                break
            break
    gc.collect()
    feed = loader._batch_maker().feed  # type: ignore[union-attr]
    assert len(feed._places) <= 6


def test_many_threads_send(device: str) -> None:
    feed, found = Feed(phalanx.device(device)), {}

    def send(number: int) -> None:
        for i in range(20):
            found[number, i] = feed.send([phalanx.tensor(np.full(100, number * 100 + i, np.float32))])

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (number, i), batch in found.items():
        (tensor,) = batch.arrive()
        assert set(tensor.tolist()) == {float(number * 100 + i)}


def test_training_takes_what_the_loader_sends(device: str) -> None:
    losses = {}
    for way in ("by hand", "sent"):
        phalanx.manual_seed(1)
        model = phalanx.nn.Linear(4, 2).to(device)
        optimizer = phalanx.optim.SGD(model.parameters(), lr=0.01)
        data = TensorDataset(np.random.default_rng(0).standard_normal((N, 4)).astype(np.float32), np.arange(N) % 2)
        loader = DataLoader(data, 8, shuffle=True, device=device if way == "sent" else None)
        losses[way] = []
        for step in loader.steps():
            for x, y in step:
                optimizer.zero_grad()
                loss = phalanx.nn.functional.cross_entropy(model(x.to(device)), y.to(device))
                loss.backward()
                optimizer.step()
                losses[way].append(loss.item())
    assert losses["by hand"] == losses["sent"]


def test_a_device_that_is_none(device: str) -> None:
    with pytest.raises(phalanx.core.errors.RangeError, match=r'cuda:9": there are'):
        list(loaders_of(9))


def loaders_of(index: int) -> DataLoader:
    return DataLoader(TensorDataset(np.arange(4)), 2, device=f"cuda:{index}")
