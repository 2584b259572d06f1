"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..backend import device_kind
from ..kernels.table import kernel
from .optimizer import Optimizer, Options, check_range


class Adam(Optimizer):
    """``m = b1 m + (1-b1) g``, ``v = b2 v + (1-b2) g^2``, ``p -= lr m' / (sqrt(v') + eps)`` with bias-corrected m', v'.

    ``weight_decay`` is added to the gradient (L2). Args are PyTorch's. Kingma and Ba, "Adam", ICLR 2015;
    ``amsgrad``: Reddi et al., ICLR 2018.

    >>> import phalanx
    >>> optimizer = Adam(phalanx.nn.Linear(2, 1).parameters(), lr=1e-3)
    """

    decoupled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        check_range(
            type(self).__name__,
            lr=(lr, 0.0, math.inf),
            eps=(eps, 0.0, math.inf),
            beta1=(betas[0], 0.0, 1.0),
            beta2=(betas[1], 0.0, 1.0),
            weight_decay=(weight_decay, 0.0, math.inf),
        )
        options = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "amsgrad": amsgrad, "maximize": maximize})

    def state_names(self, group: Options) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def update(self, data: Any, gradient: Any, state: dict[str, Any], group: Options, step: int) -> None:
        kernel("adam_update", device_kind(data))(
            data,
            gradient,
            state["exp_avg"],
            state["exp_avg_sq"],
            state.get("max_exp_avg_sq"),
            step=step,
            decoupled=self.decoupled,
            **{key: group[key] for key in ("lr", "betas", "eps", "weight_decay")},
        )


class AdamW(Adam):
    """Adam with decoupled weight decay: ``p *= 1 - lr weight_decay`` before the update.

    Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
