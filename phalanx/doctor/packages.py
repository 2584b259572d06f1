"""Python itself and the packages of the project, against the ranges that pyproject.toml gives."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .finding import Finding, Surroundings

OLDEST_PYTHON = (3, 11)
TOPIC = "Python"
ROOT = Path(__file__).absolute().parents[2]


@dataclass(frozen=True, slots=True)
class Requirement:
    name: str
    ranges: str
    """For example ``>=2.1.2,<2.6``."""
    extra: str = ""
    """The optional extra that wants it; empty: always needed."""


def check(here: Surroundings) -> list[Finding]:
    return [_python(), *_packages(list(requirements()))]


def _python() -> Finding:
    version = platform.python_version()
    where = (
        f"virtual environment {sys.prefix}"
        if sys.prefix != sys.base_prefix
        else f"no virtual environment, {sys.prefix}"
    )
    found = f"Python {version}, {where}"
    data = {"version": version, "prefix": sys.prefix, "executable": sys.executable}
    if sys.version_info < OLDEST_PYTHON:
        return Finding(
            TOPIC,
            "python-version",
            "error",
            found,
            "phalanx needs Python 3.11 or newer",
            "python3.11 -m venv .venv && .venv/bin/pip install phalanx",
            data,
        )
    if sys.prefix == sys.base_prefix:
        return Finding(
            TOPIC,
            "python-venv",
            "note",
            found,
            "packages of the system and of other projects are seen too",
            "python3 -m venv .venv && .venv/bin/pip install phalanx",
            data,
        )
    return Finding(TOPIC, "python-version", "ok", found, data=data)


def requirements() -> Iterator[Requirement]:
    """From pyproject.toml in a checkout, else from what was installed."""
    file = ROOT / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        groups = {"": project.get("dependencies", []), **project.get("optional-dependencies", {})}
        for extra, lines in groups.items():
            yield from (_parse(line, extra) for line in lines)
        return
    try:
        lines = importlib.metadata.requires("phalanx") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for line in lines:
        extra = re.search(r"extra\s*==\s*['\"](\w+)['\"]", line)
        yield _parse(line, extra[1] if extra else "")


def _parse(line: str, extra: str) -> Requirement:
    name, ranges = re.match(r"\s*([\w.-]+)\s*([^;]*)", line).groups()  # type: ignore[union-attr]
    return Requirement(name, ranges.strip(" ()").replace(" ", ""), extra)


def within(version: str, ranges: str) -> bool:
    """Is ``version`` in ``ranges``? Only what pyproject.toml uses: >=, <, ==.

    >>> within("2.4.6", ">=2.1.2,<2.6"), within("2.6.0", ">=2.1.2,<2.6"), within("5.0.11rc1", "==5.0.11")
    (True, False, True)
    """
    have = _numbers(version)
    for part in filter(None, ranges.split(",")):
        sign, limit = re.match(r"(>=|<|==)(.*)", part).groups()  # type: ignore[union-attr]
        width = max(len(have), len(_numbers(limit)))
        left, right = ([*n, *[0] * (width - len(n))] for n in (have, _numbers(limit)))
        if not {">=": left >= right, "<": left < right, "==": left == right}[sign]:
            return False
    return True


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", re.split(r"[a-z+]", version)[0])]


def _packages(wanted: list[Requirement]) -> list[Finding]:
    versions = {each.name: _installed(each.name) for each in wanted}
    good = [each for each in wanted if (v := versions[each.name]) and within(v, each.ranges)]
    words = ", ".join(dict.fromkeys(f"{each.name} {versions[each.name]}" for each in good))
    found = [Finding(TOPIC, "packages", "ok", words or "no package of the project", data={"versions": versions})]
    for each in wanted:
        version = versions[each.name]
        target = f"'{each.name}{each.ranges}'"
        fix = f"{os.path.basename(sys.executable)} -m pip install {target}"
        if version is None and not each.extra:
            found.append(
                Finding(
                    TOPIC,
                    "package-missing",
                    "error",
                    f"{each.name} is not installed",
                    "phalanx cannot work without it",
                    fix,
                )
            )
        elif version is not None and not within(version, each.ranges):
            why = "phalanx was not tried with it" + (f" (wanted by the extra [{each.extra}])" if each.extra else "")
            found.append(
                Finding(TOPIC, "package-range", "warning", f"{each.name} {version}, expected {each.ranges}", why, fix)
            )
    return found


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
