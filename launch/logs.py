"""Each rank's whole output in a file of its own, whatever is printed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import BinaryIO

from ..dist.errors import LaunchError


class RankLogs:
    """``folder/rank-3.log`` for each rank: stdout and stderr as they came. Of a later attempt in ``folder/restart-1``."""

    def __init__(self, folder: str, restart: int = 0) -> None:
        self.folder = Path(folder, f"restart-{restart}") if restart else Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LaunchError(f"--logs {folder}: {error.strerror}") from None
        self._files: dict[int, BinaryIO] = {}

    def write(self, rank: int, data: bytes) -> None:
        """Bytes that a rank wrote. A disk that is full ends no job."""
        with contextlib.suppress(OSError):
            if rank not in self._files:
                self._files[rank] = (self.folder / f"rank-{rank}.log").open("wb", buffering=0)
            self._files[rank].write(data)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}


def parse_ranks(text: str) -> tuple[int, ...] | None:
    """Of ``--tee``; None: all.

    >>> parse_ranks("0,4-6"), parse_ranks("all")
    ((0, 4, 5, 6), None)
    """
    if text.strip() == "all":
        return None
    ranks: set[int] = set()
    for word in text.split(","):
        first, dash, last = word.strip().partition("-")
        if not first.isdigit() or (dash and (not last.isdigit() or int(last) < int(first))):
            raise LaunchError(f"--tee {text}: {word!r} is not understood; expected ranks, for example 0,4-6, or all")
        ranks.update(range(int(first), int(last if dash else first) + 1))
    return tuple(sorted(ranks))
