"""Losses of distances, densities and margins, CTC, and sample weights, beside PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import phalanx.nn.functional as F
from phalanx.core.errors import DTypeError, RangeError, ShapeError
from phalanx.core.tensor import Tensor
from tests.core.beside_torch import RANDOM, draw, same, torch

pytestmark = pytest.mark.torch
REDUCTIONS = ["mean", "sum", "none"]


def positive(*shape: int) -> np.ndarray:
    return RANDOM.random(shape) + 0.2


def signs(*shape: int) -> np.ndarray:
    return np.where(RANDOM.random(shape) < 0.5, 1.0, -1.0)


CASES: list[tuple[str, list[np.ndarray], list[Any], dict[str, Any]]] = [
    ("huber_loss", [draw(4, 3) * 2, draw(4, 3)], [], {}),
    ("huber_loss", [draw(4, 3) * 2, draw(4, 3)], [], {"delta": 0.4}),
    ("huber_loss", [draw(4, 3) * 2, draw(4, 3)], [], {"weight": positive(4, 3)}),
    ("mse_loss", [draw(4, 3), draw(4, 3)], [], {"weight": positive(4, 3)}),
    ("l1_loss", [draw(4, 3), draw(4, 3)], [], {"weight": positive(4, 3)}),
    ("kl_div", [draw(4, 3), positive(4, 3)], [], {}),
    ("kl_div", [draw(4, 3)], [np.array([[0.0, 1.0, 0.0], [0.2, 0.8, 0.0], [1.0, 0.0, 0.0], [0.3, 0.3, 0.4]])], {}),
    ("kl_div", [draw(4, 3), draw(4, 3)], [], {"log_target": True}),
    ("poisson_nll_loss", [draw(4, 3)], [np.floor(positive(4, 3) * 4)], {}),
    ("poisson_nll_loss", [positive(4, 3)], [np.floor(positive(4, 3) * 4)], {"log_input": False}),
    ("poisson_nll_loss", [draw(4, 3)], [np.floor(positive(4, 3) * 4)], {"full": True}),
    ("gaussian_nll_loss", [draw(4, 3), draw(4, 3), positive(4, 3)], [], {}),
    ("gaussian_nll_loss", [draw(4, 3), draw(4, 3), positive(4, 1)], [], {"full": True}),
    ("gaussian_nll_loss", [draw(4, 3), draw(4, 3), positive(4)], [], {"eps": 0.5}),
    ("gaussian_nll_loss", [draw(4, 3), draw(4, 3)], [0.7], {}),
    ("hinge_embedding_loss", [draw(5, 3)], [signs(5, 3)], {}),
    ("hinge_embedding_loss", [draw(5, 3)], [signs(5, 3)], {"margin": 0.3}),
    ("margin_ranking_loss", [draw(6), draw(6)], [signs(6)], {"margin": 0.2}),
    ("soft_margin_loss", [draw(5, 3) * 3], [signs(5, 3)], {}),
    ("multi_margin_loss", [draw(5, 4)], [RANDOM.integers(0, 4, 5)], {}),
    ("multi_margin_loss", [draw(5, 4)], [RANDOM.integers(0, 4, 5)], {"p": 2, "margin": 0.5, "weight": positive(4)}),
    ("multi_margin_loss", [draw(4)], [np.asarray(2)], {}),
    ("multilabel_margin_loss", [draw(3, 4)], [np.array([[3, 0, -1, 1], [-1, 2, 2, 2], [0, 1, 2, 3]])], {}),
    ("multilabel_margin_loss", [draw(4)], [np.array([3, 0, -1, 1])], {}),
    ("multilabel_soft_margin_loss", [draw(5, 4) * 3], [np.round(RANDOM.random((5, 4)))], {}),
    ("multilabel_soft_margin_loss", [draw(5, 4)], [np.round(RANDOM.random((5, 4)))], {"weight": positive(4)}),
    ("cosine_embedding_loss", [draw(6, 4), draw(6, 4)], [signs(6)], {"margin": 0.1}),
    ("cosine_embedding_loss", [draw(4), draw(4)], [np.asarray(-1.0)], {"margin": -0.9}),
    ("triplet_margin_loss", [draw(6, 4), draw(6, 4), draw(6, 4)], [], {}),
    ("triplet_margin_loss", [draw(6, 4), draw(6, 4), draw(6, 4)], [], {"swap": True, "p": 1.0, "margin": 2.0}),
    ("triplet_margin_with_distance_loss", [draw(6, 4), draw(6, 4), draw(6, 4)], [], {"swap": True}),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[3]}")
def test_loss_is_pytorchs(case: Any, reduction: str) -> None:
    name, arrays, constants, options = case
    same(name, arrays, constants=constants, reduction=reduction, **options)


def test_kl_div_batchmean() -> None:
    same("kl_div", [draw(4, 3), positive(4, 3)], reduction="batchmean")
    loss = F.kl_div(Tensor(draw(4, 3)), Tensor(positive(4, 3)), reduction="batchmean")
    assert loss.weight == 4.0
    with pytest.warns(UserWarning, match="batchmean"):
        F.kl_div(Tensor(draw(4, 3)), Tensor(positive(4, 3)))


def test_triplet_with_a_distance_of_ones_own() -> None:
    a, p, n = (draw(6, 4) for _ in range(3))
    mine = F.triplet_margin_with_distance_loss(
        *map(Tensor, (a, p, n)), distance_function=lambda x, y: (x - y).abs().sum(dim=-1), margin=3.0
    )
    theirs = torch.nn.functional.triplet_margin_with_distance_loss(
        *map(torch.tensor, (a, p, n)), distance_function=lambda x, y: (x - y).abs().sum(dim=-1), margin=3.0
    )
    assert mine.item() == pytest.approx(theirs.item())


DISTANCES = [
    ("normalize", [draw(4, 5, 3)], {"dim": -1}), ("normalize", [np.zeros((2, 3))], {}),
    ("normalize", [draw(4, 5)], {"p": float("inf")}),
    ("cosine_similarity", [draw(4, 5), draw(4, 5)], {}), ("cosine_similarity", [draw(4, 5, 3), draw(1, 5, 3)], {"dim": 2}),
    ("pairwise_distance", [draw(4, 5), draw(4, 5)], {}), ("pairwise_distance", [draw(4, 5), draw(5)], {"p": 1.0}),
    ("pairwise_distance", [draw(4, 5), draw(4, 5)], {"keepdim": True, "p": 3.0}),
    ("pdist", [draw(5, 3)], {}), ("pdist", [draw(5, 3)], {"p": 1.0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arrays", "options"), DISTANCES, ids=str)
def test_distances(name: str, arrays: Any, options: Any) -> None:
    same(name, arrays, **options)


# ---- CTC -------------------------------------------------------------------------------------------------------------

LABELS = np.array([[1, 1, 2, 3], [3, 2, 0, 0], [2, 2, 2, 0]])  # the tail behind the lengths means nothing


def ctc(form: str) -> tuple[Any, Any, Any]:
    lengths, counts = (9, 5, 7), (4, 2, 3)
    if form == "row":
        return np.concatenate([row[:n] for row, n in zip(LABELS, counts, strict=True)]), lengths, counts
    if form == "arrays":
        return LABELS, np.array(lengths), np.array(counts)
    return LABELS, lengths, counts


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("form", ["rows", "row", "arrays"])
def test_ctc_through_log_softmax(form: str, reduction: str) -> None:
    """Of the logits: PyTorch's gradient of the log-probabilities alone is that behind a log_softmax."""
    targets, lengths, counts = ctc(form)
    scores, seed = draw(9, 3, 5), draw(3) if reduction == "none" else np.asarray(1.0)
    results = []
    for make, module in ((lambda a: Tensor(a), F), (torch.tensor, torch.nn.functional)):
        x = make(scores.copy())
        x.requires_grad = True
        given = [make(n) if isinstance(n, np.ndarray) else n for n in (targets, lengths, counts)]
        loss = module.ctc_loss(module.log_softmax(x, dim=2), *given, reduction=reduction)
        loss.backward(make(seed))
        results.append((loss.detach().numpy(), x.grad.numpy()))
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


