"""Detections switched off, one each: ``BLINDS[WHAT]()`` in a process of a job. The rows of the fault table must notice.

``python -m tests.ranks.blinds WHAT ...`` is ``phalanx ...`` with a launcher that is blind.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from phalanx.cli import main
from phalanx.dist import excepthook, messages
from phalanx.dist.communicators import base, mpi, shared_memory, zeromq
from phalanx.dist.communicators.peers import Peers
from phalanx.dist.control import LEFT, LOST, ControlMesh
from phalanx.dist.diagnosis import whereabouts
from phalanx.launch import run

ONE_NAME = "PHALANX_TEST_NAME"
"""The variable with the name that all jobs get from a launcher that is blind to names."""
BLINDS: dict[str, Callable[[], None]] = {"nothing": lambda: None, "deadline": lambda: None}  # the script's own argument


def blind(function: Callable[[], None]) -> Callable[[], None]:
    BLINDS[function.__name__] = function
    return function


def _deaf_to(state: str) -> None:
    became = ControlMesh._became

    def others(self: ControlMesh, peer: Any, new: str) -> None:
        if new != state:
            became(self, peer, new)

    ControlMesh._became = others  # type: ignore[method-assign]


@blind
def lost() -> None:
    """The end of a control connection is no news of a death."""
    _deaf_to(LOST)


@blind
def left() -> None:
    """Goodbyes are not heard."""
    _deaf_to(LEFT)
    Peers.control_message = lambda *_: None  # type: ignore[method-assign]


@blind
def kernel() -> None:
    """The kernel is not asked for the state of a process that does not answer."""
    whereabouts.kernel_says = lambda mesh, rank: ""


@blind
def excepthooks() -> None:
    """An uncaught error is Python's own affair."""
    excepthook.install = excepthook.attach = lambda *_, **__: None  # type: ignore[assignment]


@blind
def check() -> None:
    """What a message or a meeting says of its operation is not compared."""
    for module in (messages, base, zeromq, mpi):
        module.check = lambda expected, came, rank: None  # type: ignore[assignment]
    messages.Messages._differs = lambda *_: None  # type: ignore[method-assign]


@blind
def silence() -> None:
    """The kernel is not told to give up a host that acknowledges nothing."""
    del socket.TCP_USER_TIMEOUT


@blind
def reserved() -> None:
    """Memory that cannot be reserved is used all the same."""
    for name in ("ftruncate", "posix_fallocate"):
        setattr(os, name, _careless(getattr(os, name)))


def _careless(call: Callable[..., Any]) -> Callable[..., None]:
    def careless(*arguments: Any) -> None:
        with contextlib.suppress(OSError):
            call(*arguments)

    return careless


@blind
def checksum() -> None:
    """Whatever comes counts as what was sent."""
    messages.checksum = shared_memory.checksum = lambda *_: 0  # type: ignore[attr-defined]


@blind
def sums() -> None:
    """What a payload adds up to is not compared."""
    mpi.payload_sum = lambda data: 0  # type: ignore[assignment]


@blind
def counts() -> None:
    """Messages that are missing are not missed."""
    form = zeromq._PREFIX

    class Equal:
        """Whatever it is compared with."""

        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

    class Blind:
        size, pack = form.size, form.pack

        def unpack_from(self, data: Any) -> Any:
            return (*form.unpack_from(data)[:-1], Equal())

    zeromq._PREFIX = Blind()  # type: ignore[assignment]


@blind
def curve() -> None:
    """Nothing is encrypted or authenticated between hosts."""
    from zmq.sugar.attrsettr import AttributeSetter

    before = AttributeSetter.__setattr__

    def plain(self: Any, name: str, value: Any) -> None:
        if not name.startswith("curve_"):
            before(self, name, value)

    AttributeSetter.__setattr__ = plain
    zeromq.can_seal = lambda: False


@blind
def names() -> None:
    """The launcher: all jobs have the same name."""
    run.new_job_name = lambda: os.environ[ONE_NAME]


@blind
def space() -> None:
    """The launcher: nobody looks how much room /dev/shm has."""
    run.say_what_open_mpi_lacks = lambda *_: None


if __name__ == "__main__":
    BLINDS[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
