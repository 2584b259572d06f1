"""Tensor's methods about shape and position."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import array_module
from .errors import RangeError, ShapeError
from .graph import Variable, apply, wrap
from .ops import indexing, shape
from .ops.arithmetic import WHERE
from .tensor_math import axes_of, checked_dim, with_numpy_names

if TYPE_CHECKING:
    from .tensor import Tensor


def _sizes(given: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes given one by one or as one sequence."""
    if len(given) == 1 and not hasattr(given[0], "__index__"):
        given = given[0]
    return tuple([size if size.__class__ is int else int(size) for size in given])


class TensorShape(Variable):
    """The methods about shape and position."""

    __slots__ = ()

    # ---- shape -------------------------------------------------------------------------------------------------------

    def reshape(self, *sizes: Any) -> Tensor:
        """The same elements in another shape; one size may be -1."""
        return apply(shape.RESHAPE, self, shape=_sizes(sizes))

    def view(self, *sizes: Any) -> Tensor:
        """The same as :meth:`reshape`; with a dtype as only argument, the memory read as that dtype."""
        if len(sizes) == 1 and isinstance(sizes[0], np.dtype | type):
            return wrap(self.array.view(sizes[0]))
        return apply(shape.RESHAPE, self, shape=_sizes(sizes))

    def reshape_as(self, other: Tensor) -> Tensor:
        """The same elements in the shape of ``other``."""
        return self.reshape(other.array.shape)

    view_as = reshape_as

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Dimensions ``start_dim`` to ``end_dim`` merged into one."""
        old = self.array.shape
        if not old:
            return self.reshape(1)
        first = checked_dim("flatten", start_dim, len(old))
        last = checked_dim("flatten", end_dim, len(old))
        if first > last:
            raise RangeError(f"flatten: start_dim {start_dim} comes behind end_dim {end_dim} in shape {old}")
        if first == last:
            return self  # type: ignore[return-value]
        return apply(shape.RESHAPE, self, shape=(*old[:first], math.prod(old[first : last + 1]), *old[last + 1 :]))

    def unflatten(self, dim: int, sizes: Sequence[int]) -> Tensor:
        """Dimension ``dim`` split into ``sizes``."""
        axis, old = checked_dim("unflatten", dim, self.array.ndim), self.array.shape
        return self.reshape(*old[:axis], *sizes, *old[axis + 1 :])

    def ravel(self) -> Tensor:
        """All elements in one dimension."""
        return self.reshape(-1)

    def transpose(self, dim0: int, dim1: int) -> Tensor:
        """Two dimensions exchanged."""
        if not self.array.ndim:
            return self  # type: ignore[return-value]
        return apply(shape.TRANSPOSE, self, dim0=dim0, dim1=dim1)

    swapaxes = swapdims = transpose

    def permute(self, *dims: Any) -> Tensor:
        """The dimensions in the order ``dims``."""
        axes = tuple(checked_dim("permute", d, self.array.ndim) for d in _sizes(dims))
        return apply(shape.PERMUTE, self, axes=axes)

    def movedim(self, source: Any, destination: Any) -> Tensor:
        """Dimensions ``source`` at the places ``destination``, the others in their order."""
        ndim = self.array.ndim
        sources = [checked_dim("movedim", d, ndim) for d in np.atleast_1d(source).tolist()]
        places = [checked_dim("movedim", d, ndim) for d in np.atleast_1d(destination).tolist()]
        order = [axis for axis in range(ndim) if axis not in sources]
        for place, axis in sorted(zip(places, sources, strict=True)):
            order.insert(place, axis)
        return apply(shape.PERMUTE, self, axes=tuple(order))

    moveaxis = movedim

    def t(self) -> Tensor:
        """A matrix transposed; 0 or 1 dimension as it is."""
        if self.array.ndim > 2:
            raise ShapeError(f"t() expects at most 2 dimensions, got shape {self.array.shape}; use transpose or mT")
        return self.transpose(0, 1) if self.array.ndim == 2 else self  # type: ignore[return-value]

    @property
    def T(self) -> Tensor:
        """All dimensions in reverse order."""
        return apply(shape.PERMUTE, self, axes=tuple(range(self.array.ndim))[::-1])

    @property
    def mT(self) -> Tensor:
        """The last two dimensions exchanged."""
        return self.transpose(-1, -2)

    def adjoint(self) -> Tensor:
        """The same as ``mT``: there are no complex numbers here."""
        return self.transpose(-1, -2)

    H = mH = mT

    @with_numpy_names
    def squeeze(self, dim: int | Sequence[int] | None = None) -> Tensor:
        """Without dimensions of size 1: all of them, or those of ``dim`` that are."""
        old = self.array.shape
        axes: Any = range(len(old)) if dim is None else axes_of("squeeze", dim, len(old))
        axes = (axes,) if isinstance(axes, int) else axes or ()
        return self.reshape(tuple(size for axis, size in enumerate(old) if size != 1 or axis not in axes))

    @with_numpy_names
    def unsqueeze(self, dim: int) -> Tensor:
        """A new dimension of size 1 at ``dim``."""
        axis = checked_dim("unsqueeze", dim, self.array.ndim + 1)
        old = self.array.shape
        return apply(shape.RESHAPE, self, shape=(*old[:axis], 1, *old[axis:]))

    def expand(self, *sizes: Any) -> Tensor:
        """Dimensions of size 1 repeated without copying; -1 keeps a size, new dimensions come first. Read-only."""
        return apply(shape.EXPAND, self, shape=_sizes(sizes))

    def expand_as(self, other: Tensor) -> Tensor:
        """The same as :meth:`expand` to the shape of ``other``."""
        return self.expand(other.array.shape)

    def sum_to_size(self, *sizes: Any) -> Tensor:
        """Summed down to a shape that broadcasts to this one's."""
        full = _sizes(sizes)
        old = self.array.shape
        extra = len(old) - len(full)
        if extra < 0 or any(n not in (1, m) for n, m in zip(full, old[extra:], strict=True)):
            raise ShapeError(f"sum_to_size: shape {full} does not broadcast to {old}")
        axes = [*range(extra), *(extra + i for i, n in enumerate(full) if n == 1 and old[extra + i] != 1)]
        return self.sum(tuple(axes), keepdim=True).reshape(full) if axes else self  # type: ignore[attr-defined,return-value]

    def broadcast_to(self, size: Sequence[int]) -> Tensor:
        """The same as :meth:`expand` to ``size``."""
        return self.expand(tuple(size))

    def repeat(self, *sizes: Any) -> Tensor:
        """Copies of the tensor side by side, ``sizes[i]`` along dimension i."""
        times = _sizes(sizes)
        if len(times) < self.array.ndim:
            raise ShapeError(f"repeat: {len(times)} numbers for a tensor of shape {self.array.shape}")
        old = (1,) * (len(times) - self.array.ndim) + self.array.shape
        spread = [part for n, size in zip(times, old, strict=True) for part in (n, size)]
        x = self.reshape([part for size in old for part in (1, size)]).expand(spread)
        return x.reshape([n * size for n, size in zip(times, old, strict=True)])

    def repeat_interleave(self, repeats: Any, dim: int | None = None) -> Tensor:
        """Each element ``repeats`` times in a row along ``dim`` (None: of the flattened tensor)."""
        if dim is None:
            return self.flatten().repeat_interleave(repeats, 0)
        axis = checked_dim("repeat_interleave", dim, self.array.ndim)
        xp = array_module(self.array)
        counts = repeats.array if isinstance(repeats, Variable) else repeats
        positions = xp.repeat(xp.arange(self.array.shape[axis]), counts)
        return apply(indexing.INDEX_SELECT, self, axis=axis, index=positions)

    def flip(self, *dims: Any) -> Tensor:
        """The order of the elements along ``dims`` reversed."""
        axes = tuple(checked_dim("flip", d, self.array.ndim) for d in _sizes(dims))
        return apply(shape.FLIP, self, axes=axes)

    def roll(self, shifts: Any, dims: Any = None) -> Tensor:
        """Elements moved by ``shifts`` along ``dims``, those that leave at the end come in at the start."""
        if dims is None:
            return self.flatten().roll(shifts, 0).reshape(self.array.shape)
        x: Any = self
        for shift, dim in zip(np.atleast_1d(shifts).tolist(), np.atleast_1d(dims).tolist(), strict=True):
            axis = checked_dim("roll", dim, self.array.ndim)
            size = x.array.shape[axis]
            if size and shift % size:
                x = apply(shape.CAT, x.narrow(axis, size - shift % size, shift % size),
                          x.narrow(axis, 0, size - shift % size), axis=axis)  # fmt: skip
        return x

    # ---- parts -------------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Tensor:
        if key.__class__ is not int and key.__class__ is not slice:
            key = array_key(key)
            if key.__class__ is tuple and _mixes(key):
                first, second = _separated(key, self.array.ndim)
                return apply(indexing.INDEX, apply(indexing.INDEX, self, key=first), key=second)
        return apply(indexing.INDEX, self, key=key)

    def __iter__(self) -> Iterator[Tensor]:
        if not self.array.ndim:
            raise TypeError("iteration over a 0-d tensor: use .item() for its value")
        return (self[i] for i in range(len(self.array)))

    def __len__(self) -> int:
        if not self.array.ndim:
            raise TypeError("len() of a 0-d tensor")
        return len(self.array)

    def narrow(self, dim: int, start: int, length: int) -> Tensor:
        """``length`` positions from ``start`` along ``dim``."""
        axis = checked_dim("narrow", dim, self.array.ndim)
        size = self.array.shape[axis]
        start = start + size if start < 0 else start
        if not 0 <= start <= start + length <= size:
            raise RangeError(f"narrow: positions {start} to {start + length} of {size} along dimension {dim}")
        return self[(slice(None),) * axis + (slice(start, start + length),)]

    def select(self, dim: int, index: int) -> Tensor:
        """Position ``index`` along ``dim``, which vanishes."""
        return self[(slice(None),) * checked_dim("select", dim, self.array.ndim) + (index,)]

    @with_numpy_names
    def unbind(self, dim: int = 0) -> tuple[Tensor, ...]:
        """All positions along ``dim``."""
        return tuple(self.select(dim, i) for i in range(self.array.shape[dim]))

    @with_numpy_names
    def split(self, split_size: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
        """Parts of ``split_size`` (the last may be smaller), or of the given sizes, along ``dim``."""
        size = self.array.shape[checked_dim("split", dim, self.array.ndim)]
        if isinstance(split_size, int):
            if split_size < 1:
                raise RangeError(f"split: a split_size of at least 1 expected, got {split_size}")
            sizes = [min(split_size, size - start) for start in range(0, max(size, 1), split_size)]
        else:
            sizes = list(split_size)
            if sum(sizes) != size:
                raise ShapeError(f"split: sizes {sizes} sum to {sum(sizes)}, dimension {dim} has {size}")
        parts, start = [], 0
        for length in sizes:
            parts.append(self.narrow(dim, start, length))
            start += length
        return tuple(parts)

    split_with_sizes = split

    @with_numpy_names
    def chunk(self, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
        """At most ``chunks`` parts of equal size (the last may be smaller) along ``dim``."""
        if chunks < 1:
            raise RangeError(f"chunk: at least 1 chunk expected, got {chunks}")
        size = self.array.shape[checked_dim("chunk", dim, self.array.ndim)]
        return self.split(max(-(-size // chunks), 1), dim)

    def gather(self, dim: int, index: Tensor) -> Tensor:
        """``out[i][j] = self[index[i][j]][j]`` for dim 0, and so on; ``index`` has as many dimensions as ``self``."""
        return apply(indexing.GATHER, self, axis=checked_dim("gather", dim, self.array.ndim), index=index.array)

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Positions ``index`` (1-D) along ``dim``."""
        axis = checked_dim("index_select", dim, self.array.ndim)
        return apply(indexing.INDEX_SELECT, self, axis=axis, index=index.array)

    def masked_select(self, mask: Tensor) -> Tensor:
        """The elements where ``mask`` is True, as a 1-D tensor."""
        full = np.broadcast_shapes(self.array.shape, mask.array.shape)
        return self.expand(full)[mask.expand(full)]

    def nonzero(self, as_tuple: bool = False) -> Any:
        """Positions of the elements that are not 0: (count, ndim), or a tuple of one 1-D tensor per dimension."""
        found = [wrap(positions) for positions in self.array.nonzero()]
        if as_tuple:
            return tuple(found)
        xp = array_module(self.array)
        return wrap(xp.stack([f.array for f in found], 1))

    def tril(self, diagonal: int = 0) -> Tensor:
        """The lower triangle of the last two dimensions, 0 above ``diagonal``."""
        rows, columns = self.array.shape[-2:]
        keep = np.tri(rows, columns, diagonal, dtype=np.bool_)
        return apply(WHERE, array_module(self.array).asarray(keep), self, self.array.dtype.type(0))

    def triu(self, diagonal: int = 0) -> Tensor:
        """The upper triangle of the last two dimensions, 0 below ``diagonal``."""
        rows, columns = self.array.shape[-2:]
        keep = ~np.tri(rows, columns, diagonal - 1, dtype=np.bool_)
        return apply(WHERE, array_module(self.array).asarray(keep), self, self.array.dtype.type(0))

    def diag(self, diagonal: int = 0) -> Tensor:
        """The diagonal of a matrix, or a matrix with this vector on its diagonal."""
        if self.array.ndim == 1:
            size = len(self.array) + abs(diagonal)
            i = np.arange(len(self.array))
            place = np.zeros((size, size), np.int64)
            place[i - min(diagonal, 0), i + max(diagonal, 0)] = i + 1
            padded = apply(shape.CAT, np.zeros_like(self.array, shape=(1,)), self)
            return padded[array_module(self.array).asarray(place)]
        rows, columns = self.array.shape
        i = np.arange(max(min(rows + min(diagonal, 0), columns - max(diagonal, 0)), 0))
        return self[i - min(diagonal, 0), i + max(diagonal, 0)]


def array_key(key: Any) -> Any:
    """An index as NumPy takes it: Tensors and lists become arrays."""
    if isinstance(key, tuple):
        return tuple([array_key(part) for part in key])
    if isinstance(key, Variable):
        return key.array
    if isinstance(key, list | range):
        part = np.asarray([item.array if isinstance(item, Variable) else item for item in key])
        return part if part.size else part.astype(np.int64)
    return key


def _is_index_array(part: Any) -> bool:
    return bool(hasattr(part, "dtype") and part.ndim)


def _mixes(key: tuple[Any, ...]) -> bool:
    """Whether integers stand beside index arrays. PyTorch takes the integers first, NumPy treats them as arrays."""
    return any(map(_is_index_array, key)) and any(part.__class__ is int or isinstance(part, np.integer) for part in key)


def _separated(key: tuple[Any, ...], ndim: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The key of all but the arrays, and then that of the arrays alone."""
    taken = sum(_consumed(part) for part in key if part is not Ellipsis)
    first: list[Any] = []
    second: list[Any] = []
    for part in key:
        if part is Ellipsis:
            first.extend([slice(None)] * (ndim - taken))
            second.extend([slice(None)] * (ndim - taken))
        elif _is_index_array(part):
            first.extend([slice(None)] * _consumed(part))
            second.append(part)
        else:
            first.append(part)
            if part is None or isinstance(part, slice):
                second.append(slice(None))
    return tuple(first), tuple(second)


def _consumed(part: Any) -> int:
    """How many dimensions a part of an index uses up."""
    if part is None:
        return 0
    return part.ndim if hasattr(part, "dtype") and part.dtype.kind == "b" else 1