def test_ctc_impossible_empty_and_lone() -> None:
    log_p = F.log_softmax(Tensor(draw(3, 2, 4)), dim=2)
    labels = np.array([[1, 1, 1], [2, 0, 0]])
    losses = F.ctc_loss(log_p, Tensor(labels), (3, 3), (3, 1), reduction="none")
    assert np.isinf(losses.numpy()[0]) and np.isfinite(losses.numpy()[1])  # repeats need a blank between
    x = Tensor(draw(3, 2, 4), requires_grad=True)
    loss = F.ctc_loss(F.log_softmax(x, dim=2), Tensor(labels), (3, 3), (3, 1), zero_infinity=True)
    loss.backward()
    assert loss.weight == 2.0 and not x.grad.numpy()[:, 0].any() and np.isfinite(x.grad.numpy()).all()
    nothing = F.ctc_loss(log_p, Tensor(labels), (3, 2), (0, 0), reduction="none").numpy()
    np.testing.assert_allclose(nothing, [-log_p.array[:, 0, 0].sum(), -log_p.array[:2, 1, 0].sum()])
    lone = F.ctc_loss(Tensor(log_p.array[:, 1]), Tensor(np.array([2])), 3, 1, reduction="none")
    assert lone.shape == () and lone.item() == pytest.approx(losses.numpy()[1])


