"""The functions of everyday tensor code beside PyTorch's: values, dtypes, shapes and gradients of one expression."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx.core.errors import DTypeError, RangeError, ShapeError
from tests.core.expressions import DIFFERS, FUNCTIONS, evaluate
from tests.core.test_tensor_torch import same

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("expression", FUNCTIONS)
def test_expression(expression: str) -> None:
    theirs, their_gradients = evaluate(expression, torch, torch.tensor)
    ours, our_gradients = evaluate(DIFFERS.get(expression, expression), phalanx, phalanx.tensor)
    same(ours, theirs)
    for a, b in zip(our_gradients, their_gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


X = phalanx.tensor([[1.0, 2.0], [3.0, 4.0]])
I = phalanx.tensor([[0, 1], [1, 0]])  # noqa: E741
REFUSALS = [
    (lambda: phalanx.atan2("a", X), DTypeError, "Tensors or numbers expected, got str"),
    (lambda: phalanx.gcd(X, 2), DTypeError, "integers expected, got float32"),
    (lambda: phalanx.bitwise_left_shift(I, 1.5), DTypeError, "integers expected, got a float"),
    (lambda: phalanx.sinh([1.0]), DTypeError, "sinh: .*list"),
    (lambda: I.norm(), DTypeError, "convert it with .float"),
    (lambda: X.norm("nuc"), RangeError, "matrix_norm"),
    (lambda: X.norm("most"), RangeError, '"fro", got'),
    (lambda: phalanx.nanmean(I), DTypeError, "floating tensor expected"),
    (lambda: phalanx.diff(X, -1), RangeError, "n of at least 0"),
    (lambda: phalanx.kthvalue(X, 3), RangeError, "k between 1 and 2"),
    (lambda: phalanx.median(phalanx.zeros(2, 0), 1), ShapeError, "no elements along dimension 1"),
    (lambda: phalanx.quantile(X, 1.5), RangeError, r"in \[0, 1\]"),
    (lambda: phalanx.quantile(X, 0.5, interpolation="cubic"), RangeError, "one of linear"),
    (lambda: phalanx.searchsorted(X, X[:1]), ShapeError, "leading dimensions"),
    (lambda: phalanx.searchsorted(X, X, side="left", right=True), RangeError, "contradicts"),
    (lambda: phalanx.bincount(X), RangeError, "1-D tensor of integers"),
    (lambda: phalanx.histc(X, 0), RangeError, "bins > 0"),
    (lambda: phalanx.scatter(X, 0, I[0], X), ShapeError, "must fit into"),
    (lambda: phalanx.scatter(X, 0, I, X[:1]), ShapeError, "must hold the index's shape"),
    (lambda: phalanx.scatter(X, 0, I + 2, X), RangeError, "out of bounds"),
    (lambda: phalanx.scatter_reduce(X, 0, I, X, "median"), RangeError, "one of sum"),
    (lambda: phalanx.index_add(X, 0, I, X), ShapeError, "1 dimension"),
    (lambda: phalanx.index_put(X, (I[0],), phalanx.ones(3)), ShapeError, r"values of shape \(3,\)"),
    (lambda: phalanx.masked_scatter(X, X > 0, X[0]), ShapeError, "4 places to fill, source has 2"),
    (lambda: phalanx.tensor_split(X, 0), RangeError, "at least 1 section"),
    (lambda: phalanx.hsplit(phalanx.zeros(2, 3), 2), ShapeError, "do not divide"),
    (lambda: X.unfold(0, 3, 1), RangeError, "size of at most 2"),
    (lambda: phalanx.rot90(X, 1, (0, 0)), RangeError, "two different dimensions"),
    (lambda: phalanx.diagonal(X, 0, 1, 1), RangeError, "two different dimensions"),
    (lambda: phalanx.trace(X[0]), ShapeError, "a matrix expected"),
    (lambda: phalanx.meshgrid(X[0], indexing="yx"), RangeError, "indexing"),
    (lambda: phalanx.baddbmm(X, X, X), ShapeError, "3 dimensions"),
    (lambda: phalanx.mm(X, X[0]), ShapeError, "mm: tensors of 2 dimensions"),
    (lambda: phalanx.bmm(phalanx.zeros(2, 1, 1), phalanx.zeros(1, 1, 1)), ShapeError, "batches of one size"),
    (lambda: phalanx.dot(X, X), ShapeError, "dot: tensors of 1 dimensions"),
    (lambda: phalanx.scatter(X, 0, I), RangeError, "src or value"),
    (lambda: phalanx.tensordot(X, phalanx.zeros(3, 2), 1), ShapeError, r"\[2\] of a do not equal \[3\]"),
    (lambda: phalanx.cross(X, X), ShapeError, "size 3"),
    (lambda: phalanx.matrix_power(X[:1], 2), ShapeError, "square matrices"),
    (lambda: phalanx.cdist(X, phalanx.zeros(2, 3)), ShapeError, r"\(\.\.\., P, M\)"),
    (lambda: phalanx.linalg.inv(phalanx.zeros(2, 2)), RangeError, "inv: Singular matrix"),
    (lambda: phalanx.linalg.inv(phalanx.zeros(2, 3)), ShapeError, "square matrices"),
    (lambda: phalanx.linalg.inv(I), DTypeError, r"\.float\(\)"),
    (lambda: phalanx.linalg.cholesky(-X @ X.mT), RangeError, "not positive definite"),
    (lambda: phalanx.linalg.solve(X, phalanx.zeros(3, 1)), ShapeError, "differ in rows"),
    (lambda: phalanx.linalg.svd(phalanx.zeros(2, 3), full_matrices=True), RangeError, "full_matrices"),
    (lambda: phalanx.linalg.matrix_norm(X, 7), RangeError, "ord is"),
    (lambda: phalanx.einsum("ii->i", phalanx.zeros(2, 3)), ShapeError, "2 and 3 in one operand"),
    (lambda: phalanx.einsum(X, X), ShapeError, "pairs of a Tensor and a list"),
]


@pytest.mark.parametrize("call,kind,words", REFUSALS, ids=[words for _, _, words in REFUSALS])
def test_refusals_say_what_was_expected(call: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()


def test_a_gradient_of_std_where_nothing_varies_is_zero() -> None:
    x = phalanx.tensor([[1.0, 1.0], [1.0, 3.0]], requires_grad=True)
    x.std(1).sum().backward()
    assert x.grad.isfinite().all() and x.grad[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("shape", [(2, 4), (3, 5)])
def test_factors_of_wide_matrices_whatever_their_signs(shape: tuple[int, int]) -> None:
    """What does not depend on the signs of the factors, beside PyTorch."""
    values = np.random.default_rng(3).normal(size=shape)

    def turned(library: Any, x: Any) -> Any:
        u, s, vh = library.linalg.svd(x, full_matrices=False)
        q, r = library.linalg.qr(x)
        weight = library.arange(shape[0], dtype=library.float64) + 1
        return ((u * weight) @ vh).square().sum() + (u.square() * s).sum() + (q.square() * weight).sum() + r.abs().sum()

    ours, theirs = phalanx.tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    turned(phalanx, ours).backward()
    turned(torch, theirs).backward()
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-8, atol=1e-8)
