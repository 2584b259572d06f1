"""A Checkpointer in an elastic job: ranks that join get the state from rank 0, and a job of too few ranks saves.

What a newcomer gets is what a checkpoint would hold, by the same names, without a disk. It gets it in ``resume()``, while the others
stand between two steps.
"""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.checkpoint.format import byte_view
from ..core.checkpoint.manifest import Manifest, TensorEntry
from ..core.errors import CheckpointError, StateError
from .going_back import lose_parts

if TYPE_CHECKING:
    from .checkpoint import Checkpointer
    from .group import Group


def serve(checkpointer: Checkpointer, group: Any) -> None:
    """From now on ``checkpointer`` gives its state to ranks that join ``group``, and saves where too few are left."""
    if getattr(group, "elastic", None) is None:
        return
    if group.elastic.checkpointer is None:
        group.elastic.on_state.append(lambda: _give(group))
        group.elastic.on_wait.append(lambda: _save(group))
    group.elastic.checkpointer = weakref.ref(checkpointer)


def join(checkpointer: Checkpointer, group: Group) -> int:
    """In a newcomer: wait for the others, take the state; the step to go on from."""
    assert group.elastic is not None
    group.elastic.join()
    return checkpointer.step


def _of(group: Group) -> Checkpointer | None:
    assert group.elastic is not None and group.elastic.checkpointer is not None
    return group.elastic.checkpointer()


def _give(group: Group) -> None:
    """Called on all ranks of a new generation with newcomers."""
    elastic, checkpointer = group.elastic, _of(group)
    assert elastic is not None
    if checkpointer is None:
        raise StateError(
            f"rank {group.rank}: ranks want to join, but the Checkpointer that resume() was called of is gone; keep it as long as "
            "the job trains"
        )
    if group.rank in elastic.newcomers:
        lose_parts(elastic.living())
        _take(group, checkpointer)
    elif group.rank == 0:
        manifest, arrays = checkpointer.state_now()
        for newcomer in elastic.newcomers:
            _send(group, newcomer, manifest, arrays)


def _send(group: Group, newcomer: int, manifest: Manifest, arrays: Mapping[str, Any]) -> None:
    text = np.frombuffer(json.dumps(asdict(manifest)).encode(), np.uint8)
    group.control.send(np.array([text.size], np.int64), newcomer, name="size of the state").wait()
    group.control.send(text, newcomer, name="what the state consists of").wait()
    for entry in manifest.tensors:
        if entry.nbytes:
            data = np.frombuffer(byte_view(arrays[entry.name]), np.uint8)
            group.control.send(data, newcomer, name=entry.name).wait()


def _take(group: Group, checkpointer: Checkpointer) -> None:
    size = np.empty(1, np.int64)
    group.control.recv(size, 0, name="size of the state").wait()
    text = np.empty(int(size[0]), np.uint8)
    group.control.recv(text, 0, name="what the state consists of").wait()
    words = json.loads(text.tobytes())
    rows = words.pop("tensors")
    tensors = tuple(TensorEntry(**row | {"shape": tuple(row["shape"])}) for row in rows)

    def fill(staged: Mapping[str, Any]) -> str:
        for entry in tensors:
            data = np.empty(entry.nbytes, np.uint8)
            if entry.nbytes:
                group.control.recv(data, 0, name=entry.name).wait()
            if (here := staged.get(entry.name)) is not None:
                here[...] = data.view(here.dtype).reshape(here.shape)
        return ""

    checkpointer.take_state(
        Manifest(**words | {"files": (), "tensors": tensors}), "of the job that this rank joins", fill
    )


def _save(group: Group) -> bool:
    """Too few ranks are left: save at once; whether it was done."""
    checkpointer = _of(group)
    if checkpointer is None or checkpointer.store is None:
        return False
    try:
        checkpointer.save()
    except CheckpointError as error:
        print(f"phalanx: rank {group.rank}: not saved: {error}", file=sys.stderr, flush=True)
        return False
    return True
