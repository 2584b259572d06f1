"""``phalanx run``: plan, start, watch, restart. What looks at the machine or touches it is called from here."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..dist import env
from ..dist.errors import LaunchError
from . import over_hosts
from .arguments import RunArguments
from .crew import Crew, Post
from .elastic import ElasticSupervisor, Recruits
from .hosts import Host, mark_of
from .jobs import Record, recorded
from .link import Link
from .local import listen, listen_at, start_mpirun, start_mpirun_over_hosts, start_ranks
from .logs import RankLogs
from .membership import Membership
from .mpirun import FOLDERS, Mpirun, find_mpirun, lacking_memory, over_ssh
from .output import Printer, Sink
from .plan import LaunchPlan, Machine, flight_folder, make_plan, names_flight_folder
from .process import Guardian, Job
from .records import FlightRecords
from .roster import Limits, Slot
from .supervise import HOST_LOST, Outcome, Signals, Supervisor

INTERRUPTED = 130
REQUEUE = 75
"""Exit code of an elastic job that ended for want of ranks, unless a scheduler names its own."""
FIRST_PAUSE_S = 0.5
"""Before the first restart; doubled for each further one."""
LONGEST_PAUSE_S = 30.0
MPIRUN_LEAVES_S = 1.5
"""What the guardian gives mpirun to remove its files before it kills the rest."""


def run(arguments: RunArguments) -> int:
    """Run the job to its end; the exit code is the first failure's. Raises LaunchError before anything is started.

    Main thread only: it catches signals, and the kernel ties ranks to the thread that started them.
    """
    check_script(arguments)
    machine = look_around()
    mpi = find_mpirun(machine.python, machine.environ) if arguments.mpi else None
    records = FlightRecords(keep=names_flight_folder(arguments, machine))
    with Signals() as signals:
        restart, left = 0, arguments.restarts
        while True:
            try:
                outcome = _attempt(arguments, machine, mpi, signals, restart, records, left)
            except over_hosts.HostsMissing as error:
                if not restart:
                    raise
                outcome = Outcome(HOST_LOST, str(error), lost=tuple(f"host {name}" for name in error.hosts))
            except over_hosts.Interrupted:
                outcome = Outcome(INTERRUPTED, asked=True)
            left -= outcome.replaced
            if outcome.code == 0 or outcome.asked or outcome.final or left <= 0:
                break
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**restart)
            restart, left = restart + 1, left - 1
            _say(f"{outcome.words}; restart {arguments.restarts - left} of {arguments.restarts} in {pause_s:g} s")
            if signals.wait(pause_s):
                break
            remaining = without_hosts(arguments, outcome.lost)
            if remaining is None:
                _say("no host remains: giving up")
                break
            arguments = remaining
    records.end(failed=outcome.code != 0 and not outcome.asked)
    return outcome.code


def without_hosts(arguments: RunArguments, lost: Collection[str]) -> RunArguments | None:
    """The same job on the hosts that remain, with fewer ranks where these have too few slots; None: none remains."""
    left = tuple(host for host in arguments.hosts if f"host {host.name}" not in lost)
    if len(left) == len(arguments.hosts):
        return arguments
    if not left:
        return None
    ranks = min(arguments.ranks, sum(host.slots for host in left))
    if arguments.elastic and ranks < arguments.bounds[0]:
        _say(f"{ranks} slots are left of at least {arguments.bounds[0]} ranks (--elastic {arguments.elastic})")
        return None
    tee = arguments.tee and tuple(rank for rank in arguments.tee if rank < ranks)
    _say(f"goes on with {ranks} rank{'s' * (ranks > 1)} on {', '.join(map(str, left))}")
    return replace(arguments, hosts=left, ranks=ranks, tee=tee)


def dry_run(arguments: RunArguments) -> LaunchPlan:
    """The plan alone."""
    check_script(arguments)
    machine = look_around()
    mpi = find_mpirun(machine.python, machine.environ) if arguments.mpi else None
    first = arguments.hosts[0].name if arguments.hosts else "127.0.0.1"
    return make_plan(arguments, machine, "JOB", arguments.rendezvous or f"{first}:PORT", mpi=mpi)


def check_script(arguments: RunArguments) -> None:
    """A script that is not there is one error, not one for each rank."""
    if not arguments.module and not os.path.exists(arguments.script):
        raise LaunchError(f"{arguments.script}: no such script (in {os.getcwd()})")


def look_around() -> Machine:
    """What the plan must know of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    terminal = sys.stdout is not None and sys.stdout.isatty()
    return Machine(
        python=sys.executable,
        cores=cores,
        environ=dict(os.environ),
        package_root=_package_root(),
        terminal=terminal,
        columns=shutil.get_terminal_size().columns,
        gpus=visible_gpus(os.environ),
        began_s=time.time(),
    )


