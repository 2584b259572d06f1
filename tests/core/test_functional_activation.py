"""Activations, dropouts and gumbel_softmax beside PyTorch's, over their options; keyed draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import phalanx
import phalanx.nn.functional as F
from phalanx.core.errors import RangeError, ShapeError
from phalanx.core.tensor import Tensor
from tests.core.beside_torch import draw, same

pytestmark = pytest.mark.torch

ACTIVATIONS = [
    ("relu6", {}), ("hardtanh", {}), ("hardtanh", {"min_val": -0.5, "max_val": 2.0}), ("hardsigmoid", {}), ("hardswish", {}),
    ("selu", {}), ("celu", {}), ("celu", {"alpha": 0.7}), ("mish", {}), ("softsign", {}), ("tanhshrink", {}),
    ("softshrink", {}), ("softshrink", {"lambd": 1.5}), ("hardshrink", {}), ("hardshrink", {"lambd": 1.5}),
    ("threshold", {"threshold": 0.3, "value": -2.0}), ("rrelu", {}), ("rrelu", {"lower": 0.1, "upper": 0.7}),
    ("logsigmoid", {}), ("softmin", {"dim": 1}), ("glu", {}), ("glu", {"dim": 0}), ("glu", {"dim": -2}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), ACTIVATIONS, ids=str)
def test_elementwise(name: str, options: dict[str, Any]) -> None:
    single = name in ("hardsigmoid", "celu", "hardswish")  # PyTorch's constants are float32 there
    same(name, [draw(4, 6, 2) * 3], tolerance=1e-7 if single else 1e-9, **options)
    same(name, [draw(6, 2, 4, dtype=np.float32)], tolerance=1e-5, **options)


@pytest.mark.parametrize("weights", [1, 5])
def test_prelu(weights: int) -> None:
    same("prelu", [draw(4, 5, 3), draw(weights)])
    same("prelu", [draw(4, 5), draw(weights)])
    if weights == 1:
        same("prelu", [draw(4), draw(1)])
        same("prelu", [np.asarray(draw(1)[0]), draw(1)])


def test_edges_are_pytorchs() -> None:
    """Values and gradients at the kinks."""
    kinks = np.array([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0])
    for name in ("relu6", "hardtanh", "hardsigmoid", "softshrink", "hardshrink", "celu", "selu"):
        same(name, [kinks], tolerance=1e-7)
    same("hardswish", [kinks[1:]])  # at -3 PyTorch's own kinds of processors disagree about the gradient
    same("prelu", [kinks, np.array([0.3])])
    same("threshold", [kinks], threshold=0.5, value=9.0)


def test_rrelu_draws_keyed_slopes() -> None:
    x = Tensor(np.full((50, 40), -1.0, np.float32), requires_grad=True)
    phalanx.manual_seed(3)
    y = F.rrelu(x, 0.25, 0.75, training=True)
    slopes = -y.detach().numpy()
    assert 0.25 <= slopes.min() < 0.26 and 0.74 < slopes.max() < 0.75 and abs(slopes.mean() - 0.5) < 0.01
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), slopes)
    phalanx.manual_seed(3)
    np.testing.assert_array_equal(F.rrelu(x, 0.25, 0.75, training=True).detach().numpy(), -slopes)


def test_gumbel_softmax_draws_classes_by_their_probability() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    x = Tensor(np.broadcast_to(logits, (4000, 3)).copy(), requires_grad=True)
    phalanx.manual_seed(1)
    hard = F.gumbel_softmax(x, tau=0.7, hard=True)
    values = hard.detach().numpy()
    assert set(np.unique(np.round(values, 6))) == {0.0, 1.0}
    np.testing.assert_allclose(values.mean(axis=0), [0.5, 0.3, 0.2], atol=0.03)
    phalanx.manual_seed(1)
    y = Tensor(x.array, requires_grad=True)
    soft = F.gumbel_softmax(y, tau=0.7)
    np.testing.assert_array_equal(soft.detach().numpy().argmax(axis=1), values.argmax(axis=1))
    seed = draw(4000, 3, dtype=np.float32)
    for out in (hard, soft):
        out.backward(Tensor(seed))
    np.testing.assert_array_equal(x.grad.numpy(), y.grad.numpy())
    assert F.gumbel_softmax(Tensor(draw(3, 4)), hard=True, dim=0).sum(dim=0).tolist() == pytest.approx([1.0] * 4)


ERRORS = [
    (lambda: F.glu(Tensor(draw(2, 3))), ShapeError, "even size"),
    (lambda: F.prelu(Tensor(draw(2, 3)), Tensor(draw(2))), ShapeError, "3 channels"),
    (lambda: F.hardtanh(Tensor(draw(2)), 2.0, 1.0), RangeError, "min_val"),
    (lambda: F.softshrink(Tensor(draw(2)), -1.0), RangeError, "lambd"),
    (lambda: F.rrelu(Tensor(draw(2)), 2.0, 1.0), RangeError, "lower"),
    (lambda: F.gumbel_softmax(Tensor(draw(2)), tau=0.0), RangeError, "tau"),
    (lambda: F.celu(Tensor(draw(2)), 0.0), RangeError, "alpha"),
]


@pytest.mark.parametrize(("call", "kind", "words"), ERRORS, ids=[words for *_, words in ERRORS])
def test_errors_say_what_is_wrong(call: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        call()
