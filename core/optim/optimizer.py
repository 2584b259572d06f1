"""The base of all optimizers: parameter groups, state on the flat store, and one fused pass for each run of parameters.

A subclass writes two small things: ``state_names(group)``, which buffers it keeps, and ``update(...)``, the pass over
one contiguous run of the store. Neighbouring parameters of a group that all have a gradient and the same number of
steps form one run, so that the common case is one call for the whole model. Where ranks own parts of the store (ZeRO),
each updates its part of every run, and the new parameters are gathered.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from .. import spans
from ..errors import RangeError, StateError
from ..flat import FlatStore, all_packed, pack
from ..graph import enable_grad
from ..live import live
from ..nn.hooks import RemovableHandle
from ..nn.module import Module
from ..nn.parameter import Parameter
from ..owned import Keeper
from ..tensor import Tensor
from ..void import is_void
from .own_state import OwnState
from .runs import Plan, Run, index_of, keeper_of, place_of, plan, store_of
from .state import TORCH_ONLY, OptimizerState, Options, whole_state


def _whole(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step with all that belongs to it: hooks before and after, and those who listen; once, also where it calls another one's."""

    own = (step.__module__, step.__qualname__) == (__name__, "Optimizer.step")

    @functools.wraps(step)
    def whole(self: Optimizer, *args: Any, **named: Any) -> Any:
        if self._within:
            return step(self, *args, **named)
        alone = own and not (args or named or self._pre_hooks or self._post_hooks or spans.on or is_void())
        if alone and self._plan is not None and self._plan.whole(self):
            return None
        self._within = True
        began, first = (time.monotonic(), spans.mark()) if spans.on else (0.0, None)
        try:
            for hook in tuple(self._pre_hooks.values()) if self._pre_hooks else ():
                if (changed := hook(self, args, named)) is not None:
                    args, named = changed
            if self._by_hand:
                self._ready_by_hand(closure=bool(args and callable(args[0])) or named.get("closure") is not None)
            result = None if self._by_hand and is_void() else step(self, *args, **named)
        finally:
            self._within = False
        if is_void():
            return result
        self.updates += 1
        for listener in listeners(self._all()):
            listener.updated(self)
        for hook in tuple(self._post_hooks.values()) if self._post_hooks else ():
            hook(self, args, named)
        if began:
            spans.tell("optimizer", f"{type(self).__name__}.step", began, time.monotonic())
            spans.tell_gpu(f"{type(self).__name__}.step", first)
        return result

    return live(whole)


