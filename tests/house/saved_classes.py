"""Classes of a user's, for models that are saved and built again by import."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from phalanx import nn


@dataclass
class Sizes:
    width: int = 3
    heads: tuple[int, ...] = (2, 1)


class Net(nn.Module):
    """Built from numbers, a dataclass, a module and a function of phalanx."""

    def __init__(self, features: int, sizes: Sizes, *, first: Any = None, act: Any = nn.functional.relu) -> None:
        super().__init__()
        self.first = first or nn.Linear(features, sizes.width)
        self.heads = nn.ModuleList([nn.Linear(sizes.width, head) for head in sizes.heads])
        self.act = act

    def forward(self, x: Any) -> Any:
        x = self.act(self.first(x))
        return tuple(head(x) for head in self.heads)


class WithConfig(nn.Module):
    """Its argument is an object; ``config`` says how it is made."""

    def __init__(self, made_of: Any = None, width: int = 2) -> None:
        super().__init__()
        self.width = made_of.width if made_of is not None else width
        self.fc = nn.Linear(3, self.width)

    def config(self) -> dict[str, Any]:
        return {"width": self.width}

    def forward(self, x: Any) -> Any:
        return self.fc(x)


class Stack(nn.Sequential):
    """A Sequential of its own."""

    def __init__(self, *widths: int) -> None:
        super().__init__(*(nn.Linear(a, b) for a, b in pairwise(widths)))
