"""The bytes of one checkpoint folder: write and check them in parts, by any number of processes, and read tensors."""

from __future__ import annotations

import bisect
import errno
import itertools
import mmap
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import CheckpointError, StateError
from ..owned import OwnPart
from . import checksum
from .format import Layout, Piece, Range, byte_view, pieces, share
from .manifest import FileEntry, Manifest, TensorEntry, decode
from .writer import ALIGNMENT_NBYTES, BLOCK_NBYTES, Run, write_runs

MANIFEST = "manifest.json"
_CHUNK_NBYTES = 1 << 22
"""Read and checksum go over the same bytes while they are in the cache."""
_ADVICE = {
    errno.ENOSPC: "free some space or keep fewer checkpoints",
    errno.EDQUOT: "free some space or keep fewer checkpoints",
    errno.EFBIG: "a limit forbids files of this size",
    errno.EACCES: "choose a folder that this user may write to",
    errno.EPERM: "choose a folder that this user may write to",
    errno.EROFS: "choose a folder that is not read-only",
    errno.EEXIST: "it is a file; choose a folder",
    errno.ENOTDIR: "part of the path is a file; choose a folder",
    errno.ENOENT: "is it on a file system that all ranks share?",
}


class Part(NamedTuple):
    """What a process reports of one piece that it wrote or read."""

    file: str
    tensor: str | None
    """None: the file's header."""
    lo: int
    nbytes: int
    crc: int


@contextmanager
def telling(what: str, path: Path) -> Iterator[None]:
    """Turn what the system refuses into one CheckpointError."""
    try:
        yield
    except OSError as error:
        place = "" if error.filename in (None, str(path)) else f" ({error.filename})"
        advice = f"; {_ADVICE[error.errno]}" if error.errno in _ADVICE else ""
        raise CheckpointError(f"cannot {what} {path}: {error.strerror or error}{place}{advice}") from error


# -- write -------------------------------------------------------------------------------------------------------------


Arrays = Mapping[str, np.ndarray | OwnPart]


Portion = list[tuple[Piece, memoryview]]
"""Pieces of files, and the bytes that belong there."""


def portion(layout: Layout, ranges: Sequence[Range], arrays: Arrays) -> Portion:
    """What this process has to write: ``ranges`` of the files, in order, as live views of the arrays.

    Of a tensor that is spread over the ranks (OwnPart) each writes what it holds, whatever its ranges are.
    """
    found = [
        piece
        for piece in pieces(layout.files, layout.tensors, ranges)
        if not isinstance(arrays.get(piece.tensor or ""), OwnPart)
    ]
    found += [piece for piece, _ in _own_pieces(layout.tensors, arrays)]
    order = {entry.name: number for number, entry in enumerate(layout.files)}
    found.sort(key=lambda piece: (order[piece.file], piece.offset))
    return [(piece, _data_of(piece, layout, arrays)) for piece in found]


def follows(piece: Piece, other: Piece) -> bool:
    """Does ``other`` begin where ``piece`` ends?"""
    return (other.file, other.offset) == (piece.file, piece.offset + piece.nbytes)


def runs_of(own: Portion) -> Iterator[Portion]:
    """Pieces that follow each other, together."""
    run: Portion = []
    for item in own:
        if run and not follows(run[-1][0], item[0]):
            yield run
            run = []
        run.append(item)
    if run:
        yield run


class _Staged:
    """Pieces that lie anywhere in memory, block by block in one place, as a file has them."""

    def __init__(self, run: Portion, buffer: np.ndarray) -> None:
        self._run, self._buffer = run, buffer
        self._ends = list(itertools.accumulate(piece.nbytes for piece, _ in run))

    def __call__(self, lo: int, hi: int) -> memoryview:
        start = (self._run[0][0].offset + lo) % ALIGNMENT_NBYTES
        number = bisect.bisect_right(self._ends, lo)
        at = lo
        while at < hi:
            piece, data = self._run[number]
            first = self._ends[number] - piece.nbytes
            end = min(hi, self._ends[number])
            place = self._buffer[start + at - lo : start + end - lo]
            np.copyto(place, np.frombuffer(data[at - first : end - first], np.uint8))
            at, number = end, number + 1
        return self._buffer[start : start + hi - lo].data


def write_portion(folder: Path, own: Portion) -> list[Part]:
    """Write the bytes, make them durable, and return the checksum of each piece."""
    runs = list(runs_of(own))
    longest = max((sum(piece.nbytes for piece, _ in run) for run in runs), default=0)
    memory = mmap.mmap(-1, min(longest, BLOCK_NBYTES) + ALIGNMENT_NBYTES)  # begins with a page
    buffer = np.frombuffer(memory, np.uint8)
    told: Iterator[Run] = (
        (run[0][0].file, run[0][0].offset, [piece.nbytes for piece, _ in run], _Staged(run, buffer)) for run in runs
    )
    with telling("write to", folder):
        crcs = write_runs(str(folder), told)
    return [
        Part(piece.file, piece.tensor, piece.lo, piece.nbytes, crc) for (piece, _), crc in zip(own, crcs, strict=True)
    ]