# ---- sample weights --------------------------------------------------------------------------------------------------

X, T = draw(5, 3), draw(5, 3)
CLASSES = np.array([0, 2, 1, -100, 2])
WEIGHTED: dict[str, Callable[..., Tensor]] = {
    "mse": lambda **o: F.mse_loss(Tensor(X), Tensor(T), **o),
    "l1": lambda **o: F.l1_loss(Tensor(X), Tensor(T), **o),
    "smooth_l1": lambda **o: F.smooth_l1_loss(Tensor(X), Tensor(T), **o),
    "huber": lambda **o: F.huber_loss(Tensor(X), Tensor(T), **o),
    "bce": lambda **o: F.binary_cross_entropy(Tensor(1 / (1 + np.exp(-X))), Tensor(np.round(np.abs(T) % 1)), **o),
    "bce_logits": lambda **o: F.binary_cross_entropy_with_logits(Tensor(X), Tensor(np.round(np.abs(T) % 1)), **o),
    "cross_entropy": lambda **o: F.cross_entropy(Tensor(X), Tensor(CLASSES), **o),
    "nll": lambda **o: F.nll_loss(Tensor(X), Tensor(CLASSES), **o),
    "soft labels": lambda **o: F.cross_entropy(Tensor(X), Tensor(np.abs(T)), **o),
    "kl_div": lambda **o: F.kl_div(Tensor(X), Tensor(np.abs(T)), **o),
    "hinge": lambda **o: F.hinge_embedding_loss(Tensor(X), Tensor(np.sign(T)), **o),
    "multi_margin": lambda **o: F.multi_margin_loss(Tensor(X), Tensor(np.abs(CLASSES) % 3), **o),
    "multilabel_soft": lambda **o: F.multilabel_soft_margin_loss(Tensor(X), Tensor(np.round(np.abs(T) % 1)), **o),
    "triplet": lambda **o: F.triplet_margin_loss(Tensor(X), Tensor(T), Tensor(X + 1), **o),
    "poisson": lambda **o: F.poisson_nll_loss(Tensor(X), Tensor(np.abs(T)), **o),
    "gaussian": lambda **o: F.gaussian_nll_loss(Tensor(X), Tensor(T), 0.5, **o),
}


@pytest.mark.filterwarnings("ignore:kl_div")
@pytest.mark.parametrize("name", WEIGHTED)
def test_sample_weights(name: str) -> None:
    """A weighted mean is sum(w * loss) / sum(w); whole weights count samples as often; its weight is their sum."""
    loss = WEIGHTED[name]
    each = loss(reduction="none").numpy()
    kept = CLASSES != -100 if name in ("cross_entropy", "nll") else np.ones(5, bool)
    per_sample = each.reshape(5, -1).mean(axis=1)
    weights = np.array([2.0, 0.0, 1.5, 3.0, 0.25])
    found = loss(sample_weight=Tensor(weights))
    total = weights[kept].sum()
    assert found.item() == pytest.approx((weights * per_sample)[kept].sum() / total)
    assert found.weight == pytest.approx(total)
    ones = loss(sample_weight=np.ones(5))
    assert ones.item() == pytest.approx(loss().item()) and ones.weight == pytest.approx(loss().weight)
    np.testing.assert_allclose(
        loss(sample_weight=weights, reduction="none").numpy(), each * weights.reshape((5,) + (1,) * (each.ndim - 1))
    )
    nothing = loss(sample_weight=np.zeros(5))
    assert nothing.item() == 0.0 and nothing.weight == 0.0


