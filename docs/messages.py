"""The list of messages on the page "Troubleshooting": taken from the source when the site is built, so that none is missing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("dist", "launch", "cluster", "core", "phalanx")
CLASSES = (
    "LaunchError", "DeadlineError", "PeerLostError", "AbortedError", "MismatchError", "ReplicaError", "CommunicatorError",
    "CheckpointError", "DataError", "StateError", "GraphError", "NonFiniteError",
)  # fmt: skip
PLACE = "<!-- messages -->"


def skeleton(node: ast.expr) -> str | None:
    """A message with ``...`` for what varies; None where it is not written down there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)  # type: ignore[misc]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [skeleton(node.left) or "...", skeleton(node.right) or "..."]
        return None if sides == ["...", "..."] else "".join(sides)
    return None


def messages() -> Iterator[tuple[str, str, str]]:
    """(class, message, file) of every error that is raised with words of its own."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.is_symlink() or any(parent.is_symlink() for parent in path.parents if parent != ROOT):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CLASSES):
                    continue
                text = skeleton(node.args[0]) if node.args else None
                if text and re.search(r"[a-z]{3}", text):
                    yield node.func.id, re.sub(r"\s+", " ", text).strip(), str(path.relative_to(ROOT))


def page() -> str:
    """The lists, a section for each class."""
    found: dict[str, list[tuple[str, str]]] = {}
    for kind, text, file in messages():
        found.setdefault(kind, []).append((text, file))
    lines = []
    for kind in CLASSES:
        if kind in found:
            lines += [f"### {kind}", "", "| message | raised in |", "|---|---|"]
            lines += [
                f"| {_cell(text)} | `{file}` |"
                for text, file in sorted(set(found[kind]), key=lambda row: row[0].lower())
            ]
            lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return (
        text.replace("\\", "\\\\")
        .replace("|", "\\|")
        .replace("<", "&lt;")
        .replace("*", "\\*")
        .replace("_", "\\_")
        .replace("[", "\\[")
    )


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return markdown.replace(PLACE, page()) if PLACE in markdown else markdown
