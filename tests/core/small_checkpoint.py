"""Small checkpoints for tests: save one as the ranks do, damage it, ask what is left."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from phalanx.core.checkpoint.format import plan, share
from phalanx.core.checkpoint.manifest import Manifest
from phalanx.core.checkpoint.parts import complete, read_manifest, write
from phalanx.core.checkpoint.store import Store

MODEL, OPTIMIZER, MANIFEST = "model.safetensors", "optimizer.safetensors", "manifest.json"


def arrays_of(step: int) -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(step)
    return {
        "model/fc.weight": numbers.normal(size=(30, 20)).astype(np.float32),
        "model/fc.bias": numbers.normal(size=20).astype(np.float16),
        "model/bn.count": np.array(step, np.int64),
        "model/mask": numbers.random((3, 3)) < 0.5,
        "model/empty": np.empty((0, 4), np.float64),
        "optimizer/exp_avg/fc.weight": numbers.normal(size=(30, 20)).astype(np.float32),
    }


def save(store: Store, step: int, *, writers: int = 2, arrays: dict[str, np.ndarray] | None = None) -> Path:
    """One whole save, as the ranks do it."""
    arrays = arrays_of(step) if arrays is None else arrays
    layout = plan(arrays)
    folder = store.begin(step, layout)
    done = [part for ranges in share(layout.files, writers, 512) for part in write(folder, layout, ranges, arrays)]
    files, tensors = complete(layout, done)
    return store.commit(folder, Manifest(step, seed=1, cursor={"step": step}, files=files, tensors=tensors))


def names(store: Store) -> list[str]:
    return sorted(os.listdir(store.directory))


def skipped_by(store: Store) -> tuple[int | None, list[tuple[str, str]]]:
    """The step of the newest valid checkpoint, and what was said about the others."""
    told: list[tuple[str, str]] = []
    found = store.newest_valid(lambda path, problem: told.append((path.name, problem)))
    return (None if found is None else found[1].step), told


def saved(directory: Path, *steps: int) -> Store:
    """A store with checkpoints of ``steps``."""
    store = Store(directory)
    for step in steps:
        save(store, step)
    return store


def flip(path: Path, position: int, mask: int = 1) -> None:
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ mask]))


def change_tensor(path: Path) -> None:
    entry = next(tensor for tensor in read_manifest(path).tensors if tensor.name == "model/fc.bias")
    flip(path / MODEL, entry.offset + 3)
