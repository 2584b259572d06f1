"""Finding the op whose gradient is the first to be NaN, as ``torch.autograd.detect_anomaly``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .backend import array_module
from .errors import NonFiniteError
from .mode import mode
from .node import Node


class set_detect_anomaly:
    """Switch the search on or off: as a statement from now on, as a context for what is inside. For this thread.

    >>> with phalanx.autograd.set_detect_anomaly(True):
    ...     x = phalanx.tensor([0.0], requires_grad=True)
    ...     try:
    ...         (x.sqrt() * 0).backward()
    ...     except phalanx.PhalanxError as error:
    ...         print(str(error).partition(" (")[0])
    sqrt gave NaN as gradient of input 0
    """

    def __init__(self, mode_: bool, check_nan: bool = True) -> None:
        self._before = mode.anomaly
        mode.anomaly = bool(mode_) and check_nan

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        mode.anomaly = self._before


class detect_anomaly(set_detect_anomaly):
    """Within this block a backward pass that makes NaN raises NonFiniteError, which names the op and its forward's line.

    It costs a look at every gradient.

    >>> with phalanx.autograd.detect_anomaly():
    ...     phalanx.ones(1, requires_grad=True).sum().backward()
    """

    def __init__(self, check_nan: bool = True) -> None:
        super().__init__(True, check_nan)


def watched(step: Callable[..., None]) -> Callable[..., None]:
    """``step``, a pass through one node, that looks at what the node's vjp gives."""

    def watch(node: Node, *rest: Any) -> None:
        op = node.op
        if op is None:
            return step(node, *rest)

        def vjp(*args: Any) -> Any:
            gradients = op.vjp(*args)
            for i, gradient in enumerate(gradients):
                if gradient is not None and bool(array_module(gradient).isnan(gradient).any()):
                    raise NonFiniteError(
                        f"{op.name} gave NaN as gradient of input {i} (forward called at {node.site()})"
                    )
            return gradients

        node.op = replace(op, vjp=vjp)
        try:
            step(node, *rest)
        finally:
            node.op = op

    return watch
