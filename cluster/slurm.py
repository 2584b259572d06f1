"""Slurm: a batch script from what a user asks for. Nothing is run here."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from ..dist.errors import LaunchError
from ..launch.mpirun import OPEN_MPI
from .rendering import counted, fill, one_line, template

MPI = ("none", "pmix", "pmi2")
"""Who tells the ranks about each other: phalanx's own rendezvous (ZeroMQ), PMIx (Open MPI), PMI2 (MPICH)."""
STOP_CODE = 75
"""EX_TEMPFAIL of sysexits.h: "try again"."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TIME = re.compile(r"\d+(:\d{1,2}){0,2}|\d+-\d{1,2}(:\d{1,2}){0,2}")
_ARRAY = re.compile(r"\d+(-\d+(:\d+)?)?(,\d+(-\d+(:\d+)?)?)*(%\d+)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACES = re.compile(r"\{(run|task)\}")


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """What the user asked for; :meth:`render` gives the batch script."""

    script: str
    arguments: tuple[str, ...] = ()
    """``{run}`` in them becomes a name that no other job or array task has and that a requeue keeps; ``{task}`` the array index."""
    name: str = "phalanx"
    module: bool = False
    nodes: int = 1
    tasks_per_node: int = 1
    """Ranks of each node."""
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    time: str | None = None
    """Slurm's forms: minutes, ``H:M:S``, ``D-H``."""
    memory: str | None = None
    partition: str | None = None
    account: str | None = None
    array: str | None = None
    """Indices, for example ``0-7`` or ``1,3,5%2``."""
    mpi: str = "none"
    warn_s: int = 90
    """How long before the end of its time the job is told to save."""
    requeues: int = 100
    """How often a job that was stopped and has saved is put into the queue again."""
    restarts: int = 0
    """How often the ranks are started anew, in the same allocation, after a failure."""
    logs: str = "slurm-logs"
    folder: str = "."
    """Where the script runs."""
    python: str = "python3"
    image: str | None = None
    """An Apptainer image in which the ranks run."""
    setup: tuple[str, ...] = ()
    """Shell lines that come first, for example ``module load cuda``."""
    environment: tuple[tuple[str, str], ...] = ()
    label: bool = True
    """Whether each line of output says its rank."""
    extra: tuple[str, ...] = ()
    """More options for sbatch, for example ``--constraint=a100``."""

    def __post_init__(self) -> None:
        for option, least in (("nodes", 1), ("tasks_per_node", 1), ("cpus_per_task", 1), ("gpus_per_node", 0)):
            _at_least(option, getattr(self, option), least)
        for option, least in (("warn_s", 1), ("requeues", 0), ("restarts", 0)):
            _at_least(option, getattr(self, option), least)
        if self.warn_s > 65535:
            raise LaunchError(f"--warn {self.warn_s}: Slurm takes at most 65535 seconds")
        if not _NAME.fullmatch(self.name):
            raise LaunchError(
                f"--job-name {self.name!r}: expected letters, digits, '.', '_' and '-', as it names files"
            )
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise LaunchError(f"--time {self.time!r}: expected minutes, H:M:S, D-H, D-H:M or D-H:M:S")
        if self.time is not None and seconds(self.time) <= self.warn_s:
            raise LaunchError(f"--warn {self.warn_s} s before the end of --time {self.time} is before its beginning")
        if self.array is not None and not _ARRAY.fullmatch(self.array):
            raise LaunchError(f"--array {self.array!r}: expected indices like 0-7, 1,3,5 or 0-15%4")
        if self.mpi not in MPI:
            raise LaunchError(f"--mpi {self.mpi!r}: expected one of {', '.join(MPI)}")
        for name, _ in self.environment:
            if not _VARIABLE.fullmatch(name):
                raise LaunchError(f"--env {name!r}: expected NAME=VALUE")
        for option in self.extra:
            if not option.startswith("-"):
                raise LaunchError(
                    f"--sbatch {option!r}: expected an option of sbatch, for example --sbatch=--exclusive"
                )

    @property
    def ranks(self) -> int:
        return self.nodes * self.tasks_per_node

    def log_pattern(self) -> str:
        """Slurm's pattern for the output file: array tasks and jobs of one name do not share one."""
        return f"{self.logs}/%x-%{'A_%a' if self.array else 'j'}.out"

    def render(self) -> str:
        """The batch script."""
        return fill(
            template("slurm.sh"),
            directives="\n".join("#SBATCH " + one_line("option", option) for option in self._options()),
            name=self.name,
            size=f"{counted(self.ranks, 'rank')} on {counted(self.nodes, 'node')}",
            ranks=str(self.ranks),
            folder=_quoted(self.folder),
            logs=_quoted(self.logs),
            stop_code=str(STOP_CODE),
            requeues=str(self.requeues),
            restarts=str(self.restarts),
            setup="\n".join(self.setup),
            environment="\n".join(f"export {name}={_quoted(value)}" for name, value in self._environment()),
            rendezvous=self._rendezvous(),
            srun=" ".join(self._srun()),
            command=" ".join(self._command()),
        )

    def _options(self) -> list[str]:
        log = self.log_pattern()
        given = {
            "job-name": self.name,
            "nodes": self.nodes,
            "ntasks-per-node": self.tasks_per_node,
            "cpus-per-task": self.cpus_per_task,
            "gpus-per-node": self.gpus_per_node,
            "time": self.time,
            "mem": self.memory,
            "partition": self.partition,
            "account": self.account,
            "array": self.array,
            "output": f'"{log}"' if re.search(r"\s", log) else log,
            "open-mode": "append",
            "signal": f"USR1@{self.warn_s}",
        }
        options = [f"--{name}={value}" for name, value in given.items() if value is not None]
        return [*options, "--requeue" if self.requeues else "--no-requeue", *self.extra]

    def _environment(self) -> list[tuple[str, str]]:
        values: dict[str, str] = {"PHALANX_BACKEND": "zmq" if self.mpi == "none" else "mpi"}
        if self.mpi == "pmix":
            values |= {name: value for name, value in OPEN_MPI.items() if name.startswith("OMPI_MCA_")}
            values["PMIX_SECURITY_MODE"] = "native"  # or each rank complains that it finds no munge
        if self.cpus_per_task is not None:
            values["OMP_NUM_THREADS"] = str(self.cpus_per_task)
        return list((values | dict(self.environment)).items())

    def _rendezvous(self) -> str:
        if self.mpi != "none":
            return ""
        return fill(template("slurm_rendezvous.sh"), python=_quoted(self.python)).rstrip("\n")

    def _srun(self) -> list[str]:
        # a rank that has saved may leave a moment before the others: Slurm is not to kill these (phalanx does when one fails)
        options = [f"--mpi={self.mpi}", "--kill-on-bad-exit=0"]
        if self.cpus_per_task is not None:
            options.append(f"--cpus-per-task={self.cpus_per_task}")  # Slurm >= 22.05 does not hand it on
        return options + ["--label"] * (self.label and self.ranks > 1)

    def _command(self) -> list[str]:
        python = _quoted(self.python)
        inside = [python, "-u", *(["-m"] if self.module else []), _quoted(self.script)]
        inside += [_with_places(argument) for argument in self.arguments]
        if self.image is None:
            return inside
        gpus = ["--nv"] if self.gpus_per_node else []
        return ["apptainer", "exec", *gpus, _quoted(self.image), *inside]


