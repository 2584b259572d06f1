"""Metrics against their definitions, computed by hand, and their states: whoever measured which part does not show."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import metrics
from phalanx.core.errors import RangeError, ShapeError, StateError
from phalanx.core.metrics.names import BY_NAME

N, C = 57, 4
RANDOM = np.random.default_rng(11)
SCORES = np.round(RANDOM.random((N, C)), 1).astype(np.float32)  # many ties
LABELS = RANDOM.integers(0, C, N)
BINARY = np.round(RANDOM.random(N), 1).astype(np.float32)
TRUTH = RANDOM.integers(0, 2, N)
MULTI = RANDOM.integers(0, 2, (N, C))
WEIGHT = RANDOM.integers(0, 4, N).astype(np.float64)
ONES = np.ones(N)
ONE_HOT = np.eye(C)[LABELS]
PREDICTED = SCORES.argmax(axis=1)
VALUES, TARGETS = RANDOM.normal(size=(N, 2)).astype(np.float32), RANDOM.normal(size=(N, 2)).astype(np.float32)


# -- definitions -------------------------------------------------------------------------------------------------------


def counts(predicted: Any, true: Any, w: Any, c: int) -> tuple[float, float, float, float]:
    tp = fp = fn = tn = 0.0
    for p, t, weight in zip(predicted, true, w, strict=True):
        tp += weight * (p == c and t == c)
        fp += weight * (p == c and t != c)
        fn += weight * (p != c and t == c)
        tn += weight * (p != c and t != c)
    return tp, fp, fn, tn


FORMULAS: dict[str, Callable[..., float]] = {
    "precision": lambda tp, fp, fn, tn: tp / (tp + fp) if tp + fp else 0.0,
    "recall": lambda tp, fp, fn, tn: tp / (tp + fn) if tp + fn else 0.0,
    "specificity": lambda tp, fp, fn, tn: tn / (tn + fp) if tn + fp else 0.0,
    "f1": lambda tp, fp, fn, tn: 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0,
    "fbeta": lambda tp, fp, fn, tn: 5 * tp / (5 * tp + 4 * fn + fp) if tp + fp + fn else 0.0,
    "jaccard": lambda tp, fp, fn, tn: tp / (tp + fp + fn) if tp + fp + fn else 0.0,
}
MAKE: dict[str, Callable[..., metrics.Metric]] = {
    "precision": metrics.Precision, "recall": metrics.Recall, "specificity": metrics.Specificity, "f1": metrics.F1,
    "fbeta": lambda average, **options: metrics.FBeta(2.0, average, **options), "jaccard": metrics.JaccardIndex,
}  # fmt: skip


def averaged(formula: Callable[..., float], by_class: list[tuple[float, ...]], average: str | None) -> Any:
    scores = [formula(*row) for row in by_class]
    if average is None:
        return scores
    if average == "micro":
        return formula(*map(sum, zip(*by_class, strict=True)))
    if average == "macro":
        met = [score for score, (tp, fp, fn, _) in zip(scores, by_class, strict=True) if tp + fp + fn]
        return sum(met) / len(met)
    supports = [tp + fn for tp, _, fn, _ in by_class]
    return sum(s * n for s, n in zip(scores, supports, strict=True)) / sum(supports)


def roc(scores: Any, true: Any, w: Any) -> float:
    """The share of pairs in the right order."""
    right = total = 0.0
    for s, a in zip(scores[true == 1], w[true == 1], strict=True):
        for r, b in zip(scores[true == 0], w[true == 0], strict=True):
            right += a * b * (1.0 if s > r else 0.5 if s == r else 0.0)
            total += a * b
    return right / total


def average_precision(scores: Any, true: Any, w: Any) -> float:
    area = before = 0.0
    positives = w[true == 1].sum()
    for threshold in sorted(set(scores), reverse=True):
        chosen = scores >= threshold
        hits = w[chosen & (true == 1)].sum()
        if w[chosen].sum():
            area += (hits - before) / positives * hits / w[chosen].sum()
        before = hits
    return area


def top(k: int, w: Any) -> float:
    hits = 0.0
    for row, label, weight in zip(SCORES, LABELS, w, strict=True):
        order = sorted(range(C), key=lambda c: (-row[c], c))
        hits += weight * (label in order[:k])
    return hits / w.sum()


def confusion(predicted: Any, true: Any, w: Any, classes: int = C) -> np.ndarray:
    matrix = np.zeros((classes, classes))
    for p, t, weight in zip(predicted, true, w, strict=True):
        matrix[int(t), int(p)] += weight
    return matrix


def r2(p: Any, t: Any, w: Any) -> float:
    return 1 - (w * (t - p) ** 2).sum() / (w * (t - (w * t).sum() / w.sum()) ** 2).sum()


def mean(values: Any, w: Any) -> float:
    return (values.reshape(N, -1).mean(axis=1) * w).sum() / w.sum()


def surprise(w: Any) -> float:
    logs = [
        math.log(math.exp(row[label]) / sum(map(math.exp, row)))
        for row, label in zip(SCORES.tolist(), LABELS, strict=True)
    ]
    return math.exp(-mean(np.array(logs), w))


WIDE, AIM = VALUES.astype(np.float64), TARGETS.astype(np.float64)
BY_COLUMN = [SCORES[:, c] for c in range(C)]
CASES: dict[str, tuple[Callable[[], metrics.Metric], Any, Any, Callable[[Any], Any]]] = {
    "accuracy, scores": (metrics.Accuracy, SCORES, LABELS, lambda w: mean(PREDICTED == LABELS, w)),
    "accuracy, labels as a column": (metrics.Accuracy, SCORES, LABELS[:, None], lambda w: mean(PREDICTED == LABELS, w)),
    "accuracy, one-hot": (metrics.Accuracy, SCORES, ONE_HOT, lambda w: mean(PREDICTED == LABELS, w)),
    "accuracy, labels": (metrics.Accuracy, PREDICTED, LABELS, lambda w: mean(PREDICTED == LABELS, w)),
    "accuracy, probabilities": (metrics.Accuracy, BINARY, TRUTH, lambda w: mean((BINARY > 0.5) == TRUTH, w)),
    "accuracy, a column": (metrics.Accuracy, BINARY[:, None], TRUTH, lambda w: mean((BINARY > 0.5) == TRUTH, w)),
    "accuracy, two columns": (metrics.Accuracy, BINARY[:, None], TRUTH[:, None], lambda w: mean((BINARY > 0.5) == TRUTH, w)),
    "accuracy, another threshold": (lambda: metrics.Accuracy(0.3), BINARY, TRUTH, lambda w: mean((BINARY > 0.3) == TRUTH, w)),
    "binary accuracy of many": (metrics.BinaryAccuracy, SCORES, MULTI, lambda w: mean((SCORES > 0.5) == MULTI, w)),
    "categorical accuracy": (metrics.CategoricalAccuracy, SCORES, ONE_HOT, lambda w: mean(PREDICTED == LABELS, w)),
    "sparse accuracy": (metrics.SparseCategoricalAccuracy, SCORES, LABELS, lambda w: mean(PREDICTED == LABELS, w)),
    "top 1": (lambda: metrics.TopKAccuracy(1), SCORES, LABELS, lambda w: mean(PREDICTED == LABELS, w)),
    "top 2": (lambda: metrics.TopKAccuracy(2), SCORES, LABELS, lambda w: top(2, w)),
    "top 3, one-hot": (lambda: metrics.TopKAccuracy(3), SCORES, ONE_HOT, lambda w: top(3, w)),
    "top 9": (lambda: metrics.TopKAccuracy(9), SCORES, LABELS, lambda w: 1.0),
    "confusion": (metrics.ConfusionMatrix, SCORES, LABELS, lambda w: confusion(PREDICTED, LABELS, w)),
    "confusion by rows": (lambda: metrics.ConfusionMatrix(C, "true"), SCORES, LABELS,
                          lambda w: (m := confusion(PREDICTED, LABELS, w)) / m.sum(axis=1, keepdims=True)),
    "confusion by columns": (lambda: metrics.ConfusionMatrix(normalize="pred"), PREDICTED, LABELS,
                             lambda w: (m := confusion(PREDICTED, LABELS, w)) / m.sum(axis=0, keepdims=True)),
    "confusion of all": (lambda: metrics.ConfusionMatrix(normalize="all"), BINARY, TRUTH,
                         lambda w: confusion(BINARY > 0.5, TRUTH, w, 2) / w.sum()),
    "roc": (metrics.AUC, BINARY, TRUTH, lambda w: roc(BINARY, TRUTH, w)),
    "roc of two scores": (metrics.AUC, np.stack([1 - BINARY, BINARY], axis=1), TRUTH, lambda w: roc(BINARY, TRUTH, w)),
    "roc, macro": (metrics.AUC, SCORES, LABELS, lambda w: np.mean([roc(s, ONE_HOT[:, c], w) for c, s in enumerate(BY_COLUMN)])),
    "roc, weighted": (lambda: metrics.AUC(average="weighted"), SCORES, LABELS,
                      lambda w: sum(roc(s, ONE_HOT[:, c], w) * (ONE_HOT[:, c] * w).sum() for c, s in enumerate(BY_COLUMN)) / w.sum()),
    "roc, micro": (lambda: metrics.AUC(average="micro"), SCORES, LABELS,
                   lambda w: roc(SCORES.reshape(-1), ONE_HOT.reshape(-1), np.repeat(w, C))),
    "roc by label": (lambda: metrics.AUC(average=None), SCORES, MULTI, lambda w: [roc(s, MULTI[:, c], w) for c, s in enumerate(BY_COLUMN)]),
    "pr": (lambda: metrics.AUC("PR"), BINARY, TRUTH, lambda w: average_precision(BINARY, TRUTH, w)),
    "pr, macro": (lambda: metrics.AUC("pr"), SCORES, MULTI,
                  lambda w: np.mean([average_precision(s, MULTI[:, c], w) for c, s in enumerate(BY_COLUMN)])),
    "mae": (metrics.MeanAbsoluteError, VALUES, TARGETS, lambda w: mean(abs(WIDE - AIM), w)),
    "mae, a column": (metrics.MeanAbsoluteError, VALUES[:, :1], TARGETS[:, 0], lambda w: mean(abs(WIDE - AIM)[:, 0], w)),
    "mse": (metrics.MeanSquaredError, VALUES, TARGETS, lambda w: mean((WIDE - AIM) ** 2, w)),
    "rmse": (metrics.RootMeanSquaredError, VALUES, TARGETS, lambda w: math.sqrt(mean((WIDE - AIM) ** 2, w))),
    "mape": (metrics.MeanAbsolutePercentageError, VALUES, TARGETS, lambda w: 100 * mean(abs((WIDE - AIM) / AIM), w)),
    "r2": (metrics.R2Score, VALUES, TARGETS, lambda w: np.mean([r2(WIDE[:, d], AIM[:, d], w) for d in (0, 1)])),
    "r2 of one": (metrics.R2Score, VALUES[:, :1], TARGETS[:, 0], lambda w: r2(WIDE[:, 0], AIM[:, 0], w)),
    "r2 by output": (lambda: metrics.R2Score("raw_values"), VALUES, TARGETS, lambda w: [r2(WIDE[:, d], AIM[:, d], w) for d in (0, 1)]),
    "perplexity": (metrics.Perplexity, SCORES, LABELS, surprise),
    "perplexity of probabilities": (lambda: metrics.Perplexity(from_logits=False), SCORES + 0.1, LABELS,
                                    lambda w: math.exp(-mean(np.log((SCORES + np.float32(0.1))[np.arange(N), LABELS].astype(float)), w))),
    "a function of samples": (lambda: metrics.MeanOf(lambda p, t: ((p - t) ** 2).sum(dim=1)), WIDE, AIM,
                              lambda w: 2 * mean((WIDE - AIM) ** 2, w)),
    "mean": (metrics.Mean, VALUES[:, 0], None, lambda w: mean(WIDE[:, 0], w)),
}  # fmt: skip
for kind, formula in FORMULAS.items():
    for average in ("micro", "macro", "weighted", None):
        CASES[f"{kind}, {average}"] = (
            lambda kind=kind, average=average: MAKE[kind](average), SCORES, LABELS,
            lambda w, f=formula, a=average: averaged(f, [counts(PREDICTED, LABELS, w, c) for c in range(C)], a),
        )  # fmt: skip
        CASES[f"{kind}, {average}, multi-label"] = (
            lambda kind=kind, average=average: MAKE[kind](average, threshold=0.4), SCORES, MULTI,
            lambda w, f=formula, a=average: averaged(f, [counts(SCORES[:, c] > 0.4, MULTI[:, c], w, 1) for c in range(C)], a),
        )  # fmt: skip
    CASES[f"{kind}, binary"] = (
        lambda kind=kind: MAKE[kind]("binary"), BINARY, TRUTH,
        lambda w, f=formula: f(*counts(BINARY > 0.5, TRUTH, w, 1)),
    )  # fmt: skip


def parts_of(length: int, seed: int) -> list[slice]:
    cuts = sorted({0, length, *np.random.default_rng(seed).integers(0, length, 6).tolist()})
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]


def cut(value: Any, part: slice) -> Any:
    return None if value is None else value[part]


@pytest.mark.parametrize("case", CASES)
def test_values_of_the_definitions(case: str) -> None:
    make, prediction, target, expected = CASES[case]
    for weight in (None, WEIGHT):
        metric = make()
        for part in parts_of(N, 1):
            metric.update(prediction[part], cut(target, part), cut(weight, part))
        np.testing.assert_allclose(
            metric.compute(), expected(ONES if weight is None else weight), rtol=1e-9, atol=1e-12
        )
        tensors = make()
        tensors.update(phalanx.tensor(prediction), None if target is None else phalanx.tensor(target), weight)
        np.testing.assert_allclose(tensors.compute(), metric.compute(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_who_measured_what_does_not_show(case: str) -> None:
    """States of the same parts merge to equal bits; unweighted counts are whole numbers, exact for any parts."""
    make, prediction, target, _ = CASES[case]
    parts = parts_of(N, 2)
    states = []
    for part in parts:
        metric = make()
        metric.update(prediction[part], cut(target, part))
        states.append(metric.state())
    one, other, whole = make(), make(), make()
    whole.update(prediction, target)
    for part in parts:
        one.update(prediction[part], cut(target, part))
    for state in states:
        other.merge({key: np.frombuffer(v.tobytes(), v.dtype).reshape(v.shape) for key, v in state.items()})
    assert [v.tobytes() for v in one.state().values()] == [v.tobytes() for v in other.state().values()]
    for key, value in whole.state().items():
        if value.dtype.kind in "iu":
            np.testing.assert_array_equal(one.state()[key], value)
    one.reset()
    assert one.state() == {} and math.isnan(one.compute())
    one.merge({})
    assert math.isnan(copy.deepcopy(one).compute())


def test_classes_that_come_up_late() -> None:
    for make in (metrics.ConfusionMatrix, lambda: metrics.Precision(None), lambda: metrics.F1("macro")):
        late, whole = make(), make()
        for part in (slice(0, 2), slice(2, 4), slice(4, 6)):
            late.update(np.array([0, 1, 2, 2, 5, 1])[part], np.array([0, 1, 2, 1, 5, 5])[part])
        whole.update(np.array([0, 1, 2, 2, 5, 1]), np.array([0, 1, 2, 1, 5, 5]))
        np.testing.assert_array_equal(late.compute(), whole.compute())


def test_places_of_samples() -> None:
    """Pixels and tokens: class dimension 1 or last, labels that do not count, weights of samples or of places."""
    scores, labels = RANDOM.random((3, 4, 5)), RANDOM.integers(0, 4, (3, 5))
    labels[0, 1:4] = -100
    kept = labels != -100
    predicted = scores.argmax(axis=1)
    right = (predicted == labels)[kept].mean()
    places = RANDOM.random((3, 5))
    for axis, given in ((1, scores), (-1, np.moveaxis(scores, 1, -1))):
        metric = metrics.Accuracy(axis=axis, ignore_index=-100)
        metric.update(given, labels)
        assert metric.compute() == pytest.approx(right)
        metric = metrics.TopKAccuracy(1, axis=axis, ignore_index=-100)
        metric.update(given, labels)
        assert metric.compute() == pytest.approx(right)
        metric.reset()
        metric.update(given, labels, places)
        assert metric.compute() == pytest.approx((places * (predicted == labels))[kept].sum() / places[kept].sum())
        flat = metrics.F1("macro", axis=axis, ignore_index=-100)
        flat.update(given, labels)
        expected = metrics.F1("macro", num_classes=4)
        expected.update(predicted[kept], labels[kept])
        assert flat.compute() == expected.compute()
        surprise = metrics.Perplexity(-100, axis=axis)
        surprise.update(given, labels)
        logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        own = np.take_along_axis(logs, np.where(kept, labels, 0)[:, None], axis=1)[:, 0]
        assert surprise.compute() == pytest.approx(math.exp(-own[kept].mean()))
    multi = metrics.Recall("micro", threshold=0.5, ignore_index=-1)
    multi.update(np.array([[0.9, 0.9], [0.1, 0.2]]), np.array([[1, -1], [1, 0]]))
    assert multi.compute() == 0.5


def test_binary_takes_two_scores_and_decisions_of_many() -> None:
    two = metrics.Precision()
    two.update(np.array([[0.1, 0.9], [0.6, 0.4], [0.2, 0.8]]), np.array([1, 1, 0]))
    assert two.compute() == 0.5
    many = metrics.Precision()
    many.update(np.array([[0.9, 0.1], [0.7, 0.8]]), np.array([[1, 0], [0, 1]]))
    assert many.compute() == pytest.approx(2 / 3)


def test_where_nothing_can_be_said() -> None:
    assert metrics.Precision().name == "precision"
    metric = metrics.Precision(zero_division=1.0)
    metric.update(np.array([0, 0]), np.array([0, 1]))
    assert metric.compute() == 1.0
    auc = metrics.AUC()
    auc.update(np.array([0.1, 0.2]), np.array([1, 1]))
    assert math.isnan(auc.compute())
    whole_numbers = metrics.AUC()
    whole_numbers.update(np.array([3, 0, 5], np.uint8), np.array([0, 0, 1]))
    assert whole_numbers.compute() == 1.0
    several = metrics.AUC()
    several.update(np.array([[0.1, 0.3], [0.4, 0.2]]), np.array([[1, 0], [1, 1]]))
    assert several.compute() == 0.0  # of the second column alone
    constant = metrics.R2Score()
    constant.update(np.array([1.0, 1.0]), np.array([1.0, 1.0]))
    assert constant.compute() == 1.0
    constant.update(np.array([2.0]), np.array([1.0]))
    assert constant.compute() == 0.0
    empty = metrics.Accuracy()
    empty.update(np.zeros((0, 3)), np.zeros(0, int))
    assert empty.state() == {}
    nothing = metrics.Accuracy(ignore_index=0)
    nothing.update(np.zeros((2, 3)), np.zeros(2, int))
    assert math.isnan(nothing.compute())
    not_a_number = metrics.TopKAccuracy(2)
    not_a_number.update(np.array([[np.nan, 0.5, 0.1]]), np.array([0]))
    assert not_a_number.compute() == 0.0


@pytest.mark.parametrize("name", BY_NAME)
def test_names(name: str) -> None:
    metric = metrics.get(name)
    assert metric.name == name and isinstance(metric, metrics.Metric)


def test_get() -> None:
    given = metrics.F1()
    assert metrics.get(given) is given
    assert [m.name for m in metrics.get_all(["acc", given, abs])] == ["acc", "f1", "abs"]
    assert [m.name for m in metrics.get_all("mae")] == ["mae"]


REFUSALS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "an unknown name": (lambda: metrics.get("acuracy"), RangeError, "'acuracy' is no metric; known: acc, accuracy"),
    "no metric": (lambda: metrics.get(3), RangeError, "expected a metric, its name or a function, got int"),
    "two of a name": (lambda: metrics.get_all(["auc", metrics.AUC()]), RangeError, "two metrics are called 'auc'"),
    "an average": (lambda: metrics.F1("makro"), RangeError, "F1: average is one of 'binary', .*got 'makro'"),
    "a curve": (lambda: metrics.AUC("RUC"), RangeError, "AUC: curve is 'ROC' or 'PR'"),
    "k": (lambda: metrics.TopKAccuracy(0), RangeError, "k to be an integer of at least 1, got 0"),
    "beta": (lambda: metrics.FBeta(0.0), RangeError, "beta to be above 0"),
    "a way to normalise": (lambda: metrics.ConfusionMatrix(normalize="rows"), RangeError, "normalize is None, 'true'"),
    "outputs": (lambda: metrics.R2Score("mean"), RangeError, "multioutput is one of"),
    "no target": (lambda: metrics.Accuracy().update(SCORES), ShapeError, r"accuracy: update\(prediction, target\)"),
    "shapes": (lambda: metrics.Accuracy().update(SCORES, LABELS[:-1]), ShapeError, r"scores \(N, C, ...\) with labels"),
    "labels beyond the scores": (lambda: metrics.Accuracy().update(SCORES, LABELS + 1), RangeError, r"labels must be in \[0, 4\), got 4"),
    "labels with fractions": (lambda: metrics.Accuracy().update(SCORES, LABELS + 0.5), RangeError, "whole numbers"),
    "more than two classes": (lambda: metrics.F1().update(SCORES, LABELS), RangeError, "average='binary' is for the classes 0 and 1"),
    "more classes than said": (lambda: metrics.ConfusionMatrix(3).update(PREDICTED, LABELS), RangeError, r"num_classes=3.*\[0, 3\)"),
    "negative labels": (lambda: metrics.Recall("macro").update(PREDICTED, LABELS - 1), RangeError, "got -1"),
    "weights": (lambda: metrics.Accuracy().update(SCORES, LABELS, ONES[:-1]), ShapeError, "one number for each sample"),
    "scores that are no numbers": (lambda: metrics.AUC().update(BINARY * np.nan, TRUTH), RangeError, "finite"),
    "images of scores": (lambda: metrics.AUC().update(np.zeros((2, 3, 4)), np.zeros((2, 4))), ShapeError, r"expected scores \(N,\)"),
    "regression shapes": (lambda: metrics.MeanSquaredError().update(VALUES, TARGETS[:, :1]), ShapeError, "must have one shape"),
    "another kind of state": (lambda: (m := _seen(), m.merge({"x": np.zeros(1)})), StateError, "cannot merge a state with x"),
    "a function's shape": (lambda: metrics.MeanOf(lambda p, t: p[:2]).update(VALUES), ShapeError, "one value for each of the 57"),
}  # fmt: skip


def _seen() -> metrics.Metric:
    metric = metrics.Accuracy()
    metric.update(SCORES, LABELS)
    return metric


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case: str) -> None:
    call, kind, words = REFUSALS[case]
    with pytest.raises(kind, match=words):
        call()
