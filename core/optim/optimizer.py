"""The base of all optimizers: parameter groups, state on the flat store, and one fused pass for each run of parameters.

A subclass writes two small things: ``state_names(group)``, which buffers it keeps, and ``update(...)``, the pass over
one contiguous run of the store. Neighbouring parameters of a group that all have a gradient and the same number of
steps form one run, so that the common case is one call for the whole model.
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
from ..tensor import Tensor

Options = dict[str, Any]


class Optimizer:
    """Base class. ``params``: an iterable of parameters or of dicts with the key ``"params"`` and options.

    Hyperparameters are those of the global batch; under a DataParallel ``step()`` first completes the sum of the
    gradients over shards and ranks and must be called by all ranks.
    """

    grain = "element"
    """The smallest unit that an update needs whole: "element", "parameter" or "matrix"; ZeRO cuts only there."""

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
        """Update ``data`` in place; all arrays are 1-D pieces of the store; ``step`` counts from 1."""
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
        pack(self._all())

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
                parameter._grad.array[...] = 0
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
            pack(self._all())
        for group in self.param_groups:
            for store, first, last, count in self._runs(group):
                self._update_run(group, store, first, last, count)
        return loss

    def _runs(self, group: Options) -> list[tuple[FlatStore, int, int, int]]:
        """(store, first index, last index, steps so far) of neighbours that can be updated in one pass."""
        ready = [p for p in group["params"] if p._grad is not None and is_packed(p)]
        ready.sort(key=_place)
        runs: list[tuple[FlatStore, int, int, int]] = []
        for parameter in ready:
            store, index, count = parameter._store, parameter._index, self._steps.get(parameter, 0)
            gradient = parameter._grad.array
            if gradient is not parameter._slot:
                parameter._slot[...] = gradient
                parameter._grad.array = parameter._slot
            self._steps[parameter] = count + 1
            if runs and runs[-1][0] is store and runs[-1][2] == index - 1 and runs[-1][3] == count:
                runs[-1] = (store, runs[-1][1], index, count)
            else:
                runs.append((store, index, index, count))
        return runs

    def _update_run(self, group: Options, store: FlatStore, first: int, last: int, count: int) -> None:
        lo, hi = store.offsets[first], store.extent(last)[1]
        state = {name: store.state_buffer(self, name)[lo:hi] for name in self.state_names(group)}
        gradient = store.gradient[lo:hi]
        self.update(store.data[lo:hi], -gradient if group.get("maximize") else gradient, state, group, count + 1)

    # -- state, by parameter name (checkpoints) -----------------------------------------------------------------------

    def state_arrays(self, names: Mapping[Parameter, str]) -> dict[str, Any]:
        """Live views of all state, keyed "buffer/parameter name"."""
        found: dict[str, Any] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if self._steps.get(parameter, 0):
                    for name in self.state_names(group):
                        found[f"{name}/{names[parameter]}"] = self._state_view(parameter, name)
        return found

    def _state_view(self, parameter: Parameter, name: str) -> Any:
        store = parameter._store
        return store.view(store.state_buffer(self, name), parameter._index)

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
        pack(self._all())
        wanted = set(keys)
        if set(self.state_arrays(names)) != wanted:
            missing, extra = (
                sorted(set(self.state_arrays(names)) - wanted),
                sorted(wanted - set(self.state_arrays(names))),
            )
            raise StateError(f"optimizer state differs: missing {missing[:8]}, not expected {extra[:8]}")

    # -- state, by position (PyTorch's form) ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's form: ``{"state": {index: {"step", buffers...}}, "param_groups": [...]}``; arrays are copies."""
        index = {p: i for i, p in enumerate(self._all())}
        state: dict[int, dict[str, Any]] = {}
        groups = []
        for group in self.param_groups:
            groups.append(
                {k: v for k, v in group.items() if k != "params"} | {"params": [index[p] for p in group["params"]]}
            )
            for p in group["params"]:
                if count := self._steps.get(p, 0):
                    buffers = {name: self._state_view(p, name).copy() for name in self.state_names(group)}
                    state[index[p]] = {"step": count, **buffers}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take what :meth:`state_dict` gave, for the same number of groups and parameters."""
        sizes = [len(g["params"]) for g in state_dict["param_groups"]]
        if sizes != [len(g["params"]) for g in self.param_groups]:
            raise StateError(
                f"the state has parameter groups of {sizes} parameters, this optimizer of {[len(g['params']) for g in self.param_groups]}"
            )
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({k: v for k, v in saved.items() if k != "params"})
        pack(self._all())
        for position, parameter in enumerate(self._all()):
            saved = state_dict["state"].get(position)
            self._steps[parameter] = int(saved["step"]) if saved else 0
            for name, value in (saved or {}).items():
                if name != "step":
                    self._state_view(parameter, name)[...] = np.asarray(getattr(value, "array", value))

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {key}: {value}" for key, value in sorted(group.items()) if key != "params"]
        return "\n".join([*lines, ")"])


def want_gradients(parameters: Iterable[Parameter]) -> None:
    """Complete the gradients of ``parameters``: under a DataParallel, sum them over shards and ranks (all ranks call)."""
    listeners = {id(p._listener): p._listener for p in parameters if p._listener is not None}
    for listener in listeners.values():
        listener.gradients_wanted()


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
