"""What ``phalanx ops`` prints: the ops, layers, losses and optimizers that there are, and how exact they are."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

from .core import functions, nn, ops, optim
from .core.nn.module import Module
from .core.op import TABLE, Op
from .core.optim.optimizer import Optimizer
from .core.tensor import Tensor

Rows = dict[str, Any]


def all_ops() -> Rows:
    """The op table, with every file of ops loaded."""
    for module in pkgutil.iter_modules(ops.__path__):
        importlib.import_module(f"{ops.__name__}.{module.name}")
    return dict(TABLE)


def _homes() -> dict[int, str]:
    """Where each op is entered; a forward may come from a maker in another file."""
    modules = [importlib.import_module(f"{ops.__name__}.{entry.name}") for entry in pkgutil.iter_modules(ops.__path__)]
    return {id(value): m.__name__ for m in modules for value in vars(m).values() if isinstance(value, Op)}


def _described(name: str, entry: Any, homes: dict[int, str]) -> tuple[str, str]:
    """Where an entry stands, and its words: those of the function of its name if it has none."""
    if inspect.isclass(entry):
        place, words = entry.__module__, inspect.getdoc(entry)
    else:
        place = homes.get(id(entry), entry.forward.__module__)
        known = (getattr(face, name, None) for face in (functions, Tensor, nn.functional))
        words = inspect.getdoc(entry.forward) or inspect.getdoc(next(filter(None, known), None))
    return place.removeprefix("phalanx."), (words or "").partition("\n")[0]


def _classes(face: Any, base: type) -> Iterator[tuple[str, type]]:
    for name in sorted(face.__all__):
        value = getattr(face, name)
        if inspect.isclass(value) and issubclass(value, base) and value is not base:
            yield name, value


def all_layers() -> Rows:
    """The layers of ``nn`` that are no losses."""
    return {name: kind for name, kind in _classes(nn, Module) if not name.endswith("Loss")}


def all_losses() -> Rows:
    """The losses of ``nn``."""
    return {name: kind for name, kind in _classes(nn, Module) if name.endswith("Loss")}


def all_optimizers() -> Rows:
    """The optimizers of ``optim``."""
    return dict(_classes(optim, Optimizer))


def sections() -> dict[str, Rows]:
    """Kind -> name -> op or class."""
    return {"ops": all_ops(), "layers": all_layers(), "losses": all_losses(), "optimizers": all_optimizers()}


def print_table() -> int:
    """One line for each entry: its name, where it stands, what it does; then the counts."""
    found, homes = sections(), _homes()
    width = max(len(name) for rows in found.values() for name in rows)
    for kind, rows in found.items():
        print(f"{kind} ({len(rows)})")
        for name, entry in rows.items():
            place, words = _described(name, entry, homes)
            print(f"  {name:{width}}  {place:30}  {words}".rstrip())
    print(", ".join(f"{len(rows)} {kind}" for kind, rows in found.items()))
    return 0
