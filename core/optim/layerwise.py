"""Optimizers whose rate follows the norm of each parameter, for very large batches: LAMB, LARS."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..backend import device_kind
from ..kernels.table import kernel
from .adam import check_betas
from .optimizer import Optimizer, Options, check_range, torch_only
from .sgd import sgd_options


class LAMB(Optimizer):
    """Adam's direction u (with ``weight_decay p`` added), scaled for each parameter: ``p -= lr |p| / |u| u``.

    As usual, groups with ``weight_decay=0`` (biases, norms) keep the plain rate, unless ``always_adapt``.

    Args:
        betas, eps: as in Adam.
        trust_clip: let the ratio |p| / |u| be at most 1.
        always_adapt: scale groups without weight decay, too.

    Raises RangeError for values out of range. Clip by :func:`phalanx.nn.utils.clip_grad_norm_`, as the paper does. You et al.,
    "Large batch optimization for deep learning: training BERT in 76 minutes", ICLR 2020.

    >>> model = nn.Linear(2, 1)
    >>> groups = [{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}]
    >>> optimizer = optim.LAMB(groups, lr=optim.scale_lr(1e-3, 4096))
    """

    grain = "parameter"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        *,
        trust_clip: bool = False,
        always_adapt: bool = False,
        maximize: bool = False,
        **of_torch: Any,
    ) -> None:
        torch_only("LAMB", of_torch)
        check_betas("LAMB", lr, betas, eps, weight_decay)
        options = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, options | {"trust_clip": trust_clip, "always_adapt": always_adapt})

    def state_names(self, group: Options) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def update(self, data: Any, gradient: Any, state: dict[str, Any], group: Options, step: int) -> None:
        kernel("lamb_update", device_kind(data))(
            data,
            gradient,
            state["exp_avg"],
            state["exp_avg_sq"],
            step=step,
            adapt=bool(group["weight_decay"] or group["always_adapt"]),
            **{key: group[key] for key in ("lr", "betas", "eps", "weight_decay", "trust_clip")},
        )


class LARS(Optimizer):
    """SGD whose gradient (with its decay) is scaled for each parameter by ``trust_coefficient |p| / (|g| + weight_decay |p| + eps)``.

    As usual, groups with ``weight_decay=0`` (biases, norms) keep the plain gradient, unless ``always_adapt``. Where |p| or
    |g| is 0 the factor is 1. ``dampening`` and ``nesterov`` are SGD's; raises RangeError for values out of range. You, Gitman and
    Ginsburg, "Large batch training of convolutional networks", 2017 (arXiv 1708.03888).

    >>> model = nn.Conv2d(3, 8, 3)
    >>> groups = [{"params": [model.weight], "weight_decay": 1e-4}, {"params": [model.bias]}]
    >>> optimizer = optim.LARS(groups, lr=optim.scale_lr(0.1, 8192), momentum=0.9)
    """

    grain = "parameter"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        always_adapt: bool = False,
        maximize: bool = False,
        **of_torch: Any,
    ) -> None:
        torch_only("LARS", of_torch)
        check_range("LARS", trust_coefficient=(trust_coefficient, 0.0, math.inf), eps=(eps, 0.0, math.inf))
        further = {"trust_coefficient": trust_coefficient, "eps": eps, "always_adapt": always_adapt}
        options = sgd_options("LARS", lr, momentum, dampening, weight_decay, nesterov)
        super().__init__(params, options | further | {"maximize": maximize})

    def state_names(self, group: Options) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def update(self, data: Any, gradient: Any, state: dict[str, Any], group: Options, step: int) -> None:
        keys = ("lr", "momentum", "dampening", "nesterov", "weight_decay", "trust_coefficient", "eps")
        kernel("lars_update", device_kind(data))(
            data,
            gradient,
            state.get("momentum_buffer"),
            adapt=bool(group["weight_decay"] or group["always_adapt"]),
            first=step == 1,
            **{key: group[key] for key in keys},
        )
