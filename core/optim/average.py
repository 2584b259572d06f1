"""EMA: an exponential moving average of the parameters, on the flat store."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ..backend import device_kind
from ..errors import RangeError, ShapeError, StateError
from ..flat import FlatStore, is_packed, pack
from ..kernels.table import kernel
from ..live import live
from ..nn.module import Module
from ..nn.parameter import Parameter
from ..nn.state import array_of
from ..void import is_void
from .optimizer import Optimizer
from .state import whole_state

_BUFFER = "average"


class _Run(NamedTuple):
    """Neighbouring parameters of a store, first to last, that are all in the average or all not yet."""

    store: FlatStore
    first: int
    last: int
    known: bool


class EMA:
    """``average = decay average + (1 - decay) parameter`` after every optimizer step; the first update copies.

    One pass over the store; with ZeRO each rank averages what it owns. For evaluation the averages take the parameters' places
    and go back again, so that buffers (running statistics) and all that knows the model stay as they are.

    Args:
        source: a model, an optimizer, or parameters.
        decay: in [0, 1).
        warmup: use min(decay, (1 + n) / (10 + n)) after n updates, so that the start is forgotten sooner.

    All ranks call alike. Give it to ``Checkpointer(state={"average": ema})``, so that it survives with the run.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> optimizer = optim.SGD(model.parameters(), lr=1.0)
    >>> ema = optim.EMA(model, decay=0.75)
    >>> for value in (0.0, 8.0):
    ...     _ = nn.init.constant_(model.weight, value)
    ...     ema.update()
    >>> with ema.swapped():
    ...     model.weight.item()
    2.0
    >>> model.weight.item()
    8.0
    """

    def __init__(
        self, source: Module | Optimizer | Iterable[Parameter], decay: float = 0.999, *, warmup: bool = False
    ) -> None:
        if not 0.0 <= decay < 1.0:
            raise RangeError(f"EMA expects decay in [0, 1), got {decay!r}")
        self.decay, self.warmup = decay, warmup
        self.updates = 0
        """Calls of :meth:`update` so far."""
        self._names = _named(source)
        self._known: set[Parameter] = set()
        self._away = False
        if isinstance(source, Optimizer):
            source.register_step_pre_hook(_guard(self))

    @live
    def update(self) -> None:
        """Take the parameters as they are now into the average; after ``optimizer.step()``. Not in a step that is void."""
        self._require_home("update()")
        if is_void():
            return
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        for run in self._runs():
            average, data = self._parts(run)
            if run.known:
                kernel("average_update", device_kind(data))(average, data, 1.0 - decay)
            else:
                average[...] = data
        self._known.update(p for p in self._names if is_packed(p))
        self.updates += 1

    @contextmanager
    def swapped(self) -> Iterator[EMA]:
        """Within this block the parameters hold the averages: ``with ema.swapped(): phalanx.evaluate(...)``.

        Afterwards they are as before, to the bit. Before the first update nothing changes. With ZeRO all ranks enter and leave.
        """
        self._require_home("swapped()")
        runs = [run for run in self._runs() if run.known]
        self._exchange(runs)
        self._away = True
        try:
            yield self
        finally:
            self._away = False
            self._exchange(runs)

    def averages(self) -> dict[str, np.ndarray]:
        """Copies of the averages by parameter name (by position for an optimizer or parameters), whole on every rank."""
        self._require_home("averages()")
        whole: dict[tuple[FlatStore, str], Any] = {}
        return {name: whole_state(self, p, _BUFFER, whole) for p, name in self._names.items() if p in self._known}

    def copy_to(self, model: Module | None = None) -> None:
        """Write the averages into the parameters for good, or into those of another model with equal names."""
        if model is not None:
            model.load_state_dict(self.averages(), strict=False)
            return
        with self.swapped():
            kept = [(p, p.array.copy()) for p in self._known]
        for parameter, array in kept:
            parameter.array[...] = array

    def state_dict(self) -> dict[str, Any]:
        """``decay``, ``warmup``, ``updates`` and the ``averages``, whole on every rank (with ZeRO all ranks must call)."""
        return {"decay": self.decay, "warmup": self.warmup, "updates": self.updates, "averages": self.averages()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take what :meth:`state_dict` gave. Raises StateError for other names, ShapeError for other shapes."""
        self._require_home("load_state_dict()")
        given, here = state_dict["averages"], {name: p for p, name in self._names.items()}
        if unknown := sorted(given.keys() - here.keys()):
            raise StateError(f"EMA: the state has averages of {', '.join(unknown[:8])}, which are no parameters here")
        arrays = {name: array_of(value) for name, value in given.items()}
        for name, array in arrays.items():
            if array.shape != tuple(here[name].shape):
                raise ShapeError(
                    f"EMA: the average of {name} has shape {array.shape}, it has {tuple(here[name].shape)}"
                )
        self.decay, self.warmup, self.updates = (state_dict[key] for key in ("decay", "warmup", "updates"))
        self._runs()
        self._known = {here[name] for name in arrays}
        for name, array in arrays.items():
            here[name]._store.set_state(self, _BUFFER, here[name]._index, array)

    # -- on the store --------------------------------------------------------------------------------------------------

    def _runs(self) -> list[_Run]:
        """All parameters that lie in stores, in runs; those that are trained and do not are packed first."""
        if any(p.requires_grad and not is_packed(p) for p in self._names):
            pack(self._names)
        runs: list[_Run] = []
        stores = list(dict.fromkeys(p._store for p in self._names if is_packed(p)))
        for store in stores:  # on all ranks alike, also where nothing is owned
            store.state_buffer(self, _BUFFER)
            for index, parameter in enumerate(store.parameters):
                if parameter not in self._names or not store.holds(parameter):
                    continue
                known, last = parameter in self._known, runs[-1] if runs else None
                if last and (last.store, last.last, last.known) == (store, index - 1, known):
                    runs[-1] = last._replace(last=index)
                else:
                    runs.append(_Run(store, index, index, known))
        return runs

    def _parts(self, run: _Run) -> tuple[Any, Any]:
        """(averages, parameters) of a run, as far as this rank owns them."""
        store = run.store
        lo, hi = store.clip(store.offsets[run.first], store.extent(run.last)[1])
        return store.state_part(self, _BUFFER, lo, hi), store.data[lo:hi]

    def _exchange(self, runs: list[_Run]) -> None:
        for run in runs:
            average, data = self._parts(run)
            kernel("exchange", device_kind(data))(average, data)
        for run in runs:
            store = run.store
            if store.keeper is not None:
                store.keeper.gather_parameters([(store, store.offsets[run.first], store.extent(run.last)[1])])

    def _require_home(self, what: str) -> None:
        if self._away:
            raise StateError(
                f"EMA: {what} while the averages stand in the parameters' places; do it after `with ema.swapped()`"
            )


def _guard(average: EMA) -> Callable[..., None]:
    """A hook that refuses steps meanwhile, and does not keep the average alive."""
    seen = weakref.ref(average)

    def refuse(*_: Any) -> None:
        if (held := seen()) is not None:
            held._require_home("optimizer.step()")

    return refuse


def _named(source: Any) -> dict[Parameter, str]:
    if isinstance(source, Module):
        return {p: name for name, p in source.named_parameters()}
    given = source._all() if isinstance(source, Optimizer) else source
    if not isinstance(given, Iterable) or isinstance(given, Parameter):
        raise TypeError(f"EMA expects a Module, an Optimizer or parameters, got {type(source).__name__}")
    parameters = list(dict.fromkeys(given))
    if not parameters or not all(isinstance(p, Parameter) for p in parameters):
        raise TypeError("EMA expects a Module, an Optimizer or at least one Parameter")
    return {p: str(number) for number, p in enumerate(parameters)}
