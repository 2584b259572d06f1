"""Collectives on arrays of GPUs over NCCL: the GPUs talk to each other, the host only says when.

Sums over the tree are exact: each rank gets its slice of every rank's partial sums (grouped sends and receives), adds them in the order of
the tree, and hands the slice out; the bits are those of the host's sum. Where nobody asked for that, NCCL's own all-reduce.

NCCL checks nothing and waits for ever. So the ranks meet on the host before each operation, with its name, and a thread looks every half
second whether NCCL has met an error or the job is over, and then aborts it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.backend import nccl
from ..errors import CommunicatorError
from ..messages import Messages
from ..reduction.expression import Term, expression
from ..reduction.on_device import evaluate, node_sums
from ..reduction.tree import Node, slices, whole_subtrees
from .device import DeviceVerbs, Ranges, fingerprint
from .work import Work

if TYPE_CHECKING:
    from .base import Communicator

_CODES = {
    "float32": "NCCL_FLOAT32", "float64": "NCCL_FLOAT64", "float16": "NCCL_FLOAT16", "bfloat16": "NCCL_BFLOAT16",
    "int32": "NCCL_INT32", "int64": "NCCL_INT64", "uint32": "NCCL_UINT32", "uint64": "NCCL_UINT64",
    "int8": "NCCL_INT8", "uint8": "NCCL_UINT8",
}  # fmt: skip
_TICK_S = 0.5


class NcclVerbs(DeviceVerbs):
    """See the module."""

    kind = "over NCCL"

    def __init__(self, comm: Communicator, index: int) -> None:
        super().__init__(comm, index)
        library = nccl()
        assert library is not None
        self._library: Any = library
        self._ncclcomm: Any = None
        self._room: dict[int, Any] = {}
        """Memory for what comes from others, kept for the next operation: all of them run on one stream."""
        self._call_began: float | None = None
        """When a call into NCCL began that has not returned."""
        self._over = threading.Event()
        self._aborted = False
        self._lock = threading.Lock()
        comm.call(self._connect, name="NCCL begins")
        if comm.size > 1:
            threading.Thread(target=self._watch, name=f"phalanx-nccl-watch-{comm.rank}", daemon=True).start()

    # -- the library ---------------------------------------------------------------------------------------------------------

    def _connect(self, messages: Messages) -> None:
        """Program: rank 0's name for the group to all, then NCCL's own rendezvous, in a thread because it may wait for ever."""
        rank = self.comm.rank
        words = self._library.get_unique_id().hex() if rank == 0 else ""
        data = f'"{words}"'.encode()
        name = bytes.fromhex(messages.programs.broadcast_object(messages, data, 0))
        found: list[Any] = []

        def begin() -> None:
            try:
                with self.api.cuda.Device(self.index):
                    found.append(self._library.NcclCommunicator(self.comm.size, name, rank))
            except Exception as error:  # raised below
                found.append(error)

        thread = threading.Thread(target=begin, name=f"phalanx-nccl-{rank}", daemon=True)
        thread.start()
        messages.poll(lambda: not thread.is_alive(), "NCCL has not connected the GPUs")
        thread.join()
        if isinstance(found[0], Exception):
            raise CommunicatorError(
                f"rank {rank} of {self.comm.size}: NCCL cannot begin: {found[0]}. NCCL_DEBUG=INFO says more; PHALANX_GPU_SUMS=host goes "
                "without it"
            ) from found[0]
        self._ncclcomm = found[0]

    def _watch(self) -> None:
        """The watchdog: an error that NCCL has met, or the end of the job while a call of NCCL waits."""
        others = [rank for rank in range(self.comm.size) if rank != self.comm.rank]
        while not self._over.wait(_TICK_S):
            began = self._call_began
            late = began is not None and time.monotonic() - began > self.comm.timeout_s
            try:
                self.check()
                if began is not None:
                    self.comm._look(others)
            except Exception:
                late = True
            if late:
                self.abort()
                return

    def check(self) -> None:
        """Raises CommunicatorError when NCCL has met an error."""
        with self._lock:
            if self._ncclcomm is None or self._aborted:
                return
            try:
                self._ncclcomm.check_async_error()
            except Exception as error:
                raise CommunicatorError(
                    f"rank {self.comm.rank} of {self.comm.size}: NCCL failed: {error}. Another rank died, or a link between GPUs did; "
                    "NCCL_DEBUG=INFO says more"
                ) from error

    def expect_sums(self, array: Any, *, name: str, nodes: int = 0) -> None:
        """The GPUs sum where the array lies."""

    def abort(self) -> None:
        self._over.set()
        with self._lock:
            library, self._aborted = self._ncclcomm, True
        if library is not None:
            with contextlib.suppress(Exception):
                library.abort()

    def close(self) -> None:
        self._over.set()
        with self._lock:
            library, self._ncclcomm = self._ncclcomm, None
        if library is not None and not self._aborted:
            with contextlib.suppress(Exception):
                self.stream.synchronize()
                library.destroy()

    @contextlib.contextmanager
    def _calling(self, ready: Any) -> Iterator[Any]:
        """NCCL's communicator, within the stream of communication, behind what ``ready`` stands for."""
        if self._ncclcomm is None or self._aborted:
            raise CommunicatorError(f"rank {self.comm.rank}: NCCL was ended")
        with self.stream:
            self.stream.wait_event(ready)
            self._call_began = time.monotonic()
            try:
                yield self._ncclcomm
            except self._library.NcclError as error:
                self.comm._look([rank for rank in range(self.comm.size) if rank != self.comm.rank])
                raise CommunicatorError(
                    f"rank {self.comm.rank} of {self.comm.size}: NCCL failed: {error}. NCCL_DEBUG=INFO says more"
                ) from error
            finally:
                self._call_began = None

    @contextlib.contextmanager
    def _group(self) -> Iterator[None]:
        self._library.groupStart()
        try:
            yield
        finally:
            self._library.groupEnd()

    def _code(self, dtype: Any) -> int:
        return int(getattr(self._library, _CODES[np.dtype(dtype).name]))

    def _send(self, group: Any, array: Any, peer: int) -> None:
        if array.size:
            group.send(array.data.ptr, array.size, self._code(array.dtype), peer, self.stream.ptr)

    def _recv(self, group: Any, array: Any, peer: int) -> None:
        if array.size:
            group.recv(array.data.ptr, array.size, self._code(array.dtype), peer, self.stream.ptr)

    def _sum(self, group: Any, array: Any) -> None:
        if array.size:
            pointer = array.data.ptr
            group.allReduce(
                pointer, pointer, array.size, self._code(array.dtype), self._library.NCCL_SUM, self.stream.ptr
            )

    def _rows(self, count: int, length: int, dtype: Any) -> Any:
        """Memory of ``count`` rows for the current operation; within the stream of communication."""
        nbytes = count * length * np.dtype(dtype).itemsize
        held = self._room.get(0)
        if held is None or held.size < nbytes:
            held = self._room[0] = self.api.empty(max(nbytes, 1), np.uint8)
        return held[:nbytes].view(dtype).reshape(count, length)

    def _others(self) -> list[int]:
        """The other ranks, beginning after this one, so that not all talk to the same one at once."""
        return [(self.comm.rank + step) % self.comm.size for step in range(1, self.comm.size)]

    def complete(self, event: Any, name: str) -> None:
        """Wait on the host until the GPUs are through: a rank that dies within leaves no step half done."""
        if not event.done:  # without a number of its own: on other ranks it may be done already
            comm = self.comm
            wait = comm._submit(
                lambda m: m.poll(lambda: self._is_done(event), "the GPUs are not through"),
                f"end of {name}",
                comm._sequence,
                flush=False,
                wake=False,
            )
            wait.wait()

    def _is_done(self, event: Any) -> bool:
        if self._aborted:
            self.comm._look(self._others())
            raise CommunicatorError(f"rank {self.comm.rank} of {self.comm.size}: NCCL was ended")
        return bool(event.done)

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
        rank, size = self.comm.rank, self.comm.size
        nodes = [whole_subtrees(*owned, shards) for owned in ranges]
        fast = not exact and gather and shards == size and all(len(own) == 1 for own in nodes)
        present = {node: term for node, term in terms.items() if term is not None}
        sums = node_sums(present, [] if fast else nodes[rank], out.dtype)
        if fast:
            term = present.get(nodes[rank][0])
            evaluate(None if term is None else nodes[rank][0], present, out)
        flags = bytes(term is not None for term in sums.values()) if not fast else bytes([bool(present)])
        bounds = cut if cut is not None else slices(out.size, size)
        ready = self._ready()

        def program(messages: Messages) -> Any:
            rows = messages.programs.all_gather_bytes(messages, flags)
            messages.count_sent(2 * (out.nbytes - out.nbytes // size))
            with self._calling(ready) as group:
                if fast:
                    self._sum(group, out)
                    any_present = any(map(any, rows))
                else:
                    any_present = self._in_slices(group, sums, rows, nodes, shards, out, bounds)
                    if gather:
                        self._hand_out(group, out, bounds)
                return self._record(self.stream), any_present

        return self._run(program, f"{name} {out.dtype}[{out.size}] on GPUs", kept=(sums, present, out), start=start)

    def _in_slices(
        self,
        group: Any,
        sums: Mapping[Node, Any],
        flags: Sequence[bytes],
        nodes: Sequence[Sequence[Node]],
        shards: int,
        out: Any,
        bounds: Ranges,
    ) -> bool:
        """This rank's slice of the sum, from everybody's partial sums of it; whether there were any."""
        rank = self.comm.rank
        lo, hi = bounds[rank]
        senders = [
            (other, node)
            for other in self._others()
            for node, flag in zip(nodes[other], flags[other], strict=True)
            if flag
        ]
        rows = self._rows(len(senders), hi - lo, out.dtype)
        with self._group():
            for other in self._others():
                a, b = bounds[other]
                for value in sums.values():
                    if value is not None:
                        self._send(group, value[a:b], other)
            for row, (other, _) in zip(rows, senders, strict=True):
                self._recv(group, row, other)
        terms = {node: Term(value[lo:hi]) for node, value in sums.items() if value is not None}
        terms |= {node: Term(row) for row, (_, node) in zip(rows, senders, strict=True)}
        if not terms:
            out[...] = 0
            return False
        if hi > lo:
            evaluate(expression((0, shards), terms), terms, out[lo:hi])
        return True

    def _hand_out(self, group: Any, array: Any, bounds: Ranges) -> None:
        """Each rank's own range of ``array`` to all."""
        lo, hi = bounds[self.comm.rank]
        lengths = {b - a for a, b in bounds}
        if (
            len(lengths) == 1
            and array.size == self.comm.size * (hi - lo)
            and [a for a, _ in bounds] == sorted(a for a, _ in bounds)
        ):
            if hi > lo:
                pointer, code = array.data.ptr, self._code(array.dtype)
                group.allGather(array[lo:hi].data.ptr, pointer, hi - lo, code, self.stream.ptr)
            return
        with self._group():
            for other in self._others():
                self._send(group, array[lo:hi], other)
            for other in self._others():
                a, b = bounds[other]
                self._recv(group, array[a:b], other)

    # -- the other verbs -------------------------------------------------------------------------------------------------------

    def _plainly(self, words: str, action: Any, value: Any, kept: Any = None) -> Work:
        """``action(group)`` on the stream of communication, once all ranks have come."""
        ready = self._ready()

        def program(messages: Messages) -> Any:
            messages.programs.barrier(messages)
            with self._calling(ready) as group:
                action(group)
                return self._record(self.stream)

        return self._run(program, words, value=value, kept=kept)

    def all_reduce(self, array: Any, *, name: str) -> Work:
        words, flat = fingerprint("all_reduce", name, array), array.reshape(-1)
        bounds = slices(flat.size, self.comm.size)

        def action(group: Any) -> None:
            self._sum_over_ranks(group, flat, bounds)
            self._hand_out(group, flat, bounds)

        return self._plainly(words, action, array, array)

    def reduce_scatter(self, array: Any, *, name: str) -> Work:
        words, bounds = fingerprint("reduce_scatter", name, array), slices(array.size, self.comm.size)
        mine = array[slice(*bounds[self.comm.rank])]
        return self._plainly(words, lambda group: self._sum_over_ranks(group, array, bounds), mine, array)

    def _sum_over_ranks(self, group: Any, array: Any, bounds: Ranges) -> None:
        """This rank's slice of the sum, in place, by the tree over ranks."""
        size = self.comm.size
        if array.dtype.name not in ("float32", "float64"):  # NCCL's order: no kernel of ours adds these
            total = array.copy()
            self._sum(group, total)
            lo, hi = bounds[self.comm.rank]
            array[lo:hi] = total[lo:hi]
            return
        nodes = [[(rank, rank + 1)] for rank in range(size)]
        own = nodes[self.comm.rank][0]
        self._in_slices(group, {own: array}, [b"\1"] * size, nodes, size, array, bounds)

    def all_gather(self, array: Any, out: Any, *, name: str) -> Work:
        words = fingerprint("all_gather", name, array)
        flat, rows = array.reshape(-1), out.reshape(-1)

        def action(group: Any) -> None:
            if flat.size:
                group.allGather(flat.data.ptr, rows.data.ptr, flat.size, self._code(flat.dtype), self.stream.ptr)

        return self._plainly(words, action, out, (array, out))

    def all_gather_slices(self, array: Any, cut: Ranges, *, name: str) -> Work:
        words = fingerprint("all_gather_slices", name, array)
        return self._plainly(words, lambda group: self._hand_out(group, array, cut), array, array)

    def broadcast(self, array: Any, root: int, *, name: str) -> Work:
        words, flat = fingerprint(f"broadcast from {root}", name, array), array.reshape(-1)

        def action(group: Any) -> None:
            if flat.size:
                pointer = flat.data.ptr
                code = self._code(np.uint8)
                group.broadcast(pointer, pointer, flat.nbytes, code, root, self.stream.ptr)

        return self._plainly(words, action, array, array)
