"""The flat store: all trainable parameters of a replica in one contiguous buffer per dtype, gradients in another.

``parameter.array`` and its gradient slot are views. The order is the reverse of registration, so that gradients become
final from the front; each parameter starts on a 256-byte boundary, and the few elements between two parameters stay
zero. An all-reduce bucket is a slice, an optimizer step one pass, a checkpoint the buffer plus a table of names.

Optimizer state lives here too, in buffers of the same layout, so that a structural change (a replaced head, another
dtype, an unfrozen layer, DataParallel around what an optimizer already holds) moves parameters, gradients and state
together: :func:`pack` builds the new store and re-binds the views.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from .backend import device_kind, empty_aligned

if TYPE_CHECKING:
    from .nn.parameter import Parameter

BOUNDARY_BYTES = 256
CHUNK = 16_384
"""Elements of a chunk of the grid, which restarts at each parameter: the unit of norms, hashes and cuts."""


class FlatStore:
    """Buffers of one dtype and one layout for ``parameters`` (in layout order)."""

    def __init__(self, parameters: Sequence[Parameter], dtype: np.dtype) -> None:
        self.parameters = list(parameters)
        self.dtype = dtype
        self.sizes = [parameter.array.size for parameter in self.parameters]
        step = max(1, BOUNDARY_BYTES // dtype.itemsize)
        self.offsets: list[int] = []
        end = 0
        for size in self.sizes:
            self.offsets.append(end)
            end += -(-size // step) * step
        self.length = end
        self.device = device_kind(self.parameters[0].array) if self.parameters else "cpu"
        self.data = self.new_buffer()
        self.gradient = self.new_buffer()
        self.state: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
        """Optimizer -> name -> buffer of this layout."""
        self.views: list[Any] = [None] * len(self.parameters)

    def new_buffer(self, dtype: Any = None) -> Any:
        """A zeroed buffer of this layout."""
        buffer = empty_aligned(self.length, np.dtype(dtype or self.dtype))
        buffer[...] = 0
        return buffer

    def extent(self, index: int) -> tuple[int, int]:
        """The elements [lo, hi) of parameter ``index``, without its padding."""
        return self.offsets[index], self.offsets[index] + self.sizes[index]

    def view(self, buffer: Any, index: int) -> Any:
        """Parameter ``index`` in ``buffer``, in its own shape."""
        lo, hi = self.extent(index)
        return buffer[lo:hi].reshape(self.parameters[index].array.shape)

    def state_buffer(self, owner: Any, name: str) -> Any:
        """The state buffer ``name`` of an optimizer, made of zeros at first use."""
        buffers = self.state.setdefault(owner, {})
        if name not in buffers:
            buffers[name] = self.new_buffer()
        return buffers[name]

    def _adopt(self, index: int, parameter: Parameter) -> None:
        """Copy one parameter with its gradient and state in and bind its views to this store."""
        old, old_index = parameter._store, parameter._index
        view = self.view(self.data, index)
        slot = self.view(self.gradient, index)
        view[...] = parameter.array
        if parameter._grad is not None:
            slot[...] = parameter._grad.array
            parameter._grad.array = slot
        if old is not None:
            lo, hi = self.extent(index)
            old_lo, old_hi = old.extent(old_index)
            for owner, buffers in list(old.state.items()):
                for name, buffer in buffers.items():
                    self.state_buffer(owner, name)[lo:hi] = buffer[old_lo:old_hi]
        parameter._store, parameter._index = self, index
        parameter.array = self.views[index] = view
        parameter._slot = slot

    def holds(self, parameter: Parameter) -> bool:
        """Whether the parameter's values still lie here (not after ``.half()`` or a replaced array)."""
        return parameter._store is self and parameter.array is self.views[parameter._index]


def distinct(parameters: Iterable[Parameter]) -> list[Parameter]:
    """The parameters in order, each once: tied ones are one."""
    return list(dict.fromkeys(parameters))


def is_packed(parameter: Parameter) -> bool:
    """Whether the parameter's values lie in a store."""
    return parameter._store is not None and parameter._store.holds(parameter)


def pack(parameters: Iterable[Parameter]) -> list[FlatStore]:
    """Bring trainable ``parameters`` (in order of registration) into flat stores, one per dtype; returns the stores.

    What already lies in one store stays where it is. Where some lie in a store and others do not, or in several, a new
    store takes all of them together with their values, gradients and optimizer state.
    """
    groups: dict[tuple[np.dtype, str], list[Parameter]] = {}
    for parameter in distinct(parameters):
        if parameter.requires_grad or is_packed(parameter):
            key = (parameter.array.dtype, device_kind(parameter.array))
            groups.setdefault(key, []).append(parameter)
    return [_pack_group(members, dtype) for (dtype, _), members in groups.items()]


def _pack_group(members: list[Parameter], dtype: np.dtype) -> FlatStore:
    stores = {id(p._store): p._store for p in members if is_packed(p)}
    if len(stores) == 1 and all(is_packed(p) for p in members):
        return next(iter(stores.values()))
    order = list(reversed(members))
    # neighbours in a store that is given up come along, behind: their views must not be left in a dead buffer
    for store in stores.values():
        order.extend(p for p in store.parameters if store.holds(p))
    store = FlatStore(list(dict.fromkeys(order)), dtype)
    for index, parameter in enumerate(store.parameters):
        store._adopt(index, parameter)
    return store


def chunk_grid(size: int) -> Iterator[tuple[int, int]]:
    """The fixed grid over one parameter's elements: [lo, hi).

    >>> list(chunk_grid(20_000))
    [(0, 16384), (16384, 20000)]
    """
    for start in range(0, size, CHUNK):
        yield start, min(start + CHUNK, size)


def tree_sum(values: Sequence[float]) -> float:
    """Pairwise sum in a fixed order.

    >>> tree_sum([1.0, 2.0, 3.0])
    6.0
    """
    level = list(values)
    while len(level) > 1:
        level = [sum(level[i : i + 2]) for i in range(0, len(level), 2)]
    return level[0] if level else 0.0
