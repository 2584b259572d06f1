"""cuDNN by its graph interface (the package nvidia-cudnn-frontend): loading it, plans by shape, running them on the current stream.

A *request* says all that a plan depends on, and draws the graph; ``conv.py`` and ``attention.py`` have theirs. Its plan is made at the first
call and kept: making one takes 10 ms, or up to 3 s where cuDNN compiles, which is why a step runs before it is captured. Which plan it is
follows from cuDNN's heuristics for this shape, device and version, never from a clock.

One handle serves a device, whichever thread calls, behind a lock: threads that come and go with each step (shards) would make
handles and plans anew.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from functools import lru_cache
from threading import RLock
from typing import Any, Protocol

import numpy as np

from ... import gpu_memory
from ...backend import cupy
from ...errors import GraphError
from ...op import Array
from .scalars import now

FRONTEND = "1.23."
"""The versions of the frontend that this file was written against; later ones are another program."""
OLDEST_BACKEND = 91000
MISSING = (
    "install phalanx[cuda13] (or phalanx[cuda12]); until then convolutions are unfolded into matrix products and attention keeps its "
    "scores, which is slower and takes more memory"
)
WORKSPACE_LIMIT = 1 << 30
"""Plans of convolutions that want more bytes are passed over."""
ALIGNMENT = 16
"""Bytes; what plans take for granted of every pointer."""
FLOATS = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BFLOAT16"}
"""Names of dtypes that cuDNN serves here, and what it calls them."""


class Unavailable(ImportError):
    """cuDNN or its frontend cannot be used here."""


class Request(Protocol):
    """What to plan. Hashable: equal requests share a plan."""

    @property
    def dtype(self) -> str:
        """Name of the dtype of tensors that say nothing else."""

    @property
    def limit(self) -> int | None:
        """Most bytes of workspace, None: as many as it takes."""

    def describe(self, graph: Any, library: Any) -> Sequence[Any]:
        """Draw the graph; returns its tensors in the order in which :func:`run` is given arrays."""

    def forbidden(self, library: Any) -> list[Any]:
        """Numerical notes of engines that must not serve."""


@lru_cache(maxsize=1)
def library() -> Any:
    """The package ``cudnn``. Raises Unavailable, saying what is missing and what that costs."""
    without_torch = "torch" not in sys.modules
    if without_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]  # the frontend imports it if it can: seconds, and a second CUDA context
    try:
        found = importlib.import_module("cudnn")
    except ImportError as error:
        raise Unavailable(f"cuDNN's frontend cannot be imported ({error}); {MISSING}") from None
    finally:
        if without_torch:
            del sys.modules["torch"]
    if not found.__version__.startswith(FRONTEND):
        raise Unavailable(
            f"nvidia-cudnn-frontend {FRONTEND}* expected, got {found.__version__}: its interface changes; {MISSING}"
        )
    try:
        version = int(found.backend_version())
    except RuntimeError as error:
        raise Unavailable(f"the frontend finds no libcudnn.so.9 ({error}); {MISSING}") from None
    if version < OLDEST_BACKEND:
        raise Unavailable(f"cuDNN {OLDEST_BACKEND} or later expected, got {version}; {MISSING}")
    return found


def describe() -> str:
    """Versions, which decide the plans and so the bits. Raises Unavailable."""
    found = library()
    return f"cuDNN {found.backend_version()} (frontend {found.__version__})"


def data_type(dtype: str) -> Any:
    """cuDNN's word for a dtype's name."""
    return getattr(library().data_type, FLOATS[dtype])


# ---- plans -----------------------------------------------------------------------------------------------------------


class Plan:
    """A graph with the engine that was chosen for it, and how many bytes that needs beside its tensors."""

    __slots__ = ("_pack", "graph", "identities", "nbytes")

    def __init__(self, graph: Any, count: int) -> None:
        self.graph = graph
        self.identities = list(range(1, count + 1))
        self.nbytes = int(graph.get_workspace_size())
        self._pack = self._short_way()

    def _short_way(self) -> Any:
        """What runs the graph on a list of pointers; None if this frontend knows only dictionaries."""
        names = ("_prepare_variant_pack_template", "_get_variant_pack_uids_sorted", "_execute_with_ptrs")
        prepare, sort, execute = (getattr(self.graph, name, None) for name in names)
        if prepare is None or sort is None or execute is None:
            return None
        prepare()
        return execute if list(sort()) == self.identities else None

    def execute(self, handle: int, pointers: list[int], workspace: int) -> None:
        """Put it on the handle's stream."""
        if self._pack is not None:
            self._pack(pointers, workspace, handle)
        else:
            self.graph.execute(dict(zip(self.identities, pointers, strict=True)), workspace, handle)


