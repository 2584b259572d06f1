"""Event files that TensorBoard shows."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from ..core.errors import RangeError
from .base import Callback, Logs

BINS = 64
"""Buckets of a histogram."""


class TensorBoard(Callback):
    """Write event files for TensorBoard: numbers of steps and epochs, histograms if wanted; rank 0 writes.

    Args:
        log_dir: the folder; ``tensorboard --logdir`` shows it.
        every_steps: write the step's numbers (``step/loss``, ...) every so many steps; None: not at all.
        histograms: after every so many epochs write a histogram of each parameter; None: none.

    Tags are ``step/NAME`` and ``epoch/NAME``; the horizontal axis is the number of optimizer steps. After a resume what earlier
    files say of later steps is void. Needs the package ``tensorboard`` (``pip install 'phalanx[tensorboard]'``).

    >>> board = phalanx.callbacks.TensorBoard("run/board", histograms=1)
    """

    place = 20

    def __init__(
        self, log_dir: str | os.PathLike[str] = "logs", *, every_steps: int | None = 10, histograms: int | None = None
    ) -> None:
        for name, value in (("every_steps", every_steps), ("histograms", histograms)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise RangeError(f"TensorBoard expects {name} to be None or an integer of at least 1, got {value!r}")
        self.log_dir, self.every_steps, self.histograms = os.fspath(log_dir), every_steps, histograms
        self._writer: _Writer | None = None

    def on_fit_begin(self, logs: Logs) -> None:
        self._begin()

    def _begin(self) -> None:
        """On rank 0, which in an elastic job may become another one."""
        if self.trainer.group.rank == 0 and self._writer is None:
            self._writer = _Writer(self.log_dir, self.trainer.step)

    def on_step_end(self, step: int, logs: Logs) -> None:
        self._begin()
        if self._writer is not None and self.every_steps and self.trainer.step % self.every_steps == 0:
            self._writer.scalars("step/", logs, self.trainer.step)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self._writer is None:
            return
        self._writer.scalars("epoch/", logs, self.trainer.step)
        if self.histograms and (epoch + 1) % self.histograms == 0:
            for name, parameter in self.trainer.model.named_parameters():
                self._writer.histogram(f"parameters/{name}", parameter.detach().numpy(), self.trainer.step)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _Writer:
    """One event file. The only place that knows the package ``tensorboard``."""

    def __init__(self, folder: str, first_step: int) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2  # noqa: PLC0415
            from tensorboard.summary.writer.event_file_writer import EventFileWriter  # noqa: PLC0415
        except ImportError as error:
            raise ImportError(
                "callbacks.TensorBoard needs the package tensorboard: pip install 'phalanx[tensorboard]'"
            ) from error
        self._event, self._summary, self._session = event_pb2.Event, summary_pb2, event_pb2.SessionLog
        self._file = EventFileWriter(folder)
        if first_step:  # from here on what another file says is of a run that was given up
            start = self._session(status=self._session.START)
            self._file.add_event(self._event(wall_time=time.time(), step=first_step + 1, session_log=start))

    def scalars(self, head: str, numbers: Logs, step: int) -> None:
        values = [
            self._summary.Summary.Value(tag=head + name, simple_value=float(value))
            for name, value in numbers.items()
            if isinstance(value, int | float | np.generic)
        ]
        self._add(values, step)

    def histogram(self, tag: str, array: np.ndarray, step: int) -> None:
        values = array[np.isfinite(array)].astype(np.float64)
        if not values.size:
            return
        counts, edges = np.histogram(values, BINS)
        proto = self._summary.HistogramProto(
            min=values.min(), max=values.max(), num=values.size, sum=values.sum(), sum_squares=float((values**2).sum()),
            bucket_limit=edges[1:].tolist(), bucket=counts.tolist(),
        )  # fmt: skip
        self._add([self._summary.Summary.Value(tag=tag, histo=proto)], step)

    def _add(self, values: list[Any], step: int) -> None:
        summary = self._summary.Summary(value=values)
        self._file.add_event(self._event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
