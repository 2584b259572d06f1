"""CuPy's functions: NumPy's of the same name, as far as the real CuPy has them, with what it refuses and where it differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import _names, _state
from ._array import _HALVES, _UPCAST, _from_host, call, fresh_array, ndarray, supported, upcast, wrap

_BLAS = frozenset({"matmul", "dot", "einsum", "tensordot", "inner", "vdot", "kron"})
"""These end in cuBLAS, whose calls a capture refuses."""
_WAITS = frozenset(
    {
        "nonzero",
        "argwhere",
        "flatnonzero",
        "unique",
        "extract",
        "compress",
        "delete",
        "setdiff1d",
        "union1d",
        "trim_zeros",
    }
)
"""The size of their result depends on values."""
_WRITES = frozenset({"copyto", "put", "put_along_axis", "fill_diagonal", "place", "putmask"})
_TRUTHS = frozenset({"array_equal", "array_equiv", "allclose"})
_FROM_HOST = frozenset({"array2string", "array_repr", "array_str", "savez", "save", "savetxt", "savez_compressed"})


class ufunc:
    """A function of elements."""

    def __init__(self, name: str, numpys: np.ufunc) -> None:
        self.name = f"cupy_{name}"
        self.__name__ = name
        self.nin, self.nout, self.nargs, self.types = numpys.nin, numpys.nout, numpys.nargs, numpys.types
        self._numpys = numpys

    def __repr__(self) -> str:
        return f"<ufunc {self.name!r}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if "where" in kwargs and not isinstance(kwargs["where"], ndarray):
            raise TypeError(f"Wrong arguments {{'where': {kwargs['where']!r}}}")
        _names.check("cupy.exp", 1, kwargs, ("where",))
        if len(args) > self.nin:
            args, kwargs = args[: self.nin], kwargs | {"out": args[self.nin]}
        if kwargs.get("out", 0) is None:
            del kwargs["out"]
        if "out" in kwargs and not isinstance(kwargs["out"], ndarray | tuple):
            raise TypeError("output must be an array of CuPy")
        for x in args:
            if not isinstance(x, ndarray | np.generic | int | float | complex):
                raise TypeError(f"Unsupported type {type(x)}")
        return call(self._numpys, args, kwargs)

    def _reduction(self, method: str, allowed: tuple[str, ...]) -> Callable[..., Any]:
        if self.__name__ not in allowed:
            raise NotImplementedError(f"`{self.name}.{method}` is not supported yet")
        return getattr(self._numpys, method)

    def reduce(self, array: ndarray, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        function = self._reduction("reduce", ("add", "multiply"))
        if array.dtype.name in _HALVES:
            function = upcast("sum", function)
        options = {key: v for key, v in {"dtype": dtype, "out": out}.items() if v is not None}
        return call(function, (array,), {"axis": axis, "keepdims": keepdims, **options})

    def accumulate(self, array: ndarray, axis: int = 0, dtype: Any = None, out: Any = None) -> Any:
        function = self._reduction("accumulate", ("add", "multiply"))
        return call(
            function,
            (array,),
            {key: v for key, v in {"axis": axis, "dtype": dtype, "out": out}.items() if v is not None},
        )

    def reduceat(self, array: ndarray, indices: Any, axis: int = 0, dtype: Any = None, out: Any = None) -> Any:
        function = self._reduction("reduceat", ("add",))
        return call(
            function,
            (array, indices),
            {key: v for key, v in {"axis": axis, "dtype": dtype, "out": out}.items() if v is not None},
        )

    def outer(self, a: Any, b: Any, **kwargs: Any) -> Any:
        return call(self._numpys.outer, (a, b), kwargs)

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        if self.__name__ not in ("add", "subtract", "maximum", "minimum", "bitwise_and", "bitwise_or", "bitwise_xor"):
            raise NotImplementedError(f"`{self.name}.at` is not supported yet")
        if a.dtype.name not in (
            "float32",
            "float64",
            "float16",
            "int32",
            "uint32",
            "uint64",
            "complex64",
            "complex128",
        ):
            raise TypeError(f"{self.__name__}.at on {a.dtype} is not supported")
        call(self._numpys.at, (a, indices, b), {}, writes=True)


def _blas(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def multiply(*args: Any, **kwargs: Any) -> Any:
        halves = [a.dtype.name for a in args if isinstance(a, np.ndarray) and a.dtype.name in _HALVES]
        if not halves:
            return function(*args, **kwargs)
        deep = any(isinstance(a, np.ndarray) and a.ndim > 2 for a in args)
        if name in ("matmul", "einsum") and deep and "bfloat16" in halves:
            raise TypeError("the real CuPy 14.2 crashes in products of bfloat16 with more than two dimensions")
        out = kwargs.pop("out", None)
        wide = [a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype.name in _HALVES else a for a in args]
        result = np.asarray(function(*wide, **kwargs))
        kinds = {a.dtype for a in args if isinstance(a, np.ndarray)}
        result = result.astype(kinds.pop()) if len(kinds) == 1 else result
        if out is not None:
            np.copyto(out, result, casting="same_kind")
        return result

    return multiply


def function(prefix: str, name: str, numpys: Callable[..., Any]) -> Callable[..., Any]:
    """CuPy's ``prefix.name``, which is NumPy's function on what lies below."""
    full = f"{prefix}.{name}"
    blas = name in _BLAS or prefix == "cupy.linalg"
    if name in _UPCAST:
        narrow = numpys
        wide = upcast(name, numpys)

        def numpys(a: Any, *args: Any, **kwargs: Any) -> Any:
            return (wide if isinstance(a, np.ndarray) and a.dtype.name in _HALVES else narrow)(a, *args, **kwargs)

    elif blas:
        numpys = _blas(name, numpys)

    def made(*args: Any, **kwargs: Any) -> Any:
        _names.check(full, len(args), kwargs)
        if _state._recordings and _state.recording_of() is not None:
            if blas:
                raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
            if name in _WAITS or (name == "where" and len(args) + len(kwargs) == 1):
                _state.refuse_while_capturing(name)
        if kwargs.get("out", 0) is None:
            del kwargs["out"]
        result = call(numpys, args, kwargs, writes=name in _WRITES)
        return fresh_array(np.asarray(result)) if name in _TRUTHS else result

    made.__name__ = made.__qualname__ = name
    return made


# ---- what has no counterpart, or differs -----------------------------------------------------------------------------


def array(
    obj: Any,
    dtype: Any = None,
    copy: bool = True,
    order: str = "K",
    subok: bool = False,
    ndmin: int = 0,
    *,
    blocking: bool = False,
) -> ndarray:
    if subok:
        raise NotImplementedError
    if isinstance(obj, ndarray):
        if obj._memory.device_id != _state.thread.device:
            made = _from_host(obj._array, "F" if obj.flags.fnc else "C")
            return made if dtype is None else made.astype(dtype, copy=False)
        made = obj.astype(obj.dtype if dtype is None else dtype, order=order or "K", copy=bool(copy))
    elif isinstance(obj, list | tuple) and _holds_arrays(obj):
        made = stacked(obj)
        made = made if dtype is None else made.astype(dtype, copy=False)
    else:
        given = np.array(obj, dtype=dtype, order=order if order in ("C", "F") else "K")
        made = _from_host(given, "F" if given.flags.f_contiguous and not given.flags.c_contiguous else "C")
    return made if made.ndim >= ndmin else made.reshape((1,) * (ndmin - made.ndim) + made.shape)


def _holds_arrays(value: Any) -> bool:
    return isinstance(value, ndarray) or (isinstance(value, list | tuple) and any(_holds_arrays(v) for v in value))


def stacked(value: Any) -> ndarray:
    """A list of arrays, lists of arrays ... as one array. Arrays of NumPy among them are refused."""
    if isinstance(value, list | tuple):
        return call(np.stack, ([stacked(v) for v in value],), {})
    if not isinstance(value, ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    return value


def asarray(
    a: Any, dtype: Any = None, order: str | None = None, *, copy: bool | None = None, blocking: bool = False
) -> ndarray:
    return array(a, dtype, bool(copy), order or "K")


def asanyarray(a: Any, dtype: Any = None, order: str | None = None) -> ndarray:
    return asarray(a, dtype, order)


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    return array(a, dtype, False, "C", ndmin=1)


def asfortranarray(a: Any, dtype: Any = None) -> ndarray:
    return array(a, dtype, False, "F", ndmin=1)


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    return a.get(stream, order, out) if isinstance(a, ndarray) else np.asarray(a)


def get_array_module(*args: Any) -> Any:
    import cupy

    return cupy if any(isinstance(a, ndarray) for a in args) else np


def _filled(shape: Any, dtype: Any, order: str, value: Any) -> ndarray:
    made = ndarray(shape, dtype, order=order)
    if isinstance(value, np.ndarray) and value.ndim:
        raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
    made.fill(value)
    return made


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return _filled(shape, dtype, order, 0)


def ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return _filled(shape, dtype, order, 1)


def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    if dtype is None:
        dtype = fill_value.dtype if isinstance(fill_value, ndarray) else np.array(fill_value).dtype
    return _filled(shape, dtype, order, fill_value)


def _like(a: ndarray, dtype: Any, order: str, subok: Any, shape: Any, value: Any) -> ndarray:
    if subok is not None:
        raise TypeError("subok is not supported yet")
    plan = np.empty_like(a._array if isinstance(a, ndarray) else np.asarray(a), dtype=dtype, order=order, shape=shape)
    made = ndarray(plan.shape, plan.dtype)
    if plan.size:
        made._array = np.ndarray(plan.shape, plan.dtype, made._memory.raw.data, 0, plan.strides)
    if value is not None:
        made.fill(value)
    return made


def empty_like(prototype: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    return _like(prototype, dtype, order, subok, shape, None)


def zeros_like(a: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    return _like(a, dtype, order, subok, shape, 0)


def ones_like(a: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    return _like(a, dtype, order, subok, shape, 1)


def full_like(
    a: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None
) -> ndarray:
    return _like(a, dtype, order, subok, shape, fill_value)


def take(a: ndarray, indices: Any, axis: int | None = None, out: ndarray | None = None) -> ndarray:
    if not isinstance(a, ndarray):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")
    indices = (
        indices._array if isinstance(indices, ndarray) else np.asarray(indices)
    )  # CuPy takes those of the host too
    return call(
        lambda x, out=None: np.take(x, indices, axis, out, mode="wrap"), (a,), {} if out is None else {"out": out}
    )


def take_along_axis(a: ndarray, indices: Any, axis: int | None) -> ndarray:
    indices = indices._array if isinstance(indices, ndarray) else np.asarray(indices)
    size = a.size if axis is None else a.shape[axis]
    return call(lambda x: np.take_along_axis(x, indices % size, axis), (a,), {})


def append(arr: Any, values: Any, axis: int | None = None) -> ndarray:
    return call(np.append, (asarray(arr), asarray(values), axis), {})


def copyto(dst: ndarray, src: Any, casting: str = "same_kind", where: Any = None) -> None:
    if isinstance(src, np.ndarray) and src.ndim:
        raise ValueError("non-scalar numpy.ndarray cannot be used for copyto")
    call(
        np.copyto,
        (dst, src),
        {"casting": casting} if where is None else {"casting": casting, "where": where},
        writes=True,
    )


def lexsort(keys: ndarray) -> ndarray:
    if keys.ndim == 0:
        raise TypeError("need sequence of keys with len > 0 in lexsort")
    return call(np.lexsort, (keys,), {})


def divmod(a: Any, b: Any, **kwargs: Any) -> Any:
    return wrap(np.divmod(*(x._array if isinstance(x, ndarray) else x for x in (a, b))), ())


def made_here(name: str) -> Callable[..., Any] | None:
    """A function that makes an array out of numbers: NumPy's, with its result on the device."""
    if name not in (
        "arange",
        "eye",
        "identity",
        "linspace",
        "logspace",
        "tri",
        "indices",
        "tril_indices",
        "triu_indices",
        "diag_indices",
    ):
        return None
    numpys = getattr(np, name)

    def made(*args: Any, **kwargs: Any) -> Any:
        _names.check(f"cupy.{name}", len(args), kwargs)
        if any(isinstance(a, np.ndarray) for a in args):
            raise TypeError(f"Unsupported type {np.ndarray}")
        result = numpys(*[a.item() if isinstance(a, ndarray) else a for a in args], **kwargs)
        return (
            tuple(fresh_array(r) for r in result)
            if isinstance(result, tuple)
            else fresh_array(np.ascontiguousarray(result))
        )

    return made


def look_up(name: str) -> Any:
    """``cupy.name``; AttributeError for what the real CuPy does not have or the stand-in does not do."""
    if not _names.known(f"cupy.{name}") or not hasattr(np, name):
        raise AttributeError(
            f"module 'cupy' has no attribute {name!r}"
            if not _names.known(f"cupy.{name}")
            else f"the stand-in has no cupy.{name}"
        )
    numpys = getattr(np, name)
    if isinstance(numpys, np.ufunc) and name not in _BLAS:
        return ufunc(name, numpys)
    if isinstance(numpys, type) or not callable(numpys):
        return numpys
    if name in _FROM_HOST:
        return lambda a, *args, **kwargs: numpys(asnumpy(a), *args, **kwargs)
    return made_here(name) or function("cupy", name, numpys)


__all__ = [name for name in globals() if _names.known(f"cupy.{name}")]
