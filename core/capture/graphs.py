"""A recorded step on a device as CUDA graphs: captured at its first replay, launched at the following ones.

:mod:`.pieces` cuts the program; here its pieces run. Memory that graphs use belongs to a pool of their own, which lives as long as
they do: nobody else gets it. Arrays that come from outside are copied to where they were at the capture, and what the
step returns is copied out. Where anything cannot be captured the program runs without graphs, and ``reason`` says why.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from operator import is_
from typing import Any

from ..backend import array_module, cupy, is_array
from ..nn import statistics
from .graph import Graph, captured
from .pieces import Piece, cut
from .program import end
from .recorder import Recorder

MOST = 8
"""So often the graphs of a program are made anew because memory that they use has moved, before they are given up."""
_NONE, _SLOT, _OTHER = range(3)


class Memory:
    """The pool of all graphs of a captured step, which never run at the same time: what one leaves another takes."""

    def __init__(self) -> None:
        self.pool: Any = None
        self.busy = threading.Lock()
        """Held while graphs run: what they read and write is in one place, which two threads cannot share."""

    def ready(self) -> None:
        """Before a capture: what plain steps have left in the usual pool is given back, or a model would need its memory twice."""
        self.pool = self.pool or cupy().cuda.MemoryPool()
        cupy().get_default_memory_pool().free_all_blocks()


class _Set:
    """The graphs for one state of the gradients, by piece."""

    def __init__(self) -> None:
        self.graphs: dict[int, Graph] = {}
        self.inputs: dict[str, Any] = {}
        """Where arrays from outside lie, by name."""
        self.made: set[str] = set()
        """Names of what graphs made."""


class Graphs:
    """All graphs of one program: a set for each state that gradients are in when it begins."""

    def __init__(self, recorder: Recorder, memory: Memory) -> None:
        self.pieces, self.source = cut(recorder, {"fed": self._fed, "observed": self._observed})
        self.reason: str | None = None
        """Why there are none."""
        self._inputs = [f"v{n}" for n in range(recorder.inputs)]
        self._tensors = list(recorder.leaves.values())
        self._leaves = list(dict.fromkeys(leaf for piece in self.pieces for leaf in piece.finals))
        self._known: list[Any] | None = None
        self._sets: dict[Any, _Set] = {}
        self._remade = 0
        self._memory = memory
        self._making: Graph | None = None
        self._by_host: list[set[str]] = []
        """For each piece what those behind it that are no graphs take."""
        later: set[str] = set()
        for piece in reversed(self.pieces):
            self._by_host.append(set(later))
            later |= set() if piece.kind == "graph" else set(piece.takes)
        self._by_host.reverse()

    def __call__(self, inputs: list[Any]) -> Any:
        """Do the step."""
        values = dict(zip(self._inputs, inputs, strict=True))
        chosen, open_ = None, self.reason is None
        scopes: list[ExitStack] = []
        begun: list[Any] = []
        with ExitStack() as all_scopes:
            all_scopes.callback(lambda: end(begun[::-1]))
            for number, piece in enumerate(self.pieces):
                if piece.kind == "graph":
                    if open_:
                        chosen, open_ = self._chosen(), False
                    if chosen is not None and self._graph(chosen, number, piece, values):
                        continue
                given = [values[name] for name in piece.takes]
                if piece.kind == "return":
                    if chosen is not None:
                        named = zip(piece.takes, given, strict=True)
                        given = [v.copy() if name in chosen.made and is_array(v) else v for name, v in named]
                    return piece.function(*given)
                found = piece.function(*given)
                if piece.kind == "enter":
                    scopes.append(all_scopes.enter_context(ExitStack()))
                    scopes[-1].enter_context(found)
                elif piece.kind == "exit":
                    scopes.pop().close()
                elif piece.kind == "begin":
                    begun += found
                elif piece.kind == "end":
                    heard, begun[:] = begun[:], []
                    end(heard)
                else:
                    values.update(zip(piece.gives, found, strict=True))
        raise AssertionError("a program returns")

    # -- which graphs ----------------------------------------------------------------------------------------------------

    def _chosen(self) -> _Set | None:
        """The graphs for what gradients are now; None where there can be none."""
        known: list[Any] = [t.array for t in self._tensors]
        states = []
        for leaf in self._leaves:
            slot, gradient, listener = leaf._slot, leaf._grad, leaf._listener
            known += (slot, listener)
            forgotten = gradient is None or (listener is not None and listener.forgets())
            states.append(_NONE if forgotten else _SLOT if gradient.array is slot else _OTHER)
            if slot is None:
                self.reason = "a parameter that no optimizer holds has no fixed place for its gradient"
                return None
        if _OTHER in states:
            return None  # somebody has set a gradient by hand: this call goes without
        if self._known is None or len(known) != len(self._known) or not all(map(is_, known, self._known)):
            if self._known is not None:
                self._remade += 1
            if self._remade > MOST:
                self.reason = "parameters, gradients or buffers keep moving to other memory"
                return None
            self._known, self._sets = known, {}
        key = (*states, statistics.collecting())
        found = self._sets.get(key)
        if found is None:
            self._memory.ready()
            found = self._sets[key] = _Set()
        return found

    def release(self) -> None:
        """Give the memory back; graphs are captured anew at the next call."""
        self._sets = {}

    def _graph(self, chosen: _Set, number: int, piece: Piece, values: dict[str, Any]) -> bool:
        """Launch the graph of a piece, which is made if there is none; False if that fails."""
        if self.reason is not None:
            return False
        graph = chosen.graphs.get(number)
        if graph is not None:
            graph.replay(values)
            return True
        found = Graph(piece.finals)
        given = []
        for name in piece.takes:
            value = values[name]
            if name not in chosen.made:
                value = self._from_outside(chosen, found, name, value)
            given.append(value)
        if self.reason is None:
            self._making = found
            try:
                results = captured(found, lambda: piece.function(*given), self._memory.pool)
            except Exception as error:
                first = str(error).partition("\n")[0]
                self.reason = f"{type(error).__name__} in the capture: {first[:200]}"
            finally:
                self._making = None
        if self.reason is not None:
            self._sets = {}
            return False
        made = dict(zip(piece.gives, results, strict=True))
        found.outputs = {name: value for name, value in made.items() if name in self._by_host[number]}
        chosen.made.update(made)
        chosen.graphs[number] = found
        values.update(made)
        found.launch()
        return True

    def _from_outside(self, chosen: _Set, graph: Graph, name: str, value: Any) -> Any:
        """Where the graph finds what comes from outside."""
        if name in chosen.inputs:
            return chosen.inputs[name]
        if not is_array(value):
            self.reason = f"a number that the step computes (a {type(value).__name__}) goes into an op"
            return value
        if array_module(value) is not cupy():
            self.reason = "an op takes an array from host memory: move the inputs to the device before the step"
            return value
        fixed = value.copy(order="K")
        if fixed.strides != value.strides:
            self.reason = f"an input of shape {value.shape} and strides {value.strides} has gaps or overlaps in memory"
        chosen.inputs[name] = fixed
        graph.copies.append((name, fixed))
        return fixed

    # -- what stands in the pieces -----------------------------------------------------------------------------------------

    def _fed(self, function: Any) -> Any:
        """A live function whose kernels belong to the graph and whose numbers are new at each launch."""
        return function if self._making is None else self._making.feeding(function)

    def _observed(self, record: Any) -> Any:
        """Statistics of a layer: they move within the graph, or are handed over after it."""
        making = self._making
        if making is None or not statistics.collecting():
            return record
        return lambda *entry: making.statistics.append((record, entry))
