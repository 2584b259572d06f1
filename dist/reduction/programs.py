"""The collectives in the form that suits where the ranks are: on one host, on several, or without shared memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .tree import Node

if TYPE_CHECKING:
    from ..messages import Messages
    from .expression import Term


class Programs(Protocol):
    """What each of the modules ``over_wire``, ``shared`` and ``between_hosts`` holds."""

    def all_reduce(self, messages: Messages, array: np.ndarray) -> np.ndarray: ...
    def reduce_scatter(self, messages: Messages, array: np.ndarray) -> np.ndarray: ...
    def all_gather(self, messages: Messages, array: np.ndarray, out: np.ndarray) -> np.ndarray: ...
    def broadcast(self, messages: Messages, array: np.ndarray, root: int) -> np.ndarray: ...
    def all_gather_bytes(self, messages: Messages, data: bytes) -> list[bytes]: ...
    def all_gather_object(self, messages: Messages, data: bytes) -> list[Any]: ...
    def broadcast_object(self, messages: Messages, data: bytes, root: int) -> Any: ...
    def barrier(self, messages: Messages) -> None: ...
    def all_gather_slices(self, messages: Messages, array: np.ndarray, cut: Sequence[tuple[int, int]]) -> None: ...
    def tree_all_reduce(
        self,
        messages: Messages,
        terms: Mapping[Node, Term | None],
        ranges: Sequence[tuple[int, int]],
        shards: int,
        out: np.ndarray,
        cut: Sequence[tuple[int, int]] | None = None,
        gather: bool = True,
    ) -> bool: ...
