"""Muon: momentum, made orthogonal by Newton and Schulz's iteration, for the matrices of hidden layers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..backend import device_kind
from ..errors import RangeError, ShapeError
from ..kernels.table import kernel
from .optimizer import Optimizer, Options, check_range, torch_only

ADJUSTMENTS = (None, "original", "match_rms_adamw")


class Muon(Optimizer):
    """``b += (1 - momentum) (g - b)``, ``p = (1 - lr weight_decay) p - lr s orthogonal(b)`` with s by the matrix's shape.

    For parameters of two dimensions; filters of convolutions count as matrices of their first dimension by the others.
    Groups with ``"use_muon": False`` (biases, norms, embeddings, the head) are updated by AdamW with ``adamw_betas`` and
    ``adamw_eps``; give them a ``lr`` of their own. ``adjust_lr_fn``: "original" (also None) s = sqrt(max(1, rows / columns)),
    "match_rms_adamw" s = 0.2 sqrt(max(rows, columns)). Other args are PyTorch's; it works in float32 where PyTorch's
    rounds to bfloat16. With ZeRO each matrix stays whole on one rank.

    Raises ShapeError for a parameter of other dimensions in a group with ``use_muon``, RangeError for values out of range.
    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; Liu et al., "Muon is scalable for LLM
    training", 2025 (arXiv 2502.16982).

    >>> model = nn.Linear(4, 3)
    >>> other = {"params": [model.bias], "use_muon": False, "lr": 3e-4, "weight_decay": 0.0}
    >>> optimizer = optim.Muon([{"params": [model.weight]}, other], lr=0.02, weight_decay=0.01)
    """

    grain = "matrix"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        use_muon: bool = True,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        maximize: bool = False,
        **of_torch: Any,
    ) -> None:
        torch_only("Muon", of_torch)
        check_range(
            "Muon",
            lr=(lr, 0.0, math.inf),
            weight_decay=(weight_decay, 0.0, math.inf),
            momentum=(momentum, 0.0, math.inf),
            ns_steps=(ns_steps, 0, 100),
            beta1=(adamw_betas[0], 0.0, 1.0),
            beta2=(adamw_betas[1], 0.0, 1.0),
            adamw_eps=(adamw_eps, 0.0, math.inf),
        )
        if adjust_lr_fn not in ADJUSTMENTS:
            raise RangeError(f"Muon expects adjust_lr_fn to be one of {ADJUSTMENTS}, got {adjust_lr_fn!r}")
        if len(ns_coefficients) != 3:
            raise RangeError(f"Muon expects three ns_coefficients, got {tuple(ns_coefficients)}")
        options: Options = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov}
        options |= {
            "eps": eps,
            "ns_coefficients": tuple(ns_coefficients),
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        options |= {"use_muon": use_muon, "adamw_betas": tuple(adamw_betas), "adamw_eps": adamw_eps}
        super().__init__(params, options | {"maximize": maximize})

    def add_param_group(self, group: Options) -> None:
        """As of every optimizer; a group with ``use_muon`` takes matrices alone."""
        given = group["params"]
        given = list(given) if isinstance(given, Iterable) and not hasattr(given, "ndim") else [given]
        if group.get("use_muon", self.defaults["use_muon"]):
            for item in given:
                parameter = item[1] if isinstance(item, tuple) else item
                if getattr(parameter, "ndim", 2) < 2:
                    raise ShapeError(
                        f"Muon updates matrices, got a parameter of shape {tuple(parameter.shape)}; put it into a group of its own: "
                        '{"params": [...], "use_muon": False, "lr": 3e-4}, which AdamW updates'
                    )
        super().add_param_group({**group, "params": given})

    def state_names(self, group: Options) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["use_muon"] else ("exp_avg", "exp_avg_sq")

    def update(self, data: Any, gradient: Any, state: dict[str, Any], group: Options, step: int) -> None:
        if not group["use_muon"]:
            flat = (array.reshape(-1) for array in (data, gradient, state["exp_avg"], state["exp_avg_sq"]))
            options = {"betas": group["adamw_betas"], "eps": group["adamw_eps"]}
            options |= {key: group[key] for key in ("lr", "weight_decay")}
            kernel("adam_update", device_kind(data))(*flat, None, step=step, decoupled=True, **options)
            return
        rows, columns = data.shape[0], math.prod(data.shape[1:])
        if group["adjust_lr_fn"] == "match_rms_adamw":
            scale = 0.2 * math.sqrt(max(rows, columns))
        else:
            scale = math.sqrt(max(1.0, rows / columns))
        matrices = (array.reshape(rows, columns) for array in (data, gradient, state["momentum_buffer"]))
        kernel("muon_update", device_kind(data))(
            *matrices,
            rate=group["lr"] * scale,
            coefficients=group["ns_coefficients"],
            steps=group["ns_steps"],
            **{key: group[key] for key in ("lr", "momentum", "weight_decay", "nesterov", "eps")},
        )
