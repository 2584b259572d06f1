"""Adam, AdamW and their relatives: Adamax, NAdam, RAdam."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..backend import device_kind
from ..kernels.table import kernel
from .optimizer import Optimizer, Options, check_range, torch_only


def check_betas(optimizer: str, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    """What all relatives of Adam expect of their numbers."""
    check_range(
        optimizer,
        lr=(lr, 0.0, math.inf),
        eps=(eps, 0.0, math.inf),
        beta1=(betas[0], 0.0, 1.0),
        beta2=(betas[1], 0.0, 1.0),
        weight_decay=(weight_decay, 0.0, math.inf),
    )


class Adam(Optimizer):
    """``m = b1 m + (1-b1) g``, ``v = b2 v + (1-b2) g^2``, ``p -= lr m' / (sqrt(v') + eps)`` with bias-corrected m', v'.

    ``weight_decay`` is added to the gradient (L2), or with ``decoupled_weight_decay`` taken from the parameter (AdamW).
    Args are PyTorch's. Raises RangeError for values out of range. Kingma and Ba, "Adam", ICLR 2015; ``amsgrad``: Reddi et
    al., ICLR 2018.

    >>> model = nn.Linear(2, 1)
    >>> optimizer = optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    >>> model(phalanx.ones(4, 2)).mean().backward()
    >>> optimizer.step()
    """

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
        decoupled_weight_decay: bool = False,
        **of_torch: Any,
    ) -> None:
        name = type(self).__name__
        torch_only(name, of_torch)
        check_betas(name, lr, betas, eps, weight_decay)
        options = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        decoupled = {"decoupled_weight_decay": decoupled_weight_decay}
        super().__init__(params, options | {"maximize": maximize} | decoupled)

    def state_names(self, group: Options) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def update(self, data: Any, gradient: Any, state: dict[str, Any], group: Options, step: int) -> None:
        kernel("adam_update", device_kind(data))(
            data,
            gradient,
            state["exp_avg"],
            state["exp_avg_sq"],
            state.get("max_exp_avg_sq"),
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            decoupled=group["decoupled_weight_decay"],
            step=step,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay: ``p *= 1 - lr weight_decay`` before the update.

    Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.

    >>> optimizer = optim.AdamW(nn.Linear(2, 1).parameters(), lr=3e-4, weight_decay=0.1)
    >>> optimizer.param_groups[0]["weight_decay"]
    0.1
    """

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
        **of_torch: Any,
    ) -> None:
        torch_only("AdamW", of_torch)
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True)


class Adamax(Optimizer):
    """Adam by the infinity norm: ``m = b1 m + (1-b1) g``, ``u = max(b2 u, |g| + eps)``, ``p -= lr / (1 - b1^step) m / u``.

    Args are PyTorch's. Raises RangeError for values out of range. Kingma and Ba, "Adam", ICLR 2015, section 7.

    >>> optimizer = optim.Adamax(nn.Linear(2, 1).parameters())
    >>> optimizer.defaults["lr"]
    0.002
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **of_torch: Any,
    ) -> None:
        torch_only("Adamax", of_torch)
        check_betas("Adamax", lr, betas, eps, weight_decay)
        options = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, options)

    def state_names(self, group: Options) -> tuple[str, ...]:
        return ("exp_avg", "exp_inf")

    def update(self, data: Any, gradient: Any, state: dict[str, Any], group: Options, step: int) -> None:
        options = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay")}
        kernel("adamax_update", device_kind(data))(
            data, gradient, state["exp_avg"], state["exp_inf"], step=step, **options
        )


class NAdam(Optimizer):
    """Adam with Nesterov's momentum, whose share ``mu = b1 (1 - 0.96^(step momentum_decay) / 2)`` grows with the steps.

    Args are PyTorch's. Raises RangeError for values out of range. Dozat, "Incorporating Nesterov momentum into Adam",
    ICLR workshop 2016.

    >>> optimizer = optim.NAdam(nn.Linear(2, 1).parameters(), lr=2e-3, momentum_decay=4e-3)
    >>> optimizer.defaults["decoupled_weight_decay"]
    False
    """

    number_names = ("mu_product",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **of_torch: Any,
    ) -> None:
        torch_only("NAdam", of_torch)
        check_betas("NAdam", lr, betas, eps, weight_decay)
        check_range("NAdam", momentum_decay=(momentum_decay, 0.0, math.inf))
        options = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        further = {"momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay}
        super().__init__(params, options | further)

    def state_names(self, group: Options) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def numbers(self, group: Options, step: int, before: dict[str, float]) -> dict[str, float]:
        return {"mu_product": before["mu_product"] * _mu(group, step) if step else 1.0}

    def update(self, data: Any, gradient: Any, state: dict[str, Any], group: Options, step: int) -> None:
        kernel("nadam_update", device_kind(data))(
            data,
            gradient,
            state["exp_avg"],
            state["exp_avg_sq"],
            mu=_mu(group, step),
            mu_next=_mu(group, step + 1),
            mu_product=state["mu_product"] * _mu(group, step),
            step=step,
            decoupled=group["decoupled_weight_decay"],
            **{key: group[key] for key in ("lr", "betas", "eps", "weight_decay")},
        )


class RAdam(Optimizer):
    """Adam whose adaptive rate is rectified: plain momentum while too few steps were seen to know the variance.

    Args are PyTorch's. Raises RangeError for values out of range. Liu et al., "On the variance of the adaptive learning
    rate and beyond", ICLR 2020.

    >>> optimizer = optim.RAdam(nn.Linear(2, 1).parameters(), lr=1e-3, weight_decay=1e-4)
    >>> optimizer.state_dict()["state"]
    {}
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **of_torch: Any,
    ) -> None:
        torch_only("RAdam", of_torch)
        check_betas("RAdam", lr, betas, eps, weight_decay)
        options = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, options | {"decoupled_weight_decay": decoupled_weight_decay})

    def state_names(self, group: Options) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def update(self, data: Any, gradient: Any, state: dict[str, Any], group: Options, step: int) -> None:
        kernel("radam_update", device_kind(data))(
            data,
            gradient,
            state["exp_avg"],
            state["exp_avg_sq"],
            step=step,
            decoupled=group["decoupled_weight_decay"],
            **{key: group[key] for key in ("lr", "betas", "eps", "weight_decay")},
        )


def _mu(group: Options, step: int) -> float:
    """NAdam's momentum of one step."""
    return group["betas"][0] * (1.0 - 0.5 * 0.96 ** (step * group["momentum_decay"]))
