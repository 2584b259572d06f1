"""The manifest: one JSON text that says what a checkpoint holds and lets every byte of it be checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import CheckpointError
from . import checksum

FORMAT = "phalanx checkpoint"
VERSION = 1
_ITEMSIZES = {"bool": 1, "bfloat16": 2}


def itemsize(dtype: str) -> int:
    """Bytes of one element of a dtype by its name.

    >>> itemsize("float32"), itemsize("bool"), itemsize("int8")
    (4, 1, 1)
    """
    return _ITEMSIZES.get(dtype) or int(dtype.lstrip("abcdefghijklmnopqrstuvwxyz")) // 8


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of tensors."""

    name: str
    nbytes: int
    header_nbytes: int
    checksum: str
    """Of the header alone; the rest of the file is its tensors, which have their own."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor: ``nbytes`` bytes at ``offset`` of ``file`` (from the file's start)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    nbytes: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint holds; equal on any number of ranks."""

    step: int
    seed: int | None = None
    shards: int | None = None
    cursor: Mapping[str, Any] | None = None
    """The loader's position, as its ``state_dict`` gave it."""
    scalars: Mapping[str, Any] = field(default_factory=dict)
    """State that is no tensor, by owner: ``optimizer`` -> its options and step counts."""
    config: Any = None
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    """Processor and libraries that computed it: elsewhere bits may differ from here on."""
    files: tuple[FileEntry, ...] = ()
    tensors: tuple[TensorEntry, ...] = ()


def encode(manifest: Manifest) -> bytes:
    """The text of ``manifest.json``: one line for each key, file and tensor; its last line is the checksum of the rest."""
    content: dict[str, Any] = {"format": FORMAT, "version": VERSION} | asdict(manifest)
    content["checksum"] = _checksum(content)
    lines = []
    for key, value in content.items():
        if key in ("files", "tensors"):
            rows = ",\n".join("  " + _canonical(row) for row in value)
            lines.append(f" {json.dumps(key)}: [\n{rows}\n ]" if rows else f" {json.dumps(key)}: []")
        else:
            lines.append(f" {json.dumps(key)}: {_canonical(value)}")
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("ascii")


def decode(data: bytes) -> Manifest:
    """The manifest in ``data``. Raises CheckpointError that says what is wrong with it.

    Not only the content must have the checksum: the text must be the one that :func:`encode` writes, so that a changed
    byte is found wherever it is, a blank included.
    """
    try:
        content = json.loads(data)
        found = content.pop("checksum")
        wanted = _checksum(content)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"the manifest cannot be read ({type(error).__name__}: {error})") from error
    if found != wanted:
        raise CheckpointError(f"the manifest's checksum differs: it says {found}, its content has {wanted}")
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise CheckpointError(
            f"expected {FORMAT!r} version {VERSION}, this is {content.get('format')!r} version {content.get('version')}; "
            "read it with the phalanx that wrote it, or a newer one"
        )
    manifest = _build(content)
    if encode(manifest) != data:
        raise CheckpointError("the manifest was changed outside of its content (blanks, order or form of its text)")
    return manifest


def _build(content: dict[str, Any]) -> Manifest:
    fields = {key: value for key, value in content.items() if key not in ("format", "version")}
    try:
        fields["files"] = tuple(FileEntry(**row) for row in fields["files"])
        rows = fields["tensors"]
        fields["tensors"] = tuple(TensorEntry(**row | {"shape": tuple(row["shape"])}) for row in rows)
        manifest = Manifest(**fields)
        _check(manifest)
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"the manifest is not of version {VERSION}: {error}") from error
    return manifest


def _check(manifest: Manifest) -> None:
    """Whoever wrote it: no path out of the folder, no tensor out of its file."""
    sizes = {entry.name: entry.nbytes for entry in manifest.files}
    for entry in manifest.files:
        checksum.require_known(entry.checksum)
        if entry.name in ("", ".", "..") or "/" in entry.name or "\\" in entry.name:
            raise ValueError(f"file name {entry.name!r}")
    for tensor in manifest.tensors:
        checksum.require_known(tensor.checksum)
        fits = 0 <= tensor.offset <= tensor.offset + tensor.nbytes <= sizes[tensor.file]
        if not fits or tensor.nbytes != math.prod(tensor.shape) * itemsize(tensor.dtype):
            raise ValueError(f"tensor {tensor.name}: {tensor.nbytes} bytes at {tensor.offset} of {tensor.file}")


def _checksum(content: Mapping[str, Any]) -> str:
    return checksum.text(checksum.crc32(_canonical(content).encode("ascii")))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
