"""What a plain PyTorch script types: the same expression on both libraries, values, dtypes, shapes and gradients."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx.core.tensor import Tensor
from tests.core.expressions import EXPRESSIONS, evaluate

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def same(ours: Any, theirs: Any) -> None:
    """Equal values, shapes and dtypes, through tuples and lists."""
    if isinstance(theirs, tuple | list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    elif isinstance(theirs, torch.Tensor):
        assert isinstance(ours, Tensor)
        expected = theirs.detach().numpy()
        assert ours.shape == expected.shape
        assert ours.dtype == expected.dtype
        assert ours.requires_grad == theirs.requires_grad
        loose = 1e-6 if expected.dtype == np.float32 else 1e-3 if expected.dtype == np.float16 else 1e-10
        np.testing.assert_allclose(ours.array, expected, rtol=loose, atol=loose)
    elif isinstance(theirs, np.ndarray):
        np.testing.assert_allclose(np.asarray(ours), theirs)
    else:
        assert type(ours) is type(theirs)
        assert ours == theirs


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expression(expression: str) -> None:
    theirs, their_gradients = evaluate(expression, torch, torch.tensor)
    ours, our_gradients = evaluate(expression, phalanx, phalanx.tensor)
    same(ours, theirs)
    for a, b in zip(our_gradients, their_gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


@pytest.mark.parametrize("shapes", [((2,), (2,)), ((2,), ()), ((), (2,)), ((), ())], ids=str)
@pytest.mark.parametrize("a,b", list(itertools.product(DTYPES, DTYPES)), ids=str)
def test_two_dtypes_meet_as_in_pytorch(a: str, b: str, shapes: Any) -> None:
    arrays = [np.ones(shape, dtype) for shape, dtype in zip(shapes, (a, b), strict=True)]
    ours = [phalanx.tensor(x) for x in arrays]
    theirs = [torch.tensor(x) for x in arrays]
    for operate in (lambda p, q: p * q, lambda p, q: p / q):
        expected = operate(*theirs)
        assert operate(*ours).dtype == expected.numpy().dtype


@pytest.mark.parametrize("number", [True, 2, 2.5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_number_meets_a_dtype_as_in_pytorch(dtype: str, number: Any) -> None:
    for shape in ((2,), ()):
        ours, theirs = phalanx.tensor(np.ones(shape, dtype)), torch.tensor(np.ones(shape, dtype))
        for operate in (
            lambda x, n: x * n,
            lambda x, n: n * x,
            lambda x, n: x / n,
            lambda x, n: n / x,
            lambda x, n: x + n,
            lambda x, n: x == n,
        ):
            assert operate(ours, number).dtype == operate(theirs, number).numpy().dtype
