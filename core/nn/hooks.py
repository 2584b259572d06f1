"""Hooks of modules: before and after forward, around the backward pass, and when state is saved and loaded."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..errors import GraphError
from ..graph import apply
from ..live import structure
from ..mode import mode, no_grad
from ..node import wrap
from ..op import Array, Op
from ..tensor import Tensor

_numbers = itertools.count()


class RemovableHandle:
    """What registering a hook returns: ``remove()`` takes the hook away; as a context manager, at the end of the block."""

    def __init__(self, hooks: dict[int, Any], hook: Any, prepend: bool = False) -> None:
        self._hooks = hooks
        self.id = next(_numbers)
        later = dict(hooks) if prepend else {}
        if prepend:
            hooks.clear()
        hooks[self.id] = hook
        hooks.update(later)
        structure.stamp = object()

    def remove(self) -> None:
        """Take the hook away; a second time does nothing."""
        self._hooks.pop(self.id, None)
        structure.stamp = object()

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class ForwardHook(NamedTuple):
    """A hook before or after forward, and how it wants to be called."""

    function: Callable[..., Any]
    with_kwargs: bool = False
    always_call: bool = False


class Hooked:
    """The part of Module that hooks belong to."""

    _forward_hooks: dict[int, ForwardHook]
    _forward_pre_hooks: dict[int, ForwardHook]
    _backward_hooks: dict[int, Callable[..., Any]]
    _backward_pre_hooks: dict[int, Callable[..., Any]]
    _state_hooks: dict[str, dict[int, Callable[..., Any]]]
    """By kind: "saving", "saved", "loading", "loaded"."""

    forward: Callable[..., Any]

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args)`` before each forward; what it returns, unless None, replaces ``args``.

        ``with_kwargs``: call ``hook(module, args, kwargs)``, which returns None or both.
        """
        return RemovableHandle(self._forward_pre_hooks, ForwardHook(hook, with_kwargs), prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after each forward; what it returns, unless None, replaces the output.

        ``with_kwargs``: call ``hook(module, args, kwargs, output)``. ``always_call``: also when forward raises, with None as output.
        """
        return RemovableHandle(self._forward_hooks, ForwardHook(hook, with_kwargs, always_call), prepend)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call ``hook(module, grad_output)`` when the gradients of the outputs are known; it may return others."""
        return RemovableHandle(self._backward_pre_hooks, hook, prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call ``hook(module, grad_input, grad_output)`` when the gradients of the inputs are known; it may return others of these.

        Both are tuples, one entry for each positional argument and output, None for what is no tensor or has no gradient.
        """
        return RemovableHandle(self._backward_hooks, hook, prepend)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, prefix, keep_vars)`` before ``state_dict()`` reads the tensors."""
        return RemovableHandle(self._state_hooks.setdefault("saving", {}), hook)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, state_dict, prefix, local_metadata)`` after ``state_dict()``; it may change the dict."""
        return RemovableHandle(self._state_hooks.setdefault("saved", {}), hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call a hook before loading, with a copy of the state that it may change (rename keys of older versions, say).

        ``hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)``; ``prefix`` ends with a dot
        unless it is empty; what is appended to ``error_msgs`` refuses the state.
        """
        return RemovableHandle(self._state_hooks.setdefault("loading", {}), hook)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, incompatible_keys)`` after loading; it may change the two lists."""
        return RemovableHandle(self._state_hooks.setdefault("loaded", {}), hook)

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        called: set[int] = set()
        try:
            for before in tuple(self._forward_pre_hooks.values()):
                args, kwargs = _before(self, before, args, kwargs)
            around = _Around(self) if mode.enabled and (self._backward_hooks or self._backward_pre_hooks) else None
            output = self.forward(*(args if around is None else around.inputs(args)), **kwargs)
            for number, after in tuple(self._forward_hooks.items()):
                called.add(number)
                output = _after(self, after, args, kwargs, output)
            return output if around is None else around.outputs(output)
        except Exception:
            for number, after in tuple(self._forward_hooks.items()):
                if after.always_call and number not in called:
                    _after(self, after, args, kwargs, None)
            raise


def _before(module: Any, hook: ForwardHook, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not hook.with_kwargs:
        changed = hook.function(module, args)
        if changed is not None:
            args = changed if isinstance(changed, tuple) else (changed,)
        return args, kwargs
    changed = hook.function(module, args, kwargs)
    if changed is None:
        return args, kwargs
    if not isinstance(changed, tuple) or len(changed) != 2:
        raise TypeError(f"a forward pre-hook with_kwargs returns None or (args, kwargs), got {changed!r}")
    return changed


def _after(module: Any, hook: ForwardHook, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    changed = hook.function(module, args, kwargs, output) if hook.with_kwargs else hook.function(module, args, output)
    return output if changed is None else changed


# ---- backward ----------------------------------------------------------------------------------------------------------


def _pass_on(*arrays: Array, notify: Callable[..., Any]) -> tuple[tuple[Array, ...], Any]:
    return arrays, notify


def _notify(notify: Any, gradient: Any, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return notify(gradient)


_BOUNDARY = Op("module boundary", _pass_on, _notify)
"""The identity, which tells ``notify`` of its gradients; no entry of the table, since it computes nothing."""


class _Around:
    """One call of a module between its inputs and its outputs: what the backward hooks are told."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.count = 0
        """Of the positional arguments."""
        self.watched = False
        self.grad_output: tuple[Any, ...] = ()

    def inputs(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, behind the boundary where they want a gradient."""
        self.count = len(args)
        places = [k for k, x in enumerate(args) if isinstance(x, Tensor) and x.requires_grad]
        self.watched = bool(places)
        return _behind(args, places, lambda gradient: self._inputs_known(places, gradient))

    def outputs(self, output: Any) -> Any:
        """The output, or the tuple or list of them, before the boundary where they have a gradient."""
        several = isinstance(output, (tuple, list))
        parts = tuple(output) if several else (output,)
        places = [k for k, x in enumerate(parts) if isinstance(x, Tensor) and x.requires_grad]
        if not places:
            return output
        parts = _behind(parts, places, lambda gradient: self._outputs_known(places, len(parts), gradient))
        return parts[0] if not several else _like(output, parts)

    @no_grad()
    def _outputs_known(
        self, places: Sequence[int], count: int, gradient: Sequence[Array | None]
    ) -> tuple[Array | None, ...]:
        self.grad_output = _filled(places, count, gradient)
        for hook in tuple(self.module._backward_pre_hooks.values()):
            self.grad_output = self._changed(self.grad_output, hook(self.module, self.grad_output))
        if not self.watched:
            for hook in tuple(self.module._backward_hooks.values()):
                hook(self.module, (None,) * self.count, self.grad_output)
        return _arrays(places, self.grad_output)

    @no_grad()
    def _inputs_known(self, places: Sequence[int], gradient: Sequence[Array | None]) -> tuple[Array | None, ...]:
        grad_input = _filled(places, self.count, gradient)
        for hook in tuple(self.module._backward_hooks.values()):
            grad_input = self._changed(grad_input, hook(self.module, grad_input, self.grad_output))
        return _arrays(places, grad_input)

    def _changed(self, before: tuple[Any, ...], changed: Any) -> tuple[Any, ...]:
        if changed is None:
            return before
        changed = tuple(changed) if isinstance(changed, (tuple, list)) else (changed,)
        if len(changed) != len(before):
            raise GraphError(
                f"a backward hook of {type(self.module).__name__} returned {len(changed)} gradients, {len(before)} expected"
            )
        return changed


def _behind(values: tuple[Any, ...], places: Sequence[int], notify: Callable[..., Any]) -> tuple[Any, ...]:
    """``values`` with those at ``places`` passed through the boundary."""
    if not places:
        return values
    passed = list(values)
    for place, tensor in zip(places, apply(_BOUNDARY, *[values[k] for k in places], notify=notify), strict=True):
        tensor._weight = values[place]._weight
        passed[place] = tensor
    return tuple(passed)


def _like(output: Any, parts: tuple[Any, ...]) -> Any:
    """``parts`` as the list, tuple or named tuple that the module returned."""
    return output._make(parts) if hasattr(output, "_make") else type(output)(parts)


def _filled(places: Sequence[int], count: int, gradient: Sequence[Array | None]) -> tuple[Any, ...]:
    full: list[Any] = [None] * count
    for place, array in zip(places, gradient, strict=True):
        full[place] = None if array is None else wrap(array)
    return tuple(full)


def _arrays(places: Sequence[int], gradients: Sequence[Any]) -> tuple[Array | None, ...]:
    return tuple([None if gradients[k] is None else gradients[k].array for k in places])


def is_plain(module: Any) -> bool:
    """Whether a call of ``module`` is nothing but the class's own forward: no hooks, no forward of its own."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )
