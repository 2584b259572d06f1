"""Who sums what with whom: the module's parameters in stores and buckets, each rank's range of shards.

Made anew when the module's structure changes, and when the ranks become others.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from ..core.flat import pack, where_packed
from ..core.live import structure
from ..core.nn.module import Module
from ..core.nn.sync_batch_norm import name_layers
from .compression import Scheme
from .compression.fold import CompressedFold
from .device_lane import on_gpu
from .errors import CommunicatorError
from .fold import Fold
from .group import Group
from .open_shard import Layouts
from .step_end import StepEnd
from .zero.fold import ZeroFold
from .zero.ownership import Zero, take_over

if TYPE_CHECKING:
    from ..core.nn.parameter import Parameter

Options = tuple[int | None, bool | None, str | None, Scheme | None]
"""bucket_bytes, overlap, shard, compression of a DataParallel."""


class Arrangement:
    """What a reducer works with, as long as neither the module nor the ranks change."""

    _foreseeable: bool
    _passes_before: list[int]

    def __init__(self, module: Module, group: Group, options: Options) -> None:
        self.module, self.group, self._options = module, group, options
        self._bind()
        self.names: dict[Parameter, str] = {}
        self.end = StepEnd(group, module)
        self._members: tuple[object, list[Any], tuple[int, ...]] = (None, [], ())
        """All parameters of the module and their identities, and for which structure of modules that is so."""
        if group.elastic is not None:
            group.elastic.reducers.append(weakref.ref(self))

    def _bind(self) -> None:
        """Take what depends on who the ranks are."""
        group, (bucket_bytes, overlap, shard, compression) = self.group, self._options
        no_gain = group.communicator.leaves_no_core() and shard != "gradients" and not on_gpu(self.module)
        self.overlap = not no_gain if overlap is None else overlap
        self.trivial = group.size == 1 and group.shards is None
        self.with_shards = group.shards is not None
        self.shards, self.ranges = group.shard_count, group.ranges
        self.owned = self.ranges[group.rank]
        self.zero = Zero(group, shard) if shard is not None and group.size > 1 else None
        self.spread = (
            ZeroFold(group, bucket_bytes, self.zero) if self.zero is not None and self.zero.gradients else None
        )
        """The fold, where gradients are spread over ranks (ZeRO-2)."""
        travels = None if self.trivial else compression
        self.compressed = CompressedFold(group, bucket_bytes, travels) if travels else None
        self.fold = self.spread or self.compressed or Fold(group, bucket_bytes, self.overlap)
        self._bound_to = group.communicator

    def plan(self) -> None:
        """Pack the module's trainable parameters and lay out buckets; again after a structural change."""
        self.names = {p: name for name, p in self.module.named_parameters()}
        stores = pack(p for p in self.names if p.requires_grad)
        take_over(stores, self.zero, self.names)
        if self.zero is not None:
            self.zero.attach(stores)
        self.parameters = [p for store in stores for p in store.parameters if p in self.names]
        for parameter in self.parameters:
            parameter._listener = self
        if not self.trivial:
            self.fold.lay_out(stores, self.names)
        self._layers = dict(self.module.named_modules())
        self._layouts = Layouts({module: name for name, module in self._layers.items()})
        self.group.meeting.expected |= name_layers(self.module)
        self._layout = self._layout_now()

    def _layout_now(self) -> tuple[Any, ...]:
        """Changes with any structural change: parameters replaced, added, unfrozen, moved to another dtype."""
        stamp, members, identities = self._members
        if stamp is not structure.stamp:
            members = list(self.module.parameters())
            identities = tuple(map(id, members))
            self._members = structure.stamp, members, identities
        return 0 if self.zero is None else self.zero.version, identities, where_packed(members)

    def follow_structure(self) -> None:
        """Plan anew if parameters were replaced, added, frozen or moved since, or if the ranks are others."""
        if self._bound_to is not self.group.communicator:
            self._bind()
            self._layout = ()
        if self._layout_now() != self._layout:
            try:
                self.plan()
            except CommunicatorError as error:
                if self.group.elastic is None:
                    raise
                self.group.elastic.recover(error)
            self._foreseeable = False  # a pass may have begun before the new layout was known

    def regroup(self) -> None:
        """The ranks are others: nothing is known any more of how steps go, on all of them alike."""
        self._passes_before = []
        self.end.regroup()
