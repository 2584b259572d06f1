"""One CUDA graph of a captured step, and what has to be done on the host whenever it is launched."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .. import rng
from ..backend import cupy, is_array
from ..errors import GraphError
from ..kernels.cuda import scalars
from ..node import wrap

_LEGACY = (0, 1, 2)
"""Streams that cannot be captured: the default ones."""


class Graph:
    """A graph of what one piece of a step launches.

    ``finals``: leaves whose gradients are complete when it has run.
    """

    def __init__(self, finals: list[Any]) -> None:
        self.graph: Any = None
        self.copies: list[tuple[str, Any]] = []
        """Names of arrays from outside, and where the graph reads them."""
        self.outputs: dict[str, Any] = {}
        """What the host needs of what the graph makes."""
        self.statistics: list[tuple[Any, Any]] = []
        """Calls that hand statistics of layers over: function and arguments."""
        self.constants, self.numbers = scalars.Slots(), scalars.Slots()
        """What kernels read of numbers: those of options, and those that are new at each launch."""
        self._finals = finals
        self._cleared: list[bool] = []
        """Whether each of them had no gradient before."""
        self._first: list[Any] = []
        """Leaves that have no gradient before and one afterwards."""
        self._fed: list[tuple[Any, Any, Any]] = []

    # -- while it is made ------------------------------------------------------------------------------------------------

    def feeding(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, whose numbers are given anew before each launch."""

        def called(*args: Any, **kwargs: Any) -> Any:
            scalars.now.slots = self.numbers
            try:
                result = function(*args, **kwargs)
            finally:
                scalars.now.slots = self.constants
            self._fed.append((function, tuple(map(_ghost, args)), {key: _ghost(v) for key, v in kwargs.items()}))
            return result

        return called

    # -- when it runs ----------------------------------------------------------------------------------------------------

    def replay(self, values: dict[str, Any]) -> None:
        """Bring in what is new, and launch."""
        if [leaf._grad is None for leaf in self._finals] != self._cleared:
            raise GraphError(
                "a captured step met gradients in another state than when its graphs were made (cleared where they were not, or the "
                "other way round); capture it with graphs=False"
            )
        for name, fixed in self.copies:
            value = values[name]
            if value is not fixed:
                fixed[...] = value
        if self._fed:
            self._feed()
        self._launch()
        values.update(self.outputs)

    def launch(self) -> None:
        """Launch for the first time, right after the capture: what is read is in place."""
        self.constants.send(cupy().cuda.get_current_stream())
        self._launch()

    def _launch(self) -> None:
        stream = cupy().cuda.get_current_stream()
        self.numbers.send(stream)
        self.graph.launch(stream)
        for record, (layer, n, *moments) in self.statistics:
            record(layer, n, *[array.copy() for array in moments])
        for leaf in self._first:
            leaf._grad = wrap(leaf._slot)
        for leaf in self._finals:
            if leaf._listener is not None:
                leaf._listener.gradient_final(leaf)

    def _feed(self) -> None:
        self.numbers.begin()
        now = scalars.now
        now.slots, now.feeding = self.numbers, True
        try:
            for function, args, kwargs in self._fed:
                function(*args, **kwargs)
        finally:
            now.slots, now.feeding = None, False


def captured(graph: Graph, function: Callable[[], Any], pool: Any) -> Any:
    """Capture what ``function`` launches, with memory out of ``pool``; returns what it returned. If it raises nothing has happened."""
    api = cupy()
    stream = api.cuda.get_current_stream()
    if stream.ptr in _LEGACY:
        stream = api.cuda.Stream(non_blocking=True)
    leaves, moment = graph._finals, rng.moment()
    gradients, listeners = [leaf._grad for leaf in leaves], [leaf._listener for leaf in leaves]
    for leaf in leaves:
        leaf._listener = None
    scalars.now.slots = graph.constants
    try:
        with api.cuda.using_allocator(pool.malloc), stream:
            stream.begin_capture()
            try:
                result = function()
            except BaseException:
                with suppress(Exception):  # it says no more than that the capture is void
                    stream.end_capture()
                raise
            graph.graph = stream.end_capture()
    except BaseException:
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf._grad = gradient
        rng.go_back(moment)
        raise
    finally:
        scalars.now.slots = None
        for leaf, listener in zip(leaves, listeners, strict=True):
            leaf._listener = listener
    graph._cleared = [before is None for before in gradients]
    pairs = zip(leaves, gradients, strict=True)
    graph._first = [leaf for leaf, before in pairs if before is None and leaf._grad is not None]
    return result


def _ghost(value: Any) -> Any:
    """An array at the same place that does not keep its memory: the graph may use that again."""
    if not is_array(value):
        return value
    api = cupy()
    memory = api.cuda.UnownedMemory(value.data.ptr, max(1, value.nbytes), None, value.device.id)
    return api.ndarray(value.shape, value.dtype, api.cuda.MemoryPointer(memory, 0), value.strides)