class Optimizer(OptimizerState):
    """Base class. ``params``: an iterable of parameters, of (name, parameter) pairs, or of dicts with the key ``"params"`` and options.

    Hyperparameters are those of the global batch; under a DataParallel ``step()`` first completes the sum of the
    gradients over shards and ranks and must be called by all ranks. Options that tell PyTorch how to run an update
    (``foreach``, ``fused``, ``capturable``) are accepted and change nothing. A subclass defines ``state_names`` and ``update``;
    one that PyTorch's users have written, with a ``step()`` that goes through ``param_groups`` and keeps what it needs in
    ``self.state[p]``, works too, but not with ZeRO.

    >>> class Plain(optim.Optimizer):
    ...     def __init__(self, params, lr=0.1):
    ...         super().__init__(params, {"lr": lr})
    ...     def state_names(self, group):
    ...         return ()
    ...     def update(self, data, gradient, state, group, step):
    ...         data -= gradient * data.dtype.type(group["lr"])
    >>> weight = nn.Parameter(phalanx.ones(2))
    >>> optimizer = Plain([weight])
    >>> weight.sum().backward()
    >>> optimizer.step()
    >>> weight.detach().numpy().round(3)
    array([0.9, 0.9], dtype=float32)
    """

    grain = "element"
    """The smallest unit that an update needs whole; ZeRO cuts only there. "element": any piece of a run; "parameter": each call
    of :meth:`update` gets one whole parameter; "matrix": the same in the parameter's own shape."""

    number_names: tuple[str, ...] = ()
    """Numbers that a parameter's update carries from step to step (see :meth:`numbers`)."""

    _by_hand = False
    """Whether a subclass has a ``step()`` of its own and no ``update()``."""

    _plan: Plan | None = None
    """What the last step did, for the next one."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "step" in vars(cls):
            cls._by_hand = cls.update is Optimizer.update
            cls.step = _whole(cls.step)  # type: ignore[method-assign]

    def __init__(self, params: Iterable[Any], defaults: Options) -> None:
        self.defaults = defaults
        self.param_groups: list[Options] = []
        self.updates = 0
        """Calls of :meth:`step` on this object; a resume does not count."""
        self.loads = 0
        """How often state was loaded into it."""
        self._steps: dict[Parameter, int] = {}
        self._numbers: dict[Parameter, dict[str, float]] = {}
        self._own = OwnState(dict) if self._by_hand else None
        self._within = False
        self._pre_hooks: dict[int, Callable[..., Any]] = {}
        self._post_hooks: dict[int, Callable[..., Any]] = {}
        if isinstance(params, Tensor):
            raise TypeError("an optimizer expects an iterable of parameters, got a single Tensor; wrap it in a list")
        if not isinstance(params, Iterable) or isinstance(params, Module):
            raise TypeError(
                f"an optimizer expects an iterable of parameters, got {type(params).__name__}; pass model.parameters()"
            )
        given = list(params)
        if not given:
            raise RangeError("an optimizer expects at least one parameter, got an empty list")
        for group in given if isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(group)

    # -- what a subclass writes --------------------------------------------------------------------------------------

    def state_names(self, group: Options) -> tuple[str, ...]:
        """Names of the state buffers that ``group`` needs."""
        raise NotImplementedError

    def update(self, data: Any, gradient: Any, state: dict[str, Any], group: Options, step: int) -> None:
        """Update ``data`` in place; all arrays are 1-D pieces of the store (see ``grain``); ``step`` counts from 1.

        ``state`` holds the buffers, and the numbers of :meth:`numbers` as they were before this step.
        """
        raise NotImplementedError

    def numbers(self, group: Options, step: int, before: dict[str, float]) -> dict[str, float]:
        """What ``number_names`` are after ``step``, from what they were before; those of step 0 are the initial ones."""
        raise NotImplementedError

    # -- parameters --------------------------------------------------------------------------------------------------

    def add_param_group(self, group: Options) -> None:
        """Add parameters with options of their own; options not given come from the constructor.

        Raises RangeError for an unknown option or a parameter that is in a group already, TypeError for what is none.
        """
        params = group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        unknown = set(group) - {"params", "name", "initial_lr"} - set(self.defaults) - TORCH_ONLY
        if unknown:
            raise RangeError(f"{type(self).__name__} has no option {sorted(unknown)}; it has {sorted(self.defaults)}")
        options = {key: value for key, value in {**self.defaults, **group}.items() if key not in TORCH_ONLY}
        options = {key: v.item() if isinstance(v, Tensor) and key != "params" else v for key, v in options.items()}
        if params and all(isinstance(item, tuple) for item in params):
            options["param_names"] = [name for name, _ in params]
            params = [parameter for _, parameter in params]
        present = {id(p) for g in self.param_groups for p in g["params"]}
        for parameter in params:
            if not isinstance(parameter, Tensor):
                raise TypeError(f"an optimizer expects Parameters, got {type(parameter).__name__}")
            if not isinstance(parameter, Parameter):
                raise TypeError("an optimizer expects leaf Parameters (nn.Parameter), got a Tensor that is none")
            if id(parameter) in present:
                raise RangeError("a parameter appears in more than one parameter group")
        self.param_groups.append({**options, "params": list(dict.fromkeys(params))})
        self._pack()

    def _pack(self) -> None:
        for store in pack(self._all()):
            store.require_grain(self.grain)

    @live
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients (``set_to_none=False`` fills them with zeros instead)."""
        listeners = {}
        for parameter in self._all():
            if parameter._listener is not None:
                listeners[id(parameter._listener)] = parameter._listener
            if set_to_none or parameter._grad is None:
                parameter._grad = None
            else:
                own_gradient(parameter)[...] = 0
        for listener in listeners.values():
            listener.gradients_cleared()

    # -- the step ----------------------------------------------------------------------------------------------------

    @_whole
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; others are left alone, as in PyTorch. A step that is void updates nothing.

        ``closure`` computes the loss anew, with its gradients, before the update; its result is returned.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        parameters = self._all()
        want_gradients(parameters)
        if is_void():
            return loss
        if self._plan is not None and self._plan.again(self):
            return loss
        if not all_packed(parameters):
            self._pack()
        spans: dict[FlatStore, tuple[int, int]] = {}
        done: list[tuple[Options, Run]] = []
        for group in self.param_groups:
            for run in self._runs(group):
                store, lo, hi = run.store, run.store.offsets[run.first], run.store.extent(run.last)[1]
                self._update_run(group, run)
                before = spans.get(store, (lo, hi))
                spans[store] = min(lo, before[0]), max(hi, before[1])
                done.append((group, run))
        self._gather(spans)
        self._plan = plan(self, parameters, done)
        return loss

    def _ready_by_hand(self, closure: bool) -> None:
        """Whole gradients for a subclass's own ``step()``; one with a closure makes them itself."""
        if any(p._store is not None and p._store.keeper is not None for p in self._all()):
            raise StateError(
                f"{type(self).__name__} has a step() of its own, which knows nothing of parts: with DataParallel(shard=...) an "
                "optimizer defines update() and state_names()"
            )
        if not closure:
            want_gradients(self._all())

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` before each step; what it returns, unless None, replaces both."""
        return RemovableHandle(self._pre_hooks, hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` after each step."""
        return RemovableHandle(self._post_hooks, hook)

    def _gather(self, spans: Mapping[FlatStore, tuple[int, int]]) -> None:
        """Where ranks own parts: all get the parameters that others updated."""
        if not any(map(keeper_of, spans)):
            return
        keepers: dict[int, tuple[Keeper, list[tuple[FlatStore, int, int]]]] = {}
        for store in dict.fromkeys(p._store for p in self._all()):  # an order that all ranks share
            if store in spans and store.keeper is not None:
                keepers.setdefault(id(store.keeper), (store.keeper, []))[1].append((store, *spans[store]))
        for keeper, updated in keepers.values():
            keeper.gather_parameters(updated)

    def _runs(self, group: Options) -> list[Run]:
        """Neighbours that can be updated in one pass."""
        ready = []
        for p in group["params"]:  # as is_packed, without its calls
            store = p._store
            if p._grad is not None and store is not None and p.array is store.views[p._index]:
                ready.append(p)
        ready.sort(key=index_of if len(set(map(store_of, ready))) == 1 else place_of)
        runs: list[Run] = []
        steps, numbered = self._steps, self.number_names
        for parameter in ready:
            store, index, count = parameter._store, parameter._index, steps.get(parameter, 0)
            if store.gradient_owned or parameter._grad.array is not parameter._slot:
                settle_gradient(parameter)
            steps[parameter] = count + 1
            numbers: dict[str, float] = {}
            if numbered:
                numbers = self._numbers.get(parameter) or self.numbers(group, 0, {})
                self._numbers[parameter] = self.numbers(group, count + 1, numbers)
            run = runs[-1] if runs and self.grain == "element" else None
            if run and run.store is store and run.last == index - 1 and run.steps == count and run.numbers == numbers:
                run.last = index
            else:
                runs.append(Run(store, index, index, count, numbers))
        return runs

    def _update_run(self, group: Options, run: Run) -> None:
        """Update the owned part of the run's parameters."""
        store = run.store
        lo, hi = store.clip(store.offsets[run.first], store.extent(run.last)[1])
        state = store.state_slices(self, self.state_names(group), lo, hi)  # on all ranks, also where lo = hi
        if lo >= hi:
            return
        gradient, data = store.gradient_part(lo, hi), store.data[lo:hi]
        if self.grain == "matrix":
            shape = store.parameters[run.first].array.shape
            state = {name: buffer.reshape(shape) for name, buffer in state.items()}
            gradient, data = gradient.reshape(shape), data.reshape(shape)
        if group.get("maximize"):
            gradient = -gradient
        store.version += 1
        if data.dtype.kind == "V" and store.device == "cpu":
            self._update_wide(data, gradient, state, run, group)
        else:
            self.update(data, gradient, state | run.numbers if run.numbers else state, group, run.steps + 1)

    def _update_wide(self, data: Any, gradient: Any, state: dict[str, Any], run: Run, group: Options) -> None:
        """bfloat16 parameters and state: updated in float32 and rounded once."""
        wide = {name: buffer.astype(np.float32) for name, buffer in state.items()}
        values = data.astype(np.float32)
        self.update(values, gradient.astype(np.float32), wide | run.numbers, group, run.steps + 1)
        data[...] = values
        for name, buffer in state.items():
            buffer[...] = wide[name]

    def __deepcopy__(self, memo: dict[int, Any]) -> Optimizer:
        """A copy with its state for copies of the parameters (those of a model that is copied along); hooks stay behind."""
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        held = {key: value for key, value in self.__dict__.items() if key not in ("_pre_hooks", "_post_hooks", "_plan")}
        twin.__dict__.update(copy.deepcopy(held, memo), _pre_hooks={}, _post_hooks={})
        twin._pack()
        whole: dict[tuple[FlatStore, str], Any] = {}
        for group, other in zip(self.param_groups, twin.param_groups, strict=True):
            for mine, its in zip(group["params"], other["params"], strict=True):
                if self._own is None and self._steps.get(mine, 0):
                    for name in self.state_names(group):
                        its._store.set_state(twin, name, its._index, whole_state(self, mine, name, whole))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plan": None}

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [
                f"    {key}: {value}" for key, value in sorted(group.items()) if key not in ("params", "param_names")
            ]
        return "\n".join([*lines, ")"])