def test_sample_weights_of_items_and_classes() -> None:
    scores, labels = draw(2, 3, 4), RANDOM.integers(0, 3, (2, 4))
    items, classes = positive(2, 4), np.array([0.5, 1.0, 2.0])
    each = F.cross_entropy(Tensor(scores), Tensor(labels), reduction="none").numpy()
    found = F.cross_entropy(Tensor(scores), Tensor(labels), Tensor(classes), sample_weight=items)
    total = items * classes[labels]
    assert found.item() == pytest.approx((each * total).sum() / total.sum())
    assert found.weight == pytest.approx(total.sum())
    whole = F.cross_entropy(Tensor(scores), Tensor(labels), sample_weight=np.array([1.0, 3.0]))
    assert whole.weight == pytest.approx(16.0)
    assert whole.item() == pytest.approx((each * [[1.0], [3.0]]).sum() / 16)
    elements = F.mse_loss(Tensor(X), Tensor(T), sample_weight=np.full((5, 3), 2.0))
    assert elements.item() == pytest.approx(((X - T) ** 2).mean()) and elements.weight == pytest.approx(10.0)


ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: F.mse_loss(Tensor(X), Tensor(T), sample_weight=np.ones(4)), ShapeError, r"each of the 5 samples.*\(4,\)"),
    (lambda: F.mse_loss(Tensor(X), Tensor(T), sample_weight=Tensor(np.ones(5), requires_grad=True)), DTypeError, "detach"),
    (lambda: F.mse_loss(Tensor(X), Tensor(T), weight=Tensor(np.ones(5))), ShapeError, "input's shape"),
    (lambda: F.mse_loss(Tensor(X), Tensor(T), weight=Tensor(X), sample_weight=np.ones(5)), RangeError, "not both"),
    (lambda: F.huber_loss(Tensor(X), Tensor(T), delta=0.0), RangeError, "delta"),
    (lambda: F.gaussian_nll_loss(Tensor(X), Tensor(T), -1.0), RangeError, "negative"),
    (lambda: F.gaussian_nll_loss(Tensor(X), Tensor(T), Tensor(np.ones(3))), ShapeError, "var"),
    (lambda: F.multi_margin_loss(Tensor(X), Tensor(CLASSES)), RangeError, "label -100 at position 3"),
    (lambda: F.multi_margin_loss(Tensor(X), Tensor(CLASSES), p=3), RangeError, "p must be 1 or 2"),
    (lambda: F.multilabel_margin_loss(Tensor(X), Tensor(CLASSES)), ShapeError, "labels of that shape"),
    (lambda: F.cosine_embedding_loss(Tensor(X), Tensor(T), Tensor(X)), ShapeError, r"target \(N,\)"),
    (lambda: F.triplet_margin_loss(Tensor(X), Tensor(T), Tensor(X), margin=0.0), RangeError, "margin"),
    (lambda: F.margin_ranking_loss(Tensor(X), Tensor(T), Tensor(X[0])), ShapeError, "equally many dimensions"),
    (lambda: F.ctc_loss(Tensor(draw(4, 1, 3)), Tensor(np.array([[5]])), (4,), (1,)), RangeError, "3 classes"),
    (lambda: F.ctc_loss(Tensor(draw(4, 1, 3)), Tensor(np.array([[1]])), (5,), (1,)), RangeError, "input_lengths 5"),
    (lambda: F.ctc_loss(Tensor(draw(4, 1, 3)), Tensor(np.array([1, 2])), (4,), (1,)), ShapeError, "target_lengths say"),
    (lambda: F.ctc_loss(Tensor(draw(4, 1, 3)), Tensor(np.array([[1]])), (4,), (1,), blank=7), RangeError, "blank"),
    (lambda: F.pdist(Tensor(draw(4))), ShapeError, "rows"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "words"), ERRORS, ids=[words for *_, words in ERRORS])
def test_errors_say_what_is_wrong(call: Callable[[], Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()


def test_every_mean_over_nothing_is_zero() -> None:
    """Shards may be empty."""
    empty = {"x": np.zeros((0, 3)), "labels": np.zeros(0, np.int64), "signs": np.zeros(0)}
    calls: list[Callable[[Tensor], Tensor]] = [
        lambda x: F.huber_loss(x, x.detach()), lambda x: F.kl_div(x, x.detach(), reduction="batchmean"),
        lambda x: F.poisson_nll_loss(x, x.detach()), lambda x: F.gaussian_nll_loss(x, x.detach(), 1.0),
        lambda x: F.hinge_embedding_loss(x, x.detach()), lambda x: F.soft_margin_loss(x, x.detach()),
        lambda x: F.multi_margin_loss(x, Tensor(empty["labels"])), lambda x: F.multilabel_soft_margin_loss(x, x.detach()),
        lambda x: F.multilabel_margin_loss(x, Tensor(np.zeros((0, 3), np.int64))),
        lambda x: F.cosine_embedding_loss(x, x.detach(), Tensor(empty["signs"])),
        lambda x: F.triplet_margin_loss(x, x.detach(), x.detach()),
    ]  # fmt: skip
    for call in calls:
        x = Tensor(empty["x"].copy(), requires_grad=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            loss = call(x)
        assert loss.item() == 0.0 and loss.weight == 0.0
        loss.backward()
        assert x.grad is not None and x.grad.shape == (0, 3)
