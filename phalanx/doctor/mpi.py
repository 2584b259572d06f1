"""MPI: which libraries there are, which one mpi4py loads, which mpirun would start it, and whether the two belong together."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..dist.errors import LaunchError
from ..launch import mpirun
from ..launch.mpirun import Mpirun
from .ask import ask, last_words, probe_command, run_to_end
from .finding import Finding, Surroundings

TOPIC = "MPI"
NAMES = ("libmpi.so", "libmpi.so.12", "libmpi.so.40")
"""In the order in which mpi4py tries them in each folder (mpi4py/_mpiabi.py)."""
TRIAL_S = 30.0
INSTALL = "pip install 'phalanx[mpi]'"
_SYMBOLS = {"Open MPI": b"ompi_mpi_comm_self", "MPICH": b"MPIR_"}


def check(here: Surroundings) -> list[Finding]:
    candidates = list(libraries(here.environ))
    answer = ask("mpi", here.python, here.environ)
    starters, findings = _mpiruns(here)
    if "library" not in answer:
        return [_no_library(answer, candidates, starters), *findings]
    findings.insert(0, _library(answer, candidates, here.environ))
    for mpi, of_phalanx in starters:
        findings.append(_trial(here, mpi, answer, candidates, of_phalanx))
    if not starters and not findings[1:]:
        findings.append(
            Finding(
                TOPIC,
                "mpirun-missing",
                "warning",
                f"no mpirun beside {here.python} or on PATH",
                "phalanx run --mpi cannot start ranks",
                INSTALL,
            )
        )
    return findings


# --- libraries --------------------------------------------------------------------------------------------------------


def libraries(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(file, kind) of every libmpi that could be loaded, in mpi4py's order. None is loaded for that."""
    seen: set[str] = set()
    for path in [*_named(environ), *_in_folders(environ), *_of_loader()]:
        real = os.path.realpath(path)
        if os.path.isfile(real) and real not in seen:
            seen.add(real)
            if kind := kind_of(real):
                yield path, kind


def _named(environ: Mapping[str, str]) -> list[str]:
    paths = filter(None, environ.get("MPI4PY_LIBMPI", "").split(os.pathsep))
    return [
        each for path in paths for each in ([os.path.join(path, n) for n in NAMES] if os.path.isdir(path) else [path])
    ]


def _in_folders(environ: Mapping[str, str]) -> list[str]:
    prefixes = [sys.exec_prefix] if sys.exec_prefix != sys.base_exec_prefix else []
    prefixes += [site.USER_BASE] if site.ENABLE_USER_SITE and site.USER_BASE else []
    prefixes += [sys.base_exec_prefix] if sys.base_exec_prefix in site.PREFIXES else []
    folders = [os.path.join(prefix, "lib") for prefix in prefixes if prefix != "/usr"]
    folders += [folder for folder in environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if folder]
    return [os.path.join(folder, name) for folder in folders for name in NAMES]


