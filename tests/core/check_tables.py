"""What ``phalanx ops --check`` runs: cases of ops, layers, losses and optimizers, as the tests' own tables have them.

Importing it needs PyTorch and pytest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from phalanx import nn, optim
from tests.core import layer_cases, test_layers, test_layers_nn, test_lazy, test_optimizers
from tests.core.layer_cases import C, L, N, floats
from tests.core.op_cases_all import CASES as OPS
from tests.core.test_layers import pair

__all__ = ["LAYERS", "LISTS", "OPS", "OPTIMIZERS", "pair"]


def _composed(parts: Callable[[Any], list[Any]], forward: Callable[..., Any]) -> Callable[[Any], Any]:
    """A module of either library that holds ``parts(library)`` and computes ``forward(*parts, *inputs)``."""

    def build(library: Any) -> Any:
        class Composed(library.Module):  # type: ignore[name-defined,misc]
            def __init__(self) -> None:
                super().__init__()
                self.parts = library.ModuleList(parts(library))

            def forward(self, *inputs: Any) -> Any:
                return forward(*self.parts, *inputs)

        return Composed()

    return build


def _unpooled(count: int) -> Callable[[Any], Any]:
    return _composed(
        lambda nn: [getattr(nn, f"MaxPool{count}d")(2, return_indices=True), getattr(nn, f"MaxUnpool{count}d")(2)],
        lambda pool, back, x: back(*pool(x)),
    )


def _fixed(value: Any) -> Any:
    return lambda generator: np.asarray(value)


LAYERS: dict[str, Any] = {
    **test_layers.LAYERS,
    **test_layers_nn.LAYERS,
    **test_lazy.CHECKED,
    **layer_cases.SEQUENCES,
    "MaxUnpool1d": (_unpooled(1), floats(2, 3, 6)),
    "MaxUnpool2d": (_unpooled(2), floats(2, 3, 6, 4)),
    "MaxUnpool3d": (_unpooled(3), floats(2, 3, 4, 4, 2)),
    "RReLU in evaluation": (lambda nn: nn.RReLU(0.1, 0.3).eval(), floats(N, C)),
    "CTCLoss": (  # PyTorch's gradient is right behind a log_softmax only
        _composed(lambda nn: [nn.LogSoftmax(-1), nn.CTCLoss()], lambda log, loss, x, *rest: loss(log(x), *rest)),
        floats(6, 2, 4), _fixed([[1, 2], [3, 3]]), _fixed([6, 5]), _fixed([2, 2]),
    ),
    "SyncBatchNorm": (lambda library: (library.SyncBatchNorm if library is nn else library.BatchNorm1d)(C), floats(N, C, L)),
}  # fmt: skip
"""Name of a layer and of what is special -> how to build it from either library, and how to draw its inputs."""

LISTS = {
    "Module": "the base", "RNNBase": "the base", "RNNCellBase": "the base", "ModuleDict": "holds others",
    "ModuleList": "holds others", "ParameterDict": "holds parameters", "ParameterList": "holds parameters",
}  # fmt: skip
"""Layers that compute nothing themselves."""


def _beside_torch(name: str) -> float:
    """Worst error of our 100 steps beside PyTorch's, over the options that the tests have."""
    import torch

    worst = 0.0
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    rounding, torch.Tensor.bfloat16 = torch.Tensor.bfloat16, torch.Tensor.clone  # Muon's matrices stay as exact as ours
    try:
        for options in test_optimizers.TORCH[name]:
            arrays = test_optimizers.start(name)
            theirs = [torch.nn.Parameter(torch.tensor(a)) for a in arrays]
            peer = getattr(torch.optim, name)(test_optimizers.groups(theirs), **options)
            for step in test_optimizers.gradients(arrays):
                for parameter, gradient in zip(theirs, step, strict=True):
                    parameter.grad = torch.tensor(gradient)
                peer.step()
            ours, _ = test_optimizers.trained(
                lambda p, o=options: getattr(optim, name)(test_optimizers.groups(p), **o), arrays
            )
            worst = max(worst, *(_off(a, b.detach().numpy()) for a, b in zip(ours, theirs, strict=True)))
    finally:
        torch.Tensor.bfloat16 = rounding
        torch.set_default_dtype(before)
    return worst


def _beside_definition(name: str) -> float:
    make, definition = test_optimizers.OWN[name]
    arrays = test_optimizers.start()
    ours, _ = test_optimizers.trained(lambda p: make(p, lr=0.01, weight_decay=0.1), arrays)
    expected, states = list(arrays), [{} for _ in arrays]  # type: ignore[var-annotated]
    for t, step in enumerate(test_optimizers.gradients(arrays), 1):
        expected = [definition(p, g, s, t, 0.01, 0.1) for p, g, s in zip(expected, step, states, strict=True)]
    return max(_off(a, b) for a, b in zip(ours, expected, strict=True))


def _off(a: Any, b: Any) -> float:
    return float((np.abs(a - b) / (1 + np.abs(b))).max())


OPTIMIZERS: dict[str, tuple[str, int, Callable[[], float]]] = {
    **{
        name: ("PyTorch", len(runs), lambda n=name: _beside_torch(n))  # type: ignore[misc]
        for name, runs in test_optimizers.TORCH.items()
    },
    **{name: ("its definition", 1, lambda n=name: _beside_definition(n)) for name in test_optimizers.OWN},  # type: ignore[misc]
}
"""Name -> what it is compared with, how many runs of 100 steps, and the worst error of a parameter in them."""
