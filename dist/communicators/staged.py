"""Collectives on arrays of GPUs through the host's memory: for ranks that share a GPU, or have no NCCL.

An array goes to pinned memory on one stream, is summed there as the host's own arrays are (in shared memory, over ZeroMQ or MPI), and
comes back on another; large ones in segments, so that one is on its way while the one before is summed. Where the ranks of a
host share memory that memory is what the GPU copies to and from.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.kernels.cuda.scalars import pinned
from ..messages import Messages
from ..reduction.expression import Term, expression
from ..reduction.on_device import node_sums
from ..reduction.tree import Node, slices, whole_subtrees
from .device import DeviceVerbs, Ranges, fingerprint
from .work import Work

if TYPE_CHECKING:
    from .base import Communicator

SEGMENT_NBYTES = 8 << 20
"""Longer arrays go in pieces: a third of a millisecond on PCIe 5."""
_SMALLEST_NBYTES = 1 << 12
_PORTABLE = 1  # cudaHostRegisterPortable: pinned for every GPU of this process


class _Mirror:
    """The host's side of an array that sums are written to: its result, and room for a rank's terms; as bytes."""

    def __init__(self, array: Any, result: np.ndarray, rows: list[np.ndarray]) -> None:
        self.address, self.nbytes = int(array.data.ptr), int(array.nbytes)
        self.result, self.rows = result, rows
        self.read: dict[int, Any] = {}
        """Offset -> the event after which the result there was copied back and may be written again."""


class StagedVerbs(DeviceVerbs):
    """See the module."""

    kind = "through the host's memory"

    def __init__(self, comm: Communicator, index: int) -> None:
        super().__init__(comm, index)
        with self.api.cuda.Device(index):
            self._back = self.api.cuda.Stream(non_blocking=True, priority=-1)
        self._mirrors: list[tuple[weakref.ref[Any], _Mirror]] = []
        self._free: dict[int, list[np.ndarray]] = defaultdict(list)
        self._told = False

    # -- memory of the host ------------------------------------------------------------------------------------------------

    def expect_sums(self, array: Any, *, name: str, nodes: int = 0) -> None:
        """A mirror in memory that the host's ranks share, for as long as ``array`` lives."""
        if self.comm.size == 1 or not array.nbytes:
            return
        share = self.comm.shared_empty
        result = share(array.nbytes, np.uint8, name=f"{name} on the host", common=True)
        rows = [share(array.nbytes, np.uint8, name=f"{name} on the host, term {i}") for i in range(nodes)]
        mirror = _Mirror(array, result, rows)
        for memory in (result, *rows):
            self._pin(memory, mirror)
        self._mirrors = [known for known in self._mirrors if known[0]() is not None]
        self._mirrors.append((weakref.ref(array), mirror))

    def _pin(self, memory: np.ndarray, mirror: _Mirror) -> None:
        """Let the GPU copy from and to ``memory`` without the processor. Where it may not, copies take longer."""
        runtime, address = self.api.cuda.runtime, memory.ctypes.data
        try:
            runtime.hostRegister(address, memory.nbytes, _PORTABLE)
        except RuntimeError as error:  # CuPy's own
            if not self._told:
                self._told = True
                print(
                    f"phalanx: rank {self.comm.rank}: memory for gradients cannot be pinned ({error}), so copies to and from the GPU take "
                    "longer; raise the limit of locked memory (ulimit -l)",
                    file=sys.stderr,
                    flush=True,
                )
            return
        weakref.finalize(mirror, _unregister, runtime, address)

    def _mirror_of(self, array: Any) -> tuple[_Mirror, int] | None:
        """The mirror of the array that ``array`` is a part of, and where in it that begins, in bytes."""
        address = int(array.data.ptr)
        for known, mirror in self._mirrors:
            if known() is not None and mirror.address <= address < mirror.address + mirror.nbytes:
                return mirror, address - mirror.address
        return None

    def _lease(self, nbytes: int) -> np.ndarray:
        """Pinned memory of this rank's own, of a power of two of bytes."""
        size = max(_SMALLEST_NBYTES, 1 << max(0, nbytes - 1).bit_length())
        try:
            return self._free[size].pop()
        except IndexError:
            return pinned(size)

    def _give_back(self, memory: np.ndarray) -> None:
        self._free[memory.nbytes].append(memory)

    def complete(self, event: Any, name: str) -> None:
        """What has come back to the host is complete everywhere; only this rank's own copy is under way."""

    def abort(self) -> None:
        """Nothing waits for other ranks here: the host's programs do."""

    def close(self) -> None:
        """Memory is free when nobody holds it."""

    # -- sums over the tree --------------------------------------------------------------------------------------------------

    def tree_all_reduce(
        self,
        terms: Mapping[Node, Term | None],
        ranges: Ranges,
        shards: int,
        out: Any,
        *,
        name: str,
        cut: Ranges | None = None,
        gather: bool = True,
        start: str = "now",
        exact: bool = True,
    ) -> Work:
        nodes = whole_subtrees(*ranges[self.comm.rank], shards)
        brought = _brought(terms, nodes, out.dtype)
        found, leased = self._room(out, sum(term is not None for term in brought.values()))
        result, rows, (mirror, at) = found
        ready = self._ready()
        self.stream.wait_event(ready)
        free = iter(rows)
        hosts = {
            node: None if term is None else Term(_as(next(free), term.array.dtype, out.size), term.scale)
            for node, term in brought.items()
        }
        target = _as(result, out.dtype, out.size)
        pieces = [(lo, hi, self._fetch(brought, hosts, slice(lo, hi))) for lo, hi in _segments(out)]

        def program(messages: Messages) -> Any:
            if at in mirror.read:
                mirror.read.pop(at).synchronize()
            self._back.wait_event(ready)
            present = False
            for lo, hi, fetched in pieces:
                fetched.synchronize()
                part = {n: None if t is None else Term(t.array[lo:hi], t.scale) for n, t in hosts.items()}
                own = None if cut is None else _within(cut, lo, hi)
                present = messages.programs.tree_all_reduce(messages, part, ranges, shards, target[lo:hi], own, gather)
                a, b = (0, hi - lo) if gather else (own or slices(hi - lo, messages.size))[messages.rank]
                if a < b:
                    out[lo + a : lo + b].set(target[lo + a : lo + b], stream=self._back)
            done = self._record(self._back)
            if leased:
                done.synchronize()
                for memory in leased:
                    self._give_back(memory)
            else:
                mirror.read[at] = done
            return done, present

        fingerprint_ = f"{name} {out.dtype}[{out.size}] on GPUs"
        return self._run(program, fingerprint_, kept=(brought, out), read=pieces[-1][2], start=start)

    def _room(self, out: Any, count: int) -> tuple[Any, list[np.ndarray]]:
        """(result, rows, (mirror, offset)) for a sum into ``out`` of ``count`` terms; and what of it must be given back."""
        found = self._mirror_of(out)
        if found is not None and count <= len(found[0].rows):
            mirror, at = found
            part = slice(at, at + out.nbytes)
            return (mirror.result[part], [row[part] for row in mirror.rows], found), []
        leased = [self._lease(out.nbytes) for _ in range(count + 1)]
        own = _Mirror(out, leased[0], leased[1:])
        return (leased[0], leased[1:], (own, 0)), leased

    def _fetch(self, brought: Mapping[Node, Term | None], hosts: Mapping[Node, Term | None], part: slice) -> Any:
        """Start copying a part of all terms to the host; the event of its end."""
        for node, term in brought.items():
            host = hosts[node]
            if term is not None and host is not None:
                term.array[part].get(stream=self.stream, out=host.array[part], blocking=False)
        return self._record(self.stream)

    # -- the other verbs -------------------------------------------------------------------------------------------------------

    def _carry(
        self,
        name: str,
        action: Callable[..., Any],
        *,
        down: Sequence[Any],
        up: Sequence[Any],
        value: Any,
    ) -> Work:
        """``action(messages, *arrays)`` on the host with copies of ``down``; what it made of those in ``up`` comes back."""
        ready = self._ready()
        self.stream.wait_event(ready)
        arrays = [*down, *(array for array in up if not any(array is other for other in down))]
        leased = [self._lease(array.nbytes) for array in arrays]
        hosts = [
            _as(memory, array.dtype, array.size).reshape(array.shape)
            for memory, array in zip(leased, arrays, strict=True)
        ]
        for array, host in zip(down, hosts, strict=False):
            array.get(stream=self.stream, out=host, blocking=False)
        fetched = self._record(self.stream)

        def program(messages: Messages) -> Any:
            fetched.synchronize()
            self._back.wait_event(ready)
            action(messages, *hosts)
            for array, host in zip(arrays, hosts, strict=True):
                if any(array is other for other in up):
                    array.set(host, stream=self._back)
            done = self._record(self._back)
            done.synchronize()
            for memory in leased:
                self._give_back(memory)
            return done

        return self._run(program, name, value=value, kept=arrays, read=fetched)

    def all_reduce(self, array: Any, *, name: str) -> Work:
        words = fingerprint("all_reduce", name, array)
        return self._carry(words, lambda m, host: m.programs.all_reduce(m, host), down=[array], up=[array], value=array)

    def reduce_scatter(self, array: Any, *, name: str) -> Work:
        words = fingerprint("reduce_scatter", name, array)
        mine = array[slice(*slices(array.size, self.comm.size)[self.comm.rank])]
        return self._carry(
            words, lambda m, host: m.programs.reduce_scatter(m, host), down=[array], up=[array], value=mine
        )

    def all_gather(self, array: Any, out: Any, *, name: str) -> Work:
        words = fingerprint("all_gather", name, array)
        return self._carry(
            words, lambda m, mine, rows: m.programs.all_gather(m, mine, rows), down=[array], up=[out], value=out
        )

    def broadcast(self, array: Any, root: int, *, name: str) -> Work:
        words, mine = fingerprint(f"broadcast from {root}", name, array), self.comm.rank == root
        return self._carry(
            words,
            lambda m, host: m.programs.broadcast(m, host, root),
            down=[array] if mine else [],
            up=[] if mine else [array],
            value=array,
        )

    def all_gather_slices(self, array: Any, cut: Ranges, *, name: str) -> Work:
        words = fingerprint("all_gather_slices", name, array)
        found = self._mirror_of(array)
        if found is None or not self.comm.shares_all_memory():
            return self._carry(
                words,
                lambda m, host: m.programs.all_gather_slices(m, host, cut),
                down=[array],
                up=[array],
                value=array,
            )
        mirror, at = found
        ready = self._ready()
        host = _as(mirror.result[at : at + array.nbytes], array.dtype, array.size)
        lo, hi = cut[self.comm.rank]

        def program(messages: Messages) -> Any:
            """Everybody's part lies in the one memory of the host."""
            if at in mirror.read:
                mirror.read.pop(at).synchronize()
            messages.meet("slices read before")
            if lo < hi:
                self.stream.wait_event(ready)
                array[lo:hi].get(stream=self.stream, out=host[lo:hi], blocking=False)
                self._record(self.stream).synchronize()
                messages.count_sent((messages.size - 1) * (hi - lo) * array.itemsize)
            messages.meet("slices there")
            self._back.wait_event(ready)
            for a, b in ((0, lo), (hi, array.size)) if lo < hi else ((0, array.size),):
                if a < b:
                    array[a:b].set(host[a:b], stream=self._back)
            done = mirror.read[at] = self._record(self._back)
            return done

        return self._run(program, words, value=array, kept=array)


def _brought(terms: Mapping[Node, Term | None], nodes: Sequence[Node], dtype: np.dtype) -> dict[Node, Term | None]:
    """What a rank brings for each of its whole subtrees: a term as it is where there is one, else the sum of several."""
    present = {node: term for node, term in terms.items() if term is not None}
    found: dict[Node, Term | None] = {}
    several = []
    for a, b in nodes:
        order = expression((a, b), [n for n in present if a <= n[0] and n[1] <= b])
        found[a, b] = present[order] if order is not None and isinstance(order[0], int) else None
        if order is not None and found[a, b] is None:
            several.append((a, b))
    found.update((node, Term(total)) for node, total in node_sums(present, several, dtype).items())
    return found


def _segments(out: Any) -> list[tuple[int, int]]:
    step = max(1, SEGMENT_NBYTES // out.itemsize)
    return [(lo, min(lo + step, out.size)) for lo in range(0, out.size, step)] or [(0, 0)]


def _within(cut: Ranges, lo: int, hi: int) -> list[tuple[int, int]]:
    """What of each range lies in [lo, hi), counted from lo; (0, 0) where nothing does."""
    parts = [(max(a, lo) - lo, min(b, hi) - lo) for a, b in cut]
    return [(a, b) if a < b else (0, 0) for a, b in parts]


def _as(memory: np.ndarray, dtype: Any, count: int) -> np.ndarray:
    return memory[: count * np.dtype(dtype).itemsize].view(dtype)


def _unregister(runtime: Any, address: int) -> None:
    with contextlib.suppress(RuntimeError):  # CUDA may be gone before
        runtime.hostUnregister(address)
