"""PyTorch's top-level functions: ``phalanx.exp(x)``, ``phalanx.cat([a, b])``, ``phalanx.max(x, dim=1)``.

Most of them are Tensor methods with the tensor as first argument; new tensors come from ``creation``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .backend import Device, as_array, device_of
from .creation import arange as arange
from .creation import as_tensor as as_tensor
from .creation import asarray as asarray
from .creation import empty as empty
from .creation import empty_like as empty_like
from .creation import eye as eye
from .creation import from_numpy as from_numpy
from .creation import full as full
from .creation import full_like as full_like
from .creation import linspace as linspace
from .creation import logspace as logspace
from .creation import ones as ones
from .creation import ones_like as ones_like
from .creation import scalar_tensor as scalar_tensor
from .creation import tensor as tensor
from .creation import zeros as zeros
from .creation import zeros_like as zeros_like
from .creation_random import bernoulli as bernoulli
from .creation_random import multinomial as multinomial
from .creation_random import normal as normal
from .creation_random import rand as rand
from .creation_random import rand_like as rand_like
from .creation_random import randint as randint
from .creation_random import randint_like as randint_like
from .creation_random import randn as randn
from .creation_random import randn_like as randn_like
from .creation_random import randperm as randperm
from .einsum import einsum as einsum
from .errors import DTypeError, RangeError, ShapeError
from .function_examples import EXAMPLES
from .functions_shape import atleast_3d
from .functions_shape import permute as permute
from .functions_shape import reshape as reshape
from .functions_shape import split as split
from .graph import Variable, apply
from .mode import enable_grad as enable_grad
from .mode import inference_mode as inference_mode
from .mode import is_grad_enabled as is_grad_enabled
from .mode import no_grad as no_grad
from .mode import set_grad_enabled as set_grad_enabled
from .ops.arithmetic import WHERE
from .ops.shape import CAT, STACK
from .promotion import cast, operands, result_type
from .rng import initial_seed as initial_seed
from .rng import manual_seed as manual_seed
from .tensor import Tensor as Tensor
from .tensor_math import with_numpy_names

device = Device


def _method(name: str) -> Callable[..., Any]:
    """The Tensor method ``name`` as a function."""
    method = getattr(Tensor, name)

    @functools.wraps(method)
    def function(input: Any, *args: Any, **kwargs: Any) -> Any:
        return method(input if isinstance(input, Tensor) else as_tensor(input), *args, **kwargs)

    function.__qualname__ = function.__name__ = name
    first, *rest = inspect.signature(method).parameters.values()
    function.__signature__ = inspect.Signature([first.replace(name="input"), *rest])  # type: ignore[attr-defined]
    function.__doc__ = f"{inspect.cleandoc(method.__doc__ or '')}\n\n{EXAMPLES[name]}\n"
    return function


abs = absolute = _method("abs")
exp, expm1 = _method("exp"), _method("expm1")
log, log2, log10, log1p = _method("log"), _method("log2"), _method("log10"), _method("log1p")
sqrt, rsqrt, square, reciprocal = _method("sqrt"), _method("rsqrt"), _method("square"), _method("reciprocal")
sin, cos, tan = _method("sin"), _method("cos"), _method("tan")
atan = arctan = _method("atan")
erf, tanh, sigmoid, relu = _method("erf"), _method("tanh"), _method("sigmoid"), _method("relu")
gelu = _method("gelu")
sign = sgn = _method("sign")
floor, ceil = _method("floor"), _method("ceil")
trunc = fix = _method("trunc")
neg = negative = _method("neg")
isnan, isinf, isfinite = _method("isnan"), _method("isinf"), _method("isfinite")
logical_not, logical_and = _method("logical_not"), _method("logical_and")
logical_or, logical_xor = _method("logical_or"), _method("logical_xor")
maximum, minimum = _method("maximum"), _method("minimum")
clamp = clip = _method("clamp")
clamp_min, clamp_max = _method("clamp_min"), _method("clamp_max")
lerp, masked_fill = _method("lerp"), _method("masked_fill")

sum, mean, prod, var, std = (_method(n) for n in ("sum", "mean", "prod", "var", "std"))
max, min, amax, amin = (_method(n) for n in ("max", "min", "amax", "amin"))
argmax, argmin, any, all = (_method(n) for n in ("argmax", "argmin", "any", "all"))
cumsum, logsumexp = _method("cumsum"), _method("logsumexp")
softmax, log_softmax = _method("softmax"), _method("log_softmax")
sort, argsort, topk = _method("sort"), _method("argsort"), _method("topk")

matmul = _method("matmul")

flatten, unflatten, ravel = (_method(n) for n in ("flatten", "unflatten", "ravel"))
transpose = swapaxes = swapdims = _method("transpose")
t, adjoint = _method("t"), _method("adjoint")
movedim = moveaxis = _method("movedim")
squeeze, unsqueeze, broadcast_to = _method("squeeze"), _method("unsqueeze"), _method("broadcast_to")
repeat_interleave, roll = _method("repeat_interleave"), _method("roll")
narrow, select, unbind, chunk = (_method(n) for n in ("narrow", "select", "unbind", "chunk"))
gather, index_select, masked_select = _method("gather"), _method("index_select"), _method("masked_select")
nonzero, tril, triu, diag = _method("nonzero"), _method("tril"), _method("triu"), _method("diag")
clone, detach, numel = _method("clone"), _method("detach"), _method("numel")
is_floating_point = _method("is_floating_point")


def add(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """``input + alpha * other``.

    >>> phalanx.add(phalanx.tensor([1.0]), 2, alpha=3)
    tensor([7.])
    """
    return input + (other if alpha == 1 else other * alpha)


def sub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """``input - alpha * other``.

    >>> phalanx.sub(phalanx.tensor([1.0]), 2)
    tensor([-1.])
    """
    return input - (other if alpha == 1 else other * alpha)


def mul(input: Any, other: Any) -> Tensor:
    """``input * other``.

    >>> phalanx.mul(phalanx.tensor([3.0]), 2)
    tensor([6.])
    """
    return input * other


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """``input / other``; with rounding_mode "floor" or "trunc" rounded to whole numbers.

    >>> phalanx.div(phalanx.tensor([7.0]), 2, rounding_mode="floor")
    tensor([3.])
    """
    return as_tensor(input).div(other, rounding_mode=rounding_mode)


def pow(input: Any, exponent: Any) -> Tensor:
    """``input ** exponent``; either may be a number.

    >>> phalanx.pow(phalanx.tensor([3.0]), 2)
    tensor([9.])
    """
    return input**exponent


def remainder(input: Any, other: Any) -> Tensor:
    """``input`` modulo ``other``, of the sign of ``other``.

    >>> phalanx.remainder(phalanx.tensor([-3.0, 3.0]), 2)
    tensor([1., 1.])
    """
    return input % other


def floor_divide(input: Any, other: Any) -> Tensor:
    """``input / other``, rounded down.

    >>> phalanx.floor_divide(phalanx.tensor([7, -7]), 2)
    tensor([ 3, -4])
    """
    return input // other


def eq(input: Tensor, other: Any) -> Tensor:
    """Elementwise ``input == other``.

    >>> phalanx.eq(phalanx.tensor([1, 2]), 2)
    tensor([False,  True])
    """
    return input == other


def ne(input: Tensor, other: Any) -> Tensor:
    """Elementwise ``input != other``.

    >>> phalanx.ne(phalanx.tensor([1, 2]), 2)
    tensor([ True, False])
    """
    return input != other


def lt(input: Tensor, other: Any) -> Tensor:
    """Elementwise ``input < other``.

    >>> phalanx.lt(phalanx.tensor([1, 2]), 2)
    tensor([ True, False])
    """
    return input < other


def le(input: Tensor, other: Any) -> Tensor:
    """Elementwise ``input <= other``.

    >>> phalanx.le(phalanx.tensor([1, 2]), 2)
    tensor([ True,  True])
    """
    return input <= other


def gt(input: Tensor, other: Any) -> Tensor:
    """Elementwise ``input > other``.

    >>> phalanx.gt(phalanx.tensor([1, 2]), 1)
    tensor([False,  True])
    """
    return input > other


def ge(input: Tensor, other: Any) -> Tensor:
    """Elementwise ``input >= other``.

    >>> phalanx.ge(phalanx.tensor([1, 2]), 2)
    tensor([False,  True])
    """
    return input >= other


subtract, multiply, divide, true_divide = sub, mul, div, div
not_equal, less, less_equal, greater, greater_equal = ne, lt, le, gt, ge
_NOT_TENSORS = "cat and stack expect a non-empty list or tuple of Tensors, got {}"


def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    """``input`` where ``condition``, else ``other``; with the condition alone the positions where it is True.

    >>> phalanx.where(phalanx.tensor([True, False]), phalanx.tensor([1.0, 2.0]), 0.0).tolist()
    [1.0, 0.0]
    """
    condition = as_tensor(condition)
    if input is None and other is None:
        return condition.nonzero(as_tuple=True)
    if condition.dtype != np.bool_:
        raise DTypeError(f"where: a boolean condition expected, got {condition.dtype}")
    if not isinstance(input, Variable) and not isinstance(other, Variable):
        input, other = (as_tensor(x, device=device_of(condition.array)) for x in (input, other))
    pair = operands(input, other)
    if pair is None:
        raise DTypeError(f"where: Tensors or numbers expected, got {type(input).__name__} and {type(other).__name__}")
    dtype = next(x.array.dtype for x in pair if isinstance(x, Variable))
    return apply(WHERE, condition, *(x if isinstance(x, Variable) else dtype.type(x) for x in pair))


def _alike(tensors: Sequence[Any]) -> list[Tensor]:
    """The tensors in the dtype that all of them meet in."""
    if not isinstance(tensors, list | tuple) or not tensors:
        raise ShapeError(_NOT_TENSORS.format(repr(tensors) if not tensors else type(tensors).__name__))
    given = [x if isinstance(x, Tensor) else as_tensor(x) for x in tensors]
    dtype = given[0].array.dtype
    for x in given:
        if x.array.dtype != dtype:
            dtype = result_type(np.empty(1, dtype), np.empty(1, x.array.dtype))
    return [cast(x, dtype) for x in given]


@with_numpy_names
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors joined along dimension ``dim``; their other sizes are equal.

    >>> phalanx.cat([phalanx.ones(2, 1), phalanx.zeros(2, 2)], dim=1).shape
    (2, 3)
    """
    given = _alike(tensors)
    ndim = np.max([x.array.ndim for x in given])
    if not -ndim <= dim < ndim:
        raise RangeError(f"cat: dimension {dim} of tensors with {ndim} dimensions")
    return apply(CAT, *given, axis=dim)


