"""Tensor's hooks: what is called when a gradient is complete, and gradients kept inside the graph."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import GraphError
from .graph import wrap
from .node import LeafHooks, Variable

if TYPE_CHECKING:
    from .tensor import Tensor

_numbers = itertools.count()


class _Handle:
    """Takes a hook away again."""

    def __init__(self, hooks: dict[int, Any], hook: Any) -> None:
        self._hooks, self._key = hooks, next(_numbers)
        hooks[self._key] = hook

    def remove(self) -> None:
        """Forget the hook; once is enough, twice does no harm."""
        self._hooks.pop(self._key, None)

    def __enter__(self) -> _Handle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


class _Keeper:
    """The hook of ``retain_grad``: adds what it sees to the tensor's ``.grad``."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = weakref.ref(tensor)

    def __call__(self, gradient: Tensor) -> None:
        tensor = self.tensor()
        if tensor is not None:
            kept = gradient.array.copy()
            tensor._grad = wrap(kept if tensor._grad is None else tensor._grad.array + kept)


class TensorHooks(Variable):
    """The methods about hooks."""

    __slots__ = ()

    def _hooks_of(self, purpose: str) -> dict[int, Any]:
        if not self.requires_grad:
            raise GraphError(f"{purpose} on a tensor that wants no gradient")
        if self._node is not None:
            if self._node.hooks is None:
                self._node.hooks = {}
            return self._node.hooks
        if self._hooks is None:
            self._hooks = LeafHooks()
        return self._hooks

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Any:
        """Call ``hook(gradient)`` when the gradient of this tensor is complete in a backward pass; what it returns replaces it.

        Returns a handle with ``remove()``.
        """
        return _Handle(self._hooks_of("register_hook"), hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> Any:
        """Call ``hook(tensor)`` after a backward pass has added to the ``.grad`` of this leaf.

        Returns a handle with ``remove()``. In a DataParallel the gradient is not yet summed over ranks then, and reading it
        is an error.
        """
        if self._node is not None:
            raise GraphError("register_post_accumulate_grad_hook on a tensor that an op made: only leaves have a .grad")
        hooks: Any = self._hooks_of("register_post_accumulate_grad_hook")
        return _Handle(hooks.after, hook)

    def retain_grad(self) -> None:
        """Keep the gradient of a tensor that is no leaf in ``.grad``."""
        if self._node is not None and not self.retains_grad:
            self.register_hook(_Keeper(self))

    @property
    def retains_grad(self) -> bool:
        """Whether :meth:`retain_grad` was called on this tensor, which is no leaf."""
        hooks = None if self._node is None else self._node.hooks
        return any(isinstance(hook, _Keeper) and hook.tensor() is self for hook in (hooks or {}).values())
