"""Loading a state dict: check everything first, say all that is wrong at once, then copy in place."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..backend import device_of, is_array, to_device
from ..bfloat16 import is_floating
from ..errors import StateError
from ..op import Array
from ..tensor import Tensor
from ..tree import join

if TYPE_CHECKING:
    from .module import Module


class IncompatibleKeys(NamedTuple):
    """What ``load_state_dict`` returns: names that the state lacked, and names that the module has no place for."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


def array_of(value: Any) -> Array:
    """The array of a Tensor, an array, a number or anything that NumPy understands (a PyTorch tensor, too)."""
    if isinstance(value, Tensor):
        return value.array
    if is_array(value):
        return value
    if hasattr(value, "detach"):
        value = value.detach()
    return np.asarray(value)


def _mismatch(target: Array, value: Array, assign: bool) -> str | None:
    """Why ``value`` cannot be copied into ``target``, or None."""
    if tuple(target.shape) != tuple(value.shape):
        return f"shape {tuple(target.shape)} expected, the state has {tuple(value.shape)}"
    both_floating = is_floating(target.dtype) and is_floating(value.dtype)
    widened = both_floating and target.dtype.itemsize > value.dtype.itemsize  # a wider float holds every value
    if target.dtype != value.dtype and not (widened or (assign and both_floating)):
        return f"dtype {target.dtype} expected, the state has {value.dtype}"
    return None


def _complaint(module: Module, missing: list[str], unexpected: list[str], mismatched: list[str]) -> str:
    lines = [f"the state does not fit {type(module).__name__}:"]
    for title, names in (("missing", missing), ("unexpected", unexpected), ("mismatched", mismatched)):
        if names:
            lines.append(f"  {title} ({len(names)}): " + ("; " if title == "mismatched" else ", ").join(names))
    if mismatched:
        lines.append("  build the model with the sizes and dtypes that the state was saved with (nothing was changed)")
    else:
        lines.append("  build the same model, or pass strict=False to load what fits (nothing was changed)")
    return "\n".join(lines)


def tensors_of(module: Module, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and persistent buffers by dotted name, a tied one under each of its names."""
    found: dict[str, Tensor] = OrderedDict()
    for path, owner in module.named_modules(prefix=prefix, remove_duplicate=False):
        persistent = [name for name, persists in owner._buffer_names.items() if persists]
        for name in (*owner._parameter_names, *persistent):
            if owner.__dict__[name] is not None:
                found[join(path, name)] = owner.__dict__[name]
    return found


def load(module: Module, state: Mapping[str, Any], strict: bool, assign: bool = False) -> IncompatibleKeys:
    """Copy ``state`` into the module's tensors in place, all of it or nothing; see ``Module.load_state_dict``."""
    if not isinstance(state, Mapping):
        raise StateError(f"load_state_dict expects a mapping of names to tensors, got {type(state).__name__}")
    state = _as_hooks_leave_it(module, state, strict)
    targets = tensors_of(module)
    missing = [name for name in targets if name not in state]
    unexpected = [name for name in state if name not in targets]
    pairs = [(name, targets[name], array_of(state[name])) for name in targets if name in state]
    mismatched = [f"{name}: {why}" for name, target, value in pairs if (why := _mismatch(target.array, value, assign))]
    if mismatched or (strict and (missing or unexpected)):
        raise StateError(_complaint(module, missing, unexpected, mismatched))
    for _, target, value in pairs:
        value = to_device(value, device_of(target.array))
        if assign:
            target.data = value
        else:
            target.array[...] = value
    result = IncompatibleKeys(missing, unexpected)
    for owner in module.modules():
        for hook in tuple(owner._state_hooks.get("loaded", {}).values()):
            hook(owner, result)
    return result


def _as_hooks_leave_it(module: Module, state: Mapping[str, Any], strict: bool) -> Mapping[str, Any]:
    """A copy of ``state`` that the hooks before loading have changed; itself if there is no hook."""
    hooked = [(path, owner) for path, owner in module.named_modules() if owner._state_hooks.get("loading")]
    if not hooked:
        return state
    changed, errors = OrderedDict(state), list[str]()
    for path, owner in hooked:
        for hook in tuple(owner._state_hooks["loading"].values()):
            hook(owner, changed, path and f"{path}.", {}, strict, [], [], errors)
    if errors:
        raise StateError(
            f"the state does not fit {type(module).__name__} (nothing was changed):\n  " + "\n  ".join(errors)
        )
    return changed
