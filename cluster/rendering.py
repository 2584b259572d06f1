"""Templates: files with ``${name}`` in them, and lines that vanish where there is nothing to say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import resources
from string import Template

from ..dist.errors import LaunchError

_ALONE = re.compile(r"(?P<indent>[ ]*)\$\{(?P<name>\w+)\}")


def template(name: str) -> str:
    """The text of a file in ``cluster/templates``."""
    return (resources.files(__package__) / "templates" / name).read_text()


def fill(text: str, **values: str) -> str:
    """``text`` with each ``${name}`` replaced.

    A name that has a line of its own may have many lines, which get its indent, or none: then the line vanishes. ``$$`` is a dollar.

    >>> fill("a:\\n  ${more}\\n  ${none}\\nb: ${b}\\n", more="x: 1\\ny: 2", none="", b="3")
    'a:\\n  x: 1\\n  y: 2\\nb: 3\\n'
    """
    return "\n".join(_lines(text, values))


def _lines(text: str, values: dict[str, str]) -> Iterator[str]:
    for line in text.split("\n"):
        alone = _ALONE.fullmatch(line)
        if alone is None:
            yield Template(line).substitute(values)
        elif value := values[alone["name"]]:
            yield from (alone["indent"] + part if part else part for part in value.split("\n"))


def scalar(value: object) -> str:
    """A value as YAML: JSON's words, which YAML shares.

    >>> scalar("on"), scalar(4), scalar(("a", "b"))
    ('"on"', '4', '["a", "b"]')
    """
    return json.dumps(value, ensure_ascii=False)


def one_line(what: str, value: str) -> str:
    """``value`` unchanged; LaunchError where a line end in it would begin a line of its own in what is rendered."""
    if any(ord(character) < 32 for character in value):
        raise LaunchError(f"{what} {value!r}: expected one line without control characters")
    return value


def counted(count: int, what: str) -> str:
    """A number of things in words.

    >>> counted(1, "rank"), counted(2, "rank")
    ('1 rank', '2 ranks')
    """
    return f"{count} {what}{'s' * (count != 1)}"
