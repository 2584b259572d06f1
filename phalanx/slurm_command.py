"""``phalanx slurm``: submit a script to Slurm, and say which hosts a Slurm job has."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .cluster.hostlist import FORMS, allocated_hosts, host_file
from .cluster.rendering import counted
from .cluster.slurm import MPI, SlurmJob
from .dist.errors import LaunchError
from .launch.hosts import Host


def add_slurm(commands: Any) -> None:
    """The command's arguments."""
    parser = commands.add_parser("slurm", help="submit a script to Slurm; list the hosts of a Slurm job")
    parser.set_defaults(name="slurm")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_submit(actions)
    hosts = actions.add_parser("hosts", help="inside of a Slurm job: print its host file, for mpirun or phalanx run")
    hosts.add_argument("--format", choices=tuple(FORMS), default="openmpi", help="how a line reads (default openmpi)")
    hosts.set_defaults(call=_hosts, name="slurm hosts")


def _add_submit(actions: Any) -> None:
    parser = actions.add_parser(
        "submit",
        help="render a batch script and give it to sbatch",
        description="Run a script on the ranks that srun starts. Before the time is up the job saves, is requeued, and goes on from "
        "there. In the script's arguments {run} stands for a name of this job and array task that a requeue keeps, {task} for "
        "the array index.",
        usage="phalanx slurm submit [options] script [arguments ...]",
    )
    add = parser.add_argument
    add("--nodes", type=int, default=1, metavar="N", help="number of nodes (default 1)")
    add("--ntasks-per-node", type=int, default=1, metavar="N", help="ranks of each node (default 1)")
    add("--cpus-per-task", type=int, metavar="N", help="cores, and threads, of each rank")
    add("--gpus-per-node", type=int, metavar="N", help="GPUs of each node")
    add("--time", metavar="T", help="limit for one stay in the cluster: minutes, H:M:S, D-H")
    add("--mem", metavar="SIZE", help="memory of each node, for example 16G")
    add("--partition", metavar="NAME", help="Slurm's partition")
    add("--account", metavar="NAME", help="who pays")
    add("--array", metavar="LIST", help="start one job for each index: 0-7, 1,3,5, 0-15%%4")
    add("--job-name", metavar="NAME", help="default: the script's name")
    add("--mpi", choices=MPI, default="none", help="none: ZeroMQ (default); pmix: Open MPI; pmi2: MPICH")
    add("--warn", type=int, default=90, metavar="S", help="seconds before the end of its time to save (default 90)")
    add(
        "--requeues",
        type=int,
        default=100,
        metavar="K",
        help="how often a job that saved goes on (default 100; 0: never)",
    )
    add(
        "--restarts",
        type=int,
        default=0,
        metavar="K",
        help="start the ranks anew up to K times after a failure (default 0)",
    )
    add("--logs", default="slurm-logs", metavar="DIR", help="folder for the output (default slurm-logs)")
    add("--folder", metavar="DIR", help="where the script runs (default: here)")
    add("--python", default=sys.executable, metavar="PATH", help="the ranks' Python (default: this one)")
    add("--image", metavar="FILE", help="run the ranks in this Apptainer image (--python is then that of the image)")
    add("--setup", action="append", default=[], metavar="LINE", help="a shell line to run first; may be repeated")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable of the ranks; may be repeated")
    add(
        "--sbatch", action="append", default=[], metavar="OPTION", help="another option of sbatch: --sbatch=--exclusive"
    )
    add("--no-label", action="store_true", help="print the ranks' lines as they are")
    add("--print", action="store_true", help="print the batch script and submit nothing")
    add("-m", "--module", action="store_true", help="the script is a module's name, as in python -m")
    add("script", help="path of the script")
    add("arguments", nargs=argparse.REMAINDER, help="what the script gets").required = False
    parser.set_defaults(call=_submit, name="slurm submit")


def job_from(options: argparse.Namespace) -> SlurmJob:
    """What the options ask for."""
    return SlurmJob(
        script=options.script,
        arguments=tuple(options.arguments),
        name=options.job_name or _name_of(options.script, options.module),
        module=options.module,
        nodes=options.nodes,
        tasks_per_node=options.ntasks_per_node,
        cpus_per_task=options.cpus_per_task,
        gpus_per_node=options.gpus_per_node,
        time=options.time,
        memory=options.mem,
        partition=options.partition,
        account=options.account,
        array=options.array,
        mpi=options.mpi,
        warn_s=options.warn,
        requeues=options.requeues,
        restarts=options.restarts,
        logs=options.logs,
        folder=options.folder or os.getcwd(),
        python=options.python if options.image is None or options.python != sys.executable else "python3",
        image=options.image,
        setup=tuple(options.setup),
        environment=pairs(options.env),
        label=not options.no_label,
        extra=tuple(options.sbatch),
    )


def pairs(words: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """``NAME=VALUE`` as pairs. Raises LaunchError for a word without ``=``."""
    found = []
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise LaunchError(f"--env {word!r}: expected NAME=VALUE")
        found.append((name, value))
    return tuple(found)


def _name_of(script: str, module: bool) -> str:
    name = script.rpartition(".")[2] if module else Path(script).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "phalanx"


def _submit(options: argparse.Namespace) -> int:
    job = job_from(options)
    if options.print:
        print(job.render(), end="")
        return 0
    if not job.module and not (Path(job.folder) / job.script).exists():
        raise LaunchError(f"{job.script}: no such script (in {job.folder})")
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise LaunchError(
            "there is no sbatch on PATH: run this on a login node of the cluster, or give --print and take the script there"
        )
    (Path(job.folder) / job.logs).mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sbatch, "--parsable", "--chdir", job.folder], input=job.render(), text=True, capture_output=True
    )
    if done.returncode != 0:
        raise LaunchError(f"sbatch refused the job: {done.stderr.strip() or f'exit code {done.returncode}'}")
    number = done.stdout.strip().partition(";")[0]
    log = job.log_pattern().replace("%x", job.name).replace("%j", number).replace("%A", number)
    print(f"job {number}: {counted(job.ranks, 'rank')} on {counted(job.nodes, 'node')}, output in {log}")
    return 0


def _hosts(options: argparse.Namespace) -> int:
    hosts: list[Host] = allocated_hosts(os.environ)
    print(host_file(hosts, options.format), end="")
    return 0