def write(folder: Path, layout: Layout, ranges: Sequence[Range], arrays: Arrays) -> list[Part]:
    """:func:`portion` and :func:`write_portion` in one."""
    return write_portion(folder, portion(layout, ranges, arrays))


def _own_pieces(tensors: Iterable[TensorEntry], arrays: Arrays) -> Iterator[tuple[Piece, OwnPart]]:
    """What this rank holds of the tensors that are spread over ranks."""
    for entry in tensors:
        part = arrays.get(entry.name)
        if isinstance(part, OwnPart) and part.array.size:
            lo = part.lo * part.dtype.itemsize
            yield Piece(entry.file, entry.name, entry.offset + lo, lo, part.array.nbytes), part


def _data_of(piece: Piece, layout: Layout, arrays: Arrays) -> memoryview:
    if piece.tensor is None:
        data, lo = memoryview(layout.headers[piece.file]), 0
    else:
        array = arrays[piece.tensor]
        spread = isinstance(array, OwnPart)
        data = byte_view(array.array if isinstance(array, OwnPart) else array)
        lo = piece.lo if spread else 0
    return data[piece.lo - lo : piece.lo - lo + piece.nbytes]


def complete(layout: Layout, parts: Iterable[Part]) -> tuple[tuple[FileEntry, ...], tuple[TensorEntry, ...]]:
    """The layout's files and tensors with checksums, from the parts of all writers. All bytes must be covered once."""
    parts = list(parts)
    written, expected = sum(part.nbytes for part in parts), sum(entry.nbytes for entry in layout.files)
    if written != expected:
        raise CheckpointError(f"the ranks wrote {written} bytes of {expected}")
    sums = _join(layout.files, layout.tensors, parts)
    return (
        tuple(replace(entry, checksum=sums[entry.name, None]) for entry in layout.files),
        tuple(replace(entry, checksum=sums[entry.file, entry.name]) for entry in layout.tensors),
    )


def parts_of(manifest: Manifest, files: Collection[str]) -> list[Part]:
    """What a manifest says of whole ``files``, as a writer of them would."""
    headers = [(entry.name, None, entry.header_nbytes, entry.checksum) for entry in manifest.files]
    tensors = [(entry.file, entry.name, entry.nbytes, entry.checksum) for entry in manifest.tensors]
    return [
        Part(file, tensor, 0, nbytes, checksum.value(said))
        for file, tensor, nbytes, said in [*headers, *tensors]
        if file in files
    ]


def _join(
    files: Iterable[FileEntry], tensors: Iterable[TensorEntry], parts: Iterable[Part]
) -> dict[tuple[str, str | None], str]:
    """The checksum of each whole header (tensor None) and tensor."""
    found: dict[tuple[str, str | None], list[Part]] = {(entry.name, None): [] for entry in files}
    found |= {(entry.file, entry.name): [] for entry in tensors}
    for part in parts:
        found[part.file, part.tensor].append(part)
    return {
        key: checksum.text(checksum.join((part.crc, part.nbytes) for part in sorted(rows, key=lambda part: part.lo)))
        for key, rows in found.items()
    }


