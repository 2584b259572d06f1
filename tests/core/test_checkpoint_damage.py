"""Damaged checkpoints: every changed byte is found and named, and the newest whole one is taken."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phalanx.core.checkpoint.parts import read, verify
from phalanx.core.checkpoint.store import Store
from phalanx.core.errors import CheckpointError, StateError
from tests.core.small_checkpoint import (
    MANIFEST,
    MODEL,
    OPTIMIZER,
    arrays_of,
    change_tensor,
    flip,
    save,
    saved,
    skipped_by,
)


@pytest.fixture
def three(tmp_path: Path) -> Store:
    return saved(tmp_path / "run", 10, 20, 30)


def test_every_flipped_byte_is_found(three: Store) -> None:
    """200 places all over the checkpoint, each with one flipped bit; afterwards it is whole again."""
    path = three.list()[-1]
    sizes = {name: (path / name).stat().st_size for name in (MANIFEST, MODEL, OPTIMIZER)}
    places = [(name, position) for name, size in sizes.items() for position in range(size)]
    for name, position in random.Random(0).sample(places, 200):
        mask = 1 << (position % 8)
        flip(path / name, position, mask)
        with pytest.raises(CheckpointError, match=name):
            verify(path)
        flip(path / name, position, mask)
    verify(path)


def test_every_byte_of_a_small_checkpoint(tmp_path: Path) -> None:
    path = save(Store(tmp_path), 1, arrays={"model/w": np.array([1.5, 2.5], np.float32)})
    for name in (MANIFEST, MODEL):
        for position in range((path / name).stat().st_size):
            flip(path / name, position, 0x20)
            with pytest.raises(CheckpointError, match=name):
                verify(path)
            flip(path / name, position, 0x20)
    verify(path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (change_tensor, ["model.safetensors", "the checksum of tensor model/fc.bias differs: crc32:"]),
        (lambda path: flip(path / MODEL, 20), ["model.safetensors: the header's checksum differs"]),
        (lambda path: os.truncate(path / OPTIMIZER, 2000), ["optimizer.safetensors is truncated: 2000 of 2656 bytes"]),
        (lambda path: os.truncate(path / OPTIMIZER, 3000), ["optimizer.safetensors is too long: 3000 instead of 2656"]),
        (lambda path: os.remove(path / OPTIMIZER), ["optimizer.safetensors is missing"]),
        (lambda path: os.remove(path / MANIFEST), ["manifest.json is missing"]),
        (lambda path: os.truncate(path / MANIFEST, 0), ["manifest.json: the manifest cannot be read"]),
        (lambda path: flip(path / MANIFEST, 70), ["manifest.json: "]),
        (shutil.rmtree, []),
    ],
    ids=["tensor", "header", "truncated", "too long", "missing", "no manifest", "empty manifest", "manifest", "gone"],
)
def test_damage_is_named_and_the_one_before_is_taken(
    three: Store, damage: Callable[[Path], None], words: list[str]
) -> None:
    damage(three.list()[-1])
    step, told = skipped_by(three)
    assert step == 20
    assert len(told) == bool(words)
    for word in words:
        assert told[0][0] == "step-00000030"
        assert word in told[0][1]


def test_all_damage_of_one_checkpoint_is_named_at_once(three: Store) -> None:
    path = three.list()[-1]
    change_tensor(path)
    flip(path / OPTIMIZER, 300)
    with pytest.raises(CheckpointError, match=r"model/fc.bias(.|\n)*optimizer/exp_avg/fc.weight"):
        verify(path)
    os.remove(path / MODEL)
    os.truncate(path / OPTIMIZER, 1)
    with pytest.raises(CheckpointError, match=r"model.safetensors is missing; optimizer.safetensors is truncated"):
        verify(path)


def test_nothing_valid_is_none_and_all_are_named(three: Store) -> None:
    for path in three.list():
        change_tensor(path)
    step, told = skipped_by(three)
    assert step is None
    assert [name for name, _ in told] == ["step-00000030", "step-00000020", "step-00000010"]


def test_a_byte_that_changes_after_verification_is_found_when_read(three: Store) -> None:
    found = three.newest_valid()
    assert found is not None
    change_tensor(found[0])
    with pytest.raises(CheckpointError, match=r"model/fc\.bias"):
        read(*found, {name: np.zeros_like(a) for name, a in arrays_of(30).items()})


def test_reading_into_other_arrays_names_all_that_differs(three: Store) -> None:
    path = three.list()[-1]
    manifest = verify(path)
    arrays = {
        "model/fc.weight": np.zeros((30, 21), np.float32),
        "model/fc.bias": np.zeros(20, np.float32),
        "model/new": np.zeros(1),
    }
    with pytest.raises(StateError) as error:
        read(path, manifest, arrays)
    for words in (
        "model/new",
        "model/fc.weight is float32[30, 20] in the checkpoint, float32[30, 21] here",
        "float16[20]",
    ):
        assert words in str(error.value)
