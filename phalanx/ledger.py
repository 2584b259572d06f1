"""The run ledger: one line a step, by which two runs can be compared to the bit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .core.hashing import hash_named_hashes
from .core.nn.module import Module
from .core.void import is_void
from .dist import exchanges
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
        self._last: tuple[int, str] = (-1, "")
        """The last line: an elastic job's new rank 0 writes it where the one before it could not any more."""

    def record(self, step: int) -> None:
        """Write the line of ``step``: optimizer steps completed since the start of training. Nothing in a step that is void."""
        if self.path is None or is_void():
            return
        group = current()
        found = exchanges.repeated(group, lambda: self._compared(step))
        if found is None:
            return
        line, parts = found
        if step <= self._last[0]:  # the job went back: what was written of later steps is void
            self.close()
            self._last = (-1, "")
        if self.detail:
            line["tensors"] = {
                part: {name: f"{value:016x}" for name, value in of.items()} for part, of in parts.items()
            }
        text = json.dumps(line) + "\n"
        if group.rank == 0:
            if self._file is None:
                self._file = _open(self.path, step, self._last)
            self._file.write(text)
            self._file.flush()
        self._last = step, text

    def _compared(self, step: int) -> tuple[dict[str, Any], dict[str, dict[str, int]]]:
        """The line of ``step``, equal on all ranks, and the hash of each tensor."""
        parts = tensor_hashes(self.model, self.optimizer)
        line: dict[str, Any] = {"step": step, "loss": self.model.step_loss, **totals(parts)}
        group = current()
        if group.size > 1:
            rows = exchanges.gather_object(group, line, name=f"ledger of step {step}") or []
            for rank, row in enumerate(rows):
                if row != rows[0]:
                    differing = [key for key in row if row[key] != rows[0][key]]
                    raise CommunicatorError(
                        f"step {step}: rank {rank} differs from rank 0 in {', '.join(differing)}: {row} against {rows[0]}"
                    )
        return line, parts

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


def _open(path: Path, step: int, last: tuple[int, str]) -> Any:
    """Keep the lines before ``step``, which is what this run continues from, and go on behind them; the last of them is ``last``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept: list[str] = []
    if path.exists():
        for text in path.read_text().splitlines():
            try:
                if json.loads(text)["step"] < step:
                    kept.append(text + "\n")
            except (ValueError, KeyError):  # a line cut short when the job was killed
                break
    if last[1] and last[0] < step and (not kept or json.loads(kept[-1])["step"] < last[0]):
        kept.append(last[1])
    path.write_text("".join(kept))
    return path.open("a")