concat = concatenate = cat


@with_numpy_names
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape joined along a new dimension ``dim``.

    >>> phalanx.stack([phalanx.zeros(2), phalanx.ones(2)], dim=1).tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    """
    given = _alike(tensors)
    ndim = given[0].array.ndim + 1
    if not -ndim <= dim < ndim:
        raise RangeError(f"stack: dimension {dim} of a result with {ndim} dimensions")
    return apply(STACK, *given, axis=dim)


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along dimension 1, vectors along 0.

    >>> phalanx.hstack([phalanx.tensor([1, 2]), phalanx.tensor([3])])
    tensor([1, 2, 3])
    """
    return cat(tensors, 0 if tensors[0].ndim <= 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along dimension 0, vectors as rows.

    >>> phalanx.vstack([phalanx.tensor([1, 2]), phalanx.tensor([3, 4])]).tolist()
    [[1, 2], [3, 4]]
    """
    return cat([x.reshape(1, -1) if x.ndim <= 1 else x for x in tensors], 0)


row_stack = vstack


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along dimension 2; vectors count as (1, n, 1), matrices as (m, n, 1).

    >>> phalanx.dstack([phalanx.zeros(2, 3), phalanx.ones(2, 3)]).shape
    (2, 3, 2)
    """
    return cat([atleast_3d(x) for x in tensors], 2)


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along dimension 1; vectors and numbers count as columns.

    >>> phalanx.column_stack([phalanx.tensor([1, 2]), phalanx.tensor([3, 4])]).tolist()
    [[1, 3], [2, 4]]
    """
    return cat([x if x.ndim > 1 else x.reshape(-1, 1) for x in tensors], 1)


def flip(input: Tensor, dims: Sequence[int]) -> Tensor:
    """The order of the elements along ``dims`` reversed.

    >>> phalanx.flip(phalanx.tensor([1, 2, 3]), (0,))
    tensor([3, 2, 1])
    """
    return input.flip(*dims)


def isclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """Elementwise ``|input - other| <= atol + rtol * |other|``.

    >>> phalanx.isclose(phalanx.tensor([1.0, 2.0]), phalanx.tensor([1.0, 2.1]))
    tensor([ True, False])
    """
    return Tensor(as_array(np.isclose(input.array, other.array, rtol, atol, equal_nan)))


def allclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether :func:`isclose` holds everywhere.

    >>> phalanx.allclose(phalanx.tensor([1.0]), phalanx.tensor([1.0 + 1e-7]))
    True
    """
    return bool(isclose(input, other, rtol, atol, equal_nan).array.all())


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether shapes and all elements are equal.

    >>> phalanx.equal(phalanx.tensor([1, 2]), phalanx.tensor([1, 2]))
    True
    """
    return input.shape == other.shape and bool((input.array == other.array).all())


def is_tensor(obj: Any) -> bool:
    """Whether ``obj`` is a Tensor.

    >>> phalanx.is_tensor(phalanx.zeros(2)), phalanx.is_tensor([0.0, 0.0])
    (True, False)
    """
    return isinstance(obj, Tensor)
