"""Moving a module to another device or dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..backend import Device, as_dtype
from ..bfloat16 import is_floating
from ..errors import DTypeError
from ..live import structure
from ..tensor import Tensor

if TYPE_CHECKING:
    from .module import Module

Self = TypeVar("Self", bound="Convertible")


def destination(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """The function that ``Module.to(*args, **kwargs)`` applies to every tensor: device, dtype or another tensor's."""
    unknown = set(kwargs) - {"device", "dtype", "non_blocking"}
    if unknown:
        raise TypeError(f"Module.to() does not know {', '.join(sorted(unknown))}; it takes device and dtype")
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for arg in args:
        if isinstance(arg, Tensor):
            device, dtype = arg.device, arg.dtype
        elif isinstance(arg, (str, int, Device)) and not isinstance(arg, bool):
            device = arg
        elif arg is not None and not isinstance(arg, bool):
            dtype = arg
    if dtype is not None and not is_floating(dtype := as_dtype(dtype)):
        raise DTypeError(f"Module.to() expects a floating dtype, got {dtype}")

    def change(tensor: Tensor) -> Tensor:
        if device is not None:
            tensor = tensor.to(device)
        return tensor.to(dtype) if dtype is not None and is_floating(tensor.dtype) else tensor

    return change


def convert(module: Module, change: Callable[[Tensor], Tensor]) -> None:
    """Apply ``change`` to the values of all parameters, gradients and buffers; a tensor at two places stays one."""
    for parameter in module.parameters():
        gradient = parameter.grad
        parameter.data = change(parameter.data)
        if gradient is not None:
            parameter.grad = change(gradient.detach())
    changed: dict[int, Tensor] = {}
    for owner in module.modules():
        for name in owner._buffer_names:
            buffer = owner.__dict__[name]
            if buffer is not None:
                structure.stamp = object()
                owner.__dict__[name] = changed.setdefault(id(buffer), change(buffer))


class Convertible:
    """The part of Module that moves it."""

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device, a dtype or both: ``to("cuda")``, ``to(phalanx.float64)``, ``to(device=..., dtype=...)``.

        A floating dtype changes floating tensors only (labels and counters keep theirs). Returns self.
        """
        convert(self, destination(args, kwargs))  # type: ignore[arg-type]
        return self

    def half(self: Self) -> Self:
        """Floating parameters and buffers to float16; returns self."""
        return self.to(np.float16)

    def bfloat16(self: Self) -> Self:
        """Floating parameters and buffers to bfloat16; returns self."""
        return self.to("bfloat16")

    def float(self: Self) -> Self:
        """Floating parameters and buffers to float32; returns self."""
        return self.to(np.float32)

    def double(self: Self) -> Self:
        """Floating parameters and buffers to float64; returns self."""
        return self.to(np.float64)

    def cpu(self: Self) -> Self:
        """Parameters and buffers to the host; returns self."""
        return self.to("cpu")

    def cuda(self: Self, device: int | None = None) -> Self:
        """Move to a GPU: the rank's own unless a number is given."""
        return self.to(Device("cuda", device))

    def type(self: Self, dst_type: Any) -> Self:
        """Floating parameters and buffers to another floating dtype; returns self."""
        return self.to(as_dtype(dst_type))
