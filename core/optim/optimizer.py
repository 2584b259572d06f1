"""The base of all optimizers: parameter groups, state on the flat store, and one fused pass for each run of parameters.

A subclass writes two small things: ``state_names(group)``, which buffers it keeps, and ``update(...)``, the pass over
one contiguous run of the store. Neighbouring parameters of a group that all have a gradient and the same number of
steps form one run, so that the common case is one call for the whole model. Where ranks own parts of the store (ZeRO),
each updates its part of every run, and the new parameters are gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import RangeError, StateError
from ..flat import FlatStore, is_packed, pack
from ..graph import enable_grad
from ..nn.module import Module
from ..nn.parameter import Parameter
from ..owned import Keeper
from ..tensor import Tensor

Options = dict[str, Any]


class Optimizer:
    """Base class. ``params``: an iterable of parameters or of dicts with the key ``"params"`` and options.

    Hyperparameters are those of the global batch; under a DataParallel ``step()`` first completes the sum of the
    gradients over shards and ranks and must be called by all ranks.
    """

    grain = "element"
    """The smallest unit that an update needs whole; ZeRO cuts only there. "element": any piece of a run; "parameter": each call
    of :meth:`update` gets one whole parameter; "matrix": the same in the parameter's own shape."""

    def __init__(self, params: Iterable[Any], defaults: Options) -> None:
        self.defaults = defaults
        self.param_groups: list[Options] = []
        self._steps: dict[Parameter, int] = {}
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
        """Update ``data`` in place; all arrays are 1-D pieces of the store (see ``grain``); ``step`` counts from 1."""
        raise NotImplementedError

    # -- parameters --------------------------------------------------------------------------------------------------

    def add_param_group(self, group: Options) -> None:
        """Add parameters with options of their own; options not given come from the constructor."""
        params = group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        unknown = set(group) - {"params", "name"} - set(self.defaults)
        if unknown:
            raise RangeError(f"{type(self).__name__} has no option {sorted(unknown)}; it has {sorted(self.defaults)}")
        present = {id(p) for g in self.param_groups for p in g["params"]}
        for parameter in params:
            if not isinstance(parameter, Tensor):
                raise TypeError(f"an optimizer expects Parameters, got {type(parameter).__name__}")
            if not isinstance(parameter, Parameter):
                raise TypeError("an optimizer expects leaf Parameters (nn.Parameter), got a Tensor that is none")
            if id(parameter) in present:
                raise RangeError("a parameter appears in more than one parameter group")
        self.param_groups.append({**self.defaults, **group, "params": list(dict.fromkeys(params))})
        self._pack()

    def _pack(self) -> None:
        for store in pack(self._all()):
            store.require_grain(self.grain)

    def _all(self) -> list[Parameter]:
        return [p for group in self.param_groups for p in group["params"]]

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

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; others are left alone, as in PyTorch."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        want_gradients(self._all())
        if any(p.requires_grad and not is_packed(p) for p in self._all()):
            self._pack()
        spans: dict[FlatStore, tuple[int, int]] = {}
        for group in self.param_groups:
            for store, first, last, count in self._runs(group):
                lo, hi = store.offsets[first], store.extent(last)[1]
                self._update_run(group, store, (first, last), count)
                before = spans.get(store, (lo, hi))
                spans[store] = min(lo, before[0]), max(hi, before[1])
        self._gather(spans)
        for listener in _listeners(self._all()):
            listener.updated(self)
        return loss

    def _gather(self, spans: Mapping[FlatStore, tuple[int, int]]) -> None:
        """Where ranks own parts: all get the parameters that others updated."""
        keepers: dict[int, tuple[Keeper, list[tuple[FlatStore, int, int]]]] = {}
        for store in dict.fromkeys(p._store for p in self._all()):  # an order that all ranks share
            if store in spans and store.keeper is not None:
                keepers.setdefault(id(store.keeper), (store.keeper, []))[1].append((store, *spans[store]))
        for keeper, updated in keepers.values():
            keeper.gather_parameters(updated)

    def _runs(self, group: Options) -> list[tuple[FlatStore, int, int, int]]:
        """(store, first index, last index, steps so far) of neighbours that can be updated in one pass."""
        ready = [p for p in group["params"] if p._grad is not None and is_packed(p)]
        ready.sort(key=_place)
        runs: list[tuple[FlatStore, int, int, int]] = []
        for parameter in ready:
            store, index, count = parameter._store, parameter._index, self._steps.get(parameter, 0)
            settle_gradient(parameter)
            self._steps[parameter] = count + 1
            joins = self.grain == "element" and runs and runs[-1][0] is store
            if joins and runs[-1][2] == index - 1 and runs[-1][3] == count:
                runs[-1] = (store, runs[-1][1], index, count)
            else:
                runs.append((store, index, index, count))
        return runs

    def _update_run(self, group: Options, store: FlatStore, ends: tuple[int, int], count: int) -> None:
        """Update the owned part of the parameters from the first to the last of ``ends``."""
        names = self.state_names(group)
        for name in names:  # on all ranks alike, also where nothing of the run is owned
            store.state_buffer(self, name)
        lo, hi = store.clip(store.offsets[ends[0]], store.extent(ends[1])[1])
        if lo >= hi:
            return
        shape = store.parameters[ends[0]].array.shape if self.grain == "matrix" else (-1,)
        state = {name: store.state_part(self, name, lo, hi).reshape(shape) for name in names}
        gradient = store.gradient_part(lo, hi).reshape(shape)
        data = store.data[lo:hi].reshape(shape)
        self.update(data, -gradient if group.get("maximize") else gradient, state, group, count + 1)

    # -- state, by parameter name (checkpoints) -----------------------------------------------------------------------

    def state_arrays(self, names: Mapping[Parameter, str]) -> dict[str, Any]:
        """Live views of all state, keyed "buffer/parameter name"; parts of them (OwnPart) where ranks own parts."""
        found: dict[str, Any] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if self._steps.get(parameter, 0):
                    for name in self.state_names(group):
                        found[f"{name}/{names[parameter]}"] = parameter._store.state_of(self, name, parameter._index)
        return found

    def state_scalars(self, names: Mapping[Parameter, str]) -> dict[str, Any]:
        """Everything else that must survive, as JSON: options of each group and step counts by parameter name."""
        groups = []
        for group in self.param_groups:
            options = {key: value for key, value in group.items() if key != "params"}
            groups.append({"options": options, "params": [names[p] for p in group["params"]]})
        steps = {names[p]: count for p, count in self._steps.items() if count}
        return {"type": type(self).__name__, "groups": groups, "steps": steps}

    def prepare_state(self, scalars: Mapping[str, Any], keys: Iterable[str], names: Mapping[Parameter, str]) -> None:
        """Take options and step counts; afterwards :meth:`state_arrays` has exactly ``keys``, to be read into."""
        if scalars["type"] != type(self).__name__:
            raise StateError(
                f"the checkpoint holds the state of {scalars['type']}, this optimizer is {type(self).__name__}"
            )
        ours = [[names[p] for p in group["params"]] for group in self.param_groups]
        theirs = [group["params"] for group in scalars["groups"]]
        if ours != theirs:
            raise StateError(
                f"parameter groups differ: the checkpoint's are {_short(theirs)}, this optimizer's {_short(ours)}"
            )
        for group, saved in zip(self.param_groups, scalars["groups"], strict=True):
            group.update({key: tuple(v) if isinstance(v, list) else v for key, v in saved["options"].items()})
        self._steps = {p: scalars["steps"][names[p]] for p in self._all() if names[p] in scalars["steps"]}
        self._pack()
        wanted = set(keys)
        if set(self.state_arrays(names)) != wanted:
            missing, extra = (
                sorted(set(self.state_arrays(names)) - wanted),
                sorted(wanted - set(self.state_arrays(names))),
            )
            raise StateError(f"optimizer state differs: missing {missing[:8]}, not expected {extra[:8]}")

    # -- state, by position (PyTorch's form) ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's form: ``{"state": {index: {"step", buffers...}}, "param_groups": [...]}``; arrays are copies.

        Complete on every rank; where ranks own parts (ZeRO) they are gathered, so that all ranks must call.
        """
        index = {p: i for i, p in enumerate(self._all())}
        whole: dict[tuple[FlatStore, str], Any] = {}
        state: dict[int, dict[str, Any]] = {}
        groups = []
        for group in self.param_groups:
            groups.append(
                {k: v for k, v in group.items() if k != "params"} | {"params": [index[p] for p in group["params"]]}
            )
            for p in group["params"]:
                if count := self._steps.get(p, 0):
                    buffers = {name: self._whole_state(p, name, whole) for name in self.state_names(group)}
                    state[index[p]] = {"step": count, **buffers}
        return {"state": state, "param_groups": groups}

    def _whole_state(self, parameter: Parameter, name: str, whole: dict[tuple[FlatStore, str], Any]) -> Any:
        """A copy of one parameter's state; ``whole`` remembers what was gathered."""
        store, index = parameter._store, parameter._index
        if (store, name) not in whole:
            buffer = store.state_buffer(self, name)
            whole[store, name] = buffer if store.owned is None else store.keeper.whole(store, buffer, name)
        return store.view(whole[store, name], index).copy()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take what :meth:`state_dict` gave, for the same number of groups and parameters."""
        sizes = [len(g["params"]) for g in state_dict["param_groups"]]
        if sizes != [len(g["params"]) for g in self.param_groups]:
            raise StateError(
                f"the state has parameter groups of {sizes} parameters, this optimizer of {[len(g['params']) for g in self.param_groups]}"
            )
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({k: v for k, v in saved.items() if k != "params"})
        self._pack()
        for position, parameter in enumerate(self._all()):
            saved = state_dict["state"].get(position)
            self._steps[parameter] = int(saved["step"]) if saved else 0
            for name, value in (saved or {}).items():
                if name != "step":
                    array = np.asarray(getattr(value, "array", value))
                    parameter._store.set_state(self, name, parameter._index, array)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {key}: {value}" for key, value in sorted(group.items()) if key != "params"]
        return "\n".join([*lines, ")"])


def want_gradients(parameters: Iterable[Parameter]) -> None:
    """Complete the gradients of ``parameters``: under a DataParallel, sum them over shards and ranks (all ranks call)."""
    for listener in _listeners(parameters):
        listener.gradients_wanted()


def _listeners(parameters: Iterable[Parameter]) -> list[Any]:
    """Who listens to these parameters' gradients, each once."""
    return list({id(p._listener): p._listener for p in parameters if p._listener is not None}.values())


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


def check_range(optimizer: str, **values: tuple[float, float, float]) -> None:
    """Each ``name=(value, low, high)`` must satisfy low <= value < high."""
    for name, (value, low, high) in values.items():
        if not low <= value < high:
            bound = f"at least {low}" if high == float("inf") else f"in [{low}, {high})"
            raise RangeError(f"{optimizer} expects {name} {bound}, got {value!r}")


def _place(parameter: Parameter) -> tuple[int, int]:
    return id(parameter._store), parameter._index or 0


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 300 else text[:300] + "..."
