"""``phalanx.capture``: a training step that is recorded once and then replayed without a graph."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..kernels.table import chosen
from ..live import now
from ..mode import mode
from ..node import Variable
from .bound import replay_of
from .graphs import Graphs, Memory
from .guard import Guard
from .recorder import Recorder
from .reference import DifferentError
from .together import Place, Replay, Together, written
from .watch import recorded

ATTEMPTS = 4
"""So often a step is recorded anew when two recordings differ, before it is taken for one that cannot be replayed."""
VARIANTS = 8
"""So many programs are kept for one set of shapes, for all values of what they take for granted."""
RECHECK = 1000
"""After so many replays a program is compared with a new recording."""
_PATIENCE = 64
_NUMBERS = (int, float, bool, str, type(None))


class _Variant(NamedTuple):
    guard: Guard
    replay: Callable[[list[Any]], Any]
    recorder: Recorder
    source: str
    graphs: Graphs | None
    """On a device."""
    together: Together | None
    """How shards are replayed side by side, if they gain from it."""


class _Shape:
    """What is known of the step for one set of shapes."""

    def __init__(self) -> None:
        self.variants: list[_Variant] = []
        self.pending: Recorder | None = None
        self.attempts = 0
        self.reason: str | None = None
        self.rest = 0
        """So many calls more stay eager before it is tried again."""
        self.refusals = 0
        self.replays = 0


class CapturedStep:
    """What :func:`capture` returns: call it as the step itself.

    >>> double = phalanx.capture(lambda x: x * 2)
    >>> [double(phalanx.tensor([float(i)])).item() for i in range(3)], double.replays
    ([0.0, 2.0, 4.0], 1)
    """

    def __init__(self, step: Callable[..., Any], graphs: bool = True) -> None:
        if not callable(step):
            raise TypeError(f"capture expects a function, got {type(step).__name__}")
        self.step = step
        self.why: str | None = "not called yet"
        """Why the last call was eager; None if it was replayed."""
        self.replays = 0
        """Calls that were replayed."""
        self.graphs = 0
        """Of these, those that CUDA graphs did."""
        self._with_graphs, self._memory = graphs, Memory()
        self._shapes: dict[Any, _Shape] = {}
        self._program = ""
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        functools.update_wrapper(self, step, updated=())

    @property
    def program(self) -> str:
        """The source of the program that was replayed last, for reading; empty before the first."""
        return self._program

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if mode.anomaly or now.recorder is not None:
            self.why = (
                "backward looks for NaN (anomaly detection)" if mode.anomaly else "inside of another captured step"
            )
            return self.step(*args, **kwargs)
        key: list[Any] = [mode.enabled, mode.autocast and mode.autocast.signature, chosen()]
        arrays: list[Any] = []
        for value in args:
            if isinstance(value, Variable):
                array = value.array
                arrays.append(array)
                key += (array.shape, array.strides, array.dtype.num, array.__class__, value.requires_grad)
            else:
                _flatten(value, arrays, key)
        if kwargs:
            _flatten(kwargs, arrays, key)
        signature = tuple(key)
        try:
            known = self._shapes.get(signature)
        except TypeError:
            return self._eager("an argument is no tensor, number or string, or list or dict of them", args, kwargs)
        if known is not None:
            for variant in known.variants:
                if variant.guard.difference() is None and known.replays < RECHECK:
                    known.replays += 1
                    self.replays += 1
                    self.why, self._program = None, variant.source
                    if variant.graphs is not None and self._with_graphs:
                        return self._launch(variant, variant.graphs, arrays)
                    return variant.replay(arrays)
        if not self._lock.acquire(blocking=False):
            return self._eager("another thread records this step", args, kwargs, quiet=True)
        try:
            return self._record(self._shapes.setdefault(signature, _Shape()), arrays, args, kwargs)
        finally:
            self._lock.release()

    def together(self, batches: Sequence[tuple[Any, ...]], cores: int) -> list[Callable[[Place], Replay]] | None:
        """For ``run_shards``: what begins a replay of each of these shards' calls, to go side by side on so many cores.

        An empty list: each will be replayed, but gains nothing from others beside it. None: that cannot be said beforehand.
        """
        if mode.anomaly or now.recorder is not None:
            return None
        first: Any = None
        inputs: list[list[Any]] = []
        for batch in batches:
            key: list[Any] = [mode.enabled, mode.autocast and mode.autocast.signature, chosen()]
            arrays: list[Any] = []
            for value in batch:
                _flatten(value, arrays, key)
            if first is not None and key != first:
                return None
            first = key
            inputs.append(arrays)
        try:
            known = self._shapes.get(tuple(first))
        except TypeError:
            return None
        if known is None or known.replays + len(inputs) >= RECHECK:
            return None
        variant = next((v for v in known.variants if v.guard.difference() is None), None)
        if variant is None or variant.graphs is not None:
            return None
        way = variant.together
        if way is None or len(inputs) == 1 or not (way.joins if cores == 1 else way.much):
            return []
        known.replays += len(inputs)
        self.replays += len(inputs)
        self.why, self._program = None, variant.source
        return [functools.partial(way.begin, arrays) for arrays in inputs]

    def _launch(self, variant: _Variant, graphs: Graphs, arrays: list[Any]) -> Any:
        """Replay by CUDA graphs where that goes."""
        if graphs.reason is None and self._memory.busy.acquire(blocking=False):
            try:
                result = graphs(arrays)
            finally:
                self._memory.busy.release()
            if graphs.reason is None:
                self.graphs += 1
                return result
            self._warn(f"the step is replayed without CUDA graphs: {graphs.reason}")
        else:
            result = variant.replay(arrays)
        self.why = f"replayed, without CUDA graphs: {graphs.reason or 'another thread is in them'}"
        return result

    # -- recording -------------------------------------------------------------------------------------------------------

    def _record(self, known: _Shape, arrays: list[Any], args: Any, kwargs: Any) -> Any:
        if known.rest:
            known.rest -= 1
            return self._eager(known.reason or "", args, kwargs)
        recorder, earlier = Recorder(arrays), known.pending
        checked = None
        if known.replays >= RECHECK:
            checked = next((v for v in known.variants if v.guard.difference() is None), None)
            earlier = checked.recorder if checked else earlier
            known.replays = 0
            if checked is not None and checked.graphs is not None:
                checked.graphs.release()  # the plain step needs as much memory
        guard = None
        if earlier is not None:
            guard = Guard(self.step, list(earlier.modules.values()), list(earlier.leaves.values()))
        known.pending = None
        with recorded(recorder):
            result = self.step(*args, **kwargs)
            recorder.returned(result)
        recorder.release()
        self.why = "recording: this step is replayed from its next calls on"
        reason = recorder.reasons[0] if recorder.reasons else None
        if reason is None and guard is not None:
            reason = guard.refusal
        if reason is None and guard is not None and (changed := guard.difference()) is not None:
            reason = f"the step changes what it depends on: {changed}"
        if reason is None and earlier is not None:
            try:
                recorder.merge(earlier)
            except DifferentError as different:
                reason = str(different)
                known.attempts += 1
                if checked is None and known.attempts < ATTEMPTS:
                    known.pending = recorder
                    return result
            else:
                if checked is None:
                    reason = self._keep(known, recorder, guard)
                if reason is None:
                    return result
        if reason is None:
            known.pending = recorder
        else:
            if checked is not None:
                self._outdated(known, checked, reason)
            self._refuse(known, reason)
        return result

    def _keep(self, known: _Shape, recorder: Recorder, guard: Any) -> str | None:
        if len(known.variants) >= VARIANTS:
            differs = known.variants[-1].guard.difference()
            return f"what the step depends on keeps changing: {differs}"
        known.attempts = 0
        replay, source = replay_of(recorder)
        graphs = Graphs(recorder, self._memory) if recorder.on_device else None
        known.variants.append(_Variant(guard, replay, recorder, source, graphs, written(recorder)))
        return None

    def _outdated(self, known: _Shape, variant: _Variant, reason: str) -> None:
        """A program turned out not to be what the step does."""
        known.variants.remove(variant)
        warnings.warn(
            f"capture: {reason}. Up to {RECHECK} steps before this one were replayed with what was before; pass what changes as an "
            "argument of the step",
            stacklevel=4,
        )

    def _refuse(self, known: _Shape, reason: str) -> None:
        known.reason, known.attempts = reason, 0
        known.rest = _PATIENCE * 4**known.refusals
        known.refusals = min(known.refusals + 1, 5)
        self.why = reason
        self._warn(f"the step stays eager: {reason}")

    def _eager(self, reason: str, args: Any, kwargs: Any, quiet: bool = False) -> Any:
        self.why = reason
        if not quiet:
            self._warn(f"the step stays eager: {reason}")
        return self.step(*args, **kwargs)

    def _warn(self, reason: str) -> None:
        if reason not in self._warned:
            self._warned.add(reason)
            warnings.warn(f"capture: {reason}", stacklevel=5)

    def __repr__(self) -> str:
        return f"capture({self.step!r})"


def _flatten(value: Any, arrays: list[Any], key: list[Any]) -> None:
    """The arrays in an argument, and what two calls must have in common beside them."""
    if isinstance(value, Variable):
        array = value.array
        arrays.append(array)
        key += (array.shape, array.strides, array.dtype.num, array.__class__, value.requires_grad)
    elif hasattr(value, "strides"):
        arrays.append(value)
        key += (value.shape, value.strides, value.dtype.num, value.__class__)
    elif type(value) in (tuple, list):
        key.append((type(value).__name__, len(value)))
        for item in value:
            _flatten(item, arrays, key)
    elif type(value) is dict:
        key.append(("dict", *value))
        for item in value.values():
            _flatten(item, arrays, key)
    else:
        key += (type(value), value) if type(value) in _NUMBERS else ([],)


def capture(step: Callable[..., Any], *, graphs: bool = True) -> CapturedStep:
    """``step``, recorded in its first calls and replayed afterwards: the same kernels on new arrays, without a graph of nodes.

    ``step(x, y)`` is what you would call anyway: clear gradients, forward, loss, backward, update, or any part of that. It takes tensors
    (and numbers) and returns tensors. Results are those without ``capture``, to the bit, under shards and on several ranks
    too. Learning rates, schedules, dropout's masks and the sum over ranks stay live. Other shapes and another mode of
    the model are recorded as further programs. A step that cannot be replayed (it reads values, has hooks, ...) stays eager;
    ``why`` says the reason, and a warning says it once. What is replayed is what the engine did: other effects of the Python code
    (printing, counting) happen while recording only.

    On a GPU forward and backward become CUDA graphs, each launched at once; ``step.graphs`` counts the calls that did so, and
    ``graphs=False`` leaves them out. See docs/replay.md.

    >>> model = nn.Linear(2, 1)
    >>> optimizer = optim.SGD(model.parameters(), lr=0.1)
    >>> def step(x, y):
    ...     optimizer.zero_grad()
    ...     loss = nn.functional.mse_loss(model(x), y)
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss
    >>> fast = phalanx.capture(step)
    >>> for _ in range(5): loss = fast(phalanx.ones(4, 2), phalanx.zeros(4, 1))
    >>> fast.replays, fast.why
    (3, None)
    """
    return CapturedStep(step, graphs)
