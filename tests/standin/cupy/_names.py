"""The names of the real CuPy, from ``cupy-14.2.txt``: the stand-in has none that is not there, and takes no parameter that is not."""

from __future__ import annotations

import re
from pathlib import Path

_PARAMETERS: dict[str, tuple[int, frozenset[str]] | None] = {}
"""Full name -> (how many positional arguments at most, names that may be given by keyword), None where CuPy does not tell."""


def _parse(text: str) -> tuple[int, frozenset[str]] | None:
    if not text or "[" in text:
        return None
    most, keywords, positional = 0, set(), True
    for name in re.sub(r"=", "", text.strip("()")).split(", "):
        if name == "/":
            keywords.clear()
        elif name.startswith("**"):
            return None
        elif name.startswith("*"):
            most, positional = (most if name == "*" else 1000), False
        else:
            keywords.add(name)
            most += positional
    return most, frozenset(keywords)


for _line in (Path(__file__).parents[1] / "cupy-14.2.txt").read_text().splitlines():
    _name, _, _text = _line.partition(" ")
    _PARAMETERS[_name] = _parse(_text)


def known(name: str) -> bool:
    """Whether the real CuPy has it."""
    return name in _PARAMETERS


def names(prefix: str) -> list[str]:
    """What stands directly below ``prefix``."""
    return [name[len(prefix) + 1 :] for name in _PARAMETERS if name.rpartition(".")[0] == prefix]


def check(name: str, positional: int, keywords: dict[str, object], extra: tuple[str, ...] = ()) -> None:
    """Raise TypeError, as the real function would, for arguments that it does not take."""
    told = _PARAMETERS[name]
    if told is None:
        return
    for key in keywords:
        if key not in told[1] and key not in extra:
            raise TypeError(f"{name.rpartition('.')[2]}() got an unexpected keyword argument {key!r}")
    if positional > told[0]:
        raise TypeError(f"{name.rpartition('.')[2]}() takes {told[0]} positional arguments but {positional} were given")
