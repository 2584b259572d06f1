"""The flat store: all trainable parameters of a replica in one contiguous buffer per dtype, gradients in another.

``parameter.array`` and its gradient slot are views. The order is the reverse of registration, so that gradients become
final from the front; each parameter starts on a 256-byte boundary, and the few elements between two parameters stay
zero. An all-reduce bucket is a slice, an optimizer step one pass, a checkpoint the buffer plus a table of names.

Optimizer state lives here too, in buffers of the same layout, so that a structural change (a replaced head, another
dtype, an unfrozen layer, DataParallel around what an optimizer already holds) moves parameters, gradients and state
together: :func:`pack` builds the new store and re-binds the views.

With ZeRO a rank *owns* a range of the store: it keeps that part of the state (and, if asked, of the gradients) alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from .backend import Device, device_of, empty_aligned, on, to_device
from .gpu_memory import holds
from .heap import give_back
from .node import wrap
from .owned import Keeper, OwnPart, absent, coarser, is_absent

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
        self.place = device_of(self.parameters[0].array) if self.parameters else Device("cpu")
        self.device = self.place.type
        self._made = 0
        """Buffers so far: each begins at another place within a page."""
        self.data = self.new_buffer()
        self.gradient = self.new_buffer()
        self.state: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
        """Optimizer -> name -> buffer of this layout."""
        self.views: list[Any] = [None] * len(self.parameters)
        self.version = 0
        """Counts what changed the values as a whole: updates, loaded states."""
        self._whole: Any = None
        self.grain = "element"
        """The coarsest of the optimizers that were made on this store: ownership is cut there."""
        self.keeper: Keeper | None = None
        self.owned: tuple[int, int] | None = None
        """The elements [lo, hi) whose state this rank keeps and updates; None: all."""
        self.gradient_owned = False
        """Whether ``gradient`` covers the owned range alone; parameters then have no slot."""
        if self.device != "cpu":
            holds(self)

    def held(self) -> list[tuple[str, int, int]]:
        """What this store holds of a GPU: (kind, index, bytes)."""
        index = device_of(self.data).index or 0
        state = sum(int(buffer.nbytes) for buffers in self.state.values() for buffer in buffers.values())
        own = {"parameters": self.data.nbytes, "gradients": self.gradient.nbytes, "optimizer state": state}
        return [(kind, index, int(nbytes)) for kind, nbytes in own.items()]

    def new_buffer(self, dtype: Any = None, length: int | None = None) -> Any:
        """A zeroed buffer of this layout, or of ``length`` elements."""
        count = self.length if length is None else length
        with on(self.place):
            buffer = empty_aligned(count, dtype or self.dtype, self.device, place=self._made, zeroed=True)
        self._made += 1
        return buffer

    def whole(self) -> Any:
        """A Tensor around all values; the same one as long as they lie in the same memory."""
        if self._whole is None or self._whole.array is not self.data:
            self._whole = wrap(self.data)
        return self._whole

    def extent(self, index: int) -> tuple[int, int]:
        """The elements [lo, hi) of parameter ``index``, without its padding."""
        return self.offsets[index], self.offsets[index] + self.sizes[index]

    def view(self, buffer: Any, index: int) -> Any:
        """Parameter ``index`` in ``buffer``, in its own shape."""
        lo, hi = self.extent(index)
        return buffer[lo:hi].reshape(self.parameters[index].array.shape)

    def state_buffer(self, owner: Any, name: str) -> Any:
        """The state buffer ``name`` of an optimizer (of the owned range), made of zeros at first use."""
        buffers = self.state.setdefault(owner, {})
        if name not in buffers:
            lo, hi = self.range
            buffers[name] = self.new_buffer(length=hi - lo)
        return buffers[name]

    def state_slices(self, owner: Any, names: Sequence[str], lo: int, hi: int) -> dict[str, Any]:
        """The owned elements [lo, hi) of several state buffers of an optimizer."""
        buffers = self.state.get(owner, {})
        if not all(map(buffers.__contains__, names)):
            buffers = {name: self.state_buffer(owner, name) for name in names}
        low = self.range[0]
        return {name: buffers[name][lo - low : hi - low] for name in names}

    def move(self, *, data: Any = None, gradient: Any = None) -> None:
        """Let values or gradients lie in other buffers of this layout (memory that ranks share); all views follow."""
        if data is not None:
            data[...], self.data = self.data, data
        if gradient is not None:
            gradient[...], self.gradient = self.gradient, gradient
        for index, parameter in enumerate(self.parameters):
            if not self.holds(parameter):
                continue
            if data is not None:
                parameter.array = self.views[index] = self.view(data, index)
            if gradient is not None:
                slot = self.view(gradient, index)
                if parameter._grad is not None and parameter._grad.array is parameter._slot:
                    parameter._grad.array = slot
                parameter._slot = slot
        if self.device == "cpu":
            give_back(self.data.nbytes)  # where they lay before

    # -- ownership ----------------------------------------------------------------------------------------------------

    @property
    def range(self) -> tuple[int, int]:
        """What this rank owns: all without ZeRO."""
        return (0, self.length) if self.owned is None else self.owned

    def clip(self, lo: int, hi: int) -> tuple[int, int]:
        """The owned part of the elements [lo, hi); of length 0 where there is none."""
        if self.owned is None:
            return lo, hi
        low, high = self.owned
        lo = min(max(lo, low), high)
        return lo, max(lo, min(hi, high))

    def state_part(self, owner: Any, name: str, lo: int, hi: int) -> Any:
        """The owned elements [lo, hi) in a state buffer."""
        low = self.range[0]
        return self.state_buffer(owner, name)[lo - low : hi - low]

    def gradient_part(self, lo: int, hi: int) -> Any:
        """The elements [lo, hi) of the gradient; owned ones where each rank keeps its own alone."""
        low = self.range[0] if self.gradient_owned else 0
        return self.gradient[lo - low : hi - low]

    def state_of(self, owner: Any, name: str, index: int) -> Any:
        """State of parameter ``index``: a live view in its shape, an :class:`OwnPart` when the state is spread over ranks."""
        if self.owned is None:
            return self.view(self.state_buffer(owner, name), index)
        lo, hi = self.clip(*self.extent(index))
        array = self.state_part(owner, name, lo, hi)
        return OwnPart(array, lo - self.offsets[index] if lo < hi else 0, self.parameters[index].array.shape)

    def set_state(self, owner: Any, name: str, index: int, value: Any) -> None:
        """Take the owned part of ``value``, which is of the parameter's shape."""
        lo, hi = self.clip(*self.extent(index))
        start = self.offsets[index]
        part = self.state_part(owner, name, lo, hi)
        part[...] = to_device(np.reshape(value, -1)[lo - start : hi - start], device_of(part))

    def own(self, lo: int, hi: int, *, gradients: bool) -> None:
        """From now on keep only [lo, hi) of the state, which is whole now, and of the ``gradients`` if that is asked."""
        for buffers in self.state.values():
            for name, buffer in buffers.items():
                buffers[name] = self.new_buffer(buffer.dtype, hi - lo)
                buffers[name][...] = buffer[lo:hi]
        self.owned = lo, hi
        if gradients:
            held, self.gradient = self.gradient, self.new_buffer(length=hi - lo)
            self.gradient[...] = held[lo:hi]
            self.gradient_owned = True
            for index, parameter in enumerate(self.parameters):
                if parameter._grad is not None and parameter._grad.array is not parameter._slot:
                    self.take_gradient(index, parameter._grad.array)
                parameter._slot = None
                if parameter._grad is not None:
                    parameter._grad.array = self.own_gradient(index)

    def disown(self) -> None:
        """The opposite of :meth:`own`: everything whole on this rank again. Collective."""
        keeper = self.keeper
        assert keeper is not None and self.owned is not None
        buffers = [(held, name) for held in self.state.values() for name in held]
        for number, (held, name) in enumerate(buffers):
            held[name] = keeper.whole(self, held[name], f"{name}, {number + 1} of {len(buffers)}")
        if self.gradient_owned:
            present = any(parameter._grad is not None for parameter in self.parameters)
            self._take_slots(keeper.whole(self, self.gradient, "gradient") if present else self.new_buffer())
        self.owned = self.keeper = None

    def _take_slots(self, gradient: Any) -> None:
        """Gradients lie in this whole buffer again."""
        self.gradient, self.gradient_owned = gradient, False
        for index, parameter in enumerate(self.parameters):
            if self.holds(parameter):
                parameter._slot = self.view(gradient, index)
                if parameter._grad is not None:
                    parameter._grad.array = parameter._slot

    def lose_parts(self) -> None:
        """As :meth:`disown`, where the other ranks' parts are gone: state is zero, and there are no gradients."""
        for buffers in self.state.values():
            for name, buffer in buffers.items():
                buffers[name] = self.new_buffer(buffer.dtype)
        for parameter in self.parameters:
            parameter._grad = None
        if self.gradient_owned:
            self._take_slots(self.new_buffer())
        self.owned = self.keeper = None

    def own_gradient(self, index: int) -> Any:
        """What ``grad`` of parameter ``index`` holds where gradients are spread: its view if it is owned whole, else :func:`absent`."""
        lo, hi = self.extent(index)
        shape = self.parameters[index].array.shape
        if self.clip(lo, hi) == (lo, hi):
            return self.gradient_part(lo, hi).reshape(shape)
        return absent(shape, self.dtype)

    def take_gradient(self, index: int, array: Any) -> None:
        """Take the owned part of a gradient that somebody else made. What is absent here is left alone."""
        lo, hi = self.clip(*self.extent(index))
        if not is_absent(array) and not np.may_share_memory(array, self.gradient):
            start = self.offsets[index]
            self.gradient_part(lo, hi)[...] = array.reshape(-1)[lo - start : hi - start]

    def require_grain(self, grain: str) -> None:
        """An optimizer of ``grain`` will update this store: it must not be cut finer. Collective where ranks own parts."""
        if (coarse := coarser(self.grain, grain)) != self.grain:
            self.grain = coarse
            if self.keeper is not None:
                self.keeper.recut(self)

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
                    self.state_buffer(owner, name)[lo:hi] = to_device(buffer[old_lo:old_hi], self.place)
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
    store = parameter._store
    return store is not None and parameter.array is store.views[parameter._index]


