"""Batches on their way to a GPU: pinned memory, a stream of their own, and places on the GPU that are used again.

Whoever makes a batch (a thread in the background, as a rule) writes it into one pinned buffer and starts its copy; the training loop gets
tensors that its stream waits for, not the host. A place is used again once no tensor lies in it any more, and its next copy begins
behind the work that last read it. So what a loop keeps stays as it is, and costs a further place.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import own_gpu
from ..backend import Device, cupy, is_array
from ..kernels.cuda.scalars import pinned
from ..tensor import Tensor

_ALIGNMENT_BYTES = 256


class _Place:
    """Memory of the host and as much of the GPU."""

    def __init__(self, nbytes: int, stream: Any) -> None:
        self.host = pinned(nbytes)
        with stream:
            self.device = cupy().empty(nbytes, np.uint8)
        self.memory = self.device.data.mem
        self.ready: Any = None
        """After it the batch is on the GPU."""
        self.consumed: Any = None
        """After it nobody reads the batch before."""
        self.batch: weakref.ref[OnItsWay] | None = None
        """What was made of it and nobody took yet."""
        self.sending = True
        self.out = False
        """Whether tensors may lie in it."""
        self._alone = sys.getrefcount(self.memory)

    def is_free(self) -> bool:
        """Whether nothing that is in it is wanted any more."""
        return not (self.sending or self.out or (self.batch is not None and self.batch() is not None))

    def is_read(self) -> bool:
        """Whether any tensor, or what a graph has saved, lies in this memory."""
        return sys.getrefcount(self.memory) > self._alone


class OnItsWay:
    """A batch that is being copied."""

    def __init__(self, feed: Feed, place: _Place | None, tree: Any) -> None:
        self._feed, self._place, self._tree = feed, place, tree

    def arrive(self) -> Any:
        """The batch, for the stream that is current."""
        return self._feed.arrive(self._place, self._tree)


def arrived(batch: Any) -> Any:
    """The batch itself, wherever it was made."""
    return batch.arrive() if isinstance(batch, OnItsWay) else batch


class _Leaf:
    """An array of the batch: where it lies in its place."""

    __slots__ = ("array", "at", "is_tensor")

    def __init__(self, array: np.ndarray, is_tensor: bool) -> None:
        self.array, self.is_tensor, self.at = array, is_tensor, 0


class Feed:
    """Sends batches to ``device``. Any thread may send; one takes."""

    def __init__(self, device: Device) -> None:
        self.index = own_gpu.enter(cupy(), device.index)
        with cupy().cuda.Device(self.index):
            self._stream = cupy().cuda.Stream(non_blocking=True)
        self._places: list[_Place] = []
        self._lock = threading.Lock()

    def send(self, batch: Any) -> OnItsWay:
        """Start copying the Tensors and arrays of ``batch``, which may be nested in tuples, lists and dicts."""
        leaves: list[_Leaf] = []
        tree = _planted(batch, leaves)
        end = 0
        for leaf in leaves:
            leaf.at = end
            end += -(-leaf.array.nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        if not end:
            return OnItsWay(self, None, tree)
        with cupy().cuda.Device(self.index):
            sent = OnItsWay(self, place := self._place(end), tree)
            place.batch = weakref.ref(sent)
            if place.ready is not None:
                place.ready.synchronize()  # the copy before has left the host's memory
            for leaf in leaves:
                array = leaf.array
                part = place.host[leaf.at : leaf.at + array.nbytes].view(array.dtype).reshape(array.shape)
                np.copyto(part, array)
            if place.consumed is not None:
                self._stream.wait_event(place.consumed)
            place.device[:end].set(place.host[:end], stream=self._stream)
            place.ready = cupy().cuda.Event(disable_timing=True)
            place.ready.record(self._stream)
        place.sending = False
        return sent

    def _place(self, nbytes: int) -> _Place:
        """One that is free and large enough, else a new one; for the caller alone until it is no longer ``sending``."""
        with self._lock:
            for place in self._places:
                if place.is_free() and place.host.nbytes >= nbytes:
                    place.sending = True
                    return place
            self._places = [known for known in self._places if not known.is_free()]  # too small, every one of them
            self._places.append(place := _Place(nbytes, self._stream))
            return place

    def arrive(self, place: _Place | None, tree: Any) -> Any:
        """The batch with its arrays on the GPU, which the current stream waits for."""
        own_gpu.enter(cupy(), self.index)
        with cupy().cuda.Device(self.index):
            stream = cupy().cuda.get_current_stream()
            with self._lock:
                for known in self._places:
                    if known.out and not known.is_read():
                        known.consumed = cupy().cuda.Event(disable_timing=True)
                        known.consumed.record(stream)
                        known.out = False
                if place is not None:
                    place.out, place.batch = True, None
            if place is not None:
                stream.wait_event(place.ready)
            return _harvested(tree, place)


def _planted(batch: Any, leaves: list[_Leaf]) -> Any:
    """``batch`` with a leaf for each Tensor and array."""
    if isinstance(batch, Tensor) or is_array(batch):
        is_tensor = isinstance(batch, Tensor)
        array = batch.array if is_tensor else batch
        if not isinstance(array, np.ndarray) or array.dtype.kind in "OSUMm":
            return batch  # a data set that lies on a GPU, or what no GPU takes
        leaves.append(_Leaf(array, is_tensor))
        return leaves[-1]
    if isinstance(batch, Mapping):
        return {key: _planted(value, leaves) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_planted(value, leaves) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(_planted(value, leaves) for value in batch)
    return batch


def _harvested(tree: Any, place: _Place | None) -> Any:
    """``tree`` with Tensors for its leaves."""
    if isinstance(tree, _Leaf):
        host = tree.array
        if place is None or not host.size:
            array = cupy().empty(host.shape, host.dtype)
        else:
            array = place.device[tree.at : tree.at + host.nbytes].view(host.dtype).reshape(host.shape)
        return Tensor(array) if tree.is_tensor else array
    if isinstance(tree, Mapping):
        return {key: _harvested(value, place) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_harvested(value, place) for value in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(_harvested(value, place) for value in tree)
    return tree
