"""``cupy.ndarray`` on host memory, as strict as the real one: it never mixes with NumPy's arrays and tells nobody its values in secret."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import _names, _order, _state
from ._state import Memory, MemoryPointer, run

_SUPPORTED = frozenset("?bhilqBHILQefdFD")
_IMPLICIT = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
)
_HALVES = ("float16", "bfloat16")
_UPCAST = frozenset(
    {"sum", "prod", "mean", "var", "std", "nansum", "nanmean", "nanvar", "average", "cumsum", "cumprod", "trace"}
)
"""These add up halves in float32 and round once."""
_new = object.__new__


class Flags:
    """``array.flags``."""

    __slots__ = ("c_contiguous", "f_contiguous", "owndata")

    def __init__(self, array: np.ndarray, owndata: bool) -> None:
        self.c_contiguous, self.f_contiguous, self.owndata = array.flags.c_contiguous, array.flags.f_contiguous, owndata

    @property
    def fnc(self) -> bool:
        return self.f_contiguous and not self.c_contiguous

    @property
    def forc(self) -> bool:
        return self.f_contiguous or self.c_contiguous

    def __getitem__(self, name: str) -> bool:
        return bool(getattr(self, name.lower()))


def supported(dtype: Any) -> np.dtype:
    """The dtype, or ValueError for one that CuPy does not have."""
    dtype = np.dtype(dtype)
    if dtype.char not in _SUPPORTED and dtype.name != "bfloat16":
        raise ValueError(f"Unsupported dtype {dtype}")
    return dtype


class ndarray:
    """An array on a device."""

    __slots__ = ("__weakref__", "_array", "_memory", "base")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: MemoryPointer | None = None, strides: Any = None, order: str = "C"
    ) -> None:
        dtype = supported(dtype)
        shape = (shape,) if isinstance(shape, int | np.integer) else tuple(int(n) for n in shape)
        if memptr is None:
            nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            memptr = _state.get_allocator()(nbytes)
            self.base = None
        else:
            self.base = None if isinstance(memptr.mem, _state.UnownedMemory) else memptr
        self._memory: Memory = memptr.mem
        raw = self._memory.raw
        assert raw is not None
        self._array: np.ndarray = np.ndarray(shape, dtype, raw.data, memptr._offset, strides, order)

    # ---- what it is --------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @shape.setter
    def shape(self, shape: Any) -> None:
        self._array.shape = shape

    @property
    def strides(self) -> tuple[int, ...]:
        return self._array.strides

    @property
    def dtype(self) -> np.dtype:
        return self._array.dtype

    @property
    def ndim(self) -> int:
        return self._array.ndim

    @property
    def size(self) -> int:
        return self._array.size

    @property
    def nbytes(self) -> int:
        return self._array.nbytes

    @property
    def itemsize(self) -> int:
        return self._array.itemsize

    @property
    def flags(self) -> Flags:
        return Flags(self._array, self.base is None)

    @property
    def data(self) -> MemoryPointer:
        return MemoryPointer(self._memory, self._array.ctypes.data - self._memory.ptr if self._array.size else 0)

    @property
    def device(self) -> _state.Device:
        return _state.Device(self._memory.device_id)

    @property
    def T(self) -> ndarray:
        return view(self, self._array.T)

    @property
    def mT(self) -> ndarray:
        return view(self, self._array.mT)

    @property
    def real(self) -> ndarray:
        return view(self, self._array.real)

    @property
    def flat(self) -> Any:
        raise NotImplementedError("the stand-in has no flat iterator: use ravel()")

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape, "typestr": self.dtype.str, "descr": self.dtype.descr, "version": 3, "data": (self.data.ptr, False),
            "strides": None if self._array.flags.c_contiguous else self.strides, "stream": 1,
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self._array)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(_IMPLICIT)

    # ---- values, for which the host waits ----------------------------------------------------------------------------

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        if out is None:
            if self.size == 0:
                return np.empty(self.shape, self.dtype)
            out = np.empty(
                self.shape, self.dtype, order="F" if order == "F" or (order == "A" and self.flags.fnc) else "C"
            )
        elif not isinstance(out, np.ndarray):
            raise TypeError("Only numpy.ndarray can be obtained from cupy.ndarray")
        elif out.dtype != self.dtype:
            raise TypeError(f"{out.dtype} array cannot be obtained from {self.dtype} array")
        elif out.shape != self.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {self.shape}, actual shape: {out.shape}")
        elif not out.flags.c_contiguous and not out.flags.f_contiguous:
            raise RuntimeError("`out` cannot be specified when copying to non-contiguous ndarray")
        source = self._array
        _order.of_array(self, False, stream)
        run(lambda: np.copyto(out, source), stream, host=True)
        if stream is None or blocking:
            _order.host_waits_for(stream)
        return out

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not self._array.flags.forc:
            raise RuntimeError("Cannot set to non-contiguous array")
        _order.of_array(self, True, stream)
        run(lambda: np.copyto(self._array, arr), stream, host=True)

    def _host(self) -> np.ndarray:
        _state.refuse_while_capturing("a copy to the host")
        _order.of_array(self, False)
        _order.host_waits_for()
        return self._array

    def item(self, *args: Any) -> Any:
        _names.check("cupy.ndarray.item", 1 + len(args), {})
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self._host().item()

    def tolist(self) -> Any:
        return self._host().tolist()

    def tobytes(self, order: str = "C") -> bytes:
        return self._host().tobytes(order)

    def __bool__(self) -> bool:
        return bool(self._host())

    def __int__(self) -> int:
        return int(self._host())

    def __index__(self) -> int:
        return self._host().__index__()

    def __float__(self) -> float:
        return float(self._host())

    def __complex__(self) -> complex:
        return complex(self._host())

    def __repr__(self) -> str:
        return repr(self._host())

    def __str__(self) -> str:
        return str(self._host())

    def __format__(self, specification: str) -> str:
        return format(self._host(), specification)

    def __reduce__(self) -> Any:
        return _from_host, (self.get(),)

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> ndarray:
        with self.device:
            return self.copy()

    def __iter__(self) -> Any:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    # ---- elements ----------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> ndarray:
        key, waits = _index(self, key)
        if waits:
            _state.refuse_while_capturing("a boolean mask as an index")
        if not callable(key):
            _check_device(self)
            return view(self, self._array[_open(key)])
        return call(lambda a: a[key()], (self,), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        key, _ = _index(self, key)
        if not isinstance(value, ndarray) and np.ndim(value):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")

        def assign(a: np.ndarray, v: Any) -> None:
            a[key() if callable(key) else ...] = v

        target = self if callable(key) else view(self, self._array[_open(key)])
        call(assign, (target, value if isinstance(value, ndarray) else np.asarray(value)[()]), {}, writes=True)

    def fill(self, value: Any) -> None:
        self[...] = value

    def view(self, dtype: Any = None, type: Any = None) -> ndarray:
        return view(self, self._array if dtype is None else self._array.view(supported(dtype)))

    def reshape(self, *shape: Any, order: str = "C", copy: Any = None) -> ndarray:
        return call(
            np.ndarray.reshape, (self, *shape), {"order": order} if copy is None else {"order": order, "copy": copy}
        )

    def astype(
        self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True
    ) -> ndarray:
        if casting is not None:
            raise TypeError("casting is not supported yet")
        if subok is not None:
            raise TypeError("subok is not supported yet")
        return call(np.ndarray.astype, (self, supported(dtype)), {"order": order, "copy": copy})

    def copy(self, order: str = "C") -> ndarray:
        if self._memory.device_id != _state.thread.device:
            return _from_host(self._array, order)
        return call(np.ndarray.copy, (self,), {"order": order})

    def dot(self, b: ndarray, out: ndarray | None = None) -> ndarray:
        import cupy

        return cupy.dot(self, b, out)

    def take(self, indices: Any, axis: int | None = None, out: ndarray | None = None) -> ndarray:
        import cupy

        return cupy.take(self, indices, axis, out)

    def scatter_add(self, slices: Any, value: Any) -> None:
        import cupy

        cupy.add.at(self, slices, value)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        import cupy

        held: Any = cupy
        try:
            for part in (*function.__module__.split(".")[1:], function.__name__):
                held = getattr(held, part)
        except AttributeError:
            return NotImplemented
        if held is function or any(t not in (ndarray, np.ndarray) for t in types):
            return NotImplemented
        return held(*args, **kwargs)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        import cupy

        if "out" in kwargs:
            if len(kwargs["out"]) != 1 and ufunc.nout == 1:
                raise ValueError("The 'out' parameter must have exactly one array value")
            kwargs["out"] = kwargs["out"][0] if ufunc.nout == 1 else kwargs["out"]
        held = getattr(cupy, ufunc.__name__, None)
        if held is None:
            return NotImplemented
        if ufunc.__name__ in ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal"):
            inputs = tuple([x.item() if isinstance(x, np.ndarray) and x.ndim == 0 else x for x in inputs])
        return held(*inputs, **kwargs) if method == "__call__" else getattr(held, method)(*inputs, **kwargs)


def _operator(name: str, function: str, reflected: bool = False) -> Callable[..., Any]:
    def operate(self: ndarray, other: Any) -> Any:
        import cupy

        if not isinstance(other, ndarray | np.ndarray | np.generic | int | float | complex):
            return NotImplemented
        a, b = (other, self) if reflected else (self, other)
        return getattr(cupy, function)(a, b)

    operate.__name__ = name
    return operate


def _in_place(name: str, function: str) -> Callable[..., Any]:
    def operate(self: ndarray, other: Any) -> Any:
        import cupy

        if isinstance(other, np.ndarray):
            raise TypeError(f"Unsupported type {np.ndarray}")
        return getattr(cupy, function)(self, other, out=self)

    operate.__name__ = name
    return operate


_BINARY = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide", "mod": "remainder",
    "pow": "power", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "left_shift", "rshift": "right_shift",
    "matmul": "matmul", "divmod": "divmod",
}  # fmt: skip
for _name, _function in _BINARY.items():
    setattr(ndarray, f"__{_name}__", _operator(_name, _function))
    setattr(ndarray, f"__r{_name}__", _operator(f"r{_name}", _function, reflected=True))
    if _name != "divmod":
        setattr(ndarray, f"__i{_name}__", _in_place(f"i{_name}", _function))
for _name, _function in {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal", "ne": "not_equal",
}.items():  # fmt: skip
    setattr(ndarray, f"__{_name}__", _operator(_name, _function))
for _name, _function in {"neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert"}.items():
    setattr(ndarray, f"__{_name}__", lambda self, _f=_function: getattr(__import__("cupy"), _f)(self))


def _method(name: str) -> Callable[..., Any]:
    numpys = getattr(np.ndarray, name)
    full = f"cupy.ndarray.{name}"

    def method(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        _names.check(full, 1 + len(args), kwargs)
        function = numpys if name not in _UPCAST or self.dtype.name not in _HALVES else upcast(name, numpys)
        return call(function, (self, *args), kwargs, writes=name in ("sort", "partition", "put"))

    method.__name__ = name
    return method


for _name in (
    "all", "any", "argmax", "argmin", "argpartition", "argsort", "clip", "compress", "conj", "cumprod", "cumsum", "diagonal", "flatten",
    "max", "mean", "min", "nonzero", "partition", "prod", "put", "ravel", "repeat", "round", "searchsorted", "sort", "squeeze", "std",
    "sum", "swapaxes", "trace", "transpose", "var",
):  # fmt: skip
    setattr(ndarray, _name, _method(_name))


def upcast(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, a sum over halves, done in float32 and rounded once."""

    def wide(a: np.ndarray, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("dtype") is not None or kwargs.get("out") is not None:
            return function(a, *args, **kwargs)
        return np.asarray(function(a.astype(np.float32), *args, **kwargs)).astype(a.dtype)

    return wide


# ---- calls -----------------------------------------------------------------------------------------------------------


def _index(array: ndarray, key: Any) -> tuple[Any, bool]:
    """``key`` as NumPy takes it (or a function that makes it, where it holds arrays), whether its size depends on values."""
    parts = key if isinstance(key, tuple) else (key,)
    if not any(isinstance(p, ndarray | np.ndarray | list) for p in parts):
        return key, False
    plain = [np.asarray(p) if isinstance(p, list) else p for p in parts]
    waits = any(isinstance(p, ndarray | np.ndarray) and p.dtype == bool for p in plain)
    for p in plain:
        if isinstance(p, ndarray):
            _check_device(p)

    used = sum(
        (p.ndim if p.dtype == bool else 1) if hasattr(p, "ndim") else int(p is not None and p is not Ellipsis)
        for p in plain
    )

    def made() -> Any:
        # the device wraps what lies outside, it cannot raise
        out, axis = [], 0
        for p in plain:
            if p is Ellipsis:
                axis += array.ndim - used
            a = p._array if isinstance(p, ndarray) else p
            if isinstance(a, np.ndarray) and a.dtype.kind in "iu" and array.shape[axis]:
                a = a % array.shape[axis]
            out.append(a)
            axis += (
                (p.ndim if p.dtype == bool else 1) if hasattr(p, "ndim") else int(p is not None and p is not Ellipsis)
            )
        return tuple(out)

    return made, waits


def _open(key: Any) -> Any:
    """A key of numbers and slices, so that NumPy gives a view and not a number."""
    parts = key if isinstance(key, tuple) else (key,)
    return parts if any(p is Ellipsis for p in parts) else (*parts, ...)


def _check_device(array: ndarray) -> None:
    if array._memory.device_id != _state.thread.device:
        raise ValueError(
            "The current device must be the one that the array is on: "
            f"array device = {array._memory.device_id} while current = {_state.thread.device}"
        )


def _plain(value: Any, arrays: list[ndarray]) -> Any:
    """``value`` for NumPy: arrays unwrapped. Raises TypeError for an array of NumPy."""
    kind = value.__class__
    if kind is ndarray:
        arrays.append(value)
        if value._memory.device_id != _state.thread.device:
            _check_device(value)
        return value._array
    if kind is np.ndarray:
        raise TypeError(f"Unsupported type {np.ndarray}")
    if kind is tuple or kind is list:
        return kind([_plain(v, arrays) for v in value])
    return value


def call(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], writes: bool = False) -> Any:
    """``function`` of NumPy on what lies below ``args``; done at once, or recorded. ``writes``: into its first argument."""
    arrays: list[ndarray] = []
    plain = [_plain(v, arrays) for v in args]
    named = {key: _plain(v, arrays) for key, v in kwargs.items()} if kwargs else kwargs
    out = kwargs.get("out")
    recording = _state.recording_of()
    if recording is None:
        if _order._switch["on"]:
            return _in_order(function, plain, named, arrays, args[0] if writes else out)
        with np.errstate(all="ignore"):
            result = function(*plain, **named)
        return out if out is not None else wrap(result, arrays)
    for array in arrays:
        recording.touch(array._memory)
    stream = _state.current_stream()
    if out is not None or writes:
        recording.add(lambda: function(*plain, **named), stream)
        return out
    with np.errstate(all="ignore"):
        result = wrap(function(*plain, **named), arrays)
    made = [r for r in (result if isinstance(result, tuple | list) else (result,)) if isinstance(r, ndarray)]
    fresh = [r for r in made if not any(r._memory is a._memory for a in arrays)]
    if fresh:
        for r in fresh:
            r._array[...] = 0
            recording.made.append(r._array)
            recording.touch(r._memory)

        def again() -> None:
            found = function(*plain, **named)
            for r, f in zip(made, found if isinstance(found, tuple | list) else (found,), strict=True):
                if any(r is one for one in fresh):
                    np.copyto(r._array, f)

        recording.add(again, stream)
    return result


