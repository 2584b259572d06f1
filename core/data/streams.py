"""Streams of samples that lie in files: an order that no rank count changes, and a cursor that says where one stands.

All ranks read the same records in the same order; a rank makes samples only of those in its shards. A stream offers

``records(seed, epoch, cursor) -> iterator of (record, cursor behind it)``
    the records of an epoch from ``cursor`` on (None: from the beginning); a cursor consists of JSON's types.
``sample(record) -> sample``
    what ``__getitem__`` is to other data sets.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .. import rng
from ..errors import DataError, RangeError, StateError
from .dataset import IterableDataset
from .samplers import keyed_order

Cursor = dict[str, int]
FILES_DRAW, WINDOWS_DRAW = 1, 2
"""Numbers of the shard that no loader has in an order's key: they keep these draws apart from others."""
HEAD_NBYTES = 1 << 16
"""How much of each file stands for its content."""


class Record(NamedTuple):
    """One record as it lies in a file."""

    data: bytes
    file: str
    number: int


class StreamingDataset(IterableDataset):
    """Records of several files, one after another, read as they are needed: no index, nothing held in memory.

    ``files``: paths or one glob pattern (sorted); names that end in .gz are unpacked. A record is a line without its end, or
    ``record_nbytes`` bytes. ``parse(record)`` makes a sample of it: of a str for lines, of bytes for fixed lengths. With
    ``shuffle_files`` the order of files, with ``window`` that of the records within each so many is keyed by (seed, epoch).
    ``keyed=False`` says that ``parse`` draws from ``random`` or ``numpy.random``.

    Under shards and ranks: the order is the files' own; each rank computes its shards of each global batch. A checkpoint
    holds (file, record): a run goes on from exactly there at any number of ranks.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = open(f"{folder}/a.txt", "w").write("1\\n2\\n"), open(f"{folder}/b.txt", "w").write("3\\n")
    >>> stream = phalanx.data.StreamingDataset(f"{folder}/*.txt", parse=int)
    >>> [x.tolist() for x in phalanx.data.DataLoader(stream, batch_size=2)]
    [[1, 2], [3]]
    """

    def __init__(
        self,
        files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        parse: Callable[[Any], Any] | None = None,
        *,
        record_nbytes: int | None = None,
        shuffle_files: bool = False,
        window: int = 0,
        encoding: str = "utf-8",
        keyed: bool = True,
    ) -> None:
        self.files = _paths(files)
        self.parse, self.record_nbytes, self.encoding = parse, record_nbytes, encoding
        self.shuffle_files, self.window = bool(shuffle_files), window
        self.keyed = keyed
        if record_nbytes is not None and record_nbytes < 1:
            raise RangeError(f"StreamingDataset: record_nbytes is at least 1, got {record_nbytes}")
        if window < 0:
            raise RangeError(f"StreamingDataset: window is a number of records, or 0 for none; got {window}")

    def __iter__(self) -> Iterator[Any]:
        for record, _ in self.records(rng.initial_seed(), 0, None):
            yield self.sample(record)

    def sample(self, record: Record) -> Any:
        """What ``parse`` makes of the record."""
        value = record.data if self.record_nbytes is not None else record.data.decode(self.encoding)
        return value if self.parse is None else self.parse(value)

    def records(self, seed: int, epoch: int, cursor: Cursor | None) -> Iterator[tuple[Record, Cursor]]:
        """The records of ``epoch`` from ``cursor`` on, each with the cursor behind it."""
        cursor = {"file": 0, "record": 0, "byte": 0, "window": 0, "used": 0} if cursor is None else dict(cursor)
        if set(cursor) != {"file", "record", "byte", "window", "used"} or cursor["file"] > len(self.files):
            raise StateError(f"not a place in a stream of {len(self.files)} files: {cursor}")
        order: Any = range(len(self.files))
        if self.shuffle_files:
            order = keyed_order(len(self.files), rng.Key(seed, rng.PURPOSES["order"], epoch, FILES_DRAW, 0)).tolist()
        raw = self._raw([self.files[number] for number in order], cursor)
        return self._windows(raw, cursor, seed, epoch) if self.window else raw

    def _windows(
        self, raw: Iterator[tuple[Record, Cursor]], cursor: Cursor, seed: int, epoch: int
    ) -> Iterator[tuple[Record, Cursor]]:
        """Each ``window`` records in a keyed order. Inside of a window the cursor is its beginning and how many are used."""
        start, used = {**cursor, "used": 0}, cursor["used"]
        while True:
            held = list(islice(raw, self.window))
            if not held:
                return
            number = start["window"]
            after = {**held[-1][1], "window": number + 1, "used": 0}
            order = keyed_order(len(held), rng.Key(seed, rng.PURPOSES["order"], epoch, WINDOWS_DRAW, number))
            for place in range(used, len(held)):
                yield held[order[place]][0], after if place + 1 == len(held) else {**start, "used": place + 1}
            start, used = after, 0

    def _raw(self, paths: list[Path], cursor: Cursor) -> Iterator[tuple[Record, Cursor]]:
        number, byte = cursor["record"], cursor["byte"]
        for place in range(cursor["file"], len(paths)):
            path = paths[place]
            try:
                with _open(path) as file:
                    file.seek(byte)
                    for data in self._cut(file, path):
                        byte, number = byte + len(data), number + 1
                        line = data if self.record_nbytes is not None else data.rstrip(b"\r\n")
                        behind = {**cursor, "file": place, "record": number, "byte": byte}
                        yield Record(line, str(path), number - 1), behind
            except (OSError, EOFError) as error:
                raise DataError(f"{path}: record {number} cannot be read: {error}") from error
            number = byte = 0

    def _cut(self, file: BinaryIO, path: Path) -> Iterator[bytes]:
        if self.record_nbytes is None:
            yield from file
            return
        while data := file.read(self.record_nbytes):
            if len(data) < self.record_nbytes:
                raise DataError(f"{path} ends within a record: {len(data)} of {self.record_nbytes} bytes")
            yield data

    def identity(self) -> str:
        """Names, sizes and beginnings of the files: what must be equal to go on from a saved cursor."""
        parts = []
        for path in self.files:
            with open(path, "rb") as file:
                head = hashlib.blake2b(file.read(HEAD_NBYTES), digest_size=8).hexdigest()
            parts.append(f"{path.name} {path.stat().st_size} {head}")
        return "; ".join([*parts, f"record_nbytes={self.record_nbytes}", f"{self.shuffle_files} {self.window}"])

    def __repr__(self) -> str:
        return f"StreamingDataset({len(self.files)} files)"


def where(record: Any) -> str:
    """Words that say where a record lies."""
    return f"record {record.number} of {record.file}" if isinstance(record, Record) else "a sample of the stream"


def _paths(files: Any) -> list[Path]:
    if isinstance(files, str | os.PathLike):
        text = os.fspath(files)
        found = sorted(glob(text)) if any(mark in text for mark in "*?[") else [text]
    else:
        found = [os.fspath(file) for file in files]
    if not found:
        raise DataError(f"no file at {files!r}")
    missing = [name for name in found if not os.path.isfile(name)]
    if missing:
        raise DataError(f"no such file: {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}")
    return [Path(name) for name in found]


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")  # type: ignore[return-value]
