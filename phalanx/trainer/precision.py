"""What numbers a step computes with: float32, or halves where they are good enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..core.amp.autocast import autocast
from ..core.amp.scaler import GradScaler
from ..core.backend import as_dtype, device_kind
from ..core.errors import RangeError
from ..core.nn.module import Module


class Precision:
    """float32 throughout: nothing is cast, nothing is scaled. Others override these."""

    name = "float32"

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Around model and loss."""
        yield

    def scaled(self, loss: Any) -> Any:
        """What backward starts from."""
        return loss

    def unscale(self, optimizer: Any) -> bool:
        """Before clipping: whether this step's gradients can be used; equal on all ranks."""
        return True

    def stepped(self) -> None:
        """After the update, or instead of it."""

    def state(self) -> dict[str, Any]:
        """What a resumed fit needs."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state` gave."""


class Mixed(Precision):
    """Products in bfloat16 or float16, on the device where the model lies; float16 with a scale of the loss."""

    def __init__(self, name: str, dtype: str, model: Module) -> None:
        self.name, self.dtype, self.model = name, as_dtype(dtype), model
        self.scaler = GradScaler(enabled=dtype == "float16")

    @contextmanager
    def forward(self) -> Iterator[None]:
        first = next((p for p in self.model.parameters()), None)
        with autocast("cpu" if first is None else device_kind(first.array), dtype=self.dtype):
            yield

    def scaled(self, loss: Any) -> Any:
        return self.scaler.scale(loss)

    def unscale(self, optimizer: Any) -> bool:
        self.scaler.unscale_(optimizer)
        return not self.scaler.found_inf(optimizer)

    def stepped(self) -> None:
        self.scaler.update()

    def state(self) -> dict[str, Any]:
        return self.scaler.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        if state:
            self.scaler.load_state_dict(state)


DTYPES = {
    "bf16": "bfloat16", "bfloat16": "bfloat16", "mixed_bfloat16": "bfloat16", "bf16-mixed": "bfloat16",
    "fp16": "float16", "float16": "float16", "mixed_float16": "float16", "16-mixed": "float16",
}  # fmt: skip


def precision(name: str, model: Module) -> Precision:
    """By name, for ``model``. Raises RangeError for an unknown one, DTypeError where bfloat16 is missing."""
    if name in (Precision.name, "fp32", "32"):
        return Precision()
    if name not in DTYPES:
        raise RangeError(f'Trainer expects precision "float32", "bf16" or "fp16", got {name!r}')
    return Mixed(name, DTYPES[name], model)
