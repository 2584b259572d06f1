"""One table of cases for every op: sample inputs, attributes, what NumPy and PyTorch compute.

``test_ops.py`` runs each case forward in float32 and float64, its gradient against differences, both against PyTorch, with
inputs that are not contiguous, and with slots. A new op needs a line here (or in ``op_cases_nn.py``), or a test fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One call of one op."""

    op: str
    inputs: tuple[Any, ...]
    """float64 arrays (cast to float32 for that run), other arrays (as they are), numbers, None."""
    attributes: dict[str, Any] = field(default_factory=dict)
    numpy: Callable[..., Any] | None = None
    """``numpy(*inputs)`` -> expected output, or a tuple of them; None where only PyTorch knows (say why beside it)."""
    torch: Callable[..., Any] | None = None
    """``torch(*inputs as tensors)`` -> output or tuple; None where PyTorch has no such function."""
    name: str = ""
    """What is special about the case."""
    gradient: bool = True
    """Whether to compare the gradient with differences (not at a kink)."""
    rtol: float = 2e-5
    """Relative and absolute tolerance in float32; in float64 it is 1e-10."""
    with_gradient: tuple[int, ...] | None = None
    """Which inputs get a gradient; None: every float64 array."""

    def __str__(self) -> str:
        shapes = "x".join("-".join(map(str, np.shape(x))) or "scalar" for x in self.inputs if x is not None)
        return f"{self.op}:{self.name or shapes}"

    def wanted(self) -> tuple[int, ...]:
        """Positions of the inputs that get a gradient."""
        if self.with_gradient is not None:
            return self.with_gradient
        return tuple(i for i, x in enumerate(self.inputs) if isinstance(x, np.ndarray) and x.dtype == np.float64)
