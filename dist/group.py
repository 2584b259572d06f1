"""``phalanx.init()``: from what the launcher left in the environment to a communicator; the job as this rank sees it."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

from ..core import own_gpu, rng
from ..core.amp import precision
from ..core.collective import provide
from ..core.data.placement import Placement, set_placement
from ..core.data.scope import at_boundaries
from ..core.errors import RangeError
from ..core.faults import set_position
from ..core.kernels.table import choose as choose_kernels
from ..core.rank_local import of_rank
from . import elastic, env, excepthook, interrupt, processor, stop_signals
from .communicators.alone import AloneCommunicator
from .communicators.base import DEFAULT_TIMEOUT_S, Communicator
from .communicators.mpi import MpiCommunicator
from .communicators.threads import current_communicator
from .communicators.zeromq import ZeroMQCommunicator
from .diagnosis.clocks import clock_offset
from .diagnosis.watch import STALL_S
from .errors import CommunicatorError, LaunchError
from .leftovers import sweep
from .lifeline import die_with_parent
from .meeting import Meeting
from .reduction.tree import owned_range
from .shard_state import NO_VOTES, Keeps, ShardState, Votes, encode


@dataclass(eq=False)
class Group:
    """The ranks of this job. One per rank; :func:`current` gives it."""

    communicator: Communicator
    control: Communicator
    """Agreement, checkpoints, ledgers: never the channel of the gradients."""
    shards: int | None = None
    seed: int = 0
    local_rank: int = 0
    local_size: int = 1
    source: str = "no launcher"
    fingerprint: dict[str, Any] = field(default_factory=dict)
    stop_requested: str | None = None
    """The word of a signal, agreed by all ranks at the end of a step; None until then."""
    stop_heard: str | None = None
    """The word of a signal that reached this rank; its vote at the end of the next step."""
    votes: set[str] = field(default_factory=set)
    """What this rank votes for at the end of the next step (``phalanx.vote``)."""
    agreed: frozenset[str] = frozenset()
    """What any rank had voted for at the end of the last step."""
    notes: list[str] = field(default_factory=list)
    noted: tuple[str, ...] = ()
    """What this rank tells all others with the next step, and what all have told with the last one."""
    steps_committed: int = 0
    """Optimizer steps of any DataParallel that all ranks agreed on."""

    meeting: Meeting = field(init=False)
    """Where shards meet inside of their forward and backward."""
    last_commit: tuple[int, ShardState | Keeps | None, Votes] | None = None
    """The number of the last committed step and what was agreed on in it."""
    elastic: elastic.Elastic | None = None
    """In a job whose ranks may come and go: how this one keeps up."""
    _waiting_as: tuple[int, int] | None = None
    """Rank and size of a newcomer before it has joined: it is alone, but not the only one."""
    _settled: bool = False

    def __post_init__(self) -> None:
        self.meeting = Meeting(self)
        self.control.keeps_to_host = True

    @property
    def rank(self) -> int:
        return self.communicator.rank if self._waiting_as is None else self._waiting_as[0]

    @property
    def size(self) -> int:
        return self.communicator.size if self._waiting_as is None else self._waiting_as[1]

    @property
    def backend(self) -> str:
        return self.communicator.backend

    @property
    def shard_count(self) -> int:
        """V: the number of shards of a global batch; the number of ranks in the fast mode."""
        return self.size if self.shards is None else self.shards

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The shards [lo, hi) that each rank owns."""
        return [owned_range(r, self.size, self.shard_count) for r in range(self.size)]

    def listen_for_stop(self) -> None:
        """From now on SIGTERM and SIGUSR1 ask for an agreed stop instead of ending this process.

        For whoever then acts on ``stop_requested`` (the Checkpointer). A second signal ends the process at once. Where
        ranks are threads the main thread gets the signals: whoever started them calls :func:`.stop_signals.pass_on` there.
        """
        stop_signals.listen(self)

    def take_place(self, communicator: Communicator, control: Communicator, local_rank: int, local_size: int) -> None:
        """From now on these are the ranks, and this is one of them."""
        self.communicator, self.control = communicator, control
        self.local_rank, self.local_size = local_rank, local_size
        self._waiting_as, self._settled = None, False
        control.keeps_to_host = True
        if self.size > 1:
            _prepare_diagnosis(self, communicator.stall_s)

    def likeness(self) -> dict[str, Any]:
        """What must be equal on all ranks, or the bits (or even the number of messages) would differ."""
        return {"shards": self.shards, "seed": self.seed, "kernels": "reference", **self.fingerprint}

    def after_loss(self, error: CommunicatorError, number: int) -> bytes | None:
        """In the commit of step ``number``: what commits it, if any survivor has it."""
        return self.settle(number, None) if self.elastic is None else self.elastic.recover(error, number)

    @property
    def held(self) -> tuple[int, bytes]:
        """The number of the last committed step and the message that commits it, for survivors that did not get it."""
        if self.last_commit is None:
            return 0, b""
        number, state, votes = self.last_commit
        if not (state is None or isinstance(state, ShardState)):
            state = state.state(number)
        return number, encode([state], votes)

    def settle(self, number: int, payload: bytes | None) -> bytes | None:
        """After a rank was lost: what commits step ``number`` if any survivor has it. Every survivor calls once."""
        resolve = getattr(self.communicator, "resolve", None)
        if self._settled or resolve is None:
            return None
        self._settled = True
        return resolve(number, payload)

    def last_words(self, error: BaseException) -> str:
        """Before this rank ends with ``error``: help the others to agree, and say where it stands."""
        if isinstance(error, CommunicatorError) and not self._settled and self.elastic is None:
            self.settle(*self.held)
        return f"rank {self.rank} of {self.size}: last completed step {self.steps_committed}"

    def ballot(self, again: bool = False) -> Votes:
        """What this rank votes for at the end of a step."""
        votes = self.votes if self.elastic is None else self.votes | self.elastic.votes()
        if not (again or votes or self.notes or self.stop_heard):
            return NO_VOTES
        return Votes(self.stop_heard, again, frozenset(votes), tuple(self.notes))

    def agree(self, joined: Votes) -> None:
        """Called at each commit with the joined votes of all ranks."""
        self.stop_requested = self.stop_requested or joined.stop
        self.agreed, self.noted = joined.named, joined.notes
        self.votes.clear()
        if self.elastic is not None:
            self.elastic.agreed(joined.named)


