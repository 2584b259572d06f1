"""The numbers of each epoch as a table in a file."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from .base import Callback, Logs


class CSVLogger(Callback):
    """Write ``epoch``, ``step`` and the logs of each epoch to a CSV file; rank 0 writes.

    Args:
        filename: the file; folders are made.
        separator: between columns.
        append: keep what the file holds. After a resume the rows of earlier epochs stay in any case, later ones are replaced.

    Numbers have all their digits, arrays are JSON. Columns are those of the first row.

    >>> logger = phalanx.callbacks.CSVLogger("run/log.csv")
    """

    place = 20

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        self.path, self.separator, self.append = Path(filename), separator, append
        self._file: Any = None

    def reset(self) -> None:
        self._columns: list[str] = []
        self._last: dict[str, Any] = {}
        """The last row: an elastic job's new rank 0 writes it where the one before it could not any more."""

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        row = {"epoch": epoch, "step": self.trainer.step} | {name: _digits(value) for name, value in logs.items()}
        last, self._last = self._last, row
        if self.trainer.group.rank != 0:
            return
        if self._file is None and self._open(epoch, list(row)) and last:
            self._write(last)
        self._write(row)

    def _write(self, row: dict[str, Any]) -> None:
        csv.DictWriter(self._file, self._columns, restval="", extrasaction="ignore", delimiter=self.separator).writerow(
            row
        )
        self._file.flush()

    def _open(self, epoch: int, columns: list[str]) -> bool:
        """Keep the rows before ``epoch`` where this fit was resumed; whether that of the epoch before is not among them."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows: list[list[str]] = []
        if self.path.exists() and (self.append or epoch > 0):
            with self.path.open(newline="") as file:
                rows = [row for row in csv.reader(file, delimiter=self.separator) if row]
        self._columns = rows[0] if rows else columns
        if not self.append:
            rows = rows[:1] + [row for row in rows[1:] if row[0].isdigit() and int(row[0]) < epoch]
        self._file = self.path.open("w", newline="")
        csv.writer(self._file, delimiter=self.separator).writerows(rows or [self._columns])
        return not rows[1:] or rows[-1][0] != str(epoch - 1)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _digits(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return json.dumps(value.tolist())
    return repr(float(value)) if isinstance(value, float) else value
