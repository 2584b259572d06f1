"""Watch which ops run on which arrays: for exporters.

The hot path of ``graph.apply`` pays nothing for it: while somebody watches, the forwards in the op table are exchanged for
ones that tell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .backend import as_array
from .bfloat16 import renew
from .errors import GraphError
from .op import TABLE, Array, Op

See = Callable[[Op, tuple[Any, ...], Mapping[str, Any], tuple[Array, ...]], None]
_watching = threading.Lock()


@contextmanager
def watched(see: See) -> Iterator[None]:
    """Within the block ``see(op, inputs, attributes, outputs)`` hears of each op that this thread ran.

    The arrays are the very objects that tensors hold, so that who made what can be told by identity while they live.
    Raises GraphError if another watch is on.
    """
    if not _watching.acquire(blocking=False):
        raise GraphError("ops are watched already: one export at a time")
    forwards = {op: op.forward for op in TABLE.values()}
    thread = threading.get_ident()
    try:
        for op, forward in forwards.items():
            object.__setattr__(op, "forward", _telling(op, forward, see, thread))
        yield
    finally:
        for op, forward in forwards.items():
            object.__setattr__(op, "forward", forward)
        renew()
        _watching.release()


def _telling(op: Op, forward: Callable[..., Any], see: See, thread: int) -> Callable[..., Any]:
    def told(*inputs: Any, **attributes: Any) -> Any:
        output, saved = forward(*inputs, **attributes)
        if threading.get_ident() != thread:
            return output, saved
        if isinstance(output, tuple):
            output = tuple(as_array(array) for array in output)
            see(op, inputs, attributes, output)
        else:
            output = as_array(output)
            see(op, inputs, attributes, (output,))
        return output, saved

    return told
