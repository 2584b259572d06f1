"""A small training job in which one thing goes wrong: ``fault_script.py FAULT FOLDER [options]``; see test_fault_table.py.

The moment of the fault goes to the file ``fault`` of FOLDER (``time.monotonic`` seconds). ``--blind WHAT`` switches a single
detection off (:mod:`tests.ranks.blinds`). Whoever comes to the end prints the hash of the parameters.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import phalanx
from phalanx import nn, optim
from phalanx.data import DataLoader, TensorDataset
from phalanx.dist import control, env
from phalanx.dist.communicators import zeromq
from phalanx.dist.communicators.mpi import MpiCommunicator
from phalanx.dist.communicators.shared_memory import control_nbytes
from phalanx.dist.communicators.sockets import Outlet, Outside
from phalanx.dist.communicators.zeromq import ZeroMQCommunicator
from phalanx.dist.group import current
from phalanx.dist.messages import TEXT_NBYTES, Header
from phalanx.dist.reduction.shared import _PLACE, _TERM
from tests.ranks import blinds
from tests.ranks.across_hosts import Proxy

FAULTY_STEP = 3
SAMPLES, FEATURES, CLASSES = 96, 64, 10
DAMAGED_BYTE = 500_000  # within the gradients of the fourth step


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("fault")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--blind", default="nothing")
    parser.add_argument("--rank", type=int, default=1, help="the faulty one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds in each step")
    parser.add_argument("--hold", action="store_true", help="wait in the faulty step for the file 'go on'")
    parser.add_argument("--stall", type=float, default=20.0, help="seconds until the stall line")
    parser.add_argument("--silence", type=float, help="seconds that another host may acknowledge nothing")
    parser.add_argument("--width", type=int, default=512, help="of the hidden layer")
    parser.add_argument("--no-shared-memory", action="store_true")
    return parser.parse_args()


OPTIONS = arguments()


def now_goes_wrong() -> None:
    """Write down the time, whole or not at all."""
    draft = OPTIONS.folder / f"draft.{os.getpid()}"
    draft.write_text(str(time.monotonic()))
    draft.rename(OPTIONS.folder / "fault")


# -- what goes wrong: each is called by the faulty rank alone unless it says otherwise --------------------------------------


def killed() -> None:
    now_goes_wrong()
    os.kill(os.getpid(), signal.SIGKILL)


def stopped() -> None:
    now_goes_wrong()
    os.kill(os.getpid(), signal.SIGSTOP)


def raises() -> None:
    now_goes_wrong()
    raise ValueError("sample 17 cannot be read")


def exits() -> None:
    now_goes_wrong()
    sys.exit(0)


def other_operation() -> None:
    now_goes_wrong()
    current().communicator.barrier(name="before evaluation").wait()


def other_shape(faulty: bool) -> None:
    """All ranks."""
    now_goes_wrong()
    current().communicator.all_reduce(np.ones(3 + faulty, np.float32), name="metrics").wait()


def other_order(faulty: bool) -> None:
    """All ranks."""
    now_goes_wrong()
    names = ["accuracy", "loss"]
    for name in reversed(names) if faulty else names:
        current().communicator.all_reduce(np.ones(3, np.float32), name=name).wait()


def header_damaged() -> None:
    """One bit of the next message's header flips on its way."""
    before = Header.encode

    def encode(self: Header) -> bytes:
        Header.encode = before
        now_goes_wrong()
        data = bytearray(before(self))
        data[len(data) // 2] ^= 1
        return bytes(data)

    Header.encode = encode


def frame_damaged() -> None:
    """One bit of the token in the next frame flips: it is taken for a stranger's, and missed."""
    before = ZeroMQCommunicator._front

    def front(self: ZeroMQCommunicator, dest: int, text: bytes, payload: Any = b"") -> bytes:
        ZeroMQCommunicator._front = before
        now_goes_wrong()
        data = bytearray(before(self, dest, text, payload))
        data[3] ^= 1
        return bytes(data)

    ZeroMQCommunicator._front = front


def payload_damaged() -> None:
    """One bit of the next large payload flips on its way over MPI."""
    before = MpiCommunicator._isend

    def isend(self: MpiCommunicator, dest: int, data: Any, tag: int) -> None:
        if tag == self._tag + 1:
            MpiCommunicator._isend = before
            now_goes_wrong()
            data = bytearray(data)
            data[len(data) // 2] ^= 1
        before(self, dest, data, tag)

    MpiCommunicator._isend = isend


class Flip:
    """In place of the fence of shared memory: flips a bit between the writing of an area and the word that it is there."""

    def __init__(self, space: Any, offset: int, least: int, which: int) -> None:
        self.space, self.offset, self.least, self.which = space, offset, least, which
        self.before, space._fence = space._fence, self

    def __enter__(self) -> None:
        space = self.space
        if space._length(space.index, self.which) >= self.least and (OPTIONS.folder / "fault").exists() is False:
            now_goes_wrong()
            space._bytes[space._area(space.index, space._number) + self.offset] ^= 1
            space._fence = self.before

    def __exit__(self, *_: object) -> None:
        """Nothing was taken."""


def text_damaged() -> None:
    """One bit in what a rank says of the operation that it is in, in shared memory."""
    Flip(current().communicator.local, offset=12, least=13, which=0)


def note_damaged() -> None:
    """One bit in where a rank's gradients lie in shared memory: the sum would take other numbers, and no one would know."""
    whose = TEXT_NBYTES + _PLACE.size + 12  # the part of the block: this rank's becomes another's
    Flip(current().communicator.local, offset=whose, least=_PLACE.size + _TERM.size, which=1)


FAULTS: dict[str, Callable[[], None]] = {
    "killed": killed, "stopped": stopped, "raises": raises, "exits": exits, "other operation": other_operation,
    "header damaged": header_damaged, "frame damaged": frame_damaged, "text damaged": text_damaged,
    "note damaged": note_damaged, "payload damaged": payload_damaged,
}  # fmt: skip
OF_ALL: dict[str, Callable[[bool], None]] = {"other shape": other_shape, "other order": other_order}


class DamagingProxy(Proxy):
    """Says when it has done its damage."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_flip_at" and value is None:
            now_goes_wrong()
        super().__setattr__(name, value)


def behind_a_proxy(context: Any, address: str, outside: Outside | None, far: bool) -> Outlet:
    """What this rank sends to other hosts passes a proxy that flips one bit of it."""
    near, beyond, *keys = address.split()
    proxy = DamagingProxy(beyond, DAMAGED_BYTE)
    return Outlet(context, " ".join((near, f"tcp://127.0.0.1:{proxy.port}", *keys)), outside, far)


def before_all() -> None:
    """What goes wrong before the ranks meet."""
    if OPTIONS.silence is not None:
        control.SILENCE_S = OPTIONS.silence
    limits = {"no memory": 1 << 20, "little memory": control_nbytes(3) + 4096}
    if OPTIONS.fault in limits:
        now_goes_wrong()
        limit = limits[OPTIONS.fault]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if OPTIONS.fault == "bytes damaged" and os.environ[env.NAMES["rank"]] == str(OPTIONS.rank):
        zeromq.Outlet = behind_a_proxy  # type: ignore[assignment, misc]


# -- the job ---------------------------------------------------------------------------------------------------------------


def train() -> None:
    numbers = np.random.default_rng(OPTIONS.seed)
    x = numbers.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    data = TensorDataset(phalanx.tensor(x), phalanx.tensor(numbers.integers(0, CLASSES, SAMPLES)))
    loader = DataLoader(data, batch_size=12, shuffle=True)
    hidden, head = nn.Linear(FEATURES, OPTIONS.width), nn.Linear(OPTIONS.width, CLASSES)
    model = phalanx.DataParallel(nn.Sequential(hidden, nn.ReLU(), head))
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    faulty = phalanx.rank() == OPTIONS.rank
    for step in loader.steps():
        optimizer.zero_grad()
        for x, y in step:
            nn.functional.cross_entropy(model(x), y).backward()
        if step.index == FAULTY_STEP:
            (OPTIONS.folder / f"reached.{phalanx.rank()}").touch()
            if OPTIONS.fault == "returns" and faulty:
                now_goes_wrong()
                return
            if OPTIONS.fault in OF_ALL:
                OF_ALL[OPTIONS.fault](faulty)
            elif OPTIONS.fault in FAULTS and faulty:
                FAULTS[OPTIONS.fault]()
            while OPTIONS.hold and not (OPTIONS.folder / "go on").exists():
                time.sleep(0.02)
        time.sleep(OPTIONS.pause)
        optimizer.step()
        if step.index + 1 == OPTIONS.steps:
            break
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.array.tobytes())
    print(f"bits {digest.hexdigest()[:16]} on rank {phalanx.rank()}, {threading.active_count()} threads", flush=True)


def main() -> None:
    blinds.BLINDS[OPTIONS.blind]()
    before_all()
    more: dict[str, Any] = {"timeout_s": 3600.0} if OPTIONS.blind == "deadline" else {}
    phalanx.init(shards=6, seed=OPTIONS.seed, stall_s=OPTIONS.stall, shared_memory=not OPTIONS.no_shared_memory, **more)
    train()


if __name__ == "__main__":
    main()
