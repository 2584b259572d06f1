"""The house stands: imports run one way, without circles, and files stay small. Read from the sources, nothing is run."""

from __future__ import annotations

import ast
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("core", "dist", "launch", "cluster")  # from below to above; the face stands on all of them
ORDER = {package: number for number, package in enumerate((*PACKAGES, "phalanx"))}
OPEN_TO_LAUNCHERS = tuple(f"phalanx.dist.{name}" for name in ("env", "errors", "host", "interrupt", "member", "secret"))
"""What a rank is told and how it answers, and what a host and an address are; nothing of these knows an array."""
OPTIONAL = {
    "cupy",
    "cryptography",
    "onnx",
    "onnxruntime",
    "PIL",
    "mpi4py",
    "zmq",
    "numba",
    "cffi",
    "isal",
    "ml_dtypes",
    "rich",
    "torch",
    "tensorboard",
}
MOST_LINES = 400


class Import(NamedTuple):
    """One name that a module imports: ``target`` is the imported module's full name."""

    target: str
    line: int
    place: str
    """"module", "function", or "typing" (under TYPE_CHECKING)."""


def sources(root: Path) -> dict[str, Path]:
    """Full module name -> file, for the four packages and the face."""
    found: dict[str, Path] = {}
    for package in (*PACKAGES, "phalanx"):
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[0] == "phalanx" and parts[1] in PACKAGES:
                continue  # the links
            parts = parts if parts[0] == "phalanx" else ("phalanx", *parts)
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join(parts)] = path
    return found


def house_of(module: str) -> str:
    """The package that a full module name belongs to: one of ORDER, or "" for a stranger."""
    parts = module.split(".")
    if parts[0] != "phalanx":
        return ""
    return parts[1] if len(parts) > 1 and parts[1] in PACKAGES else "phalanx"


def _is_typing(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _statements(node: ast.AST, place: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, place
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _statements(child, "function")
        elif isinstance(child, ast.If) and _is_typing(child.test):
            for part in child.body:
                yield from _statements(ast.Module([part], []), "typing")
            for part in child.orelse:
                yield from _statements(ast.Module([part], []), place)
        else:
            yield from _statements(child, place)


def imports_of(module: str, path: Path, known: dict[str, Path]) -> list[Import]:
    """All imports of one file, relative ones resolved; ``from package import submodule`` names the submodule."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = []
    for statement, place in _statements(ast.parse(path.read_text(), str(path)), "module"):
        if isinstance(statement, ast.Import):
            found += [Import(alias.name, statement.lineno, place) for alias in statement.names]
            continue
        above = package[: len(package) - statement.level + 1] if statement.level else []
        base = ".".join([*above, *([statement.module] if statement.module else [])])
        for alias in statement.names:
            below = f"{base}.{alias.name}"
            found.append(Import(below if below in known else base, statement.lineno, place))
    return found


def _arrow_fault(module: str, target: str) -> str | None:
    home, away = house_of(module), house_of(target)
    if not away:
        return None
    if ORDER[away] > ORDER[home]:
        return f"{home} imports {target}, which stands above it"
    if home in ("launch", "cluster") and away == "dist" and target not in OPEN_TO_LAUNCHERS:
        return f"{home} imports {target}; of dist it may take only {', '.join(OPEN_TO_LAUNCHERS)}"
    return None


def _circles(graph: dict[str, set[str]]) -> list[str]:
    """Each circle of imports once, as "a -> b -> a"."""
    state: dict[str, int] = {}
    found: list[str] = []

    def visit(module: str, path: list[str]) -> None:
        state[module] = 1
        for target in sorted(graph.get(module, ())):
            if state.get(target) == 1:
                found.append(" -> ".join([*path[path.index(target) :], target]))
            elif target not in state:
                visit(target, [*path, target])
        state[module] = 2

    for module in sorted(graph):
        if module not in state:
            visit(module, [module])
    return found


def faults(root: Path) -> list[str]:
    """Everything that is wrong with the imports and sizes of the house in folder ``root``."""
    known = sources(root)
    graph: dict[str, set[str]] = {}
    found = []
    for module, path in known.items():
        place_of = f"{path.relative_to(root)}:"
        lines = len(path.read_text().splitlines())
        if lines > MOST_LINES:
            found.append(f"{place_of}{lines} file of {lines} lines, at most {MOST_LINES} allowed")
        for target, line, place in imports_of(module, path, known):
            where = f"{place_of}{line}"
            top = target.split(".")[0]
            if top in PACKAGES:
                found.append(f"{where} bare import of {target}; write it relative")
            if fault := _arrow_fault(module, target):
                found.append(f"{where} {fault}")
            if place == "function" and top not in OPTIONAL:
                found.append(f"{where} import of {target} inside a function")
            if place == "module" and target in known and target != module:
                graph.setdefault(module, set()).add(target)
    return found + [f"circle of imports: {circle}" for circle in _circles(graph)]


def test_the_house_has_no_faults() -> None:
    found = faults(ROOT)
    assert not found, "\n" + "\n".join(found)


def test_the_reader_sees_the_house() -> None:
    known = sources(ROOT)
    assert {"phalanx", "phalanx.core.op", "phalanx.dist.env", "phalanx.nn", "phalanx.core.nn.module"} <= set(known)
    targets = {entry.target for entry in imports_of("phalanx.core.nn.module", known["phalanx.core.nn.module"], known)}
    assert {"phalanx.core.tree", "phalanx.core.nn.parameter", "phalanx.core.errors"} <= targets


BREAKS = {
    "an arrow turned round": ("core/tree.py", "from ..dist.errors import AbortedError", "stands above it"),
    "an arrow for types only": (
        "core/tree.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..dist import errors",
        "stands above it",
    ),
    "an absolute arrow": ("dist/errors.py", "import phalanx.launch.plan", "stands above it"),
    "the face from below": ("core/tree.py", "from phalanx import nn", "stands above it"),
    "launch into dist": ("launch/__init__.py", "from ..dist import messages", "may take only"),
    "cluster into dist": ("cluster/__init__.py", "from ..dist.messages import Messages", "may take only"),
    "a circle": (
        "core/errors.py",
        "from .tree import join",
        "circle of imports: phalanx.core.errors -> phalanx.core.tree",
    ),
    "a bare import": ("dist/errors.py", "from core.errors import PhalanxError as _Again", "bare import of core.errors"),
    "an import in a function": ("core/tree.py", "def late():\n    import json", "inside a function"),
    "a long file": ("core/op.py", "\n" * MOST_LINES, "lines, at most"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_checker_sees(name: str, tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "phalanx").mkdir()
    for path in (ROOT / "phalanx").glob("*.py"):
        shutil.copy(path, tmp_path / "phalanx")
    file, text, complaint = BREAKS[name]
    before = faults(tmp_path)
    (tmp_path / file).write_text((tmp_path / file).read_text() + "\n" + text + "\n")
    new = [fault for fault in faults(tmp_path) if fault not in before]
    assert any(complaint in fault for fault in new), f"{name} went unseen: {new}"


def test_links_are_relative() -> None:
    for package in PACKAGES:
        link = ROOT / "phalanx" / package
        assert link.is_symlink() or link.is_dir(), f"phalanx/{package} is missing"
        if link.is_symlink():
            assert link.readlink() == Path("..") / package


def test_bare_core_is_not_importable_as_phalanx_sees_it() -> None:
    """Two copies of one module under two names would have two sets of thread-local state."""
    for name in PACKAGES:
        assert name not in sys.modules or not (getattr(sys.modules[name], "__file__", None) or "").startswith(str(ROOT))
