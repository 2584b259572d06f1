"""What ranks can ask of a communicator: the collectives, sends and receives, and memory to share.

Every verb but ``send`` and ``recv`` must be called by all ranks of the group in the same order. A verb gives its operation a
fingerprint (what, name, dtype, shape), submits a program, and returns a :class:`Work`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from ...core.backend import device_kind
from ...core.errors import RangeError, ShapeError
from ...core.kernels.cpu.threads import cores
from ..errors import CommunicatorError
from ..messages import Program, aligned_bytes, flat_bytes
from ..reduction import over_wire
from ..reduction.bucket import BucketSizes, tuned_sizes
from ..reduction.expression import Term
from ..reduction.programs import Programs
from ..reduction.tree import Node
from . import gpus, sharing
from .device import DeviceVerbs
from .shared_memory import INLINE_NBYTES, LocalSpace
from .work import Work

if TYPE_CHECKING:
    from .base import Communicator


Start = Literal["now", "background", "when waited for"]


class Verbs:
    """The verbs of a :class:`.base.Communicator`, which runs their programs."""

    rank: int
    size: int
    backend: str
    keeps_to_host: bool
    local: LocalSpace | None
    programs: Programs
    _on_gpu: DeviceVerbs | None
    _sequence: int
    _pair_sequences: dict[tuple[int, int], int]

    def run(self, program: Program, *, name: str, timeout_s: float | None = None) -> Work:
        """Run ``program`` after all earlier ones."""
        raise NotImplementedError

    def call(self, program: Program, *, name: str, timeout_s: float | None = None, flush: bool = True) -> Any:
        """Run ``program`` after all earlier ones, in the caller's thread where possible; its result."""
        raise NotImplementedError

    def queue(self, program: Program, *, name: str, timeout_s: float | None = None) -> Work:
        """As :meth:`run`, but nobody is woken for it."""
        raise NotImplementedError

    def run_here(self, program: Program, *, name: str, timeout_s: float | None = None) -> Work:
        """As :meth:`run`, in the caller's thread where possible."""
        raise NotImplementedError

    def _submit(
        self, program: Program, name: str, sequence: int, timeout_s: float | None = None, flush: bool = True
    ) -> Work:
        raise NotImplementedError

    def on_gpu(self) -> DeviceVerbs:
        """The same verbs for arrays on this rank's GPU; all ranks must ask for the first time together."""
        if self._on_gpu is None:
            self._on_gpu = gpus.make(cast("Communicator", self))
        return self._on_gpu

    def all_reduce(self, array: Any, *, name: str) -> Work:
        """Sum ``array`` (C-contiguous) over ranks, in place, by the fixed tree over ranks: equal bits everywhere.

        Here and below ``array`` may lie on this rank's GPU, on all ranks alike.
        """
        if _is_on_gpu(array):
            return self.on_gpu().all_reduce(array, name=name)
        fingerprint = _fingerprint("all_reduce", name, array)
        if self.local is not None and array.nbytes <= INLINE_NBYTES:
            # microseconds: less than the way to the communication thread
            return self.run_here(lambda m: m.programs.all_reduce(m, array), name=fingerprint)
        return self.run(lambda m: m.programs.all_reduce(m, array), name=fingerprint)

    def tree_all_reduce(
        self,
        terms: Mapping[Node, Term | None],
        ranges: Sequence[tuple[int, int]],
        shards: int,
        out: Any,
        *,
        name: str,
        cut: Sequence[tuple[int, int]] | None = None,
        gather: bool = True,
        start: Start = "now",
        exact: bool = True,
    ) -> Work:
        """Sum over all shards into ``out`` (1-D) on every rank, in the order of the tree over ``shards``.

        Args:
            terms: for nodes of the tree that make up this rank's range of ``ranges``: what it has of them, an array of
                ``out``'s length and a factor, or None where no shard of a node had samples. Not changed.
            cut: the range of ``out`` that each rank sums, by default even slices.
            gather: with False only the own range of ``cut`` is complete afterwards.
            start: ``now``: small sums in this thread, which takes microseconds, larger ones on the communication thread;
                ``background``: there in any case; ``when waited for``: by the thread that waits, unless the communication thread
                is at work anyway.
            exact: False lets GPUs sum in an order of their own, where there is one term for each rank.

        The result is whether any shard was present; if none was, ``out`` is set to zero.
        """
        if _is_on_gpu(out):
            return self.on_gpu().tree_all_reduce(
                terms, ranges, shards, out, name=name, cut=cut, gather=gather, start=start, exact=exact
            )
        small = self.local is not None and out.nbytes <= INLINE_NBYTES
        run = self.queue if start == "when waited for" else self.run_here if start == "now" and small else self.run
        return run(
            lambda m: m.programs.tree_all_reduce(m, terms, ranges, shards, out, cut, gather),
            name=f"{name} {_kind(out.dtype)}[{out.size}]",
        )

    def all_gather_slices(self, array: Any, cut: Sequence[tuple[int, int]], *, name: str) -> Work:
        """Each rank's own range ``cut[rank]`` of the 1-D ``array`` to all ranks, in place."""
        if _is_on_gpu(array):
            return self.on_gpu().all_gather_slices(array, cut, name=name)
        fingerprint = _fingerprint("all_gather_slices", name, array)
        return self.run(lambda m: m.programs.all_gather_slices(m, array, cut), name=fingerprint)

    def share_memory(self) -> bool:
        """Let the ranks of each host share memory; False, with a line that says why, where they cannot. All ranks call."""
        return sharing.share_memory(cast("Communicator", self))

    def bucket_sizes(self, bucket_bytes: int | None = None) -> BucketSizes:
        """The sizes of gradient buckets for this wire: from the tuned table, or what the user gave, the first one a quarter."""
        if bucket_bytes is not None:
            return BucketSizes(max(1, bucket_bytes // 4), bucket_bytes)
        if self.local is None or len(self.local.hosts) > 1:
            return tuned_sizes("threads" if self.backend == "alone" else self.backend)
        return tuned_sizes("shared memory, no core to spare" if self.leaves_no_core() else "shared memory")

    def leaves_no_core(self) -> bool:
        """Whether the ranks share memory on one host and occupy all its cores: then nothing waits that could be hidden."""
        return self.shares_all_memory() and self.local is not None and self.local.size >= cores()

    def shares_all_memory(self) -> bool:
        """Whether all ranks are on one host and share memory."""
        return self.local is not None and len(self.local.hosts) == 1

    def is_shared(self, array: Any) -> bool:
        """Whether an array lies where the other ranks of this host can read it."""
        return not _is_on_gpu(array) and self.local is not None and self.local.find(array) is not None

    def shared_empty(
        self, shape: int | Sequence[int], dtype: Any = np.float32, *, name: str, common: bool = False
    ) -> np.ndarray:
        """A new array of zeros that the other ranks of this host can read and write; collectives on it copy nothing.

        ``common``: one array for all ranks of the host instead of one for each. Where memory cannot be shared it is an
        ordinary array. All ranks must call; the memory is free again when no rank holds the array any more.
        """
        kind = np.dtype(dtype)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        nbytes = int(np.prod(shape)) * kind.itemsize
        parts = 1 if common or self.local is None else self.local.size
        raw = None
        if self.size > 1 and self.programs is not over_wire:
            fingerprint = f"shared_empty {name!r} {kind}{list(shape)}"
            raw = self.call(lambda m: sharing.new_block(m, nbytes, parts), name=fingerprint)
        if raw is None:
            raw = aligned_bytes(nbytes)
            raw.fill(0)
        return raw.view(kind).reshape(shape)

    def reduce_scatter(self, array: Any, *, name: str) -> Work:
        """Sum over ranks; the result is this rank's slice of ``slices(len(array), size)`` of the 1-D ``array``, a view.

        The other slices keep what this rank had there.
        """
        if array.ndim != 1:
            raise ShapeError(f"reduce_scatter {name!r}: expected a 1-D array, got shape {array.shape}")
        if _is_on_gpu(array):
            return self.on_gpu().reduce_scatter(array, name=name)
        return self.run(lambda m: m.programs.reduce_scatter(m, array), name=_fingerprint("reduce_scatter", name, array))

    def all_gather(self, array: Any, out: Any, *, name: str) -> Work:
        """``out[r]`` becomes rank r's ``array`` on all ranks; ``out`` has shape ``(size, *array.shape)``."""
        if out.shape != (self.size, *array.shape) or out.dtype != array.dtype:
            expected = f"{array.dtype}{[self.size, *array.shape]}"
            raise ShapeError(f"all_gather {name!r}: expected out of {expected}, got {out.dtype}{list(out.shape)}")
        if _is_on_gpu(out):
            return self.on_gpu().all_gather(array, out, name=name)
        flat_bytes(out)
        return self.run(lambda m: m.programs.all_gather(m, array, out), name=_fingerprint("all_gather", name, array))

    def broadcast(self, array: Any, *, root: int = 0, name: str) -> Work:
        """``array`` of rank ``root`` on all ranks, in place."""
        self._check_rank(root, "root", name)
        if _is_on_gpu(array):
            return self.on_gpu().broadcast(array, root, name=name)
        name = _fingerprint(f"broadcast from {root}", name, array)
        return self.run(lambda m: m.programs.broadcast(m, array, root), name=name)

    def all_gather_object(self, value: Any, *, name: str) -> Work:
        """A list of every rank's ``value``, which must be JSON: nothing is ever pickled."""
        data = _to_json(value, name)
        return self.run(lambda m: m.programs.all_gather_object(m, data), name=f"all_gather_object {name!r}")

    def broadcast_object(self, value: Any, *, root: int = 0, name: str) -> Work:
        """Rank ``root``'s ``value`` (JSON) on all ranks; what the others pass is not looked at."""
        self._check_rank(root, "root", name)
        data = _to_json(value, name) if self.rank == root else b""
        fingerprint = f"broadcast_object from {root} {name!r}"
        return self.run(lambda m: m.programs.broadcast_object(m, data, root), name=fingerprint)

    def barrier(self, *, name: str = "barrier", timeout_s: float | None = None) -> Work:
        """Done when all ranks have come here."""
        return self.run(lambda m: m.programs.barrier(m), name=f"barrier {name!r}", timeout_s=timeout_s)

    def send(self, array: Any, dest: int, *, name: str) -> Work:
        """Send a copy of ``array`` to ``dest``, which calls ``recv`` with the same name, shape and dtype.

        Done as soon as the copy is on its way: two ranks may send to each other before they receive.
        """
        self._check_peer(dest, "dest", name)
        if _is_on_gpu(array):
            return self.on_gpu().send(array, dest, name=name)
        copy = flat_bytes(array).copy()
        return self._pair(self.rank, dest, lambda m: m.post(dest, copy), _fingerprint("send", name, array))

    def recv(self, array: Any, source: int, *, name: str) -> Work:
        """Receive into ``array`` (C-contiguous) what ``source`` sends; the result is ``array``."""
        self._check_peer(source, "source", name)
        if _is_on_gpu(array):
            return self.on_gpu().recv(array, source, name=name)
        return self._pair(source, self.rank, lambda m: m.take(source, array), _fingerprint("send", name, array))

    def _pair(self, source: int, dest: int, program: Program, name: str) -> Work:
        # pairs count for themselves, below zero: they must not shift the numbers of the operations of all ranks
        number = self._pair_sequences[source, dest] = self._pair_sequences.get((source, dest), 0) - 1
        return self._submit(program, name, number, flush=False)

    def split(self, color: int, key: int | None = None) -> Communicator:
        """The group of all ranks that gave the same ``color``, ordered by ``key`` (default: rank). Collective."""
        raise CommunicatorError(f"backend {self.backend!r} cannot split a group")

    def _members(self, color: int, key: int | None) -> tuple[int, list[int]]:
        """What a backend's ``split`` needs: a number that no other split here has, and the group's ranks, in order."""
        number = self._sequence
        rows = self.all_gather_object([color, self.rank if key is None else key], name="split").wait()
        return number, [rank for _, rank in sorted((k, rank) for rank, (c, k) in enumerate(rows) if c == color)]

    def _check_rank(self, rank: int, what: str, name: str) -> None:
        if not 0 <= rank < self.size:
            raise RangeError(f"{name!r}: {what} must be a rank in 0..{self.size - 1}, got {rank}")

    def _check_peer(self, rank: int, what: str, name: str) -> None:
        self._check_rank(rank, what, name)
        if rank == self.rank:
            raise RangeError(f"{name!r}: {what} is this rank itself ({rank})")


def _is_on_gpu(array: Any) -> bool:
    return type(array) is not np.ndarray and device_kind(array) != "cpu"


_kinds: dict[np.dtype, str] = {}
"""Names of dtypes: NumPy needs microseconds for each."""


def _kind(dtype: np.dtype) -> str:
    return _kinds.get(dtype) or _kinds.setdefault(dtype, str(dtype))


def _fingerprint(verb: str, name: str, array: np.ndarray) -> str:
    flat_bytes(array)  # raises where the caller stands
    return f"{verb} {name!r} {_kind(array.dtype)}{list(array.shape)}"


def _to_json(value: Any, name: str) -> bytes:
    try:
        return json.dumps(value).encode()
    except TypeError as error:
        raise TypeError(f"{name!r}: objects between ranks must be JSON (nothing is pickled): {error}") from None
