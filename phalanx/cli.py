"""The command line: arguments to calls, nothing else."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from . import __version__
from .ckpt.arguments import add_parser as add_checkpoints
from .core.errors import PhalanxError
from .dist.errors import LaunchError
from .k8s_command import add_k8s
from .launch.arguments import SSH, RunArguments
from .launch.jobs import join_job, print_jobs, stop_job
from .launch.logs import parse_ranks
from .launch.options import default_ranks, given_hosts, read_key
from .launch.run import check_script, dry_run, run
from .slurm_command import add_slurm
from .tune_arguments import add_tune

USAGE_ERROR = 2
INTERRUPTED = 130
READER_GONE = 141
"""As of a command that SIGPIPE ended."""


class _Parser(argparse.ArgumentParser):
    """One line for an error, not the whole usage; options only by their whole names."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``phalanx`` and ``python -m phalanx``; returns the exit code."""
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        called = f"phalanx {options.name}" if "name" in options else "phalanx"
        return _refuse(called, f"unknown option {unknown[0]} (see {called} --help)")
    if "call" not in options:
        _parser().print_help()
        return USAGE_ERROR
    try:
        code: int = options.call(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read has seen enough: phalanx ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return READER_GONE
    except PhalanxError as error:
        return _refuse(f"phalanx {options.name}", str(error))
    except KeyboardInterrupt:
        return INTERRUPTED


def _refuse(called: str, words: str) -> int:
    print(f"{called}: {words}", file=sys.stderr)
    return USAGE_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="phalanx", description="Data-parallel training whose bits do not depend on the number of ranks."
    )
    parser.add_argument("--version", action="version", version=f"phalanx {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_run(commands)
    _add_jobs(commands)
    ops = commands.add_parser("ops", help="list the ops, layers, losses and optimizers, or check them")
    ops.add_argument("--check", action="store_true", help="against float64 differences and PyTorch; 1 when one is off")
    ops.add_argument("entries", nargs="*", metavar="NAME", help="with --check: only these")
    ops.set_defaults(call=_ops, name="ops")
    add_checkpoints(commands)
    _add_predict(commands)
    _add_diagnosis(commands)
    _add_doctor(commands)
    _add_bench(commands)
    _add_warmup(commands)
    add_tune(commands)
    add_slurm(commands)
    add_k8s(commands)
    return parser


def _add_diagnosis(commands: Any) -> None:
    flight = commands.add_parser("flight", help="tell from the flight records what each rank did before a job failed")
    flight.add_argument("folder", metavar="DIR", help="the folder that phalanx run named, or PHALANX_FLIGHT")
    flight.add_argument("--trace", metavar="FILE", help="write a trace for Perfetto or chrome://tracing, too")
    flight.set_defaults(call=_flight, name="flight")
    diverge = commands.add_parser("diverge", help="say where two run ledgers differ first: step, part, tensor")
    diverge.add_argument("first", metavar="A", help="ledger of the one run")
    diverge.add_argument("second", metavar="B", help="ledger of the other")
    diverge.set_defaults(call=_diverge, name="diverge")


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="start a script on several ranks",
        description="Start a script on N ranks of this machine; end with the first failure's exit code.",
        usage="phalanx run [options] script [arguments ...]",
    )
    add = parser.add_argument
    add("-n", "--ranks", type=int, metavar="N", help="number of ranks (default 1; with hosts: all their slots)")
    add("-m", "--module", action="store_true", help="the script is a module's name, as in python -m")
    add("--mpi", action="store_true", help="start the ranks by mpirun and use MPI (default: ZeroMQ on loopback)")
    add("--threads", action="store_true", help="ranks are threads of one process (tests, teaching)")
    add("--restarts", type=int, default=0, metavar="K", help="start anew up to K times after a failure (default 0)")
    add(
        "--elastic",
        metavar="MIN:MAX",
        help="go on with the ranks that are left when one is lost, and let new ones join",
    )
    wait = "with --elastic: how long fewer than MIN ranks wait for more (default 120)"
    add("--elastic-wait", type=float, default=120.0, metavar="S", help=wait)
    add("--timeout", type=float, metavar="S", help="deadline of a collective in seconds")
    add("--grace", type=float, default=30.0, metavar="S", help="seconds to save and leave after SIGTERM (default 30)")
    add("--flight", metavar="DIR", help="folder for each rank's last operations if the job fails (default: a new one)")
    add("--check-replicas", type=int, metavar="N", help="compare all ranks' parameters and state every N steps")
    add("--profile", metavar="FILE", help="write a trace of ops, messages and waiting, and print what takes longest")
    add("--dry-run", action="store_true", help="print rank, host, environment and command, and start nothing")
    add("--no-prefix", action="store_true", help="print the ranks' lines as they are")
    add("--logs", metavar="DIR", help="write each rank's whole output to DIR/rank-K.log")
    words = (
        "print all lines of these ranks, for example 0,4-6 or all; of the others only those from WARNING on (default 0)"
    )
    add("--tee", metavar="RANKS", default="0", help=words)
    add("--bind", action="store_true", help="give each rank an equal share of its host's cores for itself")
    _add_hosts(parser)
    add("script", help="path of the script")
    add("arguments", nargs=argparse.REMAINDER, help="what the script gets").required = False
    parser.set_defaults(call=_run, name="run")


