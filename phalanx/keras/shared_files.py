"""Files that rank 0 wrote, for all ranks: those that do not see them get them by message."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..dist.group import joined
from ..dist.packed import pack, unpack


@contextmanager
def seen_by_all(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Where this rank finds what rank 0 has at ``path``: a file, or a folder of files. All ranks must call.

    A script that saves and loads at once, or in a temporary folder of each process, means what rank 0 has written.
    """
    here, group = Path(path), joined()
    if group is None or group.communicator.size == 1:  # or not among the others yet
        yield here
        return
    rows = group.control.all_gather_object(here.exists(), name="load: who sees the file").wait()
    if all(rows) or not rows[0]:
        yield here
        return
    names, arrays = _content(here) if group.rank == 0 else ([], [])
    data = pack({"names": names}, arrays)
    told = group.control.call(lambda m: m.programs.all_gather_bytes(m, data), name="load: the file of rank 0")
    if rows[group.rank]:
        yield here
        return
    words, content = unpack(told[0])
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / here.name
        for name, array in zip(words["names"], content, strict=True):
            target = copy / name if name else copy
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(array.tobytes())
        yield copy


def _content(path: Path) -> tuple[list[str], list[np.ndarray]]:
    """Names below ``path`` ("" for a file) and bytes."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [file.name if path.is_dir() else "" for file in files], [np.fromfile(file, np.uint8) for file in files]
