"""A communicator's verbs on arrays that lie on GPUs, in the form of those on NumPy's: so that the one contract holds for them, too.

``checks`` and ``fault`` are what ranks of a test call.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from phalanx.core.backend import to_device
from phalanx.dist.communicators.base import Communicator
from phalanx.dist.communicators.work import Work
from phalanx.dist.reduction.expression import Term
from phalanx.dist.reduction.tree import Node
from tests.ranks import contract


class Back:
    """A work whose result is copied back to the host when it is waited for."""

    def __init__(self, work: Work, host: np.ndarray, device: Any, part: slice = slice(None), value: Any = None) -> None:
        self._work, self._host, self._device, self._part = work, host, device, part
        self._value = host if value is None else value

    @property
    def done(self) -> bool:
        return self._work.done

    def wait(self, timeout_s: float | None = None) -> Any:
        result = self._work.wait(timeout_s)
        host = self._device.get()
        if self._host.ndim:
            self._host[self._part] = host[self._part]
        else:
            self._host[...] = host
        return result if self._value is NotImplemented else self._value


class OnGpu:
    """``comm`` with every array on its way to the GPU and back."""

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm

    def __getattr__(self, name: str) -> Any:
        return getattr(self.comm, name)

    def all_reduce(self, array: np.ndarray, *, name: str) -> Back:
        there = to_device(array, "cuda")
        return Back(self.comm.all_reduce(there, name=name), array, there)

    def reduce_scatter(self, array: np.ndarray, *, name: str) -> Back:
        there = to_device(array, "cuda")
        work = self.comm.reduce_scatter(there, name=name)
        lo = sum(len(array[rank :: self.comm.size]) for rank in range(self.comm.rank))
        return Back(work, array, there, value=array[lo : lo + len(array[self.comm.rank :: self.comm.size])])

    def all_gather(self, array: np.ndarray, out: np.ndarray, *, name: str) -> Back:
        here, there = to_device(array, "cuda"), to_device(out, "cuda")
        return Back(self.comm.all_gather(here, there, name=name), out, there)

    def all_gather_slices(self, array: np.ndarray, cut: Sequence[tuple[int, int]], *, name: str) -> Back:
        there = to_device(array, "cuda")
        return Back(self.comm.all_gather_slices(there, cut, name=name), array, there)

    def broadcast(self, array: np.ndarray, *, root: int = 0, name: str) -> Back:
        there = to_device(array, "cuda")
        return Back(self.comm.broadcast(there, root=root, name=name), array, there)

    def send(self, array: np.ndarray, dest: int, *, name: str) -> Work:
        return self.comm.send(to_device(array, "cuda"), dest, name=name)

    def recv(self, array: np.ndarray, source: int, *, name: str) -> Back:
        there = to_device(array, "cuda")
        return Back(self.comm.recv(there, source, name=name), array, there)

    def tree_all_reduce(
        self,
        terms: Mapping[Node, Term | None],
        ranges: Sequence[tuple[int, int]],
        shards: int,
        out: np.ndarray,
        *,
        name: str,
        cut: Sequence[tuple[int, int]] | None = None,
        gather: bool = True,
    ) -> Back:
        there = {n: None if t is None else Term(to_device(t.array, "cuda"), t.scale) for n, t in terms.items()}
        target = self.comm.on_gpu().empty(out.size, out.dtype, name=f"{name}'s result", nodes=4)
        work = self.comm.tree_all_reduce(there, ranges, shards, target, name=name, cut=cut, gather=gather)
        part = slice(None) if gather or cut is None else slice(*cut[self.comm.rank])
        return Back(work, out, target, part, value=NotImplemented)

    def split(self, color: int, key: int | None = None) -> OnGpu:
        return OnGpu(self.comm.split(color, key))


NOT_MOVED = ("objects", "barrier", "tree", "tree_in_place", "tree_merge", "call_keeps_the_order")
"""Checks that move no array by a verb."""
CHECKS = [name for name in contract.CHECKS if name not in NOT_MOVED]


def checks(comm: Communicator, way: str, names: Sequence[str] = (), shared: bool = False) -> dict[str, float]:
    """Seconds of each check. ``way``: "nccl" or "host"."""
    os.environ["PHALANX_GPU_SUMS"] = way
    if shared:
        assert comm.share_memory()
    assert ("NCCL" in comm.on_gpu().kind) == (way == "nccl")
    seconds = {}
    for name in names or CHECKS:
        began = time.monotonic()
        contract.CHECKS[name](OnGpu(comm))  # type: ignore[arg-type]
        seconds[name] = time.monotonic() - began
    return seconds


def fault(comm: Communicator, way: str, name: str) -> None:
    """Do something wrong on rank 1."""
    os.environ["PHALANX_GPU_SUMS"] = way
    comm.on_gpu()
    contract.FAULTS[name].function(OnGpu(comm))  # type: ignore[arg-type]