def build(request: Request, **place: Any) -> Plan:
    """A plan for ``request``. ``place`` says for which device: ``handle=...``, or properties of one that need not be here.

    Raises ``library().cudnnGraphNotSupportedError`` where cuDNN has no engine for it.
    """
    cudnn = library()
    wide = cudnn.data_type.FLOAT
    graph = cudnn.pygraph(
        io_data_type=data_type(request.dtype), intermediate_data_type=wide, compute_data_type=wide, **place
    )
    tensors = request.describe(graph, cudnn)
    for identity, tensor in enumerate(tensors, 1):
        tensor.set_uid(identity)
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    if notes := request.forbidden(cudnn):
        graph.deselect_numeric_notes(notes)
    if request.limit is not None:
        graph.deselect_workspace_greater_than(request.limit)
    graph.build_plans()
    return Plan(graph, len(tensors))


class _Device:
    """What cuDNN keeps on one device."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lock = RLock()
        self.handle: int = library().create_handle()
        self.stream: int | None = None
        self.plans: dict[Request, Plan | None] = {}
        self.workspaces: dict[int, Array] = {}
        gpu_memory.holds(self)

    def held(self) -> list[tuple[str, int, int]]:
        """What this takes of the device's memory, for reports."""
        return [("workspaces", self.number, array.nbytes) for array in list(self.workspaces.values())]

    def plan(self, request: Request) -> Plan | None:
        with self.lock:
            if request in self.plans:
                return self.plans[request]
            if now.slots is not None:
                raise GraphError(
                    f"cuDNN has not planned {request} yet, which cannot be done while a step is captured: run a step with these "
                    "shapes and options before"
                )
            try:
                made = build(request, handle=self.handle)
            except library().cudnnGraphNotSupportedError as error:
                reason = " ".join(str(error).split())[:300]
                warnings.warn(
                    f"cuDNN has no plan for {request} and something slower computes it: {reason}", stacklevel=4
                )
                made = None
            self.plans[request] = made
            return made

    def workspace(self, stream: int, nbytes: int) -> Array:
        """``nbytes`` that belong to the stream until its next call; None for none.

        A captured call gets some of its own: a graph goes on to use it, in memory that it shares with nobody.
        """
        if nbytes == 0:
            return None
        if now.slots is not None:
            return cupy().empty(nbytes, np.uint8)
        have = self.workspaces.pop(stream, None)
        if have is None or have.nbytes < nbytes:
            have = None  # given back before the next is made, so that both need not fit
            have = cupy().empty(nbytes, np.uint8)
        self.workspaces[stream] = have
        return have


_devices: dict[int, _Device] = {}
_making = RLock()


def _here() -> _Device:
    number = cupy().cuda.runtime.getDevice()
    found = _devices.get(number)
    if found is None:
        with _making:
            found = _devices.get(number) or _Device(number)
            _devices[number] = found
    return found


def plan(request: Request) -> Plan | None:
    """The plan for ``request`` on the current device, made at first use; None where cuDNN has none (a warning says so once)."""
    return _here().plan(request)


def run(plan: Plan, *arrays: Array) -> None:
    """``plan`` on the current stream, on arrays in the order of its request's tensors."""
    if now.feeding:
        return
    here = _here()
    stream = cupy().cuda.get_current_stream().ptr
    with here.lock:
        if stream != here.stream:
            library().set_stream(here.handle, stream)
            here.stream = stream
        space = here.workspace(stream, plan.nbytes)
        plan.execute(here.handle, [array.data.ptr for array in arrays], 0 if space is None else space.data.ptr)


def reset() -> None:
    """Give back handles, plans and workspaces of all devices; nothing of them may be running."""
    with _making:
        for one in _devices.values():
            one.plans.clear()
            library().destroy_handle(one.handle)
        _devices.clear()
