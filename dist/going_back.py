"""ZeRO in an elastic job: each rank holds a part of the optimizer state that no other has.

Before ranks join, between two steps, all state is made whole on every rank, and cut anew when they are there. When ranks are lost, their
parts are: then all go back to the newest checkpoint, in place, as long as it is of the epoch that the running loop is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..core.data.scope import outermost_step
from ..core.errors import StateError
from ..core.void import set_void
from .checkpoint_agreement import Agreement
from .checkpoint_find import find
from .checkpoint_restore import from_folder

if TYPE_CHECKING:
    from .group import Group
    from .reducer import Reducer


def make_whole(reducers: Sequence[Reducer]) -> None:
    """Before ranks join: the state of all ranks on every rank, which each cut anew then. Collective."""
    for store in _cut_stores(reducers):
        store.keeper.release(store)


def lose_parts(reducers: Sequence[Reducer]) -> bool:
    """What this rank holds a part of is of no use, since the others' parts are gone; whether there is such."""
    stores = _cut_stores(reducers)
    for store in stores:
        store.lose_parts()
    return bool(stores)


def _cut_stores(reducers: Sequence[Reducer]) -> list[Any]:
    stores = dict.fromkeys(p._store for reducer in reducers for p in reducer.parameters)
    return [store for store in stores if store is not None and store.keeper is not None]


def go_back(group: Group, reducers: Sequence[Reducer]) -> bool:
    """After a loss: where optimizer state died with ranks all go back to the newest checkpoint, in place; whether that was so.

    Collective, on the new ranks' control channel. Raises StateError where there is none that the running loop can go on from.
    """
    if not lose_parts(reducers):
        return False
    for reducer in reducers:
        reducer.forget()
    elastic = group.elastic
    checkpointer = elastic.checkpointer() if elastic is not None and elastic.checkpointer is not None else None
    agreement = Agreement(SimpleNamespace(rank=group.rank, size=group.size, communicator=group.control))
    path, manifest = None, None
    if checkpointer is not None and checkpointer.store is not None:
        path, manifest, _ = find(agreement, checkpointer.store, checkpointer.block_nbytes)
    loader = None if checkpointer is None else checkpointer.loader
    if checkpointer is None or path is None or manifest is None:
        raise StateError(_DIED.format(why="there is no checkpoint to go back to"))
    if loader is None or manifest.cursor is None:
        raise StateError(_DIED.format(why=f"{path} knows no position in the data: give the Checkpointer the loader"))
    epoch, position = manifest.cursor["epoch"], int(manifest.cursor["position"])
    if epoch == loader.epoch - 1 and _is_end(loader, position):
        epoch, position = loader.epoch, 0
    if epoch != loader.epoch:
        raise StateError(_DIED.format(why=f"{path} is of epoch {epoch}, this is epoch {loader.epoch}"))
    for reducer in reducers:
        reducer.follow_structure()
    checkpointer.take_state(manifest, path, from_folder(agreement, path, manifest), agreement)
    if (step := outermost_step()) is not None:
        step.undo()
    set_void(True)
    loader.go_back((manifest.step, position, manifest.cursor.get("cursor") if position else None))
    agreement.say(f"optimizer state died with ranks that were lost: all ranks go back to step {manifest.step} ({path})")
    return True


def _is_end(loader: Any, position: int) -> bool:
    """Whether no batch of the epoch comes behind ``position``, as far as the loader can tell."""
    return (
        loader.length is not None and loader.batch_sampler is None and -(-position // loader.batch_size) >= len(loader)
    )


_DIED = (
    "ranks were lost, and with them the optimizer state that only they had (DataParallel(shard=...)); {why}. Start the job again, as "
    "phalanx run --restarts does by itself: it goes on from the newest checkpoint"
)
