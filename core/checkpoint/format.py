"""What a checkpoint is made of, as bytes and names; no disk. The specification is ``docs/checkpoint_format.md``.

Tensors lie in safetensors files. Where each byte goes follows from the list of (name, dtype, shape) alone, so that any number
of ranks can write disjoint byte ranges of one file and give the same bytes. That is why the safetensors library's own
writer is not used: it writes a whole file from one process that has all tensors. Its reader is the tests' judge.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..errors import CheckpointError, DTypeError, RangeError
from .manifest import FileEntry, TensorEntry, itemsize

SUFFIX = ".safetensors"
FROZEN_SUFFIX = ".frozen" + SUFFIX
"""Of files with what training does not change, so that a later checkpoint can have the same file."""
DATA_ALIGNMENT_NBYTES = 256
"""Tensor data starts at a multiple of it in its file; the header is padded with spaces, as the format allows."""
BLOCK_NBYTES = 1 << 20
"""Ranks share files in whole blocks, so that no two of them write into one page of a network file system."""
_WORDS = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything goes: files and tensors (checksums of tensors not known yet) and the header of each file."""

    files: tuple[FileEntry, ...]
    tensors: tuple[TensorEntry, ...]
    headers: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes [lo, hi) of a file."""

    file: str
    lo: int
    hi: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of one tensor (``tensor`` None: of the header), at ``offset`` in its file, from byte ``lo`` of the tensor."""

    file: str
    tensor: str | None
    offset: int
    lo: int
    nbytes: int


def plan(tensors: Mapping[str, Any], frozen: Container[str] = ()) -> Layout:
    """The layout for arrays by name. A tensor ``model/fc.weight`` goes to the file ``model.safetensors``, one of ``frozen`` to
    ``model.frozen.safetensors``.

    Within a file tensors are sorted by falling size of an element, then by name: each is aligned for its dtype and there
    are no gaps, which the format forbids. Raises DTypeError for a dtype that safetensors lacks, RangeError for a bad name.

    >>> layout = plan({"model/b": np.zeros(3, np.float32), "model/a": np.zeros((), np.bool_)})
    >>> [(t.name, t.offset, t.nbytes) for t in layout.tensors], layout.files[0].nbytes
    ([('model/b', 256, 12), ('model/a', 268, 1)], 269)
    """
    by_file: dict[str, list[tuple[str, Any]]] = {}
    for name in tensors:
        by_file.setdefault(_file_of(name, name in frozen), []).append((name, tensors[name]))
    files, entries, headers = [], [], {}
    for file in sorted(by_file):
        placed, header = _plan_file(file, by_file[file])
        nbytes = len(header) + sum(entry.nbytes for entry in placed)
        files.append(FileEntry(file, nbytes, len(header), ""))
        entries += placed
        headers[file] = header
    return Layout(tuple(files), tuple(entries), headers)


def is_frozen(file: str) -> bool:
    """Is it a file of what training does not change?"""
    return file.endswith(FROZEN_SUFFIX)


def _file_of(name: str, frozen: bool) -> str:
    family, slash, rest = name.partition("/")
    if not (family.isidentifier() and slash and rest):
        raise RangeError(f"a tensor in a checkpoint is called FAMILY/NAME, got {name!r}")
    return family + (FROZEN_SUFFIX if frozen else SUFFIX)


def _plan_file(file: str, tensors: Iterable[tuple[str, Any]]) -> tuple[list[TensorEntry], bytes]:
    specs = [_spec(name, array) for name, array in tensors]
    described: dict[str, Any] = {}
    placed: list[tuple[_Spec, int]] = []
    end = 0
    for spec in sorted(specs, key=lambda spec: (-itemsize(spec.dtype), spec.name)):
        start, end = end, end + spec.nbytes
        described[spec.name] = {"dtype": _WORDS[spec.dtype], "shape": spec.shape, "data_offsets": [start, end]}
        placed.append((spec, start))
    header = _header(described)
    entries = [
        TensorEntry(spec.name, spec.dtype, spec.shape, file, len(header) + start, spec.nbytes, "")
        for spec, start in placed
    ]
    return entries, header


class _Spec(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def _spec(name: str, array: Any) -> _Spec:
    dtype = np.dtype(array.dtype).name
    if dtype not in _WORDS:
        raise DTypeError(f"{name} has dtype {dtype}; a checkpoint can hold {', '.join(_WORDS)}")
    shape = tuple(int(length) for length in array.shape)
    return _Spec(name, dtype, shape, math.prod(shape) * itemsize(dtype))


def _header(described: Mapping[str, Any]) -> bytes:
    """Length (8 bytes, little-endian), JSON, spaces up to the alignment."""
    body = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    body += b" " * (-(8 + len(body)) % DATA_ALIGNMENT_NBYTES)
    return len(body).to_bytes(8, "little") + body


def share(files: Sequence[FileEntry], parts: int, block_nbytes: int = BLOCK_NBYTES) -> list[list[Range]]:
    """Cut all bytes of ``files`` evenly among ``parts`` writers or readers, in whole blocks of each file.

    >>> share([FileEntry("a", 100, 8, ""), FileEntry("b", 20, 8, "")], 2, block_nbytes=40)
    [[Range(file='a', lo=0, hi=80)], [Range(file='a', lo=80, hi=100), Range(file='b', lo=0, hi=20)]]
    """
    blocks = [
        Range(entry.name, lo, min(lo + block_nbytes, entry.nbytes))
        for entry in files
        for lo in range(0, entry.nbytes, block_nbytes)
    ]
    return [_merge(blocks[len(blocks) * part // parts : len(blocks) * (part + 1) // parts]) for part in range(parts)]


def _merge(blocks: Iterable[Range]) -> list[Range]:
    merged: list[Range] = []
    for block in blocks:
        if merged and merged[-1].file == block.file:
            merged[-1] = Range(block.file, merged[-1].lo, block.hi)
        else:
            merged.append(block)
    return merged


def pieces(files: Sequence[FileEntry], tensors: Sequence[TensorEntry], ranges: Iterable[Range]) -> Iterator[Piece]:
    """The parts of headers and tensors that lie within ``ranges``, in the order of the file."""
    headers = {entry.name: entry.header_nbytes for entry in files}
    for part in ranges:
        parts: list[tuple[str | None, int, int]] = [(None, 0, headers[part.file])]
        parts += [(entry.name, entry.offset, entry.nbytes) for entry in tensors if entry.file == part.file]
        for name, start, nbytes in parts:
            lo, hi = max(start, part.lo), min(start + nbytes, part.hi)
            if lo < hi:
                yield Piece(part.file, name, lo, lo - start, hi - lo)


def byte_view(array: np.ndarray) -> memoryview:
    """The little-endian bytes of ``array`` in C order: its own memory where it already has that form."""
    contiguous = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return contiguous.reshape(-1).view(np.uint8).data


def plain(value: Any, where: str) -> Any:
    """``value`` as JSON holds it (tuples become lists, NumPy's numbers Python's); a copy.

    Raises CheckpointError that names the place of the first thing JSON has no word for.

    >>> plain({"betas": (0.9, np.float32(0.5))}, "config")
    {'betas': [0.9, 0.5]}
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(item, f"{where}.{key}") for key, item in value.items()}
    raise CheckpointError(
        f"{where}: a checkpoint holds JSON (finite numbers, text, lists, dicts with text keys), got {value!r} "
        f"({type(value).__name__})"
    )