def _add_jobs(commands: Any) -> None:
    ps = commands.add_parser("ps", help="list the jobs that were started here, with what is left of them on all hosts")
    ps.set_defaults(call=lambda _: print_jobs(), name="ps")
    join = commands.add_parser(
        "join",
        help="add ranks to an elastic job that runs",
        description="Start more ranks for a job of phalanx run --elastic, up to its MAX; they join between two steps.",
    )
    join.add_argument("job", metavar="JOB", help="its name, or the beginning of it, as phalanx ps lists it")
    join.add_argument("-n", "--ranks", type=int, metavar="K", help="how many (default 1; with a host: all its slots)")
    join.add_argument(
        "--hosts", metavar="HOST:SLOTS", help="on this host, which may be new (default: where slots are free)"
    )
    join.set_defaults(call=lambda options: join_job(options.job, options.ranks, options.hosts), name="join")
    stop = commands.add_parser(
        "stop", help="end a job on all its hosts: it may save and leave, then what is left is killed"
    )
    stop.add_argument("job", metavar="JOB", help="its name, or the beginning of it, as phalanx ps lists it")
    stop.add_argument("--grace", type=float, default=30.0, metavar="S", help="seconds to save and leave (default 30)")
    stop.set_defaults(call=lambda options: stop_job(options.job, options.grace), name="stop")


def _add_hosts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "several hosts",
        "By ssh from this machine (--hosts or --hostfile), or by one command on each host (--nodes). The same Python with "
        "the same version of phalanx is expected at the same path, and the current folder with the script in it.",
    )
    add = group.add_argument
    add("--hosts", metavar="LIST", help="hosts and how many ranks each may take: a:4,b:4")
    add(
        "--hostfile",
        metavar="FILE",
        help="the same from a file: lines like 'a slots=4', 'a:4', or a name for each slot",
    )
    add(
        "--ssh",
        metavar="COMMAND",
        help="what runs a command on a host, the host's name and the command follow (default: ssh)",
    )
    add("--python", metavar="PATH", help="Python on the hosts (default: this one's path)")
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="a variable that the ranks get, too; may be repeated",
    )
    add(
        "--nodes",
        type=int,
        default=1,
        metavar="M",
        help="number of hosts that run this command, each with its own --node-rank",
    )
    add("--node-rank", type=int, default=0, metavar="K", help="number of this host, 0 to M - 1")
    add("--rendezvous", metavar="HOST:PORT", help="with --nodes: where rank 0 listens, on node 0")
    add(
        "--key",
        metavar="FILE",
        help="with --nodes: file with the job's secret, the same on each (default: $PHALANX_JOB)",
    )