def want_gradients(parameters: Iterable[Parameter]) -> None:
    """Complete the gradients of ``parameters``: under a DataParallel, sum them over shards and ranks (all ranks call)."""
    for listener in listeners(parameters):
        listener.gradients_wanted()


def listeners(parameters: Iterable[Parameter]) -> list[Any]:
    """Who listens to these parameters' gradients, each once."""
    found = [p._listener for p in parameters if p._listener is not None]
    return list({id(listener): listener for listener in found}.values()) if found else found


def own_gradient(parameter: Parameter) -> Any:
    """The gradient of ``parameter``, or the part of it that lies on this rank (1-D), to be worked on in place."""
    store, index = parameter._store, parameter._index
    if store is None or not store.gradient_owned or not store.holds(parameter):
        return parameter._grad.array
    settle_gradient(parameter)
    return store.gradient_part(*store.clip(*store.extent(index)))


def settle_gradient(parameter: Parameter) -> None:
    """A gradient that somebody assigned goes where the optimizer reads it: into its place in the store."""
    store, gradient = parameter._store, parameter._grad.array
    slot: Any = parameter._slot
    if store.gradient_owned:
        store.take_gradient(parameter._index, gradient)
        parameter._grad.array = store.own_gradient(parameter._index)
    elif gradient is not slot:
        slot[...] = gradient
        parameter._grad.array = slot


def torch_only(optimizer: str, given: Mapping[str, Any]) -> None:
    """Accept the options that tell PyTorch how to run an update; TypeError for others, RangeError for what would change results."""
    if unknown := sorted(given.keys() - TORCH_ONLY):
        raise TypeError(f"{optimizer} got an unexpected keyword argument {unknown[0]!r}")
    if given.get("differentiable"):
        raise RangeError(f"{optimizer}: differentiable=True is not supported: updates are not recorded in the graph")


def check_range(optimizer: str, **values: tuple[float, float, float]) -> None:
    """Each ``name=(value, low, high)`` must satisfy low <= value < high."""
    for name, (value, low, high) in values.items():
        if not low <= value < high:
            bound = f"at least {low}" if high == float("inf") else f"in [{low}, {high})"
            raise RangeError(f"{optimizer} expects {name} {bound}, got {value!r}")
