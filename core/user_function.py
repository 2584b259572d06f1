"""Operations of the user's own: a forward and a backward that see Tensors, as ``torch.autograd.Function``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from .bfloat16 import is_floating
from .errors import GraphError, ShapeError
from .graph import apply
from .live import refuse
from .mode import mode
from .node import Variable, wrap
from .op import Op

F = TypeVar("F", bound=Callable[..., Any])


class Context:
    """What forward hands to backward (``ctx``): any attribute, and what these methods keep.

    ``needs_input_grad`` says of each argument of forward whether it wants a gradient.

    >>> class Double(phalanx.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.factor = 2.0
    ...         return x * ctx.factor
    ...     @staticmethod
    ...     def backward(ctx, gradient):
    ...         return gradient * ctx.factor
    >>> Double.apply(phalanx.tensor([1.0]))
    tensor([2.])
    """

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        """Whether each argument of forward wants a gradient."""
        self._saved: tuple[Any, ...] = ()
        self._constant: tuple[int, ...] = ()
        self._zeros = True

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep Tensors (or None) for ``saved_tensors`` in backward."""
        self._saved = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What ``save_for_backward`` was given."""
        return self._saved

    def mark_non_differentiable(self, *outputs: Any) -> None:
        """These outputs of forward want no gradient."""
        self._constant = tuple(id(x) for x in outputs)

    def set_materialize_grads(self, value: bool) -> None:
        """Whether backward gets zeros (as it does without this call) or None for outputs without a gradient."""
        self._zeros = value

    def mark_dirty(self, *tensors: Any) -> None:
        """Refused: forward must not write into its arguments."""
        raise GraphError("mark_dirty: a Function must not change its arguments in place; return new Tensors")


class Function:
    """An operation with a gradient of one's own: static ``forward(ctx, ...)`` and ``backward(ctx, *gradients)``.

    ``forward`` returns a Tensor or a tuple with Tensors in it; nothing that it does is recorded. ``backward`` returns one
    gradient (or None) for each argument of forward. With ``setup_context(ctx, inputs, output)`` forward takes no ctx. Call
    it by ``apply``.

    >>> class Cube(phalanx.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x ** 3
    ...     @staticmethod
    ...     def backward(ctx, gradient):
    ...         x, = ctx.saved_tensors
    ...         return gradient * 3 * x ** 2
    >>> x = phalanx.tensor([2.0], requires_grad=True)
    >>> Cube.apply(x).backward()
    >>> x.grad
    tensor([12.])
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """The operation."""
        raise NotImplementedError("a Function needs a static forward(ctx, ...)")

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Gradients of forward's arguments for those of its outputs."""
        raise NotImplementedError("a Function needs a static backward(ctx, *gradients)")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Where forward takes no ctx: keep what backward needs."""
        raise NotImplementedError

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run forward and record it if a gradient is wanted."""
        refuse(f"{cls.__name__}, a Function of the user's")
        ctx = Context(tuple(isinstance(x, Variable) and x.requires_grad for x in args))
        enabled, mode.enabled = mode.enabled, False
        try:
            if cls.setup_context is Function.setup_context:
                result = cls.forward(ctx, *args)
            else:
                result = cls.forward(*args)
                cls.setup_context(ctx, args, result)
        finally:
            mode.enabled = enabled
        outputs = result if isinstance(result, tuple) else (result,)
        tensors = [x for x in outputs if isinstance(x, Variable)]
        if not tensors:
            raise GraphError(f"{cls.__name__}.forward must return a Tensor or a tuple with Tensors, got {result!r}")
        recorded = iter(_record(cls, ctx, args, tensors))
        found = tuple(next(recorded) if isinstance(x, Variable) else x for x in outputs)
        return found if isinstance(result, tuple) else found[0]


def _record(cls: type[Function], ctx: Context, args: Sequence[Any], tensors: list[Any]) -> tuple[Any, ...]:
    """The outputs again, made by one node."""
    once = [(tuple(x.array for x in tensors), ctx)]
    likes = [(x.array.shape, x.array.dtype) for x in tensors]
    graded = tuple(i for i, x in enumerate(tensors) if id(x) not in ctx._constant and is_floating(x.array.dtype))
    single = len(tensors) == 1

    def forward(*_: Any) -> tuple[Any, Any]:
        arrays, saved = once.pop()  # or the node would hold outputs and context for as long as it lives
        return (arrays[0] if single else arrays), saved

    def vjp(saved: Context, gradient: Any, needs: Sequence[bool], slots: Any) -> tuple[Any, ...]:
        given = [gradient] if single else list(gradient)
        for i, (shape, dtype) in enumerate(likes):
            if given[i] is None and saved._zeros:
                given[i] = np.zeros(shape, dtype)
        returned = cls.backward(saved, *(None if g is None else wrap(g) for g in given))
        return _checked(cls.__name__, returned, args, needs)

    op = Op(cls.__name__, forward, vjp, () if not graded else None if len(graded) == len(likes) else graded)
    result = apply(op, *args)
    return (result,) if single else result


def _checked(name: str, returned: Any, args: Sequence[Any], needs: Sequence[bool]) -> tuple[Any, ...]:
    """Backward's gradients as arrays, one for each argument."""
    given = list(returned) if isinstance(returned, tuple | list) else [returned]
    while len(given) > len(args) and given[-1] is None:
        given.pop()
    if len(given) != len(args):
        raise GraphError(f"{name}.backward returned {len(given)} gradients, forward had {len(args)} arguments")
    arrays: list[Any] = []
    for i, (gradient, argument, need) in enumerate(zip(given, args, needs, strict=True)):
        if gradient is None or not need:
            arrays.append(None)
            continue
        array = gradient.array if isinstance(gradient, Variable) else np.asarray(gradient)
        shape = argument.array.shape
        if array.shape != shape and np.broadcast_shapes(array.shape, shape) != array.shape:
            raise ShapeError(f"{name}.backward: gradient {i} has shape {array.shape}, the argument {shape}")
        arrays.append(array.astype(argument.array.dtype, copy=False))
    return tuple(arrays)


def once_differentiable(function: F) -> F:
    """The backward ``function`` as it is: gradients are of first order here anyway.

    >>> phalanx.autograd.once_differentiable(len) is len
    True
    """
    return function
