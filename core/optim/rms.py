"""Optimizers that divide by the root of past squared gradients: RMSprop, Adagrad, Adadelta."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..backend import device_kind
from ..errors import RangeError
from ..kernels.table import kernel
from .optimizer import Optimizer, Options, check_range, torch_only


class RMSprop(Optimizer):
    """``v = alpha v + (1 - alpha) g^2``, ``p -= lr g / (sqrt(v) + eps)``; ``centered`` takes the variance instead of v.

    With ``momentum``: ``b = momentum b + g / (sqrt(v) + eps)``, ``p -= lr b``. Args are PyTorch's. Raises RangeError for
    values out of range. Tieleman and Hinton, lecture 6.5, 2012; centred: Graves, 2013 (arXiv 1308.0850).

    >>> optimizer = optim.RMSprop(nn.Linear(2, 1).parameters(), lr=0.01, momentum=0.9, centered=True)
    >>> optimizer.state_names(optimizer.param_groups[0])
    ('square_avg', 'momentum_buffer', 'grad_avg')
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        **of_torch: Any,
    ) -> None:
        torch_only("RMSprop", of_torch)
        check_range(
            "RMSprop",
            lr=(lr, 0.0, math.inf),
            alpha=(alpha, 0.0, math.inf),
            eps=(eps, 0.0, math.inf),
            weight_decay=(weight_decay, 0.0, math.inf),
            momentum=(momentum, 0.0, math.inf),
        )
        options = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, options | {"centered": centered, "maximize": maximize})

    def state_names(self, group: Options) -> tuple[str, ...]:
        further = {"momentum_buffer": group["momentum"], "grad_avg": group["centered"]}
        return ("square_avg", *(name for name, kept in further.items() if kept))

    def update(self, data: Any, gradient: Any, state: dict[str, Any], group: Options, step: int) -> None:
        kernel("rmsprop_update", device_kind(data))(
            data,
            gradient,
            state["square_avg"],
            state.get("grad_avg"),
            state.get("momentum_buffer"),
            **{key: group[key] for key in ("lr", "alpha", "eps", "weight_decay", "momentum")},
        )


class Adagrad(Optimizer):
    """``s += g^2``, ``p -= lr / (1 + (step - 1) lr_decay) g / (sqrt(s) + eps)``; s begins at ``initial_accumulator_value``.

    Args are PyTorch's. Raises RangeError for values out of range. Duchi, Hazan and Singer, "Adaptive subgradient methods",
    JMLR 12, 2011.

    >>> optimizer = optim.Adagrad(nn.Embedding(10, 4).parameters(), lr=0.1)
    >>> optimizer.defaults["eps"]
    1e-10
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        **of_torch: Any,
    ) -> None:
        torch_only("Adagrad", of_torch)
        options = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay}
        options["initial_accumulator_value"] = initial_accumulator_value
        check_range("Adagrad", **{name: (value, 0.0, math.inf) for name, value in options.items()})
        super().__init__(params, options | {"maximize": maximize})

    def state_names(self, group: Options) -> tuple[str, ...]:
        return ("sum",)

    def update(self, data: Any, gradient: Any, state: dict[str, Any], group: Options, step: int) -> None:
        kernel("adagrad_update", device_kind(data))(
            data,
            gradient,
            state["sum"],
            step=step,
            initial=group["initial_accumulator_value"],
            **{key: group[key] for key in ("lr", "lr_decay", "eps", "weight_decay")},
        )


class Adadelta(Optimizer):
    """``v = rho v + (1 - rho) g^2``, ``d = sqrt(u + eps) / sqrt(v + eps) g``, ``u = rho u + (1 - rho) d^2``, ``p -= lr d``.

    Args are PyTorch's. Raises RangeError for values out of range. Zeiler, "Adadelta", 2012 (arXiv 1212.5701).

    >>> optimizer = optim.Adadelta(nn.Linear(2, 1).parameters())
    >>> optimizer.defaults["lr"], optimizer.defaults["rho"]
    (1.0, 0.9)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **of_torch: Any,
    ) -> None:
        torch_only("Adadelta", of_torch)
        check_range(
            "Adadelta",
            lr=(lr, 0.0, math.inf),
            eps=(eps, 0.0, math.inf),
            weight_decay=(weight_decay, 0.0, math.inf),
        )
        if not 0.0 <= rho <= 1.0:
            raise RangeError(f"Adadelta expects rho in [0, 1], got {rho!r}")
        options = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, options)

    def state_names(self, group: Options) -> tuple[str, ...]:
        return ("square_avg", "acc_delta")

    def update(self, data: Any, gradient: Any, state: dict[str, Any], group: Options, step: int) -> None:
        options = {key: group[key] for key in ("lr", "rho", "eps", "weight_decay")}
        kernel("adadelta_update", device_kind(data))(data, gradient, state["square_avg"], state["acc_delta"], **options)