# -- check -------------------------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest:
    """The manifest of ``folder``; every file that it names exists and has its size. Raises CheckpointError."""
    try:
        manifest = decode((folder / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{MANIFEST} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{MANIFEST} cannot be read: {error.strerror}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{MANIFEST}: {error}") from error
    problems = [problem for entry in manifest.files if (problem := _size_problem(folder / entry.name, entry))]
    if problems:
        raise CheckpointError("; ".join(problems))
    return manifest


def _size_problem(path: Path, entry: FileEntry) -> str | None:
    try:
        nbytes = path.stat().st_size
    except FileNotFoundError:
        return f"{entry.name} is missing"
    except OSError as error:
        return f"{entry.name} cannot be read: {error.strerror}"
    if nbytes < entry.nbytes:
        return f"{entry.name} is truncated: {nbytes} of {entry.nbytes} bytes"
    return f"{entry.name} is too long: {nbytes} instead of {entry.nbytes} bytes" if nbytes > entry.nbytes else None


def measure(folder: Path, manifest: Manifest, ranges: Sequence[Range]) -> list[Part]:
    """The checksums of what is on disk in ``ranges``."""
    buffer = np.empty(_CHUNK_NBYTES, np.uint8)
    parts = []
    with telling("read", folder):
        for part in ranges:
            with open(folder / part.file, "rb", buffering=0) as file:
                for piece in pieces(manifest.files, manifest.tensors, [part]):
                    crc = 0
                    for lo in range(0, piece.nbytes, _CHUNK_NBYTES):
                        chunk = buffer.data[: min(_CHUNK_NBYTES, piece.nbytes - lo)]
                        _fill(file.fileno(), chunk, piece.offset + lo)
                        crc = checksum.crc32(chunk, crc)
                    parts.append(Part(piece.file, piece.tensor, piece.lo, piece.nbytes, crc))
    return parts


def _fill(descriptor: int, view: memoryview, offset: int) -> None:
    """Read exactly ``len(view)`` bytes."""
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count == 0:
            raise OSError(errno.EIO, f"the file ends at byte {offset + done}")
        done += count


def compare(manifest: Manifest, parts: Iterable[Part]) -> list[str]:
    """What differs between the manifest and what :func:`measure` found, over all of the files; [] when nothing does."""
    sums = _join(manifest.files, manifest.tensors, parts)
    problems = [
        f"{entry.name}: the header's checksum differs: {entry.checksum} in the manifest, {sums[entry.name, None]} on disk"
        for entry in manifest.files
        if sums[entry.name, None] != entry.checksum
    ]
    return problems + [
        _tensor_problem(entry, sums[entry.file, entry.name])
        for entry in manifest.tensors
        if sums[entry.file, entry.name] != entry.checksum
    ]


def _tensor_problem(entry: TensorEntry, found: str) -> str:
    return (
        f"{entry.file}: the checksum of tensor {entry.name} differs: {entry.checksum} in the manifest, {found} on disk"
    )


def verify(folder: Path) -> Manifest:
    """Check every byte of a checkpoint and return its manifest. Raises CheckpointError that names all that is wrong."""
    manifest = read_manifest(folder)
    problems = compare(manifest, measure(folder, manifest, share(manifest.files, 1)[0]))
    if problems:
        raise CheckpointError("; ".join(problems))
    return manifest


# -- read --------------------------------------------------------------------------------------------------------------


def require_fit(folder: Path | str, tensors: Iterable[TensorEntry], arrays: Mapping[str, Any]) -> None:
    """Raises StateError with all names that are missing, extra, or of another shape or dtype, at once."""
    saved = {entry.name: entry for entry in tensors}
    missing = sorted(arrays.keys() - saved.keys())
    extra = sorted(saved.keys() - arrays.keys())
    mismatched = [
        f"{name} is {saved[name].dtype}{list(saved[name].shape)} in the checkpoint, {array.dtype}{list(array.shape)} here"
        for name, array in sorted(arrays.items())
        if name in saved
        and (saved[name].shape != tuple(array.shape) or saved[name].dtype != np.dtype(array.dtype).name)
    ]
    lines = [
        f"  {title} ({len(names)}): {separator.join(names)}"
        for title, names, separator in (
            ("missing in the checkpoint", missing, ", "),
            ("extra in the checkpoint", extra, ", "),
            ("mismatched", mismatched, "; "),
        )
        if names
    ]
    if lines:
        head = f"checkpoint {folder} is of another model (nothing was changed):"
        raise StateError("\n".join([head, *lines, "  build the model and optimizer that it was saved from"]))


def read(folder: Path, manifest: Manifest, arrays: Arrays) -> list[Part]:
    """Read tensors in place into ``arrays`` by name, checking each checksum. Others in the checkpoint are left alone.

    Of a tensor that is spread over the ranks (OwnPart) each reads what it holds; the parts that it returns tell the
    checksums, to be joined over all ranks and given to :func:`compare_tensors`.

    Raises StateError when one is missing or of another shape or dtype, CheckpointError when the bytes are wrong.
    """
    entries = [entry for entry in manifest.tensors if entry.name in arrays]
    require_fit(folder, entries, arrays)
    for entry in entries:
        array = arrays[entry.name]
        if not isinstance(array, OwnPart):
            with telling("read", folder), open(folder / entry.file, "rb", buffering=0) as file:
                _read_tensor(file.fileno(), entry, array)
    parts = []
    for piece, part in _own_pieces(entries, arrays):
        view = byte_view(part.array)
        with telling("read", folder), open(folder / piece.file, "rb", buffering=0) as file:
            _fill(file.fileno(), view, piece.offset)
        _copy_back(view, part.array)
        parts.append(Part(piece.file, piece.tensor, piece.lo, piece.nbytes, checksum.crc32(view)))
    return parts


def compare_tensors(manifest: Manifest, names: Iterable[str], parts: Iterable[Part]) -> list[str]:
    """What differs between the manifest and the ``parts`` that all ranks read of the tensors ``names``; [] when nothing."""
    wanted = set(names)
    entries = [entry for entry in manifest.tensors if entry.name in wanted]
    sums = _join((), entries, parts)
    return [
        _tensor_problem(entry, sums[entry.file, entry.name])
        for entry in entries
        if sums[entry.file, entry.name] != entry.checksum
    ]


def _read_tensor(descriptor: int, entry: TensorEntry, array: np.ndarray) -> None:
    view = byte_view(array)  # of the array's own memory, or of a copy when it is strided
    _fill(descriptor, view, entry.offset)
    found = checksum.text(checksum.crc32(view))
    if found != entry.checksum:
        raise CheckpointError(
            f"{entry.file}: the checksum of tensor {entry.name} differs: {entry.checksum} expected, {found} read"
        )
    _copy_back(view, array)


def _copy_back(view: memoryview, array: np.ndarray) -> None:
    """What was read, into ``array`` if the view is of a copy."""
    bytes_of_view = np.frombuffer(view, array.dtype.newbyteorder("<"))
    if not np.may_share_memory(bytes_of_view, array):
        array[...] = bytes_of_view.reshape(array.shape)
