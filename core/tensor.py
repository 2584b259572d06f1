"""Tensor: an array that knows how it was made, with PyTorch's names.

``tensor.array`` is the raw NumPy or CuPy array; kernels and optimizers use it. The numerics are in ``ops``, the calculus in
``graph``; methods that compute are in ``tensor_math``, those about shape in ``tensor_shape``.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from . import autograd, graph
from .backend import Array, Device, as_array, as_dtype, device_kind, device_of, is_array, to_host
from .bfloat16 import is_floating, when_used
from .errors import DTypeError, GraphError, ShapeError
from .graph import Variable, apply
from .halves import exchange
from .mode import mode
from .ops import arithmetic as elementary
from .tensor_convert import TensorConvert, floats_from
from .tensor_convert import array_from as array_from
from .tensor_hooks import TensorHooks
from .tensor_math import TensorMath
from .tensor_more import TensorMore
from .tensor_operators import TensorOperators
from .tensor_reduce import TensorReduce
from .tensor_shape import TensorShape

Self = TypeVar("Self", bound="Tensor")
_new = object.__new__
_ONE = np.ones((), np.float32)


class Tensor(TensorMath, TensorReduce, TensorShape, TensorMore, TensorConvert, TensorHooks, TensorOperators):
    """An array with a gradient.

    ``Tensor(array)`` shares the array's memory and keeps its dtype; ``phalanx.tensor(data)`` copies. With ``requires_grad`` it
    is a leaf whose ``.grad`` :meth:`backward` adds to. As in PyTorch ``Tensor([1, 2])`` is float32 (``phalanx.tensor`` keeps
    integers), and ``Tensor(2, 3)`` has these sizes (and zeros in it).

    >>> x = phalanx.Tensor(np.array([1.0, 2.0], np.float32), requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4.])
    """

    __slots__ = ()

    def __init__(self, data: Any = (), *sizes: int, requires_grad: bool = False, dtype: Any = None) -> None:
        if not is_array(data):
            data = data.array if isinstance(data, Variable) else floats_from(data, sizes) if dtype is None else data
            data = array_from(data, dtype)
        elif sizes:
            raise DTypeError(f"Tensor(array, ...) takes options by name (requires_grad=True), got {sizes[0]!r}")
        self.array = data if dtype is None else data.astype(as_dtype(dtype), copy=False)
        self.requires_grad = requires_grad
        self._node = self._grad = self._slot = self._listener = self._weight = self._hooks = self.name = None
        if requires_grad:
            _want_floating(self.array)

    # ---- what it is --------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the elements, NumPy's."""
        return self.array.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.array.ndim

    @property
    def device(self) -> Device:
        """Where the array lies."""
        return device_of(self.array)

    @property
    def is_cuda(self) -> bool:
        """Whether the array is on a GPU."""
        return device_kind(self.array) == "cuda"

    @property
    def is_leaf(self) -> bool:
        """Whether no op made it."""
        return self._node is None

    @property
    def grad_fn(self) -> Any:
        """The node of the op that made it; None for a leaf."""
        return self._node

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.array.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.array.nbytes

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dimension."""
        return self.array.shape if dim is None else self.array.shape[dim]

    def dim(self) -> int:
        """Number of dimensions."""
        return self.array.ndim

    ndimension = dim

    def numel(self) -> int:
        """Number of elements."""
        return self.array.size

    nelement = numel

    def element_size(self) -> int:
        """Bytes of one element."""
        return self.array.itemsize

    def stride(self, dim: int | None = None) -> Any:
        """Distance of neighbours along each dimension, in elements."""
        strides = tuple(step // self.array.itemsize for step in self.array.strides)
        return strides if dim is None else strides[dim]

    def is_contiguous(self) -> bool:
        """Whether the elements lie in order in memory."""
        return bool(self.array.flags.c_contiguous)

    def is_floating_point(self) -> bool:
        """Whether the dtype is a floating one."""
        return is_floating(self.array.dtype)

    def is_complex(self) -> bool:
        """False: there are no complex numbers here."""
        return False

    def is_signed(self) -> bool:
        """Whether the dtype has negative numbers."""
        return self.array.dtype.kind in "ifV"

    def is_nonzero(self) -> bool:
        """Whether the only element is not 0."""
        return bool(self)

    def is_same_size(self, other: Tensor) -> bool:
        """Whether the shapes are equal."""
        return self.array.shape == other.array.shape

    def pin_memory(self: Self) -> Self:
        """Itself: what goes to a GPU is staged there."""
        return self

    def data_ptr(self) -> int:
        """Address of the first element."""
        return self.array.ctypes.data if not self.is_cuda else self.array.data.ptr

    # ---- gradient ----------------------------------------------------------------------------------------------------

    @property
    def grad(self) -> Tensor | None:
        """What backward passes have added up; None before the first. Raises GraphError while it is incomplete."""
        if self._listener is not None:
            self._listener.check_readable(self)
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is None:
            self._grad = None
            return
        if not isinstance(value, Tensor) or value.array.shape != self.array.shape:
            what = f"shape {value.shape}" if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(
                f"grad of a tensor of shape {self.shape}: expected a Tensor of that shape or None, got {what}"
            )
        slot = self._slot
        if slot is None or slot.dtype != value.array.dtype:
            self._grad = value
        else:
            if value.array is not slot:
                slot[...] = value.array
            self._grad = _wrap(slot)

    @property
    def weight(self) -> float | None:
        """How many items a mean loss averaged; None if it is no mean loss. It changes no gradient of this tensor."""
        weight: Any = self._weight  # an array where a GPU counted: it is waited for only when somebody asks
        return float(weight) if hasattr(weight, "shape") else weight

    @weight.setter
    def weight(self, value: float | None) -> None:
        self._weight = value

    @property
    def data(self) -> Tensor:
        """A detached Tensor on the same memory. Assigning keeps a binding to a flat store if shape and dtype fit."""
        return _wrap(self.array)

    @data.setter
    def data(self, value: Any) -> None:
        array = value.array if isinstance(value, Variable) else as_array(value)
        store = getattr(self, "_store", None)  # with ZeRO a parameter in a store may have no gradient slot
        bound = self._slot is not None or (store is not None and store.holds(self))
        here = self.array
        if bound and here.shape == array.shape and here.dtype == array.dtype and device_of(here) == device_of(array):
            if array is not here:
                here[...] = array
        else:
            self.array = array
            self._slot = None

    def backward(
        self, gradient: Any = None, retain_graph: bool = False, create_graph: bool = False, inputs: Any = None
    ) -> None:
        """Add d(self)/d(leaf) to ``.grad`` of every leaf below, or of ``inputs`` only.

        ``gradient`` is that of ``self``, of its shape; for a single element it is 1. Raises GraphError if nothing below
        wants a gradient, if ``gradient`` is missing, or if the graph was freed by an earlier pass.

        >>> w = phalanx.Tensor([3.0], requires_grad=True)
        >>> (w * 2).sum().backward()
        >>> w.grad.item()
        2.0
        """
        if not self.requires_grad:
            raise GraphError(
                "backward() of a tensor that nothing with requires_grad=True led to"
                + ("" if mode.enabled else " (recording is off here: no_grad)")
            )
        if create_graph:
            raise GraphError("backward(create_graph=True): phalanx computes first-order gradients only")
        if inputs is not None:
            autograd.backward(self, gradient, retain_graph, inputs=inputs)
            return
        array = self.array
        if gradient is None:
            if array.size != 1:
                raise GraphError(
                    f"backward() of a tensor of shape {array.shape} needs its gradient: reduce it to a scalar first, with "
                    ".mean() or .sum(), or pass backward(gradient) of that shape"
                )
            plain = array.__class__ is np.ndarray and array.dtype is _ONE.dtype and not array.ndim
            seed = _ONE.copy() if plain else np.ones_like(array)
        else:
            seed = gradient.array if isinstance(gradient, Variable) else np.asarray(gradient, array.dtype)
            if seed.shape != array.shape:
                raise ShapeError(f"backward: gradient of shape {array.shape} expected, got {seed.shape}")
            seed = seed.astype(array.dtype, copy=False)
        graph.backward(self, seed, retain_graph)

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        """Set whether gradients are wanted; returns self."""
        if requires_grad:
            _want_floating(self.array)
        elif self._node is not None:
            raise GraphError("requires_grad_(False) of a tensor that an op made: use detach()")
        self.requires_grad = requires_grad
        return self

    def detach(self) -> Tensor:
        """The same memory without the graph."""
        return _wrap(self.array)

    def detach_(self: Self) -> Self:
        """Forget how it was made."""
        self._node, self.requires_grad = None, False
        return self

    # ---- conversion --------------------------------------------------------------------------------------------------

    def clone(self) -> Tensor:
        """A copy; gradients pass through."""
        return apply(elementary.CLONE, self)

    def contiguous(self) -> Tensor:
        """Itself if its elements lie in order, else a copy that does."""
        return self if self.array.flags.c_contiguous else apply(elementary.CLONE, self)

    def item(self) -> Any:
        """The only element as a Python number."""
        if self.array.size != 1:
            raise ShapeError(f"item() of a tensor of shape {self.shape}: it has {self.array.size} elements, not one")
        return to_host(self.array).item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        return to_host(self.array).tolist()

    def numpy(self, *, force: Any = False) -> np.ndarray:
        """The NumPy array, on the same memory. Raises GraphError if a gradient is wanted, unless ``force``."""
        if not force and self.requires_grad:
            raise GraphError("numpy() of a tensor with requires_grad=True: use .detach().numpy()")
        if not force and self.is_cuda:
            raise DTypeError("numpy() of a tensor on the GPU: use .cpu().numpy()")
        return to_host(self.array)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: Any = False) -> Tensor:
        """What NumPy's functions of a Tensor return."""
        return _wrap(as_array(array))

    # ---- Python's own protocols --------------------------------------------------------------------------------------

    def __bool__(self) -> Any:
        if self.array.size != 1:
            raise ShapeError(
                f"the truth of a tensor of shape {self.shape} is ambiguous: use .any() or .all(), or compare with "
                "phalanx.equal"
            )
        return bool(to_host(self.array).item())

    def __float__(self) -> Any:
        return float(self.item())

    def __int__(self) -> Any:
        return int(self.item())

    def __index__(self) -> Any:
        if self.array.dtype.kind not in "iub":
            raise DTypeError(f"an integer tensor expected as an index, got {self.dtype}")
        return int(self.item())

    def __contains__(self, value: Any) -> Any:
        return bool((self.array == (value.array if isinstance(value, Tensor) else value)).any())

    def __format__(self, specification: str) -> str:
        return format(self.item(), specification) if not self.array.ndim else object.__format__(self, specification)

    def __repr__(self) -> str:
        shown = to_host(self.array)
        shown = shown.astype(np.float32) if shown.dtype.kind == "V" else shown  # NumPy would print bfloat16 as integers
        text = np.array2string(shown, separator=", ", prefix="tensor(", precision=4, suppress_small=None)
        if self.array.dtype.name not in ("float32", "int64", "bool"):
            text += f", dtype={self.array.dtype}"
        if self.is_cuda:
            text += f", device='{self.device}'"
        if self._node is not None:
            op = self._node.op or self._node.edges[0].op
            return f"tensor({text}, grad_fn=<{op.name}>)"
        return f"tensor({text}, requires_grad=True)" if self.requires_grad else f"tensor({text})"

    def __deepcopy__(self: Self, memo: dict[Any, Any]) -> Self:
        if self._node is not None:
            raise GraphError("deepcopy of a tensor that an op made: only leaves can be copied; use detach() or clone()")
        copied = _rebuild(type(self), self.array.copy(), self.requires_grad, self.name)
        if self._grad is not None:
            copied._grad = _wrap(self._grad.array.copy())
        memo[id(self)] = copied
        return copied

    def __copy__(self) -> Tensor:
        return self.detach().requires_grad_(self.requires_grad)

    def __reduce__(self) -> Any:
        if self._node is not None:
            raise GraphError("a tensor that an op made cannot be pickled: use detach()")
        return _rebuild, (type(self), to_host(self.array), self.requires_grad, self.name)


def _wrap(array: Array) -> Tensor:
    """A Tensor around ``array`` without ceremony: the way that every op's output takes."""
    tensor = _new(Tensor)
    tensor.array = array
    tensor.requires_grad = False
    tensor._node = tensor._grad = tensor._slot = tensor._listener = tensor._weight = tensor._hooks = tensor.name = None
    return tensor


graph.bind(_wrap)
when_used(exchange)


def _rebuild(kind: type[Self], array: Array, requires_grad: bool, name: str | None) -> Self:
    """A leaf of class ``kind``; what its subclass adds (a place in a flat store) starts as None."""
    tensor = _new(kind)
    Tensor.__init__(tensor, array, requires_grad=requires_grad)
    tensor.name = name
    for parent in kind.__mro__[: kind.__mro__.index(Tensor)]:
        for slot in parent.__dict__.get("__slots__", ()):
            setattr(tensor, slot, None)
    return tensor


def _want_floating(array: Array) -> None:
    if not is_floating(array.dtype):
        raise DTypeError(f"only floating tensors can require gradients, got {array.dtype}; convert with .float()")
