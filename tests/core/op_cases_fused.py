"""Cases of ops that do at once what often follows each other. NumPy's side is made of the parts' definitions."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.core.definitions import batch_norm_train
from tests.core.op_cases import Case
from tests.core.op_cases_nn import torch_batch_norm_train

try:
    import torch.nn.functional as T
except ImportError:
    T = None

_random = np.random.default_rng(77)
CASES: list[Case] = []


def draw(*shape: int) -> np.ndarray:
    """Normal numbers."""
    return _random.normal(size=shape)


def halved(x: np.ndarray) -> np.ndarray:
    """Maxima of 2x2 blocks, and of what relu lets through."""
    rows, columns = x.shape[2] // 2, x.shape[3] // 2
    blocks = x[:, :, : 2 * rows, : 2 * columns].reshape(*x.shape[:2], rows, 2, columns, 2)
    return np.maximum(blocks.max(axis=(3, 5)), 0)


def norm_relu(x: Any, *rest: Any) -> tuple[Any, ...]:
    y, *statistics = batch_norm_train(x, *rest)
    return np.maximum(y, 0), *statistics


def norm_relu_pool(x: Any, *rest: Any) -> tuple[Any, ...]:
    y, *statistics = batch_norm_train(x, *rest)
    return halved(y), *statistics


def norm_add_relu(x: Any, other: Any, *rest: Any) -> tuple[Any, ...]:
    y, *statistics = batch_norm_train(x, *rest)
    return np.maximum(y + other, 0), *statistics


def torch_norm_add_relu(x: Any, other: Any, *rest: Any) -> tuple[Any, ...]:
    y, *statistics = torch_batch_norm_train(x, *rest)
    return T.relu(y + other), *statistics


def torch_norm_relu(x: Any, *rest: Any) -> tuple[Any, ...]:
    y, *statistics = torch_batch_norm_train(x, *rest)
    return T.relu(y), *statistics


def torch_norm_relu_pool(x: Any, *rest: Any) -> tuple[Any, ...]:
    y, *statistics = torch_batch_norm_train(x, *rest)
    return T.max_pool2d(T.relu(y), 2), *statistics


for shape in [(6, 3), (4, 3, 5), (3, 3, 4, 2), (2, 3, 5, 7)]:
    for affine in (0, 1, 2):
        inputs = (draw(*shape) + 1, *[draw(3), draw(3)][:affine])
        name = f"{shape} with {affine}"
        CASES.append(Case("batch_norm_relu", inputs, {}, norm_relu, torch_norm_relu, name, rtol=1e-4))
        both = (inputs[0], draw(*shape), *inputs[1:])
        CASES.append(Case("batch_norm_add_relu", both, {}, norm_add_relu, torch_norm_add_relu, name, rtol=1e-4))
        if len(shape) == 4:
            case = Case("batch_norm_relu_pool", inputs, {}, norm_relu_pool, torch_norm_relu_pool, name, rtol=1e-4)
            CASES.append(case)
CASES.append(
    Case(
        "batch_norm_add_relu",
        (draw(0, 3), draw(0, 3), draw(3), draw(3)),
        {},
        lambda x, other, w, b: (x, np.zeros(3), np.zeros(3)),
        None,
        "empty",
    )
)
for shape in [(3, 3, 4, 2), (2, 3, 5, 7), (0, 3, 4, 4), (1, 16, 2, 3)]:
    CASES.append(Case("relu_pool", (draw(*shape),), {}, halved, lambda x: T.max_pool2d(T.relu(x), 2)))
for op, of, empty in [
    ("batch_norm_relu", (0, 3), lambda x, w, b: (x, np.zeros(3), np.zeros(3))),
    ("batch_norm_relu_pool", (0, 3, 4, 4), lambda x, w, b: (x[:, :, ::2, ::2], np.zeros(3), np.zeros(3))),
]:
    CASES.append(Case(op, (draw(*of), draw(3), draw(3)), {}, empty, None, "empty"))


# ---- linear layers with what follows ---------------------------------------------------------------------------------

AFTER = {
    "gelu_tanh": (
        lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        lambda x: T.gelu(x, approximate="tanh"),
    ),
    "relu": (lambda x: np.maximum(x, 0), lambda x: T.relu(x)),
}
for op, activation in [("linear_gelu", "gelu_tanh"), ("linear_relu", "relu")]:
    ours, theirs = AFTER[activation]
    for shape in [(3, 4), (4,), (2, 3, 4), (0, 4)]:
        inputs = draw(*shape), draw(8, 4), draw(8)
        CASES.append(
            Case(
                op,
                inputs,
                {},
                lambda x, w, b=None, f=ours: f(x @ w.T + (0 if b is None else b)),
                lambda x, w, b=None, f=theirs: f(T.linear(x, w, b)),
                f"{shape}",
            )
        )
        CASES.append(
            Case(
                op,
                (*inputs[:2], None)[: 2 + len(shape) % 2],
                {},
                lambda x, w, b=None, f=ours: f(x @ w.T),
                lambda x, w, b=None, f=theirs: f(T.linear(x, w)),
                f"{shape} without bias",
            )
        )
for activation, (ours, theirs) in AFTER.items():
    for shape, sizes, biases in [
        ((3, 4), (8, 5), (True, True)),
        ((4,), (8, 5), (True, True)),
        ((2, 3, 4), (16, 4), (True, False)),
        ((2, 4), (7, 3), (False, True)),
        ((3, 4), (8, 2), (False, False)),
        ((0, 4), (8, 5), (True, True)),
    ]:
        hidden, outputs = sizes
        CASES.append(
            Case(
                "feed_forward",
                (
                    draw(*shape),
                    draw(hidden, 4),
                    draw(hidden) if biases[0] else None,
                    draw(outputs, hidden),
                    draw(outputs) if biases[1] else None,
                ),
                {"activation": activation},
                lambda x, w, b, v, c, f=ours: f(x @ w.T + (0 if b is None else b)) @ v.T + (0 if c is None else c),
                lambda x, w, b, v, c, f=theirs: T.linear(f(T.linear(x, w, b)), v, c),
                f"{activation} {shape} biases {biases}",
            )
        )
    CASES.append(
        Case(
            "feed_forward",
            (draw(3, 4), draw(8, 4), draw(8), draw(16, 8), None, draw(8, 16), draw(8), draw(2, 8), draw(2)),
            {"activation": activation},
            lambda x, w, b, v, _, u, c, t, d, f=ours: f(f(f(x @ w.T + b) @ v.T) @ u.T + c) @ t.T + d,
            lambda x, w, b, v, _, u, c, t, d, f=theirs: T.linear(
                f(T.linear(f(T.linear(f(T.linear(x, w, b)), v)), u, c)), t, d
            ),
            f"{activation} of four layers",
        )
    )
    CASES.append(
        Case(
            "feed_forward",
            (draw(3, 4), draw(2, 4), draw(2)),
            {"activation": activation},
            lambda x, w, b: x @ w.T + b,
            lambda x, w, b: T.linear(x, w, b),
            f"{activation} of one layer",
        )
    )