def visible_gpus(environ: Mapping[str, str], folder: str = "/dev") -> tuple[str, ...]:
    """The NVIDIA GPUs that processes of this machine see; without a look at CUDA, which would take a second.

    >>> visible_gpus({"CUDA_VISIBLE_DEVICES": "4,5"})
    ('4', '5')
    """
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1"))
    numbers = (path.name.removeprefix("nvidia") for path in Path(folder).glob("nvidia[0-9]*"))
    return tuple(sorted((number for number in numbers if number.isdigit()), key=int))


def _package_root() -> str | None:
    """The folder of the checkout that runs, when the ranks' Python would look elsewhere."""
    root = Path(__file__).absolute().parents[2]
    if root.name in ("site-packages", "dist-packages"):
        return None
    return str(root)


def new_job_name() -> str:
    """A name that no other run has."""
    return f"{os.getpid():x}-{secrets.token_hex(16)}"


def _attempt(
    arguments: RunArguments,
    machine: Machine,
    mpi: Mpirun | None,
    signals: Signals,
    restart: int,
    records: FlightRecords,
    left: int,
) -> Outcome:
    name = arguments.key if arguments.nodes > 1 and arguments.key else new_job_name()
    records.begin(flight_folder(arguments, machine, name, restart))
    job = Job(mark=_mark(arguments, name))
    job.logs = RankLogs(arguments.logs, restart) if arguments.logs else None
    printers = _printers(arguments, machine)
    with contextlib.ExitStack() as stack:
        stack.callback(job.close)
        folders = _own_folders(arguments, mpi)
        guardian = Guardian(job.mark, MPIRUN_LEAVES_S if mpi else 0.0, list(folders.values()))
        stack.callback(guardian.close)
        record = _record(arguments, machine, name, stack)
        if mpi is not None:
            say_what_open_mpi_lacks(arguments.ranks, folders)
            plan = make_plan(arguments, machine, name, restart=restart, mpi=mpi)
            if arguments.hosts:
                wrapper = stack.enter_context(_ssh_wrapper(arguments.ssh))
                python = arguments.python or machine.python
                start_mpirun_over_hosts(plan, job, python, over_ssh(mpi, wrapper))
            else:
                start_mpirun(plan, job, folders)
        elif arguments.hosts:
            plan = _start_over_hosts(arguments, machine, name, restart, job, signals, stack)
        elif arguments.nodes > 1:
            plan = _start_node(arguments, machine, name, restart, job)
        else:
            with listen() as listening:
                address = f"127.0.0.1:{listening.getsockname()[1]}"
                plan = make_plan(arguments, machine, name, address, listening.fileno(), restart)
                start_ranks(plan, job)
        watch = (job, printers, signals, arguments.grace_s)
        supervisor = (
            _elastic(arguments, machine, name, plan, watch, left, record, stack)
            if arguments.elastic
            else Supervisor(*watch)
        )
        stack.callback(supervisor.drain)
        return supervisor.run()


def _elastic(
    arguments: RunArguments,
    machine: Machine,
    name: str,
    plan: LaunchPlan,
    watch: tuple[Job, tuple[Printer, Printer], Signals, float],
    left: int,
    record: Record,
    stack: contextlib.ExitStack,
) -> ElasticSupervisor:
    """What watches an elastic job, and can be asked for more ranks; ``left``: how many lost ones may be replaced."""
    least, most = arguments.bounds
    code = env.stop_code(machine.environ)
    limits = Limits(least, most, arguments.elastic_wait_s, code or REQUEUE, code)
    job = watch[0]
    links = {link.host.name: link for link in job.relays if isinstance(link, Link)}
    posts = [Post(host, node, links.get(host.name)) for node, host in enumerate(arguments.hosts)]
    posts = posts or [Post(Host("localhost", most), 0)]
    nodes = {post.host.name: post.node for post in posts}
    membership = Membership(
        limits, [Slot(rank.rank, rank.host, nodes[rank.host]) for rank in plan.ranks], not arguments.hosts
    )
    crew = Crew(plan, job, posts)
    stack.callback(crew.close)
    recruits = Recruits(left, {**machine.environ, env.NAMES["job"]: name}, record.add_host)
    supervisor = ElasticSupervisor(*watch, membership, crew, recruits)
    record.open(supervisor.door.address, supervisor.door.key)
    return supervisor


