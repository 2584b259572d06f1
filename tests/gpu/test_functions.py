"""Expressions of everyday tensor code on the device as on the CPU: values, dtypes, shapes, gradients, and where results lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import Tensor
from tests.core.expressions import DIFFERS, EXPRESSIONS, FUNCTIONS, evaluate

MAKING = frozenset(
    ["tensor", "asarray", "as_tensor", "arange", "zeros", "ones", "empty", "full", "eye", "linspace", "logspace", "scalar_tensor", "rand", "randn",
     "tril_indices", "triu_indices"]
)  # fmt: skip
CASES = [
    e
    for e in dict.fromkeys([*EXPRESSIONS, *FUNCTIONS])
    if "np." not in e and ".numpy()" not in e and 'device="cpu"' not in e
]


class OnDevice:
    """The library, whose new tensors lie on the device."""

    def __init__(self, device: str) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        found = getattr(phalanx, name)
        return (lambda *args, **options: found(*args, device=self._device, **options)) if name in MAKING else found


def same(found: Any, expected: Any, device: str) -> None:
    if isinstance(expected, tuple | list):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            same(a, b, device)
    elif isinstance(expected, Tensor):
        assert found.device == device
        assert (found.shape, found.dtype, found.requires_grad) == (
            expected.shape,
            expected.dtype,
            expected.requires_grad,
        )
        loose = 1e-5 if expected.dtype == np.float32 else 1e-3 if expected.dtype == np.float16 else 1e-9
        np.testing.assert_allclose(found.cpu().numpy(force=True), expected.numpy(force=True), rtol=loose, atol=loose)
    else:
        assert type(found) is type(expected)
        assert found == expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("expression", CASES)
def test_expression(expression: str, device: str) -> None:
    expression = DIFFERS.get(expression, expression)
    expected, expected_gradients = evaluate(expression, phalanx, phalanx.tensor)
    there = OnDevice(device)
    found, gradients = evaluate(expression, there, there.tensor)
    same(found, expected, device)
    for a, b in zip(gradients, expected_gradients, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
