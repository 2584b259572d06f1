"""The flight records of a job: old ones go before it starts, new ones are told of when it has failed."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path

PATTERN = "rank-*.jsonl"


class FlightRecords:
    """The folders of all attempts of one job.

    ``keep``: they are the user's own, so that nothing in them is removed after the job. Otherwise only those of a job that
    failed stay, and only of its last attempt.
    """

    def __init__(self, keep: bool) -> None:
        self.keep = keep
        self.folders: list[Path] = []

    def begin(self, folder: str) -> None:
        """An attempt starts, whose ranks write into ``folder``: what another job left there is not its story."""
        self.folders.append(Path(folder))
        for old in self.folders[-1].glob(PATTERN):
            with contextlib.suppress(OSError):
                old.unlink()

    def end(self, failed: bool) -> None:
        """The job is over."""
        told = self.folders[-1] if failed and self.folders else None
        if not self.keep:
            for folder in self.folders:
                if folder != told:
                    shutil.rmtree(folder, ignore_errors=True)
        count = len(list(told.glob(PATTERN))) if told is not None else 0
        if count:
            ranks = f"{count} rank{'s' if count > 1 else ''}"
            print(
                f"phalanx run: flight records of {ranks} in {told} (phalanx flight {told})", file=sys.stderr, flush=True
            )
