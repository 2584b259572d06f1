"""The state of an optimizer in two forms: live views by parameter name (checkpoints), and copies by position (PyTorch's)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ShapeError, StateError
from ..flat import FlatStore
from ..nn.parameter import Parameter
from ..nn.state import array_of
from .own_state import OwnState

Options = dict[str, Any]

TORCH_ONLY = frozenset({"foreach", "fused", "capturable", "differentiable"})
"""How PyTorch is to run an update, not what it computes: accepted, so that scripts run, and without effect."""


class OptimizerState:
    """What :class:`Optimizer` is made of as far as saving goes; it owns ``param_groups`` and the counts by parameter."""

    param_groups: list[Options]
    loads: int
    number_names: tuple[str, ...]
    _steps: dict[Parameter, int]
    _numbers: dict[Parameter, dict[str, float]]
    _own: OwnState | None
    """What ``self.state`` is for a subclass that has a ``step()`` of its own instead of ``update()``."""

    def state_names(self, group: Options) -> tuple[str, ...]:
        raise NotImplementedError

    def _all(self) -> list[Parameter]:
        return [p for group in self.param_groups for p in group["params"]]

    def _pack(self) -> None:
        raise NotImplementedError

    @property
    def state(self) -> dict[Parameter, dict[str, Any]]:
        """Parameter -> its state: ``"step"``, live views of the buffers (parts of them with ZeRO), numbers."""
        if self._own is not None:
            return self._own
        return {
            p: {
                "step": self._steps[p],
                **{name: p._store.state_of(self, name, p._index) for name in self.state_names(group)},
                **self._numbers.get(p, {}),
            }
            for group in self.param_groups
            for p in group["params"]
            if self._steps.get(p, 0)
        }

    # -- by parameter name (checkpoints) -------------------------------------------------------------------------------

    def state_arrays(self, names: Mapping[Parameter, str]) -> dict[str, Any]:
        """Live views of all state, keyed "buffer/parameter name"; parts of them (OwnPart) where ranks own parts."""
        if self._own is not None:
            return self._own.arrays(names)
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
            options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
            groups.append({"options": options, "params": [names[p] for p in group["params"]]})
        found: dict[str, Any] = {"type": type(self).__name__, "groups": groups}
        found["steps"] = {names[p]: count for p, count in self._steps.items() if count}
        if self._numbers:
            found["numbers"] = {names[p]: numbers for p, numbers in self._numbers.items()}
        if self._own is not None:
            found["own"] = self._own.scalars(names)
        return found

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
        self.loads += 1
        self._steps = {p: scalars["steps"][names[p]] for p in self._all() if names[p] in scalars["steps"]}
        numbers = scalars.get("numbers", {})
        self._numbers = {p: dict(numbers[names[p]]) for p in self._all() if names[p] in numbers}
        if self._own is not None:
            self._own.prepare(scalars.get("own", {}), {p: names[p] for p in self._all()})
        self._pack()
        wanted, here = set(keys), set(self.state_arrays(names))
        if here != wanted:
            missing, extra = sorted(here - wanted), sorted(wanted - here)
            raise StateError(f"optimizer state differs: missing {missing[:8]}, not expected {extra[:8]}")

    # -- by position (PyTorch's form) ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's form: ``{"state": {index: {"step", buffers...}}, "param_groups": [...]}``; arrays are copies.

        Complete on every rank; where ranks own parts (ZeRO) they are gathered, so that all ranks must call.
        """
        index = {p: i for i, p in enumerate(self._all())}
        whole: dict[tuple[FlatStore, str], Any] = {}
        state: dict[int, dict[str, Any]] = {}
        groups = []
        for group in self.param_groups:
            options = {k: v for k, v in group.items() if k != "params"}
            groups.append(options | {"params": [index[p] for p in group["params"]]})
            for p in group["params"]:
                if self._own is not None:
                    if p in self._own:
                        state[index[p]] = self._own.copies(p)
                elif count := self._steps.get(p, 0):
                    buffers = {name: whole_state(self, p, name, whole) for name in self.state_names(group)}
                    state[index[p]] = {"step": count, **buffers, **self._numbers.get(p, {})}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take what :meth:`state_dict` (or PyTorch's) gave, for the same number of groups and parameters.

        Raises StateError for another number of parameters or unknown state, ShapeError for state of another shape; then
        nothing was changed.
        """
        ours, theirs = (
            [len(g["params"]) for g in groups] for groups in (self.param_groups, state_dict["param_groups"])
        )
        if ours != theirs:
            raise StateError(f"the state has parameter groups of {theirs} parameters, this optimizer of {ours}")
        options = [
            {k: v for k, v in group.items() if k not in TORCH_ONLY | {"params", "param_names"}}
            for group in state_dict["param_groups"]
        ]
        groups = [{**group, **new} for group, new in zip(self.param_groups, options, strict=True)]
        found = self._checked(state_dict["state"], groups) if self._own is None else {}
        self.loads += 1
        for group, new in zip(self.param_groups, options, strict=True):
            group.update(new)
        self._pack()
        if self._own is not None:
            self._own.clear()
            for position, parameter in enumerate(self._all()):
                if entry := state_dict["state"].get(position):
                    self._own.take(parameter, entry)
        for parameter, (step, buffers, numbers) in found.items():
            self._steps[parameter] = step
            self._numbers.pop(parameter, None)
            if numbers:
                self._numbers[parameter] = numbers
            for name, array in buffers.items():
                parameter._store.set_state(self, name, parameter._index, array)

    def _checked(self, state: Mapping[Any, Any], groups: Iterable[Options]) -> dict[Parameter, Any]:
        """(step, buffers, numbers) for each parameter."""
        known = [(p, set(self.state_names(group))) for group in groups for p in group["params"]]
        found: dict[Parameter, Any] = {}
        for position, (parameter, buffer_names) in enumerate(known):
            saved = dict(state.get(position, {}))
            saved = {name: value for name, value in saved.items() if value is not None}
            step = int(saved.pop("step", 1 if saved else 0))  # PyTorch's SGD does not count, but begins by it
            numbers = {name: float(saved.pop(name)) for name in self.number_names if name in saved}
            if step and saved.keys() != buffer_names:
                raise StateError(
                    f"the state of parameter {position} has {', '.join(sorted(saved)) or 'nothing'}, "
                    f"{type(self).__name__} with these options keeps {', '.join(sorted(buffer_names)) or 'nothing'}"
                )
            buffers = {name: array_of(value) for name, value in saved.items()}
            for name, array in buffers.items():
                if array.shape != tuple(parameter.shape):
                    raise ShapeError(
                        f"{name} of parameter {position} has shape {array.shape}, the parameter has {tuple(parameter.shape)}"
                    )
            found[parameter] = step, buffers, numbers
        return found


def whole_state(owner: Any, parameter: Parameter, name: str, whole: dict[tuple[FlatStore, str], Any]) -> Any:
    """A copy of one parameter's buffer ``name`` of ``owner``; ``whole`` remembers what was gathered."""
    store, index = parameter._store, parameter._index
    if (store, name) not in whole:
        buffer = store.state_buffer(owner, name)
        whole[store, name] = buffer if store.owned is None else store.keeper.whole(store, buffer, name)
    return store.view(whole[store, name], index).copy()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 300 else text[:300] + "..."
