"""The table of rules: how ONNX says an op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .graph import Graph
from .runs import Call

Rule = Callable[[Graph, Call], Any]
"""Returns the name of the op's output, or a tuple of names of several (None for one that ONNX cannot give)."""

RULES: dict[str, Rule] = {}
"""By the op's name."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a rule for the ops of these names."""

    def enter(function: Rule) -> Rule:
        for name in names:
            assert name not in RULES, f"op {name!r} has two rules"
            RULES[name] = function
        return function

    return enter


def output_dtype(call: Call, number: int = 0) -> np.dtype:
    """Of one of the op's outputs."""
    return call.outputs[number].value.dtype


def first(graph: Graph, call: Call) -> str:
    """The op's first input in the dtype of its first output."""
    return graph.array(call, call.inputs[0], output_dtype(call))


def option(call: Call, name: str, position: int, default: Any = None) -> Any:
    """An option that the op takes by name or as its input of that position."""
    if name in call.attributes:
        return call.get(name)
    return call.inputs[position].value if position < len(call.inputs) else default