def _of_loader() -> list[str]:
    """What the system's loader has in its cache."""
    try:
        command = [shutil.which("ldconfig") or "/sbin/ldconfig", "-p"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = (line.strip().split(" ", 1) for line in answer.splitlines() if "=>" in line)
    return [rest.rpartition("=> ")[2] for name, rest in rows if name in NAMES]


def kind_of(path: str) -> str:
    """``Open MPI``, ``MPICH``, ``unknown``, by the symbols in the file; empty for what is no library (a linker's script)."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[:4] != b"\x7fELF" and sys.platform.startswith("linux"):
                return ""
            return next((kind for kind, symbol in _SYMBOLS.items() if content.find(symbol) >= 0), "unknown")
    except (OSError, ValueError):
        return ""


def _library(answer: dict[str, Any], candidates: list[tuple[str, str]], environ: Mapping[str, str]) -> Finding:
    settings = {n: environ[n] for n in ("MPI4PY_MPIABI", "MPI4PY_LIBMPI", "LD_LIBRARY_PATH") if environ.get(n)}
    chosen = os.path.realpath(answer["file"] or "")
    others = [(path, kind) for path, kind in candidates if os.path.realpath(path) != chosen]
    words = f"mpi4py {answer['mpi4py']} loads {answer['library']} from {answer['file']}"
    if settings:
        words += f" ({', '.join(f'{name}={value}' for name, value in settings.items())})"
    data = {**answer, "candidates": candidates, "settings": settings}
    if others:
        words += "; also there: " + ", ".join(f"{path} ({kind})" for path, kind in others)
    return Finding(TOPIC, "mpi-library", "ok", words, data=data)


def _no_library(
    answer: dict[str, Any], candidates: list[tuple[str, str]], starters: list[tuple[Mpirun, bool]]
) -> Finding:
    there = [f"{path} ({kind})" for path, kind in candidates] + [f"{each.path} ({each.kind})" for each, _ in starters]
    beside = f"; there is {', '.join(there)}" if there else ""
    if answer.get("missing"):
        words = f"mpi4py is not installed (optional){beside}"
        return Finding(
            TOPIC, "mpi4py", "note", words, "phalanx run --mpi and mpirun cannot be used; ZeroMQ can", INSTALL, answer
        )
    words = f"mpi4py cannot load an MPI library: {answer['error'].splitlines()[0]}{beside}"
    fix = f"export MPI4PY_LIBMPI={candidates[0][0]}" if candidates else INSTALL
    return Finding(TOPIC, "mpi-library", "warning", words, "phalanx run --mpi and mpirun cannot be used", fix, answer)


# --- mpirun -----------------------------------------------------------------------------------------------------------


def _mpiruns(here: Surroundings) -> tuple[list[tuple[Mpirun, bool]], list[Finding]]:
    """The mpirun that ``phalanx run --mpi`` uses (True), and the one that a shell finds where that is another; what they lack."""
    found: list[tuple[Mpirun, bool]] = []
    broken: dict[str, Finding] = {}
    for python in (here.python, os.path.join(os.devnull, "python")):
        try:
            mpi = mpirun.find_mpirun(python, here.environ)
        except LaunchError as error:
            words = str(error).removeprefix("--mpi: ").split(";")[0]
            if not words.startswith("there is no mpirun"):
                broken[words] = Finding(
                    TOPIC,
                    "mpirun-broken",
                    "error",
                    words,
                    "no MPI job can be started with it",
                    f"{INSTALL} (its mpirun stands beside python), or put a working mpirun first on PATH",
                )
            continue
        if all(os.path.realpath(mpi.path) != os.path.realpath(known.path) for known, _ in found):
            found.append((mpi, python == here.python))
    return found, list(broken.values())


def _trial(
    here: Surroundings, mpi: Mpirun, library: dict[str, Any], candidates: list[tuple[str, str]], of_phalanx: bool
) -> Finding:
    """Start two ranks of a tiny check and ask each what it sees."""
    answers, output, code = try_mpirun(here, mpi)
    use = "phalanx run --mpi uses it" if of_phalanx else "the first on PATH; phalanx run --mpi uses another"
    name = f"mpirun ({mpi.kind}, {mpi.path}; {use})"
    data = {"path": mpi.path, "kind": mpi.kind, "answers": answers, "code": code, "of_phalanx": of_phalanx}
    sizes = sorted({answer["size"] for answer in answers})
    if len(answers) == 2 and sizes == [1]:
        return Finding(
            TOPIC,
            "mpirun-mismatch",
            "error",
            f"mpirun ({mpi.kind}) starts 2 ranks but the library sees a world of 1: {mpi.path} ({use}), "
            f"{library['library']} from {library['file']}",
            f"N ranks under it would be N jobs of one rank each; {_reason(mpi, library)}",
            _mend(mpi, library, candidates),
            data,
        )
    if len(answers) == 2 and sizes == [2] and all(answer["total"] == 2 for answer in answers):
        return _started(name, answers, data, here, mpi)
    what = f"does not end within {TRIAL_S:g} s" if code is None else f"ends with code {code}"
    return Finding(
        TOPIC,
        "mpirun-fails",
        "error",
        f"{name} {what}, and {len(answers)} of 2 ranks answered: {last_words(output)}",
        "no MPI job can be started with it",
        f"{INSTALL}; to see it all: {mpi.path} -n 2 {here.python} -c 'from mpi4py import MPI'",
        {**data, "output": output[-2000:]},
    )


def _started(
    name: str, answers: list[dict[str, Any]], data: dict[str, Any], here: Surroundings, mpi: Mpirun
) -> Finding:
    if not all(answer["threads"] for answer in answers):
        means = "the communication thread needs MPI_THREAD_MULTIPLE"
        return Finding(TOPIC, "mpi-threads", "error", f"{name} starts MPI without threads", means, INSTALL, data)
    root = os.geteuid() == 0 and mpi.kind == "Open MPI" and here.environ.get("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM") != "1"
    words = f"{name} starts 2 ranks and they see each other"
    if root:
        words += "; by hand and as root it wants: export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
    return Finding(TOPIC, "mpirun", "ok", words, data=data)


def try_mpirun(here: Surroundings, mpi: Mpirun) -> tuple[list[dict[str, Any]], str, int | None]:
    """What two ranks under ``mpi`` see (rank, size, kind, ...), the output, and the exit code (None: stopped)."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="phalanx-doctor-"))
        environ = {**here.environ, **mpirun.environment(mpi, here.environ), "TMPDIR": folder}
        for name, parent in mpirun.FOLDERS.items():  # what a stopped job leaves goes with them
            if not parent or os.access(parent, os.W_OK):
                environ[name] = stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="phalanx-doctor-", dir=parent or None)
                )
        command = [*mpirun.command(mpi, 2), *probe_command(here.python, "world", folder)]
        ended = run_to_end(command, environ, TRIAL_S)
        answers = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    return answers, ended.output, ended.code


def _reason(mpi: Mpirun, library: dict[str, Any]) -> str:
    if mpi.kind != library["kind"]:
        return f"mpirun is of {mpi.kind}, the library of {library['kind']}"
    return "mpirun and library are of one kind, but do not find each other (two versions, or a wrapper that drops variables)"


def _mend(mpi: Mpirun, library: dict[str, Any], candidates: list[tuple[str, str]]) -> str:
    """The mpirun of that library, or the library of that mpirun; whichever is there."""
    beside = Path(library["file"] or "/").parent.parent / "bin" / "mpirun"
    if beside.is_file() and os.path.realpath(beside) != os.path.realpath(mpi.path):
        with contextlib.suppress(LaunchError):
            if mpirun.find_mpirun(str(beside), {}).kind == library["kind"]:
                return f"export PATH={beside.parent}:$PATH (the mpirun of that library)"
    for path, kind in candidates:
        if kind == mpi.kind and os.path.realpath(path) != os.path.realpath(library["file"] or ""):
            return f"export MPI4PY_LIBMPI={path} (the library of that mpirun)"
    return f"{INSTALL} (Open MPI's library and mpirun that belong together), then use the mpirun beside python"
