"""What numbers a step computes with: where mixed precision hooks in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..core.errors import RangeError


class Precision:
    """float32 throughout: nothing is cast, nothing is scaled. Others override these three."""

    name = "float32"

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Around model and loss."""
        yield

    def scaled(self, loss: Any) -> Any:
        """What backward starts from."""
        return loss

    def unscale(self, optimizer: Any) -> bool:
        """Before clipping and update: whether this step's gradients can be used; equal on all ranks."""
        return True


def precision(name: str) -> Precision:
    """By name. Raises RangeError for what this machine cannot do."""
    if name == Precision.name:
        return Precision()
    raise RangeError(f'Trainer knows precision "float32" here, got {name!r}: lower precision needs a GPU')
