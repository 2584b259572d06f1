"""Asking a process of its own, with a deadline; nothing of it is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..launch import guardian

PROBE = str(Path(__file__).resolve().with_name("probe.py"))
DEADLINE_S = 30.0
MARK = "PHALANX_DOCTOR"
"""Variable that all processes of one question carry, so that every one of them can be found and ended."""
_TERM_GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: ``code`` is None when it had to be stopped at the deadline."""

    code: int | None
    output: str


def ask(question: str, python: str, environ: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    """The answer of probe.py; ``{"error": text}`` where there is none."""
    ended = run_to_end(probe_command(python, question, *arguments), environ)
    for line in reversed(ended.output.splitlines()):
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                return dict(json.loads(line))
    if ended.code is None:
        return {"error": f"no answer within {DEADLINE_S:g} s"}
    how = f"signal {signal.Signals(-ended.code).name}" if ended.code < 0 else f"exit code {ended.code}"
    return {"error": f"ended with {how}: {last_words(ended.output)}"}


def probe_command(python: str, question: str, *arguments: str) -> list[str]:
    return [python, "-P", "-W", "ignore", PROBE, question, *arguments]


def run_to_end(command: Sequence[str], environ: Mapping[str, str], deadline_s: float = DEADLINE_S) -> Ended:
    """Run ``command`` to its end; at the deadline it and everything that it started is ended."""
    mark = secrets.token_hex(8)
    try:
        process = subprocess.Popen(
            command,
            env={**environ, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return Ended(127, str(error))
    try:
        output, _ = process.communicate(timeout=deadline_s)
        return Ended(process.returncode, output.decode(errors="replace"))
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # mpirun takes its ranks along
        guardian.sweep(f"{MARK}={mark}", _TERM_GRACE_S)
        output, _ = process.communicate()
        return Ended(None, output.decode(errors="replace"))
    finally:
        guardian.sweep(f"{MARK}={mark}")


def last_words(output: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in output.splitlines() if line.strip(" -=\n")]
    return lines[-1][:200] if lines else "it said nothing"
