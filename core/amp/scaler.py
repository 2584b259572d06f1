"""``GradScaler``: float16's small gradients are lifted above its smallest number, and steps that overflow are left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..backend import device_kind, device_of, to_device
from ..errors import RangeError, StateError
from ..kernels.table import kernel
from ..live import live
from ..node import Variable, wrap
from ..optim.clip import joint_norm
from ..optim.optimizer import listeners, own_gradient, want_gradients
from ..void import is_void

_KEYS = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")


class GradScaler:
    """Multiplies the loss by a scale before backward, divides the gradients by it before the update, and finds the scale by itself.

    ``scale(loss).backward()``, ``step(optimizer)``, ``update()``. A step whose gradients are not all finite is left out and the scale
    reduced; after ``growth_interval`` good ones it grows. Under a DataParallel whether gradients are finite is asked of their sum
    over shards and ranks, which has the same bits on all ranks: all leave out the same steps, and no message is needed. As the scale
    is a power of two unless told otherwise, scaling changes no bit of a gradient that float16 can hold. The scale is part of what a
    resumed run needs: ``Checkpointer(state={"scaler": scaler})``. bfloat16 needs no scaling.

    Args:
        device: accepted as PyTorch has it; the scale lies where the loss does.
        init_scale: the first scale.
        growth_factor: what the scale is multiplied by after ``growth_interval`` steps in a row that were finite.
        backoff_factor: what it is multiplied by after one that was not.
        enabled: False: all methods pass on what they get.

    Raises RangeError for factors on the wrong side of 1. Micikevicius et al., "Mixed precision training", 2018.

    >>> weight = nn.Parameter(phalanx.tensor([3.0]))
    >>> optimizer, scaler = optim.SGD([weight], lr=0.5), phalanx.amp.GradScaler("cpu")
    >>> scaler.scale((weight * 2).sum()).backward()
    >>> scaler.step(optimizer)
    >>> scaler.update()
    >>> weight.item(), scaler.get_scale()
    (2.0, 65536.0)
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if not growth_factor > 1.0:
            raise RangeError(f"GradScaler expects growth_factor above 1, got {growth_factor!r}")
        if not 0.0 < backoff_factor < 1.0:
            raise RangeError(f"GradScaler expects backoff_factor between 0 and 1, got {backoff_factor!r}")
        if not init_scale > 0.0:
            raise RangeError(f"GradScaler expects init_scale above 0, got {init_scale!r}")
        self._enabled = bool(enabled)
        self._value, self._good_steps = float(init_scale), 0
        self._growth, self._backoff, self._interval = growth_factor, backoff_factor, growth_interval
        self._scales: dict[Any, Any] = {}
        """Device -> the scale there, in memory that stays: a recorded step reads it at each replay."""
        self._finite: dict[int, bool] = {}
        """Optimizer -> whether this step's gradients were finite, once they are unscaled."""
        self._stepped: set[int] = set()

    # -- the three calls of a step -----------------------------------------------------------------------------------------

    def scale(self, outputs: Any) -> Any:
        """``outputs`` (a Tensor, or a list or tuple of them) times the scale. A mean loss keeps its weight."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Variable):
            scaled = outputs * self._on(device_of(outputs.array))  # type: ignore[operator]
            scaled._weight = outputs._weight
            return scaled
        if isinstance(outputs, tuple | list):
            return type(outputs)(map(self.scale, outputs))
        raise TypeError(f"GradScaler.scale expects Tensors, or lists or tuples of them, got {type(outputs).__name__}")

    @live
    def unscale_(self, optimizer: Any) -> None:
        """Divide the gradients of ``optimizer``'s parameters by the scale: before clipping. :meth:`step` does it otherwise.

        Completes the sum over shards and ranks first, so all ranks must call. Raises StateError for a second time in a step.
        """
        if not self._enabled:
            return
        if id(optimizer) in self._finite:
            raise StateError(
                "unscale_() a second time for this optimizer since update(): the gradients are unscaled already"
            )
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        want_gradients(parameters)
        if is_void():
            self._finite[id(optimizer)] = True
            return
        for listener in listeners(parameters):
            listener.step_loss.was_scaled(self._value)
        present = [p for p in parameters if p._grad is not None]
        if any(p._store is not None and p._store.gradient_owned for p in present):
            finite = math.isfinite(joint_norm(present, math.inf))  # each rank sees a part: they tell each other
        else:
            finite = all(kernel("all_finite", device_kind(piece))(piece) for piece in _pieces(present))
        inverse = 1.0 / self._value
        for piece in _pieces(present):
            piece *= piece.dtype.type(inverse)
        self._finite[id(optimizer)] = finite

    @live
    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """``optimizer.step()``, unless a gradient is not finite: then nothing, on all ranks. Unscales if that was not done.

        Raises StateError for a second time since :meth:`update`.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if id(optimizer) in self._stepped:
            raise StateError("GradScaler.step() a second time for this optimizer: call update() after each step")
        if id(optimizer) not in self._finite:
            self.unscale_(optimizer)
        self._stepped.add(id(optimizer))
        return optimizer.step(*args, **kwargs) if self._finite[id(optimizer)] else None

    @live
    def update(self, new_scale: Any = None) -> None:
        """Reduce the scale if a gradient was not finite, grow it after enough good steps; or set ``new_scale``.

        Raises StateError if no gradients were unscaled since the last time.
        """
        if not self._enabled:
            return
        if is_void():
            self._finite.clear()
            self._stepped.clear()
            return
        if new_scale is not None:
            self._set(float(new_scale.item() if isinstance(new_scale, Variable) else new_scale))  # type: ignore[attr-defined]
        elif not self._finite:
            raise StateError(
                "GradScaler.update() without gradients: call scale(loss).backward() and step(optimizer) first"
            )
        elif not all(self._finite.values()):
            self._good_steps = 0
            self._set(self._value * self._backoff)
        else:
            self._good_steps += 1
            if self._good_steps == self._interval:
                self._good_steps = 0
                if math.isfinite(np.float32(self._value * self._growth)):
                    self._set(self._value * self._growth)
        self._finite.clear()
        self._stepped.clear()

    # -- what it is --------------------------------------------------------------------------------------------------------

    def is_enabled(self) -> bool:
        """Whether it does anything."""
        return self._enabled

    def get_scale(self) -> float:
        """The scale; 1 where it is not enabled."""
        return self._value if self._enabled else 1.0

    def found_inf(self, optimizer: Any) -> bool:
        """Whether the gradients that were unscaled for ``optimizer`` in this step were not all finite; the same on all ranks."""
        return not self._finite.get(id(optimizer), True)

    def get_growth_factor(self) -> float:
        """What the scale grows by."""
        return self._growth

    def set_growth_factor(self, new_factor: float) -> None:
        """Set what the scale grows by."""
        self._growth = new_factor

    def get_backoff_factor(self) -> float:
        """What the scale is reduced by."""
        return self._backoff

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set what the scale is reduced by."""
        self._backoff = new_factor

    def get_growth_interval(self) -> int:
        """After so many finite steps in a row the scale grows."""
        return self._interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Set after how many finite steps the scale grows."""
        self._interval = new_interval

    def state_dict(self) -> dict[str, Any]:
        """Scale, factors and the count of good steps, as PyTorch names them; empty where it is not enabled."""
        values = (self._value, self._growth, self._backoff, self._interval, self._good_steps)
        return dict(zip(_KEYS, values, strict=True)) if self._enabled else {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take what :meth:`state_dict` gave. Raises StateError for one that lacks something."""
        if not self._enabled:
            return
        if missing := [key for key in _KEYS if key not in state_dict]:
            raise StateError(
                f"GradScaler.load_state_dict: {', '.join(missing)} missing; was the scaler that saved it enabled?"
            )
        value, self._growth, self._backoff, interval, good = (state_dict[key] for key in _KEYS)
        self._interval, self._good_steps = int(interval), int(good)
        self._set(float(value))

    # -- inner things ------------------------------------------------------------------------------------------------------

    def _on(self, device: Any) -> Any:
        """The scale as a Tensor on ``device``."""
        found = self._scales.get(device)
        if found is None:
            found = self._scales[device] = wrap(to_device(np.array(self._value, np.float32), device))
        return found

    def _set(self, value: float) -> None:
        self._value = value
        for tensor in self._scales.values():
            tensor.array[...] = value


def _pieces(parameters: list[Any]) -> Iterator[Any]:
    """The gradients in few 1-D pieces: neighbours in a store are one, with the zeros between them."""
    run: tuple[Any, int, int] | None = None
    for parameter in sorted(dict.fromkeys(parameters), key=lambda p: (id(p._store), p._index or 0)):
        store, index = parameter._store, parameter._index
        if (
            store is None
            or store.gradient_owned
            or not store.holds(parameter)
            or parameter._grad.array is not parameter._slot
        ):
            yield own_gradient(parameter)
        elif run is not None and run[0] is store and run[2] == index - 1:
            run = store, run[1], index
        else:
            if run is not None:
                yield _of(*run)
            run = store, index, index
    if run is not None:
        yield _of(*run)


def _of(store: Any, first: int, last: int) -> Any:
    return store.gradient_part(store.offsets[first], store.extent(last)[1])
