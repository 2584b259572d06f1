"""The stand-in for CuPy is no wider than CuPy: neither it nor our code knows a name or a parameter that the real one has not.

``tests/standin/cupy-14.2.txt`` lists the real one's. Where CuPy itself is installed the list and the tables of refusals are compared with
it; for these comparisons no GPU is needed.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.gpu.conftest import REAL
from tests.standin import refusals

ROOT = Path(__file__).resolve().parents[2]
STANDIN = ROOT / "tests" / "standin"
KNOWN: dict[str, str] = dict(line.partition(" ")[::2] for line in (STANDIN / "cupy-14.2.txt").read_text().splitlines())
HOLDERS = {name.rpartition(".")[0] for name in KNOWN}
"""Modules and classes whose names the list holds."""


# ---- our code ----------------------------------------------------------------------------------------------------------


def _gives_cupy(node: ast.expr) -> bool:
    """``cupy()``, ``backend.cupy()``, ``array_module(...)``."""
    if not isinstance(node, ast.Call):
        return False
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return called == "array_module" or (called == "cupy" and not node.args)


def _bound(scope: ast.AST) -> set[str]:
    """Names that hold CuPy in a function and in those within it."""
    found = set()
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=True))
                found |= {t.id for t, value in pairs if isinstance(t, ast.Name) and _gives_cupy(value)}
    return found


def used_names(source: str) -> Iterator[tuple[str, int]]:
    """(full name, line) of what a file takes from CuPy."""
    if "cupy" not in source and "array_module" not in source:
        return
    tree = ast.parse(source)
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    scopes: list[ast.AST] = [node for body in bodies for node in body if not isinstance(node, ast.ClassDef)]
    seen: set[tuple[int, int, str]] = set()
    for scope in scopes:
        names = _bound(scope)
        for node in ast.walk(scope):
            if not isinstance(node, ast.Attribute):
                continue
            chain, at = [node.attr], node.value
            while isinstance(at, ast.Attribute):
                chain.append(at.attr)
                at = at.value
            if _gives_cupy(at) or (isinstance(at, ast.Name) and at.id in names):
                name = ".".join(["cupy", *reversed(chain)])
                if (node.lineno, node.col_offset, name) not in seen:
                    seen.add((node.lineno, node.col_offset, name))
                    yield name, node.lineno


def is_known(name: str) -> bool:
    """Whether the list has it; what hangs on a value (``cupy.ndarray.dtype.name``) is not CuPy's."""
    parts = name.split(".")
    for end in range(2, len(parts) + 1):
        if ".".join(parts[: end - 1]) not in HOLDERS:
            return True
        if ".".join(parts[:end]) not in KNOWN:
            return False
    return True


def test_our_code_takes_no_name_that_cupy_lacks() -> None:
    strangers, count = [], 0
    for folder in ("core", "dist", "phalanx"):
        for path in (ROOT / folder).rglob("*.py"):
            if folder == "phalanx" and path.relative_to(ROOT).parts[1] in ("core", "dist", "launch", "cluster"):
                continue
            for name, line in used_names(path.read_text()):
                count += 1
                if not is_known(name):
                    strangers.append(f"{path.relative_to(ROOT)}:{line} {name}")
    assert strangers == []
    assert count > 200


def test_the_reader_of_our_code_sees() -> None:
    source = "def f(x):\n    d, xp = 1, array_module(x)\n    api = backend.cupy()\n    return xp.invented(x), api.cuda.Stream.null, cupy().cuda.nothing()"
    found = {name for name, _ in used_names(source)}
    assert {"cupy.invented", "cupy.cuda.Stream.null", "cupy.cuda.nothing"} <= found
    assert [
        is_known(n) for n in ("cupy.invented", "cupy.cuda.Stream.null", "cupy.cuda.nothing", "cupy.float32.name")
    ] == [False, True, False, True]


# ---- the stand-in --------------------------------------------------------------------------------------------------------


def _parameters(text: str) -> set[str]:
    return {part.strip(" *=") for part in text.strip("()").split(",")} - {"", "/"}


def _faults(name: str, value: Any) -> Iterator[str]:
    """What is wider than the real one in a name of the stand-in."""
    if name not in KNOWN:
        yield f"{name} is not there"
        return
    if inspect.isfunction(value) and KNOWN[name] and "[" not in KNOWN[name]:
        real = _parameters(KNOWN[name])
        own = {
            p.name
            for p in inspect.signature(value).parameters.values()
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        }
        if own - real - {"args", "kwargs"} and "**kwargs" not in KNOWN[name]:
            yield f"{name} takes {', '.join(sorted(own - real))}"


@pytest.mark.skipif(REAL, reason="there is a GPU, and no stand-in")
def test_the_stand_in_has_nothing_that_cupy_lacks(standins: None) -> None:
    faults: list[str] = []
    for holder in sorted(HOLDERS):
        module, _, attribute = holder.rpartition(".")
        try:
            held: Any = importlib.import_module(holder)
        except ImportError:
            if module not in HOLDERS:
                continue  # the stand-in does without
            held = getattr(importlib.import_module(module), attribute, None)
        if held is None:
            continue
        for name, value in sorted(vars(held).items()):
            foreign = isinstance(value, ModuleType) and not value.__name__.startswith("cupy")
            imported = getattr(value, "__module__", "").partition(".")[0] in (
                "typing",
                "collections",
                "__future__",
                "types",
                "threading",
                "contextlib",
            )
            if not name.startswith("_") and not foreign and not imported and name != "annotations":
                faults += _faults(f"{holder}.{name}", value)
    assert faults == []


@pytest.mark.skipif(REAL, reason="there is a GPU, and no stand-in")
@pytest.mark.filterwarnings("ignore")
def test_the_stand_in_refuses_and_takes_what_cupy_does(standins: None) -> None:
    assert refusals.complaints(importlib.import_module("cupy"), device=True) == []


def _installed() -> bool:
    """Whether the real CuPy is here: the stand-in is on the path of a test only."""
    path = [p for p in sys.path if Path(p).resolve() != STANDIN]
    return importlib.machinery.PathFinder.find_spec("cupy", path) is not None


@pytest.mark.skipif(not _installed(), reason="CuPy is not installed")
def test_list_and_tables_are_true_of_cupy() -> None:
    path = [p for p in os.environ["PYTHONPATH"].split(os.pathsep) if p and Path(p).resolve() != STANDIN]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    run = [sys.executable, "-W", "ignore"]
    listed = subprocess.run(
        [*run, str(STANDIN / "list_names.py")], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert sorted(set(KNOWN) - {line.partition(" ")[0] for line in listed.splitlines()}) == []
    told = subprocess.run(
        [*run, str(STANDIN / "refusals.py")], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert told.startswith("true of CuPy")
