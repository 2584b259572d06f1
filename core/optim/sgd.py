"""Stochastic gradient descent with momentum."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..backend import device_kind
from ..errors import RangeError
from ..kernels.table import kernel
from .optimizer import Optimizer, Options, check_range, torch_only


class SGD(Optimizer):
    """``b = momentum b + (1 - dampening) (g + weight_decay p)``, ``p -= lr b`` (or ``lr (g + momentum b)`` with Nesterov).

    Args are PyTorch's. Raises RangeError for values out of range. Nesterov's form: Sutskever et al., ICML 2013.

    >>> model = nn.Linear(2, 1)
    >>> optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> model(phalanx.ones(4, 2)).mean().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        **of_torch: Any,
    ) -> None:
        torch_only("SGD", of_torch)
        options = sgd_options("SGD", lr, momentum, dampening, weight_decay, nesterov)
        super().__init__(params, options | {"maximize": maximize})

    def state_names(self, group: Options) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def update(self, data: Any, gradient: Any, state: dict[str, Any], group: Options, step: int) -> None:
        keys = ("lr", "momentum", "dampening", "weight_decay", "nesterov")
        kernel("sgd_update", device_kind(data))(
            data, gradient, state.get("momentum_buffer"), first=step == 1, **{key: group[key] for key in keys}
        )


def sgd_options(
    name: str, lr: float, momentum: float, dampening: float, weight_decay: float, nesterov: bool
) -> Options:
    """The options of SGD and its relatives, checked."""
    check_range(
        name,
        lr=(lr, 0.0, math.inf),
        momentum=(momentum, 0.0, math.inf),
        weight_decay=(weight_decay, 0.0, math.inf),
    )
    if nesterov and (momentum <= 0 or dampening != 0):
        raise RangeError(
            f"Nesterov needs momentum above 0 and dampening 0, got momentum={momentum}, dampening={dampening}"
        )
    options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
    return {**options, "nesterov": nesterov}
