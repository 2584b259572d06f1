"""What the graph is made of: variables, the nodes between them, and the errors of an op that did not take its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

from .backend import Array, Device, common_shape, current_index, device_of, is_array, to_device
from .errors import DeviceError, DTypeError, PhalanxError, ShapeError
from .op import TABLE, Op


class LeafHooks(dict[int, Callable[..., Any]]):
    """A leaf's hooks by number: those that see its gradient, and in ``after`` those that are called when it is added."""

    __slots__ = ("after",)

    def __init__(self) -> None:
        super().__init__()
        self.after: dict[int, Callable[..., Any]] = {}


class Variable:
    """What the graph knows of a Tensor: an array, whether it wants a gradient, and where it came from."""

    __slots__ = (
        "__weakref__", "_grad", "_hooks", "_listener", "_node", "_slot", "_weight", "array", "name", "requires_grad",
    )  # fmt: skip

    array: Array
    requires_grad: bool
    name: str | None
    _node: Node | None
    """The op that made it; None for a leaf."""
    _grad: Any
    _slot: Array | None
    """A leaf's place in the gradient buffer of the flat store."""
    _listener: Any
    _weight: float | None
    _hooks: LeafHooks | None


class Node:
    """One op that ran: what its vjp needs, and where each input's gradient goes."""

    __slots__ = (
        "code",
        "edges",
        "gradient",
        "hooks",
        "instruction",
        "needs",
        "op",
        "saved",
        "sequence",
        "shape",
        "special",
        "walk",
    )

    op: Op | None
    """None: picks output ``saved`` of the only edge, a node with several outputs."""
    saved: Any
    shape: tuple[int, ...] | None
    """Of the output; None for an op with several."""
    edges: Sequence[Any]
    """For each input: the Node that made it, the leaf Variable, or None if it wants no gradient."""
    needs: tuple[bool, ...]
    """Which edges there are."""
    gradient: Any
    """What has arrived so far for the output (a list with several outputs), during a walk."""
    special: bool
    """Whether any edge leads to a parameter in a lower precision, or edges are many."""
    hooks: dict[int, Callable[..., Any]] | None
    walk: Any
    """What stands for the last walk that found it."""
    sequence: int
    code: CodeType
    instruction: int
    """Where in ``code`` the op was called, for :meth:`site`."""

    def site(self) -> str:
        """``file:line`` of the call outside of phalanx."""
        line = next((line for lo, hi, line in self.code.co_lines() if lo <= self.instruction < hi), None)
        return f"{self.code.co_filename}:{line}"


class _Bindings:
    """The class that outputs are made of; ``tensor.py`` enters its own, which stands above this file."""

    make: Callable[[Array], Any]


bindings = _Bindings()


def bind(make: Callable[[Array], Any]) -> None:
    """Enter the function that wraps an output array into a Tensor."""
    bindings.make = make


def wrap(array: Array) -> Any:
    """A Tensor around ``array``, without gradient."""
    return bindings.make(array)


def on_one_device(op: Op, arrays: Sequence[Any], error: Exception) -> Any:
    """The device on which an op that failed can be done if single numbers of the host are moved there.

    Raises DeviceError, naming the devices, where more than single numbers lie elsewhere, and ``explained`` if it is not about devices.
    """
    found = dict.fromkeys(device_of(a) for a in arrays if is_array(a))
    if len(found) < 2:
        raise _elsewhere(op, next(iter(found), None)) or explained(op, arrays, error) from error
    gpus = [device for device in found if device != "cpu"]
    if len(gpus) == 1 and all(device_of(a) != "cpu" or not a.ndim for a in arrays if is_array(a)):
        return gpus[0]
    where = " and ".join(f"{tuple(a.shape)} on {device_of(a)}" for a in arrays if is_array(a))
    raise DeviceError(f'{op.name}: all inputs must lie on one device, got {where}; move one by .to("{gpus[0]}")')


def _elsewhere(op: Op, place: Device | None) -> DeviceError | None:
    """The error of inputs that lie on a GPU which is not this thread's; None if that is not it."""
    if place is None or place == "cpu" or place.index == (here := current_index()):
        return None
    return DeviceError(
        f"{op.name}: the inputs lie on {place}, and this thread works on cuda:{here}; "
        f"phalanx.cuda.set_device({place.index}) before, or move them"
    )


def moved(value: Any, device: Any, apply: Callable[..., Any]) -> Any:
    """An input of an op on ``device``; ``apply`` moves one that wants a gradient."""
    if isinstance(value, Variable):
        if device == device_of(value.array):
            return value
        return apply(TABLE["to_device"], value, device=device)
    return to_device(value, device) if is_array(value) else value


def explained(op: Op, arrays: Sequence[Any], error: Exception) -> PhalanxError:
    """The error of an op that did not take its inputs, in words."""
    described = [f"{tuple(a.shape)} {a.dtype}" if hasattr(a, "shape") else repr(a) for a in arrays]
    shapes = [tuple(a.shape) for a in arrays if hasattr(a, "shape")]
    inputs = ", ".join(described)
    if "broadcast together" in str(error) and common_shape(shapes) is None:
        return ShapeError(
            f"{op.name}: shapes {' and '.join(map(str, shapes))} do not broadcast: counted from the last dimension, "
            "two sizes must be equal or one of them 1"
        )
    strangers = [type(a).__name__ for a in arrays if not hasattr(a, "dtype") and not isinstance(a, int | float | None)]
    if isinstance(error, AttributeError) and strangers:
        return DTypeError(f"{op.name}: Tensors expected, got {', '.join(strangers)}; phalanx.tensor makes one")
    if isinstance(error, AttributeError):
        raise error
    if isinstance(error, TypeError):
        return DTypeError(f"{op.name}: cannot take inputs {inputs}: {error}")
    return ShapeError(f"{op.name}: inputs {inputs}: {error}")