class _Local(threading.local):
    group: Group | None = None


_local = of_rank(_Local())
provide(lambda: None if _local.group is None else _local.group.meeting)


def init(
    *,
    shards: int | None = None,
    seed: int | None = None,
    backend: str | None = None,
    timeout_s: float | None = None,
    stall_s: float = STALL_S,
    shared_memory: bool = True,
    kernels: str | None = None,
) -> Group:
    """Find the other ranks and set up this one. Call it first, on every rank, with equal arguments.

    The environment tells which ranks there are (Open MPI, MPICH, Slurm, ``phalanx run``, torchrun's names); without any it
    is a single process.

    Args:
        shards: V, the number of pieces that each global batch is cut into. With it the trained bits do not depend on the
            number of ranks, the wire, or on kills and resumes; library threads are fixed at one. None is the fast mode: as
            many shards as ranks.
        seed: every random number of the job follows from it. None: what ``manual_seed`` set on every rank, 0 at first.
        backend: ``"mpi"`` or ``"zmq"`` instead of what the launcher implies.
        timeout_s: deadline of each operation between ranks, in seconds (default 600, or ``PHALANX_TIMEOUT_S``).
        shared_memory: let ranks of one host sum gradients in memory that they share; the bits are the same without.
        kernels: ``"reference"`` or ``"fast"``, as ``phalanx.kernels.choose``; None: what was chosen before.
        stall_s: after so many seconds in which nothing came, one line says who is missing and where that rank stands.

    Raises LaunchError when the environment contradicts itself or the ranks differ in processor or libraries.

    >>> import phalanx
    >>> phalanx.init(seed=1).size
    1
    """
    if shards is not None and (not isinstance(shards, int) or isinstance(shards, bool) or shards < 1):
        raise RangeError(f"init expects shards to be None or an integer of at least 1, got {shards!r}")
    if backend not in (None, *env.BACKENDS):
        raise RangeError(f"init expects backend to be None or one of {', '.join(env.BACKENDS)}, got {backend!r}")
    if timeout_s is not None and not timeout_s > 0:
        raise RangeError(f"init expects timeout_s to be None or a number of seconds above 0, got {timeout_s!r}")
    if not stall_s > 0:
        raise RangeError(f"init expects stall_s to be a number of seconds above 0, got {stall_s!r}")
    previous = _local.group
    if previous is not None and previous.size > 1:
        raise LaunchError(f"rank {previous.rank} of {previous.size}: phalanx.init() was called twice")
    shutdown()
    if kernels is not None:
        choose_kernels(kernels)
    group = _connect(backend, timeout_s, shared_memory)
    rng.manual_seed(rng.initial_seed() if seed is None else seed)
    group.shards, group.seed = shards, rng.initial_seed()
    set_placement(Placement(group.rank, group.size, shards))
    precision.promise(shards is not None)
    if shards is not None:
        processor.fix_threads(1)
    elif group.local_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        # ranks of one host that each start a thread for every core slow each other down by a factor of two and more
        processor.fix_threads(max(1, (os.cpu_count() or 1) // group.local_size))
    group.fingerprint = processor.fingerprint()
    _local.group = group
    if group.communicator.size > 1:
        _prepare_diagnosis(group, stall_s)
        _agree(group)
        _say(group)
    group.elastic = elastic.of_environment(group, stall_s, timeout_s, shared_memory)
    return group


def set_num_threads(count: int) -> None:
    """Let matrix products and kernels of this rank use ``count`` threads from now on.

    Without it: what ``OMP_NUM_THREADS`` says, or all cores, shared out among the ranks of a host. With ``shards`` it is one, because
    sums change with the number of threads. Raises RangeError for another number then, and for one below 1.

    >>> phalanx.set_num_threads(1)
    >>> phalanx.get_num_threads()
    1
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise RangeError(f"set_num_threads expects an integer of at least 1, got {count!r}")
    group = _local.group
    if group is not None and group.shards is not None and count != 1:
        raise RangeError(
            f"set_num_threads: with shards={group.shards} it is one thread, which equal bits need; got {count}"
        )
    processor.fix_threads(count)


def get_num_threads() -> int:
    """How many threads matrix products and kernels of this rank use.

    >>> phalanx.set_num_threads(1)
    >>> phalanx.get_num_threads()
    1
    """
    return processor.count_threads()


def _connect(backend: str | None, timeout_s: float | None, shared_memory: bool) -> Group:
    threads = current_communicator()
    if threads is not None:
        if timeout_s is not None:
            threads.timeout_s = timeout_s
        own_gpu.assign(threads.rank)
        return Group(threads, threads.split(0), local_rank=threads.rank, local_size=threads.size, source="threads")
    found = env.read(os.environ)
    if found is not None:
        set_position(found.rank, -1, found.restart)
        own_gpu.assign(found.local_rank)
    if found is None or found.size == 1 or env.is_newcomer(os.environ):
        alone = AloneCommunicator()
        group = Group(alone, alone)
        if found is not None and found.size > 1:
            group._waiting_as, group.local_rank = (found.rank, found.size), found.local_rank
        return group
    interrupt.answer()
    excepthook.install(found.rank, found.size)
    die_with_parent()
    deadline = timeout_s or found.timeout_s or DEFAULT_TIMEOUT_S
    if (backend or found.backend) == "mpi":
        communicator: Communicator = MpiCommunicator.from_world(timeout_s=deadline)
        if found.local_rank == 0:  # what killed jobs left in shared memory
            threading.Thread(target=sweep, name="phalanx-sweep", daemon=True).start()
    else:
        silence_s = elastic.SILENCE_S if env.elastic_range(os.environ) else 0.0
        communicator = ZeroMQCommunicator.connect(found, timeout_s=deadline, silence_s=silence_s)
    excepthook.attach(communicator)
    control = communicator.split(0)
    if shared_memory and communicator.share_memory():  # where it cannot be, one line says so
        control.share_memory()
    group = Group(
        communicator,
        control,
        local_rank=found.local_rank,
        local_size=found.local_size,
        source=found.source,
    )
    excepthook.attach(communicator, group.last_words)
    atexit.register(shutdown)
    return group


def _prepare_diagnosis(group: Group, stall_s: float) -> None:
    """What stall lines and flight records need to know."""
    group.control.flight.group = "control"
    offset_s = 0.0 if group.local_size == group.size else clock_offset(group.control)
    for communicator in (group.communicator, group.control):
        communicator.stall_s, communicator.flight.clock_offset_s = stall_s, offset_s


def _agree(group: Group) -> None:
    """Arguments and processors must be equal."""
    mine = group.likeness()
    rows = group.control.all_gather_object(mine, name="init").wait()
    for rank, row in enumerate(rows):
        differing = [key for key in mine if row.get(key) != rows[0].get(key)]
        if differing:
            shown = "; ".join(
                f"{key}: {rows[0].get(key)!r} on rank 0, {row.get(key)!r} on rank {rank}" for key in differing
            )
            raise LaunchError(
                f"rank {rank} differs from rank 0: {shown}. All ranks must call phalanx.init() with the same arguments and "
                "run on processors and libraries of one kind, or the sums would not be the same everywhere."
            )


def _say(group: Group) -> None:
    if group.rank == 0:
        memory = "" if group.communicator.local is None else " and shared memory"
        mode = "fast mode" if group.shards is None else f"shards={group.shards}"
        text = f"phalanx: {group.size} ranks from {group.source}, over {group.backend}{memory}, {mode}"
        print(text, file=sys.stderr, flush=True)


def current() -> Group:
    """The group of this rank; made from the environment when ``init()`` was not called."""
    if _local.group is None:
        with rng.untouched():
            return init()
    return _local.group


def joined() -> Group | None:
    """The group of this rank; None before :func:`init`."""
    return _local.group


def shutdown() -> None:
    """Leave the job in order: finish what runs and say goodbye to the other ranks. Called at exit by itself.

    >>> phalanx.shutdown()
    """
    group, _local.group = _local.group, None
    set_placement(Placement())
    at_boundaries(None)
    precision.promise(False)
    if group is not None:
        stop_signals.forget(group)
        if group.control is not group.communicator:
            group.control.close()
        group.communicator.close()


def rank() -> int:
    """This process's number among all ranks, from 0.

    >>> phalanx.rank()
    0
    """
    return current().rank


def size() -> int:
    """How many ranks train together.

    >>> phalanx.size()
    1
    """
    return current().size
