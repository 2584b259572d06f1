"""Optimizers that move by signs or keep an average of the parameters: Lion, Rprop, ASGD."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..backend import device_kind
from ..errors import RangeError
from ..kernels.table import kernel
from .optimizer import Optimizer, Options, check_range, torch_only


class Lion(Optimizer):
    """``p -= lr (sign(b1 m + (1-b1) g) + weight_decay p)``, then ``m = b2 m + (1-b2) g``; ``betas`` are (b1, b2).

    One buffer instead of Adam's two. The rate is 3 to 10 times smaller than Adam's, the weight decay as much larger.
    Raises RangeError for values out of range. Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023.

    >>> weight = nn.Parameter(phalanx.tensor([1.0, -1.0, 0.0]))
    >>> optimizer = optim.Lion([weight], lr=0.1)
    >>> weight.square().sum().backward()
    >>> optimizer.step()
    >>> weight.tolist()
    [0.8999999761581421, -0.8999999761581421, 0.0]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **of_torch: Any,
    ) -> None:
        torch_only("Lion", of_torch)
        check_range(
            "Lion",
            lr=(lr, 0.0, math.inf),
            beta1=(betas[0], 0.0, 1.0),
            beta2=(betas[1], 0.0, 1.0),
            weight_decay=(weight_decay, 0.0, math.inf),
        )
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay, "maximize": maximize})

    def state_names(self, group: Options) -> tuple[str, ...]:
        return ("exp_avg",)

    def update(self, data: Any, gradient: Any, state: dict[str, Any], group: Options, step: int) -> None:
        options = {key: group[key] for key in ("lr", "betas", "weight_decay")}
        kernel("lion_update", device_kind(data))(data, gradient, state["exp_avg"], **options)


class Rprop(Optimizer):
    """Each element has a step of its own, which follows the gradient's sign, not its size. For full batches.

    The step grows by ``etas[1]`` while the sign stays and shrinks by ``etas[0]`` when it changes.

    ``lr`` is the first step, ``step_sizes`` the least and the largest. Args are PyTorch's. Raises RangeError for values out
    of range. Riedmiller and Braun, ICNN 1993.

    >>> optimizer = optim.Rprop(nn.Linear(2, 1).parameters(), lr=0.01)
    >>> optimizer.defaults["etas"]
    (0.5, 1.2)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        maximize: bool = False,
        **of_torch: Any,
    ) -> None:
        torch_only("Rprop", of_torch)
        check_range("Rprop", lr=(lr, 0.0, math.inf))
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise RangeError(f"Rprop expects etas in (0, 1) and above 1, got {tuple(etas)}")
        options = {"lr": lr, "etas": tuple(etas), "step_sizes": tuple(step_sizes), "maximize": maximize}
        super().__init__(params, options)

    def state_names(self, group: Options) -> tuple[str, ...]:
        return ("prev", "step_size")

    def update(self, data: Any, gradient: Any, state: dict[str, Any], group: Options, step: int) -> None:
        options = {key: group[key] for key in ("lr", "etas", "step_sizes")}
        kernel("rprop_update", device_kind(data))(
            data, gradient, state["prev"], state["step_size"], first=step == 1, **options
        )


class ASGD(Optimizer):
    """SGD with a decreasing rate ``eta = lr / (1 + lambd lr step)^alpha`` and, from step ``t0`` on, an average of the parameters.

    The average is the state ``"ax"``. Args are PyTorch's. Raises RangeError for values out of range. Polyak and Juditsky,
    "Acceleration of stochastic approximation by averaging", SIAM J. Control 30, 1992.

    >>> optimizer = optim.ASGD(nn.Linear(2, 1).parameters(), lr=0.01, t0=100)
    >>> optimizer.defaults["alpha"]
    0.75
    """

    number_names = ("eta", "mu")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **of_torch: Any,
    ) -> None:
        torch_only("ASGD", of_torch)
        check_range("ASGD", lr=(lr, 0.0, math.inf), weight_decay=(weight_decay, 0.0, math.inf))
        options = {"lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay}
        super().__init__(params, options | {"maximize": maximize})

    def state_names(self, group: Options) -> tuple[str, ...]:
        return ("ax",)

    def numbers(self, group: Options, step: int, before: dict[str, float]) -> dict[str, float]:
        lr = group["lr"]
        eta = lr / (1.0 + group["lambd"] * lr * step) ** group["alpha"]
        return {"eta": eta, "mu": 1.0 / max(1.0, step - group["t0"]) if step else 1.0}

    def update(self, data: Any, gradient: Any, state: dict[str, Any], group: Options, step: int) -> None:
        options = {key: group[key] for key in ("lambd", "weight_decay")}
        kernel("asgd_update", device_kind(data))(
            data, gradient, state["ax"], eta=state["eta"], mu=state["mu"], **options
        )
