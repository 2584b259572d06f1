"""Dotted names of nested things: the one walker that Module, optimizers and checkpoints share.

A name is the path from the root, its parts joined by dots: ``features.3.weight``, ``state.12.momentum``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from .errors import StateError

Node = TypeVar("Node")


def join(prefix: str, name: object) -> str:
    """The dotted name of ``name`` below ``prefix``.

    >>> join("features.3", "weight"), join("", "weight")
    ('features.3.weight', 'weight')
    """
    return f"{prefix}.{name}" if prefix else str(name)


def walk(
    root: Node,
    branches: Callable[[Node], Iterable[tuple[str, Node]]],
    prefix: str = "",
    *,
    once: bool = True,
    seen: set[int] | None = None,
) -> Iterator[tuple[str, Node]]:
    """All nodes from ``root`` down with their dotted names, a parent before its branches.

    ``branches(node)`` gives the named nodes below one. With ``once`` a node that hangs at two places comes at the first.

    >>> tree = {"a": {"b": {}}, "c": {}}
    >>> [name for name, _ in walk(tree, lambda node: node.items())]
    ['', 'a', 'a.b', 'c']
    """
    seen = set() if seen is None else seen
    if once:
        if id(root) in seen:
            return
        seen.add(id(root))
    yield prefix, root
    for name, branch in branches(root):
        yield from walk(branch, branches, join(prefix, name), once=once, seen=seen)


def _items(tree: Any) -> Iterable[tuple[Any, Any]] | None:
    """The named parts of a mapping, list or tuple; None for a leaf."""
    if isinstance(tree, Mapping):
        return tree.items()
    if isinstance(tree, (list, tuple)):
        return enumerate(tree)
    return None


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings, lists and tuples as one dict from dotted name to leaf, in order of appearance.

    Empty containers leave nothing. Raises StateError when two leaves would get one name.

    >>> flatten({"state": {0: {"step": 7}}, "lr": [0.1, 0.2]})
    {'state.0.step': 7, 'lr.0': 0.1, 'lr.1': 0.2}
    """
    leaves: dict[str, Any] = {}

    def visit(name: str, part: Any) -> None:
        items = _items(part)
        if items is None:
            if name in leaves:
                raise StateError(
                    f"two values are called {name!r}: a key with a dot collides with a nested one; rename it"
                )
            leaves[name] = part
            return
        for key, value in items:
            visit(join(name, key), value)

    visit(prefix, tree)
    return leaves


def replace(tree: Any, leaves: Mapping[str, Any], prefix: str = "") -> Any:
    """A tree of the same structure whose leaves come from ``leaves`` by dotted name; a leaf not named there stays.

    >>> replace({"a": [1, 2]}, {"a.1": 5})
    {'a': [1, 5]}
    """
    items = _items(tree)
    if items is None:
        return leaves.get(prefix, tree)
    built = {key: replace(value, leaves, join(prefix, key)) for key, value in items}
    if isinstance(tree, Mapping):
        return built
    return list(built.values()) if isinstance(tree, list) else tuple(built.values())
