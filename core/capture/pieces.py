"""A recording cut into pieces for a device: runs of ops, of which graphs are made, and between them what stays a call of Python.

A graph keeps every number and every address for ever. So only what is the same at each replay goes into one: ops, the way
backward takes, gradients that are written to their slots. Optimizers, schedules and what listens to gradients are called between.
"""

from __future__ import annotations

import ast
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from ..nn import statistics
from .events import Called, Entered, Walked
from .program import Writer, result, with_deletions
from .recorder import Recorder

Kind = Literal["graph", "call", "enter", "exit", "begin", "end", "return"]
_record: Any = statistics.record
RECORD = _record.__wrapped__


@dataclass(slots=True, eq=False)
class Piece:
    """A stretch of a program: a function of what it takes from earlier ones, which returns what it gives to later ones."""

    kind: Kind
    lines: list[tuple[int, str]] = field(default_factory=list)
    finals: list[Any] = field(default_factory=list)
    """Leaves that get all that a backward pass gives them, in order."""
    takes: list[str] = field(default_factory=list)
    gives: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    function: Any = None


class _Cutter(Writer):
    """Writes into pieces."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self.depth = 0
        self.pieces: list[Piece] = []
        self._kind: Kind = "graph"
        self._observed: list[bool] = []
        """For each scope that is open whether a layer left statistics in it."""
        self._to_leave = 0
        """Scopes that end as soon as the graph that is written now does."""
        self._heard = False
        self._owed: Counter[Any] = Counter()
        """Bucket of a listener -> gradients that this walk has still to give to it."""

    def line(self, text: str) -> None:
        self._current(self._kind).lines.append((self.depth, text))
        self.lines.append((self.depth, text))  # names are made of their number

    def _current(self, kind: Kind) -> Piece:
        """The piece that is written; scopes, listeners and what is returned have one each."""
        if not self.pieces or self.pieces[-1].kind != kind or kind not in ("graph", "call"):
            while kind != "graph" and self._to_leave:
                self._to_leave -= 1
                self.pieces.append(Piece("exit", [(0, "pass")]))
            self.pieces.append(Piece(kind))
        return self.pieces[-1]

    def host(self, kind: Kind, text: str) -> None:
        """A line outside of graphs."""
        self._kind = kind
        self.line(text)
        self._kind = "graph"

    def called(self, event: Called) -> None:
        if event.function is RECORD:
            self._observed = [True] * len(self._observed)
        elif not getattr(event.function, "feeds", False):
            self._kind = "call"
        super().called(event)
        self._kind = "graph"

    def callee(self, event: Called) -> str:
        name = super().callee(event)
        if event.function is RECORD:
            return f"observed({name})"
        return f"fed({name})" if getattr(event.function, "feeds", False) else name

    def entered(self, event: Entered) -> None:
        if event.inputs is not None:
            inputs = ", ".join(map(self.text, event.inputs.value))
            self.host("enter", f"return {self.name('c', event.module)}.forward_scope({inputs})")
            self._observed.append(False)
        elif self._observed.pop():
            self.host("exit", "pass")
        else:
            self._to_leave += 1

    def walk_begins(self, event: Walked) -> None:
        self._heard = any(leaf._listener is not None for leaf in event.leaves)
        self._owed = Counter(map(_bucket, event.leaves))
        if self._heard:
            self.host("begin", f"return {self.beginning(event)}")

    def walk_ends(self) -> None:
        if self._heard:
            self.host("end", "pass")

    def to_leaf(self, target: Any, value: str, place: str) -> None:
        super().to_leaf(target, value, place)
        _, leaf, _, remaining = target
        if not remaining:
            self._current("graph").finals.append(leaf)
            bucket = _bucket(leaf)
            if bucket is not None:
                self._owed[bucket] -= 1
                if not self._owed[bucket]:  # its sum may begin while the rest of backward runs
                    self.pieces.append(Piece("graph"))


def cut(recorder: Recorder, further: dict[str, Any]) -> tuple[list[Piece], str]:
    """The pieces of what was recorded, and their source. ``further``: names that stand for other things than in a plain replay."""
    writer = _Cutter(recorder)
    for event in recorder.events:
        writer.write(event)
    writer.host("return", f"return {result(writer, recorder.result)}")
    pieces = [piece for piece in writer.pieces if piece.lines or piece.finals]
    for piece in pieces:
        _look(piece)
    later: set[str] = set()
    for piece in reversed(pieces):
        piece.gives = sorted(piece.made & later)
        later |= piece.used | piece.made
    before = {f"v{n}" for n in range(recorder.inputs)}
    names, sources = {**writer.names, **further}, []
    for number, piece in enumerate(pieces):
        piece.takes = sorted((piece.used | piece.made) & before)
        before |= piece.made
        source = _source(number, piece)
        sources.append(f"# {piece.kind}\n{source}")
        exec(compile(source, f"<captured step, piece {number}>", "exec"), names)
        piece.function = names[f"piece{number}"]
    return pieces, "\n".join(sources)


def _bucket(leaf: Any) -> Any:
    """Names the bucket of a leaf whose listener does something before backward ends; None for others."""
    listener = leaf._listener
    number = None if listener is None else listener.bucket(leaf)
    return None if number is None else (id(listener), number)


def _look(piece: Piece) -> None:
    """Which names a piece uses and makes."""
    body = textwrap.indent("\n".join("    " * depth + text for depth, text in piece.lines) or "pass", "    ")
    for node in ast.walk(ast.parse(f"def f():\n{body}")):
        if isinstance(node, ast.Name) and _local(node.id):
            (piece.made if isinstance(node.ctx, ast.Store) else piece.used).add(node.id)


def _local(name: str) -> bool:
    return name[0] in "vsgpkr" and name[1:2].isdigit() and not name.endswith("_")


def _source(number: int, piece: Piece) -> str:
    kept = frozenset(piece.gives)
    body = with_deletions([(depth + 1, text) for depth, text in piece.lines], kept) or ["    pass"]
    if piece.kind in ("graph", "call"):
        body.append(f"    return ({''.join(f'{name}, ' for name in piece.gives)})")
    return f"def piece{number}({', '.join(piece.takes)}):\n" + "\n".join(body) + "\n"
