"""Cases of ops that go row by row and that PyTorch has no single function for: masks drawn in place, norms of sums, the last layer's loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from phalanx.core.kernels.reference_random import philox_mask
from tests.core.definitions import class_loss, layer_norm, log_softmax
from tests.core.op_cases import Case

try:
    import torch.nn.functional as T
except ImportError:
    T = None

_random = np.random.default_rng(53)
CASES: list[Case] = []


def draw(*shape: int) -> np.ndarray:
    """Normal numbers."""
    return np.asarray(_random.normal(size=shape))


# ---- dropout by the words of a draw ----------------------------------------------------------------------------------

WORDS = np.array([11, 22, 3, 4, 5, round(0.3 * 2**32)], np.uint32)


def kept(shape: tuple[int, ...]) -> np.ndarray:
    mask = philox_mask(int(np.prod(shape)), (11, 22), (3, 4, 5), int(WORDS[5]))
    return np.asarray(mask.reshape(shape) / 0.7)


for shape in [(4, 5), (0, 3), (7,), (), (2, 3, 4)]:
    CASES.append(Case("dropout_draw", (draw(*shape), WORDS), {"scale": 1 / 0.7}, lambda x, _: x * kept(x.shape), None))


# ---- norms of a residual sum -----------------------------------------------------------------------------------------


def root_mean_square(x: Any, weight: Any = None, *, shape: Any, eps: float) -> Any:
    axes = tuple(range(-len(shape), 0))
    y = x / np.sqrt(np.mean(x * x, axis=axes, keepdims=True) + eps)
    return y if weight is None else y * weight


for shape, features in [((3, 8), (8,)), ((2, 3, 5), (5,)), ((4, 2, 3), (2, 3)), ((0, 4), (4,))]:
    for parameters in (0, 1, 2):
        inputs = (draw(*shape) + 1, draw(*shape), *[draw(*features) for _ in range(parameters)])
        options = {"shape": features, "eps": 1e-5}
        name = f"{shape} with {parameters}"
        CASES.append(
            Case(
                "add_layer_norm",
                inputs,
                options,
                lambda x, r, *p, f=features: (x + r, layer_norm(x + r, f, *p)),
                lambda x, r, *p, f=features: (x + r, T.layer_norm(x + r, f, *p, eps=1e-5)),
                name,
                rtol=1e-4,
            )
        )
        if parameters < 2:
            CASES.append(
                Case(
                    "add_rms_norm",
                    inputs,
                    options,
                    lambda x, r, *p, o=options: (x + r, root_mean_square(x + r, *p, **o)),
                    lambda x, r, *p, f=features: (x + r, T.rms_norm(x + r, f, *p, eps=1e-5)),
                    name,
                    rtol=1e-4,
                )
            )


# ---- the last layer with its loss ------------------------------------------------------------------------------------


def linear_loss(x: Any, w: Any, labels: Any, cw: Any = None, *, label_smoothing: float, reduction: str) -> Any:
    rows = log_softmax(x.reshape(-1, x.shape[-1]) @ w.T, 1)
    return class_loss(rows, labels.reshape(-1), cw, -100, label_smoothing, reduction)


def torch_linear_loss(x: Any, w: Any, labels: Any, cw: Any = None, *, ignore_index: int = -100, **options: Any) -> Any:
    rows, flat = T.linear(x, w).reshape(-1, len(w)), labels.reshape(-1)
    some = flat[flat != ignore_index]
    total = (rows.new_ones(len(some)) if cw is None else cw[some]).sum()
    return T.cross_entropy(rows, flat, cw, ignore_index=ignore_index, **options), total


for shape in [(5,), (2, 3), (1,)]:
    for reduction in ("mean", "sum"):
        for smoothing, weighted in [(0.0, False), (0.2, False), (0.0, True), (0.2, True)]:
            labels = _random.integers(0, 7, shape)
            if labels.size > 1:
                labels.reshape(-1)[1] = -100
            options = {"reduction": reduction, "label_smoothing": smoothing}
            CASES.append(
                Case(
                    "linear_cross_entropy",
                    (draw(*shape, 4), draw(7, 4), labels, *([np.asarray(_random.uniform(0.5, 2, 7))] * weighted)),
                    options,
                    lambda *a, o=options: linear_loss(*a, **o),
                    lambda *a, o=options: torch_linear_loss(*a, **o),
                    f"{shape} {reduction} {smoothing} {weighted}",
                    with_gradient=(0, 1),
                )
            )
CASES.append(
    Case(
        "linear_cross_entropy",
        (draw(0, 4), draw(7, 4), np.empty(0, np.int64)),
        {},
        lambda x, w, labels: (np.asarray(0.0), np.asarray(0.0)),
        None,
        "no rows",
    )
)
