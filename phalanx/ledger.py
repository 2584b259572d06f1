"""The run ledger: one line a step, by which two runs can be compared to the bit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .core.hashing import hash_named_hashes
from .core.nn.module import Module
from .dist.errors import CommunicatorError
from .dist.group import current
from .dist.zero.ownership import whole_hashes


class Ledger:
    """Append ``{"step", "loss", "weights", "optimizer", "buffers"}`` for each step to ``path``; rank 0 writes.

    The hashes are 64-bit, over names and bytes of all tensors; they are compared between ranks before the line is
    written. After a resume the lines from the resumed step on are replaced. ``path`` None: every call does nothing.
    ``detail``: each line also has ``"tensors"``, the hash of each tensor, by which ``phalanx diverge`` names the first
    one that differs.

    All ranks must call :meth:`record`. Raises CommunicatorError naming the rank that differs.

    >>> phalanx.Ledger(None, None, None).record(1)
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, model: Any, optimizer: Any, *, detail: bool = False
    ) -> None:
        self.path = None if path is None else Path(path)
        self.model, self.optimizer, self.detail = model, optimizer, detail
        self._file: Any = None

    def record(self, step: int) -> None:
        """Write the line of ``step``: optimizer steps completed since the start of training."""
        if self.path is None:
            return
        parts = tensor_hashes(self.model, self.optimizer)
        line: dict[str, Any] = {"step": step, "loss": self.model.step_loss, **totals(parts)}
        group = current()
        if group.size > 1:
            rows = group.control.all_gather_object(line, name=f"ledger of step {step}").wait()
            for rank, row in enumerate(rows):
                if row != rows[0]:
                    differing = [key for key in row if row[key] != rows[0][key]]
                    raise CommunicatorError(
                        f"step {step}: rank {rank} differs from rank 0 in {', '.join(differing)}: {row} against {rows[0]}"
                    )
        if self.detail:
            line["tensors"] = {
                part: {name: f"{value:016x}" for name, value in of.items()} for part, of in parts.items()
            }
        if group.rank == 0:
            if self._file is None:
                self._file = _open(self.path, step)
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file; every line is there already, and a later :meth:`record` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def tensor_hashes(model: Module, optimizer: Any) -> dict[str, dict[str, int]]:
    """The hash of each tensor by its name: of the weights, of the optimizer's state, of the buffers.

    Also of those that are spread over ranks; then all ranks must call.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    parts: dict[str, dict[str, Any]] = {
        "weights": {name: p.array for p, name in names.items()},
        "optimizer": optimizer.state_arrays(names),
        "buffers": {name: buffer.array for name, buffer in model.named_buffers()},
    }
    return {part: whole_hashes(arrays, current().control) for part, arrays in parts.items()}


def totals(parts: dict[str, dict[str, int]]) -> dict[str, str]:
    """One hash for each part, in hexadecimal."""
    return {part: f"{hash_named_hashes(values):016x}" for part, values in parts.items()}


def hashes(model: Module, optimizer: Any) -> dict[str, str]:
    """The 64-bit hashes of weights, optimizer state and buffers, in hexadecimal."""
    return totals(tensor_hashes(model, optimizer))


def _open(path: Path, step: int) -> Any:
    """Keep the lines before ``step``, which is what this run continues from, and go on behind them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = []
    if path.exists():
        for text in path.read_text().splitlines():
            try:
                if json.loads(text)["step"] < step:
                    kept.append(text + "\n")
            except (ValueError, KeyError):  # a line cut short when the job was killed
                break
    path.write_text("".join(kept))
    return path.open("a")