def _add_predict(commands: Any) -> None:
    parser = commands.add_parser(
        "predict",
        help="give a saved model's outputs for the samples of a file",
        description="Give the outputs of a model that phalanx.save_model wrote for each sample of a file, in order. On several "
        "ranks (phalanx run --no-prefix -n 4 -m phalanx predict ...) these share the samples; the bits are the same.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="the folder that phalanx.save_model wrote")
    add("input", metavar="INPUT", help=".npy, .npz, .csv or .tsv, an image, or a folder of images")
    add("--output", metavar="FILE", help=".npy, .npz or .csv (default: lines of numbers on stdout)")
    add("--batch-size", type=int, default=256, metavar="N", help="samples computed at a time (default 256)")
    add("--checkpoint", metavar="DIR", help="take the weights of this checkpoint, or of the newest one in this folder")
    add("--code", metavar="FILE", help="a file of Python that defines the model's classes; it is run")
    add("--array", metavar="NAME", help="which array of an .npz file is the input")
    add("--argmax", action="store_true", help="give the number of the largest output instead of all of them")
    parser.set_defaults(call=_predict, name="predict")


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="say what is wrong with this machine or between these ranks, and how it is mended",
        description="Examine Python, NumPy and its BLAS, oneDNN, CuPy, MPI, ZeroMQ, shared memory, limits, interfaces, and "
        "what killed MPI jobs left. On several ranks (phalanx run --no-prefix -n 4 -m phalanx doctor, or under mpirun) also "
        "the latency and bandwidth between every two ranks, their clocks, and how soon they see a new file; the links are "
        "kept in the user's cache folder. Exit code: 0 all is well or there are notes, 1 there are warnings, 2 there are errors.",
    )
    add = parser.add_argument
    add("--json", action="store_true", help="print everything for programs")
    add(
        "--sweep",
        action="store_true",
        help="remove what killed MPI jobs of this user left in /dev/shm and /tmp, and nothing else",
    )
    add("--checkpoint-dir", metavar="DIR", help="measure how soon the ranks see a new file there")
    add(
        "--timeout",
        type=float,
        default=15.0,
        metavar="S",
        help="deadline of a message between two ranks (default 15 seconds)",
    )
    parser.set_defaults(call=_doctor, name="doctor")


def _add_bench(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure all-reduce beside Open MPI, gloo and the limit of shared memory",
        description="Measure all-reduce over sizes, backends and numbers of ranks, beside what shared memory can do at best, the "
        "MPI library's own Allreduce, and PyTorch's gloo where it is installed: all in one run, taking turns.",
    )
    add = parser.add_argument
    add("what", choices=("all-reduce",), help="the operation")
    add(
        "--sizes",
        default="4K,16K,64K,256K,1M,4M,16M,64M",
        metavar="LIST",
        help="bytes (default 4K to 64M in steps of 4)",
    )
    add("--ranks", default="2,4", metavar="LIST", help="numbers of ranks (default 2,4)")
    add("--backends", default="zmq,mpi", metavar="LIST", help="phalanx's wires (default zmq,mpi)")
    add("--rounds", type=int, default=7, metavar="N", help="rounds, in which all contestants take turns (default 7)")
    add("--output", metavar="DIR", help="folder for all_reduce.json and all_reduce.png")
    parser.set_defaults(call=_bench, name="bench")


def _add_warmup(commands: Any) -> None:
    parser = commands.add_parser(
        "warmup",
        help="compile the fast kernels of this machine ahead",
        description="Compile all loops behind the fast kernels (PHALANX_KERNELS=fast) and keep them in numba's cache, so that no job "
        "waits for that in its first step. Once for each machine, user and version; what is there already is left alone.",
    )
    words = (
        "threads of a rank's kernels: from 2 on the forms for several, too (default: $OMP_NUM_THREADS, or the cores)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help=words)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only loops whose name contains one of these")
    parser.set_defaults(call=lambda options: _module("warmup").warm_up(options.threads, options.names), name="warmup")


