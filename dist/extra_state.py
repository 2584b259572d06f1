"""What a checkpoint holds beside parameters, buffers and optimizers: the residuals of compression.

A model that has such state says so by its attribute ``extra_state``; names begin with ``compression/``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from ..core.checkpoint.manifest import TensorEntry

FAMILY = "compression/"


class Restoring(Protocol):
    """State on its way from a checkpoint."""

    arrays: dict[str, Any]
    """Where to read what is wanted, by name."""

    def finish(self) -> None:
        """Everything was read."""


class ExtraState(Protocol):
    """State that belongs to a model's wrapper; equal names and shapes on all ranks."""

    def state_arrays(self) -> dict[str, Any]:
        """Arrays, or this rank's parts of them, by name."""

    def restoring(self, saved: Mapping[str, tuple[int, ...]]) -> Restoring | None:
        """Begin anew from what was saved: names and shapes. None: nothing is wanted."""


def arrays(models: Mapping[str, Any]) -> dict[str, Any]:
    """What to save, by its name in the checkpoint. ``models`` by name; one alone has the name ""."""
    found: dict[str, Any] = {}
    for name, model in models.items():
        extra: ExtraState | None = getattr(model, "extra_state", None)
        if extra is not None:
            found |= {f"{_head(name)}{key}": array for key, array in extra.state_arrays().items()}
    return found


class Reading:
    """What the ``tensors`` of a checkpoint have for ``models``: read into ``arrays``, then call :meth:`finish`."""

    def __init__(self, models: Mapping[str, Any], tensors: Iterable[TensorEntry], say: Callable[[str], None]) -> None:
        self.arrays: dict[str, Any] = {}
        self._parts: list[Restoring] = []
        entries = [entry for entry in tensors if entry.name.startswith(FAMILY)]
        for name, model in models.items():
            extra: ExtraState | None = getattr(model, "extra_state", None)
            head = _head(name)
            part = extra and extra.restoring({e.name[len(head) :]: e.shape for e in entries if e.name.startswith(head)})
            if part:
                self._parts.append(part)
                self.arrays |= {head + key: array for key, array in part.arrays.items()}
        if entries and not self.arrays:
            say(
                "the checkpoint holds residuals of compression, which this run does not use: what they had left out of the "
                "gradients is dropped"
            )

    def finish(self) -> None:
        """Everything was read."""
        for part in self._parts:
            part.finish()


def _head(name: str) -> str:
    return f"{FAMILY}{name}." if name else FAMILY
