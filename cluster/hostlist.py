"""Slurm's host lists, and host files for launchers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from ..dist.errors import LaunchError
from ..launch.hosts import Host

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_TASKS = re.compile(r"(\d+)(?:\(x(\d+)\))?")
MOST_HOSTS = 100_000
"""Above this a list is a slip of the pen, and would fill the memory."""

FORMS = {"openmpi": "{name} slots={slots}", "mpich": "{name}:{slots}", "plain": "{name}"}
"""How a line of a host file reads, for whom."""


def expand(text: str) -> list[str]:
    """The names in a host list, in its order.

    >>> expand("node[01-03,7],gpu-[1-2]x")
    ['node01', 'node02', 'node03', 'node7', 'gpu-1x', 'gpu-2x']

    Raises LaunchError for what Slurm would refuse: brackets that do not match, a range that goes down.
    """
    return [name for part in _split(text, text) for name in _expand_one(part, text)]


def tasks_per_node(text: str) -> list[int]:
    """Slurm's counts, one for each node.

    >>> tasks_per_node("2(x2),1")
    [2, 2, 1]
    """
    counts: list[int] = []
    for part in text.split(","):
        match = _TASKS.fullmatch(part.strip())
        if match is None:
            raise LaunchError(f"tasks per node {text!r}: {part!r} is not a count like 2 or 2(x3)")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def allocated_hosts(environ: Mapping[str, str]) -> list[Host]:
    """The hosts of the Slurm job that this process is in, with their slots. Raises LaunchError outside of a job."""
    nodes = environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST")
    if not nodes:
        raise LaunchError("SLURM_JOB_NODELIST is not set: this is not inside of a Slurm job (sbatch or salloc)")
    names = expand(nodes)
    counts = tasks_per_node(environ.get("SLURM_TASKS_PER_NODE") or f"1(x{len(names)})")
    if len(counts) != len(names):
        raise LaunchError(f"SLURM_JOB_NODELIST={nodes} has {len(names)} hosts, SLURM_TASKS_PER_NODE {len(counts)}")
    return [Host(name, count) for name, count in zip(names, counts, strict=True)]


def host_file(hosts: Sequence[Host], form: str) -> str:
    """The lines of a host file: ``openmpi`` (``a slots=2``), ``mpich`` (``a:2``) or ``plain`` (``a`` for each slot).

    >>> host_file([Host("a", 2), Host("b", 1)], "mpich")
    'a:2\\nb:1\\n'
    """
    if form not in FORMS:
        raise LaunchError(f"a host file in the form {form!r}: expected one of {', '.join(FORMS)}")
    lines = ((FORMS[form].format(name=host.name, slots=host.slots) + "\n", host.slots) for host in hosts)
    return "".join(line * (slots if form == "plain" else 1) for line, slots in lines)


def _split(text: str, whole: str) -> Iterator[str]:
    """The parts between commas that are outside of brackets."""
    depth, begin = 0, 0
    for at, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if depth not in (0, 1):
            raise LaunchError(f"host list {whole!r}: the brackets do not match")
        if character == "," and depth == 0:
            yield text[begin:at].strip()
            begin = at + 1
    if depth:
        raise LaunchError(f"host list {whole!r}: a bracket is not closed")
    yield text[begin:].strip()


def _expand_one(part: str, whole: str) -> list[str]:
    pieces = re.split(r"\[([^\]]*)\]", part)
    choices = [_numbers(piece, whole) if odd % 2 else [piece] for odd, piece in enumerate(pieces)]
    total = 1
    for choice in choices:
        total *= len(choice)
    if not part or total > MOST_HOSTS:
        raise LaunchError(f"host list {whole!r}: " + ("a name is empty" if not part else f"{total} hosts are too many"))
    return ["".join(words) for words in product(*choices)]


def _numbers(text: str, whole: str) -> list[str]:
    """``01-03,7`` -> 01, 02, 03, 7: zeros in front are kept."""
    found: list[str] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise LaunchError(f"host list {whole!r}: expected numbers and ranges in the brackets, got {part!r}")
        first, last = match[1], match[2] or match[1]
        if int(last) < int(first) or int(last) - int(first) >= MOST_HOSTS:
            raise LaunchError(f"host list {whole!r}: the range {part!r} goes down or is too long")
        found += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return found
