"""Cases of the layers' ops: what ``op_cases`` is for the elementary ones. NumPy's side is the definition, in loops."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.core import op_cases_nn_window
from tests.core.definitions import batch_norm, batch_norm_train, class_loss, ctc, layer_norm, log_softmax, softplus
from tests.core.op_cases import Case

try:
    import torch
    import torch.nn.functional as T
except ImportError:
    torch = T = None

_random = np.random.default_rng(2024)
CASES: list[Case] = [*op_cases_nn_window.CASES]


def draw(*shape: int) -> np.ndarray:
    """Normal numbers."""
    return np.asarray(_random.normal(size=shape))


def uniform(*shape: int, low: float = 0.1, high: float = 0.9) -> np.ndarray:
    """Numbers in [low, high)."""
    return _random.uniform(low, high, size=shape)


def labels(high: int, *shape: int) -> np.ndarray:
    """Class numbers."""
    return _random.integers(0, high, size=shape)


def case(op: str, *inputs: Any, numpy: Any, torch: Any, name: str = "", **rest: Any) -> None:
    """One line of the table; what is no field of a Case is an attribute of the op."""
    fields = {key: rest.pop(key) for key in ("gradient", "rtol", "with_gradient") if key in rest}
    CASES.append(Case(op, inputs, rest, numpy, torch, name, **fields))


def torch_batch_norm_train(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> tuple[Any, ...]:
    axes = [a for a in range(x.ndim) if a != 1]
    mean = x.mean(axes)
    y = T.batch_norm(x, None, None, weight, bias, True, 0.1, eps)
    return y, mean, x.var(axes, correction=0) * (x.numel() // x.shape[1])


def torch_total(target: Any, weight: Any, ignore: int, like: Any) -> Any:
    kept = target[target != ignore]
    return (torch.ones_like(kept, dtype=like.dtype) if weight is None else weight[kept]).sum()


# ---- linear ----------------------------------------------------------------------------------------------------------

LINEAR = {"numpy": lambda x, w, b=None: x @ w.T + (0 if b is None else b)}
for shape in [(3, 4), (4,), (2, 3, 4), (0, 4), (3, 1, 4)]:
    case("linear", draw(*shape), draw(5, 4), draw(5), **LINEAR, torch=lambda *a: T.linear(*a))
case("linear", draw(3, 4), draw(5, 4), **LINEAR, torch=lambda *a: T.linear(*a), name="no bias")
case("linear", draw(3, 4), draw(5, 4), None, **LINEAR, torch=lambda *a: T.linear(*a), name="bias None")
case("linear", draw(3, 0), draw(5, 0), draw(5), **LINEAR, torch=lambda *a: T.linear(*a), name="no features")

# ---- activations -----------------------------------------------------------------------------------------------------

for shape in [(3, 4), (2, 3, 2), (), (0, 3)]:
    far = draw(*shape) * 4
    for name, options, definition, peer in [
        ("hardtanh", {"low": -1.5, "high": 0.5}, lambda x: np.clip(x, -1.5, 0.5), lambda x: T.hardtanh(x, -1.5, 0.5)),
        ("hardswish", {}, lambda x: x * np.clip(x + 3, 0, 6) / 6, lambda x: T.hardswish(x)),
        ("log_sigmoid", {}, lambda x: -softplus(-x), lambda x: T.logsigmoid(x)),
        ("mish", {}, lambda x: x * np.tanh(softplus(x)), lambda x: T.mish(x)),
    ]:
        case(name, np.asarray(far), numpy=definition, torch=peer, **options)
case(
    "log_sigmoid",
    np.array([-800.0, 800.0]),
    numpy=lambda x: np.minimum(x, 0),
    torch=lambda x: T.logsigmoid(x),
    name="far out",
)
case("hardtanh", np.array([-1.0, 1.0]), numpy=lambda x: x, torch=lambda x: T.hardtanh(x), name="bounds", gradient=False)

# ---- norms -----------------------------------------------------------------------------------------------------------

for shape in [(6, 3), (4, 3, 5), (3, 3, 4, 2)]:
    for affine in (0, 1, 2):
        parameters = [draw(3), draw(3)][:affine]
        case(
            "batch_norm_train",
            draw(*shape) + 1,
            *parameters,
            numpy=batch_norm_train,
            torch=torch_batch_norm_train,
            name=f"{shape} with {affine}",
            rtol=1e-4,
        )
        case(
            "batch_norm_eval",
            draw(*shape),
            draw(3),
            uniform(3),
            *parameters,
            numpy=lambda x, m, v, w=None, b=None: batch_norm(x, m, v, w, b, 1e-3),
            torch=lambda x, m, v, w=None, b=None: T.batch_norm(x, m, v, w, b, False, 0.1, 1e-3),
            name=f"{shape} with {affine}",
            with_gradient=(0, 3, 4)[: 1 + affine],
            eps=1e-3,
        )
case(
    "batch_norm_eval",
    draw(0, 3),
    draw(3),
    uniform(3),
    draw(3),
    draw(3),
    numpy=lambda x, *rest: x,
    torch=lambda x, m, v, w, b: T.batch_norm(x, m, v, w, b),
    name="empty",
    with_gradient=(0, 3, 4),
)
case(
    "batch_norm_train",
    draw(0, 3),
    draw(3),
    draw(3),
    numpy=lambda x, w, b: (x, np.zeros(3), np.zeros(3)),
    torch=None,  # an error there; an empty shard is none
    name="empty",
)
for shape, norm_shape in [((4, 5), (5,)), ((2, 3, 4), (4,)), ((2, 3, 4), (3, 4)), ((0, 5), (5,))]:
    for affine in (0, 1, 2):
        case(
            "layer_norm",
            draw(*shape),
            *[draw(*norm_shape), draw(*norm_shape)][:affine],
            numpy=lambda x, *p, s=norm_shape: layer_norm(x, s, *p),
            torch=lambda x, *p, s=norm_shape: T.layer_norm(x, s, *p),
            name=f"{shape} over {norm_shape} with {affine}",
            rtol=1e-4,
            shape=norm_shape,
        )

for shape, norm_shape in [((4, 5), (5,)), ((2, 3, 4), (3, 4)), ((0, 5), (5,))]:
    for affine in (0, 1):
        case(
            "rms_norm",
            draw(*shape),
            *[draw(*norm_shape)][:affine],
            numpy=lambda x, w=1.0, s=norm_shape: (
                w * x / np.sqrt((x * x).mean(axis=tuple(range(-len(s), 0)), keepdims=True) + 1e-5)
            ),
            torch=lambda x, w=None, s=norm_shape: T.rms_norm(x, s, w, 1e-5),
            name=f"{shape} over {norm_shape} with {affine}",
            rtol=1e-4,
            shape=norm_shape,
        )

# ---- attention -------------------------------------------------------------------------------------------------------


def attention(query: Any, key: Any, value: Any, scale: float, causal: bool) -> np.ndarray:
    """Row for row."""
    scores = query @ np.swapaxes(key, -1, -2) * scale
    y = np.zeros(scores.shape[:-1] + value.shape[-1:])
    for i in range(scores.shape[-2]):
        seen = min(i + 1, scores.shape[-1]) if causal else scores.shape[-1]
        weights = np.exp(log_softmax(scores[..., i, :seen], -1))
        y[..., i, :] = np.einsum("...s,...sv->...v", weights, value[..., :seen, :])
    return y


for shapes in [
    ((3, 4), (3, 4), (3, 4)), ((2, 5, 4), (2, 3, 4), (2, 3, 6)), ((2, 3, 4, 4), (2, 3, 6, 4), (2, 3, 6, 2)),
    ((2, 3, 4), (3, 4), (3, 5)), ((2, 3, 2, 4), (1, 3, 5, 4), (2, 1, 5, 4)), ((2, 0, 4), (2, 3, 4), (2, 3, 4)),
]:  # fmt: skip
    for causal in (False, True):
        case(
            "attention",
            *(draw(*shape) for shape in shapes),
            numpy=lambda q, k, v, c=causal: attention(q, k, v, 0.5, c),
            torch=lambda q, k, v, c=causal: T.scaled_dot_product_attention(q, k, v, is_causal=c, scale=0.5),
            name=f"{shapes}" + (" causal" if causal else ""),
            rtol=1e-4,
            scale=0.5,
            causal=causal,
        )

for shape in [(2, 5, 3, 3, 4), (1, 1, 3, 1, 2), (2, 0, 3, 2, 4), (2, 70, 3, 2, 8)]:
    for causal in (False, True):
        case(
            "packed_attention",
            draw(*shape),
            numpy=lambda p, c=causal: attention(*np.moveaxis(p, 2, 0).swapaxes(2, 3), 0.5, c).swapaxes(1, 2),
            torch=lambda p, c=causal: T.scaled_dot_product_attention(
                *(x.transpose(1, 2) for x in p.unbind(2)), is_causal=c, scale=0.5
            ).transpose(1, 2),
            name=f"{shape}" + (" causal" if causal else ""),
            rtol=1e-4,
            scale=0.5,
            causal=causal,
        )

# ---- softmax ---------------------------------------------------------------------------------------------------------

for shape, axis in [((3, 4), 1), ((3, 4), 0), ((2, 3, 4), -2), ((5,), 0), ((0, 4), 1), ((3, 1), 1)]:
    for scale in (1.0, 100.0):
        options = {"name": f"{shape} axis {axis} times {scale}", "axis": axis, "gradient": scale == 1.0}
        x = draw(*shape) * scale
        case(
            "softmax",
            x,
            numpy=lambda x, a=axis: np.exp(log_softmax(x, a)) if x.size else x,
            torch=lambda x, a=axis: T.softmax(x, a),
            **options,
        )
        case(
            "log_softmax",
            x,
            numpy=lambda x, a=axis: log_softmax(x, a) if x.size else x,
            torch=lambda x, a=axis: T.log_softmax(x, a),
            **options,
        )

# ---- losses ----------------------------------------------------------------------------------------------------------

for shape in [(6, 4), (2, 4, 3), (2, 4, 3, 2)]:
    target = labels(4, shape[0], *shape[2:])
    target.flat[1] = 2
    for reduction in ("mean", "sum", "none"):
        for weighted, ignore, smoothing in [(False, -100, 0.0), (True, 2, 0.0), (False, 2, 0.1), (True, -100, 0.3)]:
            weight = [uniform(4)] if weighted else []
            options = {"reduction": reduction, "ignore_index": ignore}
            name = f"{shape} {options} smoothing {smoothing}" + (" weighted" if weighted else "")
            case(
                "cross_entropy",
                draw(*shape) * 2,
                target,
                *weight,
                numpy=lambda x, t, w=None, i=ignore, s=smoothing, r=reduction: class_loss(
                    log_softmax(x, 1), t, w, i, s, r
                ),
                torch=lambda x, t, w=None, o=options, s=smoothing: (
                    T.cross_entropy(x, t, w, label_smoothing=s, **o),
                    torch_total(t, w, o["ignore_index"], x),
                ),
                name=name,
                with_gradient=(0,),
                label_smoothing=smoothing,
                **options,
            )
            if not smoothing:
                case(
                    "nll_loss",
                    draw(*shape),
                    target,
                    *weight,
                    numpy=lambda x, t, w=None, i=ignore, r=reduction: class_loss(x, t, w, i, 0.0, r),
                    torch=lambda x, t, w=None, o=options: (
                        T.nll_loss(x, t, w, **o),
                        torch_total(t, w, o["ignore_index"], x),
                    ),
                    name=name,
                    with_gradient=(0,),
                    **options,
                )
for op in ("cross_entropy", "nll_loss"):
    for name, rows, ignored in [("empty", 0, 0), ("all ignored", 3, -100)]:
        case(
            op,
            draw(rows, 4),
            np.full(rows, ignored),
            numpy=lambda x, t: (np.zeros((), x.dtype), np.zeros((), x.dtype)),
            torch=None,  # PyTorch says NaN here; ours is 0 with weight 0, because shards may be empty
            name=name,
        )

for reduction, reduce in [("mean", np.mean), ("sum", np.sum), ("none", lambda x: x)]:
    case(
        "mse_loss",
        draw(3, 4),
        draw(3, 4),
        numpy=lambda x, t, r=reduce: r((x - t) ** 2),
        torch=lambda x, t, r=reduction: T.mse_loss(x, t, reduction=r),
        name=reduction,
        reduction=reduction,
    )
case("mse_loss", draw(3, 4), draw(4), numpy=lambda x, t: np.mean((x - t) ** 2), torch=None, name="broadcast")
case("mse_loss", draw(0, 4), draw(0, 4), numpy=lambda x, t: np.zeros((), x.dtype), torch=None, name="empty")

BINARY = "bce_with_logits"
for shape in [(5,), (3, 4), (0, 4)]:
    case(
        BINARY,
        draw(*shape) * 3,
        uniform(*shape),
        numpy=lambda x, t: t * softplus(-x) + (1 - t) * softplus(x),
        torch=lambda x, t: T.binary_cross_entropy_with_logits(x, t, reduction="none"),
        name=str(shape),
    )
    case(
        "binary_cross_entropy",
        uniform(*shape),
        uniform(*shape),
        numpy=lambda p, t: -t * np.log(p) - (1 - t) * np.log(1 - p),
        torch=lambda p, t: T.binary_cross_entropy(p, t, reduction="none"),
        name=str(shape),
    )
case(
    BINARY,
    draw(3, 4) * 3,
    uniform(3, 4),
    uniform(4, high=3.0),
    numpy=lambda x, t, w: w * t * softplus(-x) + (1 - t) * softplus(x),
    torch=lambda x, t, w: T.binary_cross_entropy_with_logits(x, t, pos_weight=w, reduction="none"),
    name="pos_weight",
    with_gradient=(0, 1),
)
case(
    BINARY,
    np.array([-800.0, 800.0, -800.0, 800.0]),
    np.array([0.0, 1.0, 1.0, 0.0]),
    numpy=lambda x, t: np.array([0.0, 0.0, 800.0, 800.0], x.dtype),
    torch=lambda x, t: T.binary_cross_entropy_with_logits(x, t, reduction="none"),
    name="far out",
    with_gradient=(0,),
)

for name, steps, targets, lengths, counts, blank in [
    ("three samples", 5, [[1, 2, 0], [1, 1, 0], [2, 0, 0]], [5, 4, 3], [2, 2, 1], 0),
    ("last is blank", 4, [[0, 1]], [4], [2], 2),
    ("no labels", 3, [[1]], [3], [0], 0),
]:
    case(
        "ctc",
        log_softmax(draw(steps, len(targets), 3), 2),
        np.array(targets),
        np.array(lengths),
        np.array(counts),
        numpy=lambda *a, b=blank: ctc(*a, b),
        torch=None,  # PyTorch's gradient is that of the logits behind a log_softmax: test_functional_loss_more compares it
        name=name,
        blank=blank,
    )
case(
    "ctc",
    draw(3, 0, 4),
    np.zeros((0, 2), np.int64),
    np.zeros(0, np.int64),
    np.zeros(0, np.int64),
    numpy=lambda x, *rest: np.zeros(0),
    torch=None,
    name="empty",
)

# ---- embedding, dropout ----------------------------------------------------------------------------------------------

for rows, shape in [(5, (4, 3)), (100, (6, 7)), (100, ()), (5, (0,))]:
    case(
        "embedding",
        draw(rows, 3),
        labels(rows, *shape) if shape != () else np.asarray(7),
        numpy=lambda w, i: w[i],
        torch=lambda w, i: T.embedding(i, w),
        name=f"{rows} rows {shape}",
    )
    case(
        "embedding",
        draw(rows, 3),
        labels(rows, *shape) if shape != () else np.asarray(3),
        numpy=lambda w, i: w[i],
        torch=lambda w, i: T.embedding(i, w, 3),
        name=f"{rows} rows {shape} padding",
        gradient=False,  # the padding's gradient is left out on purpose: no difference quotient says that
        padding_idx=3,
    )
case(
    "embedding",
    draw(9, 3),
    labels(4, 5, 6),
    numpy=lambda w, i: w[i],
    torch=lambda w, i: T.embedding(i, w, scale_grad_by_freq=True),
    name="by frequency",
    gradient=False,  # divided by the counts on purpose
    scale_grad_by_freq=True,
)
for shape in [(4, 5), (0, 3), (7,)]:
    case(
        "dropout",
        draw(*shape),
        _random.random(shape) < 0.7,
        numpy=lambda x, keep: x * keep / 0.7,
        torch=lambda x, keep: x * keep / 0.7,
        name=str(shape),
        scale=1 / 0.7,
    )