def all_packed(parameters: Iterable[Parameter]) -> bool:
    """Whether those of the parameters that are trainable lie in stores."""
    for parameter in parameters:
        store = parameter._store
        if (store is None or parameter.array is not store.views[parameter._index]) and parameter.requires_grad:
            return False
    return True


def where_packed(parameters: Iterable[Parameter]) -> list[int | None]:
    """For each parameter the store that it lies in, 0 if it is trainable and lies in none, else None.

    Changes when one is unfrozen or moved.
    """
    found: list[int | None] = []
    for parameter in parameters:
        store = parameter._store
        if store is not None and parameter.array is store.views[parameter._index]:
            found.append(id(store))
        else:
            found.append(0 if parameter.requires_grad else None)
    return found


def pack(parameters: Iterable[Parameter]) -> list[FlatStore]:
    """Bring trainable ``parameters`` (in order of registration) into flat stores, one per dtype and device; returns the stores.

    What already lies in one store stays where it is. Where some lie in a store and others do not, or in several, a new
    store takes all of them together with their values, gradients and optimizer state.
    """
    groups: dict[tuple[np.dtype, Device], list[Parameter]] = {}
    for parameter in distinct(parameters):
        if parameter.requires_grad or is_packed(parameter):
            key = (parameter.array.dtype, device_of(parameter.array))
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
    for store in stores.values():
        if store.keeper is not None:
            store.keeper.release(store)
    grains = [store.grain for store in stores.values()]
    store = FlatStore(list(dict.fromkeys(order)), dtype)
    store.grain = functools.reduce(coarser, grains, store.grain)
    for index, parameter in enumerate(store.parameters):
        store._adopt(index, parameter)
    if store.device == "cpu":
        give_back(store.data.nbytes)  # where the parameters lay before
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
        odd = level[-1:] if len(level) % 2 else []
        level = [a + b for a, b in zip(level[::2], level[1::2], strict=False)] + odd
    return level[0] if level else 0.0