def _run(options: argparse.Namespace) -> int:
    if options.threads and options.mpi:
        raise LaunchError("--threads and --mpi are two ways to run: give one of them")
    if options.threads and options.elastic:
        raise LaunchError("--elastic is for ranks that are processes: leave out --threads")
    if options.threads and options.restarts:
        raise LaunchError("--restarts starts processes anew; ranks that are --threads cannot be started anew")
    hosts = given_hosts(options.hosts, options.hostfile)
    _check_ways(options, bool(hosts))
    arguments = RunArguments(
        script=options.script,
        arguments=tuple(options.arguments),
        ranks=default_ranks(hosts, options.nodes) if options.ranks is None else options.ranks,
        module=options.module,
        mpi=options.mpi,
        timeout_s=options.timeout,
        restarts=options.restarts,
        grace_s=options.grace,
        prefix=not options.no_prefix,
        flight=options.flight,
        check_replicas=options.check_replicas,
        profile=options.profile,
        hosts=hosts,
        ssh=tuple(shlex.split(options.ssh)) if options.ssh else SSH,
        python=options.python,
        forward=tuple(options.env),
        bind=options.bind,
        nodes=options.nodes,
        node_rank=options.node_rank,
        rendezvous=options.rendezvous,
        key=read_key(options.key, os.environ) if options.nodes > 1 and not options.dry_run else None,
        logs=options.logs,
        tee=parse_ranks(options.tee),
        elastic=options.elastic,
        elastic_wait_s=options.elastic_wait,
    )
    if options.dry_run:
        print(dry_run(arguments))
        return 0
    if options.threads:
        check_script(arguments)
        return _module("run_threads").run_in_threads(arguments)
    return run(arguments)


def _check_ways(options: argparse.Namespace, hosts: bool) -> None:
    """Options that say different things about where the ranks are."""
    several = "--hosts" if hosts else "--nodes" if options.nodes > 1 else ""
    if several and options.threads:
        raise LaunchError(f"--threads and {several}: threads are ranks of one process on one host")
    if hosts and options.nodes > 1:
        raise LaunchError("--hosts and --nodes are two ways to run over hosts: give one of them")
    if options.nodes > 1 and (options.mpi or options.restarts):
        raise LaunchError(
            f"--nodes and {'--mpi' if options.mpi else '--restarts'}: one launcher must start all ranks for that: use --hosts"
        )
    for name in ("ssh", "python", "env"):
        if getattr(options, name) and not hosts:
            raise LaunchError(f"--{name} is for other hosts: give --hosts or --hostfile")


def _ops(options: argparse.Namespace) -> int:
    return _module("ops_check").check(options.entries) if options.check else _module("ops_table").print_table()


def _predict(options: argparse.Namespace) -> int:
    part = _module("prediction")
    names = ("model", "input", "output", "batch_size", "checkpoint", "code", "array", "argmax")
    return part.predict_file(part.Options(**{name: getattr(options, name) for name in names}))


def _doctor(options: argparse.Namespace) -> int:
    doctor = _module("doctor.main")
    return doctor.doctor(doctor.Options(options.json, options.sweep, options.checkpoint_dir, options.timeout))


def _flight(options: argparse.Namespace) -> int:
    return _module("flight").print_flight(options.folder, options.trace)


def _diverge(options: argparse.Namespace) -> int:
    return _module("diverge").print_divergence(options.first, options.second)


def _bench(options: argparse.Namespace) -> int:
    bench = _module("bench.main")
    return bench.all_reduce(bench.parse(options.sizes, options.ranks, options.backends, options.rounds, options.output))


def _module(name: str) -> Any:
    """A part of the face that the launcher itself does without."""
    return importlib.import_module(f".{name}", __package__)
