"""Clipping beside PyTorch's: by norm, by a norm known already, by value; what is not finite."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn
from phalanx.core.errors import NonFiniteError, RangeError

SHAPES = ((5, 3), (), (20_000,), (0,))
pytestmark = pytest.mark.torch


def pairs(scale: float = 1.0, dtype: Any = np.float32) -> tuple[list[Any], list[Any]]:
    """Equal parameters with equal gradients, the last one without; ours and PyTorch's."""
    torch = pytest.importorskip("torch")
    numbers = np.random.default_rng(4)
    ours, theirs = [], []
    for shape in (*SHAPES, (2,)):
        gradient = np.asarray(scale * numbers.standard_normal(shape), dtype)
        ours.append(nn.Parameter(np.zeros(shape, dtype)))
        theirs.append(torch.nn.Parameter(torch.zeros(shape, dtype=getattr(torch, np.dtype(dtype).name))))
        if shape != (2,):
            ours[-1].grad, theirs[-1].grad = phalanx.tensor(gradient), torch.tensor(gradient)
    return ours, theirs


def same(ours: list[Any], theirs: list[Any]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.grad is None) == (other.grad is None)
        if mine.grad is not None:
            np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), rtol=2e-5)


@pytest.mark.parametrize("norm_type", [2, 1.0, 3.5, "inf", float("inf")])
@pytest.mark.parametrize(("max_norm", "dtype"), [(0.5, np.float32), (1e6, np.float32), (0.5, np.float64)])
def test_clip_grad_norm(norm_type: Any, max_norm: float, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = pairs(dtype=dtype)
    if norm_type in ("inf", float("inf")):  # PyTorch has no largest element of nothing
        ours, theirs = ([p for p in given if 0 not in p.shape] for given in (ours, theirs))
    norm = nn.utils.get_total_norm([p.grad for p in ours if p.grad is not None], norm_type)
    mine = nn.utils.clip_grad_norm_(iter(ours), max_norm, norm_type, foreach=True)
    other = torch.nn.utils.clip_grad_norm_(iter(theirs), max_norm, norm_type)
    exact = 1e-5 if dtype is np.float32 else 1e-12
    assert float(mine) == pytest.approx(float(other), rel=exact) and float(norm) == float(mine)
    assert mine.dtype == norm.dtype == dtype
    same(ours, theirs)


@pytest.mark.parametrize("total", [0.5, 30.0])
def test_clip_by_a_known_norm_and_by_value(total: float) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = pairs()
    nn.utils.clip_grads_with_norm_(ours, 2.0, phalanx.tensor(total))
    torch.nn.utils.clip_grads_with_norm_(theirs, 2.0, torch.tensor(total))
    same(ours, theirs)
    nn.utils.clip_grad_value_(ours, 0.3)
    torch.nn.utils.clip_grad_value_(theirs, 0.3)
    same(ours, theirs)
    nn.utils.clip_grad_value_(ours[0], 0.1)
    assert abs(ours[0].grad.numpy()).max() == np.float32(0.1) and abs(ours[2].grad.numpy()).max() > 0.1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("norm_type", [2.0, "inf"])
def test_what_is_not_finite(bad: float, norm_type: Any) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = ([p for p in given if 0 not in p.shape] for given in pairs())
    ours[2].grad.array[7] = bad
    theirs[2].grad[7] = bad
    before = ours[0].grad.numpy().copy()
    with pytest.raises(NonFiniteError, match=r"the norm of the gradients is (nan|inf)"):
        nn.utils.clip_grad_norm_(ours, 1.0, norm_type, error_if_nonfinite=True)
    np.testing.assert_array_equal(ours[0].grad.numpy(), before)
    with np.errstate(invalid="ignore"):
        mine = nn.utils.clip_grad_norm_(ours, 1.0, norm_type)
    other = torch.nn.utils.clip_grad_norm_(theirs, 1.0, norm_type)
    np.testing.assert_equal(float(mine), float(other))
    same(ours, theirs)


def test_nothing_to_clip_and_wrong_exponents() -> None:
    weight = nn.Parameter(np.zeros(2))
    assert float(nn.utils.clip_grad_norm_([weight], 1.0)) == float(nn.utils.clip_grad_norm_([], 1.0, "inf")) == 0.0
    assert float(nn.utils.get_total_norm([])) == 0.0
    nn.utils.clip_grad_value_(weight, 1.0)
    with pytest.raises(RangeError, match="norm_type above 0"):
        nn.utils.clip_grad_norm_([weight], 1.0, 0)


def test_signatures_are_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    for name in ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"):
        ours = inspect.signature(getattr(nn.utils, name)).parameters
        theirs = inspect.signature(getattr(torch.nn.utils, name)).parameters
        assert [(k, v.default) for k, v in ours.items()] == [(k, v.default) for k, v in theirs.items()], name
