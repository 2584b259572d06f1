"""Checking gradients against differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .bfloat16 import is_floating
from .errors import DTypeError, GraphError
from .graph import backward
from .mode import enable_grad, no_grad
from .tensor import Tensor


def gradcheck(
    fn: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Compare the gradients of ``fn(*inputs)`` with central differences.

    For fixed random weights w of the outputs and each element x of an input that requires a gradient, ``d(w . fn)/dx`` from
    backward must be within ``atol + rtol * |difference|`` of ``(w . fn(x + eps) - w . fn(x - eps)) / (2 eps)``.

    Args:
        fn: takes ``inputs``, returns a Tensor or a sequence of Tensors; it must give the same for the same inputs.
        inputs: a Tensor or a sequence; at least one Tensor that requires a gradient, all of these float64. Inputs in
            other dtypes, and what is no Tensor, are passed as they are.

    Returns True; False (or with ``raise_exception`` a GraphError that names input, element and both values) if a gradient
    is off. Raises DTypeError for inputs that are not float64, GraphError if nothing requires a gradient.

    >>> x = phalanx.tensor(np.array([0.5, 2.0]), requires_grad=True)
    >>> phalanx.autograd.gradcheck(lambda x: (x * x).sum(), x)
    True
    """
    given: tuple[Any, ...] = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    wanted = [i for i, x in enumerate(given) if isinstance(x, Tensor) and x.requires_grad]
    if not wanted:
        raise GraphError("gradcheck: no input requires a gradient")
    for i in wanted:
        if given[i].dtype != np.float64:
            raise DTypeError(f"gradcheck: input {i} is {given[i].dtype}; differences need float64, use .double()")
    values = [x.detach().clone() if isinstance(x, Tensor) else x for x in given]
    for i in wanted:
        values[i].requires_grad = True
    weights, gradients = _gradients(fn, values, wanted)
    for i, gradient in zip(wanted, gradients, strict=True):
        difference = _differences(fn, values, values[i].array, weights, eps)
        off = ~np.isclose(gradient, difference, rtol, atol, equal_nan=True)
        if off.any():
            place = tuple(int(axis[0]) for axis in off.nonzero())
            message = (
                f"gradcheck: gradient of input {i} at {place}: backward gives {gradient[place]:.8g}, differences "
                f"{difference[place]:.8g} ({int(off.sum())} of {off.size} elements are off)"
            )
            if raise_exception:
                raise GraphError(message)
            return False
    return True


def gradient_error(fn: Callable[..., Any], inputs: Sequence[Any], eps: float = 1e-6, at_most: int = 1000) -> float:
    """The worst ``|gradient - difference| / (1 + |difference|)`` of :func:`gradcheck`'s comparison, over the inputs.

    Of a large input ``at_most`` elements are looked at, spread evenly.
    """
    wanted = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    values = [x.detach().clone() if isinstance(x, Tensor) else x for x in inputs]
    for i in wanted:
        values[i].requires_grad = True
    weights, gradients = _gradients(fn, values, wanted)
    worst = 0.0
    for i, gradient in zip(wanted, gradients, strict=True):
        step = max(1, -(-gradient.size // at_most))
        difference = _differences(fn, values, values[i].array, weights, eps, step)
        off = np.abs(gradient - difference) / (1 + np.abs(difference))
        off = off.reshape(-1)[::step]
        worst = max(worst, float(off.max(initial=0.0)))
    return worst


def _outputs(fn: Callable[..., Any], values: Sequence[Any]) -> list[Tensor]:
    result = fn(*values)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    return [out for out in outputs if is_floating(out.dtype)]


def _gradients(fn: Callable[..., Any], values: Sequence[Any], wanted: Sequence[int]) -> tuple[list[Any], list[Any]]:
    """Random weights of each output, and the gradients of their weighted sum."""
    with enable_grad():
        outputs = _outputs(fn, values)
    random = np.random.default_rng(0)
    weights = [random.uniform(0.5, 1.5, out.shape) * random.choice([-1.0, 1.0], out.shape) for out in outputs]
    for out, weight in zip(outputs, weights, strict=True):
        if out.requires_grad:
            backward(out, np.asarray(weight, out.dtype), retain_graph=True)
    zero = [values[i]._grad is None for i in wanted]
    return weights, [
        np.zeros(values[i].shape) if absent else values[i]._grad.array for i, absent in zip(wanted, zero, strict=True)
    ]


@no_grad()
def _differences(
    fn: Callable[..., Any], values: Sequence[Any], array: Any, weights: Sequence[Any], eps: float, step: int = 1
) -> np.ndarray:
    """Central differences of the weighted sum of outputs by every ``step``-th element of ``array``, one of the inputs'."""

    def weighted() -> float:
        return float(sum((out.array * weight).sum() for out, weight in zip(_outputs(fn, values), weights, strict=True)))

    difference = np.zeros(array.shape)
    for number, place in enumerate(np.ndindex(array.shape)):
        if number % step:
            continue
        middle = array[place]
        array[place] = middle + eps
        above = weighted()
        array[place] = middle - eps
        difference[place] = (above - weighted()) / (2 * eps)
        array[place] = middle
    return difference
