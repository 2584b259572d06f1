"""Read safetensors files: one, or several that an index names. Nothing of a file is believed before it is checked."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.checkpoint.format import FROZEN_SUFFIX, SUFFIX
from ..core.checkpoint.parts import telling, verify
from ..core.checkpoint.store import Store, step_of
from ..core.errors import CheckpointError
from .words import stored_dtype, to_tensor

INDEX_SUFFIX = ".index.json"
_FAMILY = "model"
"""Of a model's tensors in a checkpoint."""
_HEADER_LIMIT_NBYTES = 100_000_000
"""The format's own limit."""
_RECIPE = (
    'python -c "import sys, torch, safetensors.torch as s; a, b = sys.argv[1:]; s.save_file({k: v.clone() for k, v in '
    "torch.load(a, map_location='cpu', weights_only=True).items()}, b)\" "
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of one file."""

    name: str
    path: Path
    word: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What a model's file or files hold."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def contents(path: Path) -> Contents:
    """The table of a ``.safetensors`` file, of an index, of a folder with one of them, or of a checkpoint's weights.

    Raises CheckpointError that names the file and what is wrong with it.
    """
    if path.is_dir() and (step_of(path.absolute()) is not None or Store(path).list()):
        return _weights(path)
    path = _file_in(path) if path.is_dir() else path
    return _indexed(path) if path.name.endswith(INDEX_SUFFIX) else _single(path)


def _weights(path: Path) -> Contents:
    """Those of a checkpoint, or of the newest valid one of a run, by the names of the model; all bytes were right."""
    if step_of(path.absolute()) is None:
        found = Store(path).newest_valid()
        if found is None:
            raise CheckpointError(f"{path} holds no valid checkpoint")
        path = found[0]
    else:
        try:
            verify(path)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
    tables = [_single(file) for suffix in (SUFFIX, FROZEN_SUFFIX) if (file := path / f"{_FAMILY}{suffix}").is_file()]
    names = {name.removeprefix(f"{_FAMILY}/"): entry for table in tables for name, entry in table.entries.items()}
    return Contents({name: replace(entry, name=name) for name, entry in names.items()}, {})


def read(entry: Entry) -> np.ndarray:
    """The array of one tensor, in memory of its own."""
    try:
        stored = np.empty(entry.shape, stored_dtype(entry.word))
    except (ValueError, OverflowError) as error:
        raise _damaged(entry.path, f"tensor {entry.name} of shape {entry.shape}: {error}") from error
    with telling("read", entry.path), open(entry.path, "rb") as file:
        file.seek(entry.offset)
        count = file.readinto(stored.reshape(-1).view(np.uint8).data) if entry.nbytes else 0
    if count != entry.nbytes:
        raise _damaged(entry.path, f"tensor {entry.name} ends after {count} of {entry.nbytes} bytes")
    return to_tensor(entry.word, stored)


def _file_in(folder: Path) -> Path:
    """The model's file in a folder as those of the Hugging Face hub are."""
    for name in ("model.safetensors", "model.safetensors" + INDEX_SUFFIX):
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    there = f"{len(found)} .safetensors files" if found else "no .safetensors file"
    raise CheckpointError(f"{folder} has {there} and no model.safetensors{INDEX_SUFFIX}: name the file")


# -- one file


def _single(path: Path) -> Contents:
    with telling("read", path), open(path, "rb") as file:
        nbytes = os.fstat(file.fileno()).st_size
        start = file.read(8)
        _refuse_pickle(path, start)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(nbytes - 8, _HEADER_LIMIT_NBYTES):
            raise _damaged(path, f"it has {nbytes} bytes, its header would have {length}")
        header = file.read(length)
    described = _decoded(path, header)
    metadata = described.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "its metadata is not a table of texts")
    data = 8 + length
    entries = {name: _entry(path, name, row, data) for name, row in described.items()}
    end = data
    for entry in sorted(entries.values(), key=lambda entry: (entry.offset, entry.nbytes)):
        if entry.offset != end:
            raise _damaged(path, f"tensor {entry.name} begins at byte {entry.offset}, {end} expected")
        end += entry.nbytes
    if end != nbytes:
        raise _damaged(path, f"it has {nbytes} bytes, its tensors end at {end}")
    return Contents(entries, metadata)


def _refuse_pickle(path: Path, start: bytes) -> None:
    if start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"):
        target = path.with_suffix(".safetensors")
        raise CheckpointError(
            f"{path} is a pickle of PyTorch's, which can run any program when it is read: phalanx reads none. Where PyTorch "
            f"is installed, convert it once: {_RECIPE}{path} {target}"
        )


def _decoded(path: Path, header: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name comes twice")
        return dict(pairs)

    try:
        described = json.loads(header.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is no JSON ({error})") from error
    if not isinstance(described, dict):
        raise _damaged(path, "its header is no table")
    return described


def _entry(path: Path, name: str, row: Any, data: int) -> Entry:
    try:
        word, shape, (lo, hi) = row["dtype"], tuple(row["shape"]), row["data_offsets"]
        numbers = all(type(number) is int and number >= 0 for number in (*shape, lo, hi))
    except (KeyError, TypeError, ValueError):
        numbers = False
    if not numbers:
        raise _damaged(path, f"tensor {name} is described by {row!r}")
    dtype = stored_dtype(word) if isinstance(word, str) else None
    if dtype is None:
        raise CheckpointError(f"{path}: tensor {name} has element type {word!r}, which NumPy cannot hold")
    if hi - lo != math.prod(shape) * dtype.itemsize:
        raise _damaged(path, f"tensor {name} of type {word} and shape {shape} cannot have {hi - lo} bytes")
    return Entry(name, path, word, shape, data + lo, hi - lo)


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or no safetensors file: {why}")


# -- several files


def _indexed(path: Path) -> Contents:
    with telling("read", path):
        text = path.read_bytes()
    table = _decoded(path, text).get("weight_map")
    if not isinstance(table, dict) or not all(_is_name(file) for file in table.values()):
        raise _damaged(path, "its weight_map must give a file of the same folder for each tensor")
    files = {file: _single(path.parent / file) for file in sorted(set(table.values()))}
    absent = sorted(name for name, file in table.items() if name not in files[file].entries)
    if absent:
        raise CheckpointError(f"{path} names tensors that its files lack ({len(absent)}): {', '.join(absent)}")
    metadata = {key: value for file in files.values() for key, value in file.metadata.items()}
    return Contents({name: files[file].entries[name] for name, file in table.items()}, metadata)


def _is_name(file: Any) -> bool:
    return isinstance(file, str) and file == Path(file).name and file not in ("", ".", "..")