def _in_order(function: Callable[..., Any], plain: Any, named: Any, arrays: Sequence[ndarray], written: Any) -> Any:
    """The call where there are several streams: what it reads and writes must be ordered. Views read nothing."""
    if written is not None:
        for array in arrays:
            if array is not written:
                _order.of_array(array, False)
        for array in written if isinstance(written, tuple) else (written,):
            _order.of_array(array, True)
    with np.errstate(all="ignore"):
        result = function(*plain, **named)
    if written is not None:
        return written if named.get("out") is not None else None
    found = wrap(result, arrays)
    made = [x for x in (found if isinstance(found, tuple | list) else (found,)) if isinstance(x, ndarray)]
    fresh = [x for x in made if not any(x._memory is a._memory for a in arrays)]
    for array in arrays if fresh or not made else ():
        _order.of_array(array, False)
    for array in fresh:
        _order.of_array(array, True)
    return found


def wrap(result: Any, arrays: Sequence[ndarray]) -> Any:
    """NumPy's result as an array on the current device: a view where it is one of ``arrays``."""
    if isinstance(result, np.ndarray):
        if result.base is not None and result.size:
            start = result.__array_interface__["data"][0]
            for a in arrays:
                raw = a._memory.raw
                if raw is not None and raw.ctypes.data <= start < raw.ctypes.data + max(raw.nbytes, 1):
                    return view(a, result)
        return fresh_array(result)
    if isinstance(result, np.generic):
        return fresh_array(np.asarray(result))
    if isinstance(result, tuple | list):
        return (
            type(result)([wrap(r, arrays) for r in result])
            if type(result) in (tuple, list)
            else tuple(wrap(r, arrays) for r in result)
        )
    return result


def fresh_array(array: np.ndarray) -> ndarray:
    """An array that NumPy has just made, on the current device: moved to what the allocator gives."""
    if array.size == 0:
        return ndarray(array.shape, array.dtype)
    made: ndarray = _new(ndarray)
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    offset = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    at = _state.get_allocator()(root.nbytes)
    made._memory = at.mem
    made._array = np.ndarray(array.shape, array.dtype, at.mem.raw.data, at._offset + offset, array.strides)
    np.copyto(made._array, array)
    made.base = None
    return made


def view(of: ndarray, array: np.ndarray) -> ndarray:
    """Another look at the memory of ``of``."""
    made: ndarray = _new(ndarray)
    made._array, made._memory = array, of._memory
    made.base = of if of.base is None else of.base
    return made


def _from_host(value: Any, order: str = "C") -> ndarray:
    """A copy of what lies on the host, on the current device."""
    _state.refuse_while_capturing("a copy from the host")
    given = np.asarray(value)
    made = ndarray(given.shape, supported(given.dtype), order="F" if order == "F" else "C")
    made._array[...] = given
    return made