def seconds(time: str) -> int:
    """A time of Slurm's: minutes, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M``, ``D-H:M:S``.

    >>> seconds("10"), seconds("10:30"), seconds("1-12"), seconds("2:00:00")
    (600, 630, 129600, 7200)
    """
    days, dash, clock = time.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    return int(days or 0) * 86400 + sum(part * unit for part, unit in zip(parts, units, strict=False))


def _at_least(option: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        words = {"tasks_per_node": "ntasks-per-node", "warn_s": "warn"}.get(option, option.replace("_", "-"))
        raise LaunchError(f"--{words} {value}: expected at least {least}")


def _quoted(text: str) -> str:
    """For the shell; a ``~/`` in front stays what it is there."""
    return "~/" + shlex.quote(text[2:]) if text.startswith("~/") and len(text) > 2 else shlex.quote(text)


def _with_places(argument: str) -> str:
    """An argument for the shell, with ``{run}`` and ``{task}`` as its variables.

    >>> _with_places("runs/{run}"), _with_places("a b"), _with_places("{x}")
    ('runs/"$run"', "'a b'", "'{x}'")
    """
    pieces = _PLACES.split(argument)
    words = [f'"${piece}"' if odd % 2 else shlex.quote(piece) if piece else "" for odd, piece in enumerate(pieces)]
    return "".join(words) or "''"