def _record(arguments: RunArguments, machine: Machine, name: str, stack: contextlib.ExitStack) -> Record:
    """Word for ``phalanx ps`` while ``stack`` is open; ordinary jobs of one machine are found by their processes."""
    mark = mark_of(name)
    remote = over_hosts.remote_of(arguments, machine, mark) if arguments.hosts else None
    record = Record(mark, shlex.join([arguments.script, *arguments.arguments]), _hosts(arguments), remote)
    return stack.enter_context(recorded(record)) if arguments.hosts or arguments.elastic else record


def _hosts(arguments: RunArguments) -> tuple[Host, ...]:
    """Those that are reached: an elastic job's others are there for new ranks."""
    return arguments.hosts if arguments.elastic else over_hosts.used(arguments.hosts, arguments.ranks)


@contextlib.contextmanager
def _ssh_wrapper(ssh: Sequence[str]) -> Iterator[str]:
    """mpirun's libraries split a command each in its own way: a file that is one word."""
    with tempfile.TemporaryDirectory(prefix="phalanx-ssh-") as folder:
        wrapper = Path(folder, "ssh")
        wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(ssh)} "$@"\n')
        wrapper.chmod(0o700)
        yield str(wrapper)


def _mark(arguments: RunArguments, name: str) -> str:
    """What tells the processes that this launcher must end from all others."""
    if arguments.nodes > 1:  # other launchers have the same job
        return f"{env.AGENT}={mark_of(name)}.{arguments.node_rank}"
    return f"{env.NAMES['job']}={name}"


def _start_over_hosts(
    arguments: RunArguments,
    machine: Machine,
    name: str,
    restart: int,
    job: Job,
    signals: Signals,
    stack: contextlib.ExitStack,
) -> LaunchPlan:
    """Agents on all hosts, and by them the ranks; ``stack`` ends what was begun."""
    hosts = _hosts(arguments)
    remote = over_hosts.remote_of(arguments, machine, mark_of(name))
    environ = {**machine.environ, env.NAMES["job"]: name}
    links = over_hosts.connect(hosts, remote, environ, signals, lambda link: stack.callback(link.close))
    place = over_hosts.meet(links, signals)
    over_hosts.say_hosts(links, place)
    known = replace(arguments, hosts=over_hosts.with_cores(hosts, links))
    plan = make_plan(known, machine, name, place, None, restart)
    over_hosts.start(plan, links, job, arguments.elastic is not None)
    return plan


def _start_node(arguments: RunArguments, machine: Machine, name: str, restart: int, job: Job) -> LaunchPlan:
    """This host's share of a job whose other hosts have launchers of their own."""
    assert arguments.rendezvous is not None
    with contextlib.ExitStack() as stack:
        descriptor = None
        if arguments.node_rank == 0:
            descriptor = stack.enter_context(listen_at(arguments.rendezvous)).fileno()
        plan = make_plan(arguments, machine, name, arguments.rendezvous, descriptor, restart)
        start_ranks(plan, job)
    return plan


def _own_folders(arguments: RunArguments, mpi: Mpirun | None) -> dict[str, str]:
    """Folders for what mpirun and its ranks leave when they are killed; the guardian removes them."""
    if arguments.hosts or mpi is None or mpi.kind != "Open MPI":
        return {}  # on other hosts they are not there
    return {
        name: tempfile.mkdtemp(prefix="phalanx-", dir=parent or None)
        for name, parent in FOLDERS.items()
        if not parent or os.access(parent, os.W_OK)
    }


def say_what_open_mpi_lacks(ranks: int, folders: Mapping[str, str]) -> None:
    """Its own warning says neither what is meant nor what helps; the sums are the same."""
    for parent in {os.path.dirname(folder) for name, folder in folders.items() if FOLDERS[name]}:
        status = os.statvfs(parent)
        words = lacking_memory(ranks, status.f_bavail * status.f_frsize, parent)
        if words:
            _say(words)


def _printers(arguments: RunArguments, machine: Machine) -> tuple[Printer, Printer]:
    sys.stdout.flush()
    sys.stderr.flush()
    prefix = arguments.prefix and (arguments.ranks > 1 or arguments.elastic is not None)
    colour = not machine.environ.get("NO_COLOR")
    stdout, stderr = Sink(1), Sink(2)
    return (
        Printer(stdout, arguments.ranks, prefix, colour and stdout.terminal, arguments.tee),
        Printer(stderr, arguments.ranks, prefix, colour and stderr.terminal, arguments.tee, stderr=True),
    )


def _say(text: str) -> None:
    print(f"phalanx run: {text}", file=sys.stderr, flush=True)
