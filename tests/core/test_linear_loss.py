"""The last layer of a classifier with its loss, a part of the rows at a time: what a linear layer and a cross-entropy are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import phalanx
import phalanx.nn.functional as F
from phalanx.core.errors import DTypeError, RangeError, ShapeError
from phalanx.core.kernels import reference_linear_loss


def _last_layer(fused: bool, **options: Any) -> tuple[Any, ...]:
    phalanx.manual_seed(1)
    x = phalanx.randn(3, 100, 6, requires_grad=True)
    weight = phalanx.randn(9, 6, requires_grad=True)
    labels = phalanx.randint(0, 9, (3, 100))
    if fused:
        loss = F.linear_cross_entropy(x, weight, labels, **options)
    else:
        rows = F.linear(x, weight).reshape(300, 9)
        options["weight"] = options.pop("class_weight", None)
        loss = F.cross_entropy(rows, labels.reshape(300), **options)
    (loss * 3.0).sum().backward()
    return loss.numpy(force=True).reshape(-1), x.grad.numpy(), weight.grad.numpy()


@pytest.mark.parametrize("nbytes", [1 << 26, 1])
@pytest.mark.parametrize(
    "options",
    [{}, {"reduction": "sum"}, {"reduction": "none"}, {"label_smoothing": 0.2, "ignore_index": 4},
     {"class_weight": phalanx.tensor([1.0, 2, 3, 4, 5, 6, 7, 8, 9])}],
)  # fmt: skip
def test_the_last_layer_with_its_loss_is_both(options: Any, nbytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_linear_loss, "CHUNK_BYTES", nbytes)
    for found, expected in zip(_last_layer(True, **options), _last_layer(False, **options), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_the_last_layer_with_its_loss_says_what_is_wrong() -> None:
    x, weight, labels = phalanx.ones(2, 3), phalanx.ones(5, 3), phalanx.tensor([0, 4])
    for wrong, error, said in [
        ((phalanx.ones(2, 4), weight, labels), ShapeError, "must be the 3 features"),
        ((x, phalanx.ones(5), labels), ShapeError, "weight must have 2 dimensions"),
        ((x, weight, phalanx.tensor([1])), ShapeError, r"expects labels of shape \(2,\), got \(1,\)"),
        ((x, weight, phalanx.ones(2)), DTypeError, "labels must be integers"),
        ((x, weight, phalanx.tensor([0, 5])), RangeError, r"label 5 at position 1 is out of range \[0, 5\)"),
        ((x, weight, labels, phalanx.ones(4)), ShapeError, "class_weight must have one element for each of 5"),
    ]:
        with pytest.raises(error, match=said):
            F.linear_cross_entropy(*wrong)
    with pytest.raises(RangeError, match="label_smoothing"):
        F.linear_cross_entropy(x, weight, labels, label_smoothing=2.0)
    with phalanx.no_grad():
        assert F.linear_cross_entropy(x, weight, labels).weight == 2.0
