"""Norms and distances as functions."""

from __future__ import annotations

import numpy as np

from ..amp.casting import in_float32
from ..backend import array_module
from ..errors import ShapeError
from ..tensor import Tensor


@in_float32
def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    """``x / max(norm_p(x), eps)`` along ``dim``.

    >>> F.normalize(phalanx.tensor([[3.0, 4.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    return input / input.norm(p, dim, True).clamp(min=eps)


@in_float32
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """``x1 . x2 / (max(|x1|, eps) max(|x2|, eps))`` along ``dim``; the two broadcast.

    >>> F.cosine_similarity(phalanx.tensor([1.0, 0.0]), phalanx.tensor([2.0, 0.0]), dim=0).item()
    1.0
    """
    first = x1 / x1.norm(2, dim, True).clamp(min=eps)
    second = x2 / x2.norm(2, dim, True).clamp(min=eps)
    return (first * second).sum(dim=dim)


@in_float32
def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """``norm_p(x1 - x2 + eps)`` over the last dimension; the two broadcast.

    >>> round(F.pairwise_distance(phalanx.zeros(1, 2), phalanx.tensor([[3.0, 4.0]])).item(), 4)
    5.0
    """
    return (x1 - x2 + eps).norm(p, -1, keepdim)


@in_float32
def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """Distances of all pairs of rows (N, D) -> (N (N - 1) / 2,), in the order (0, 1), (0, 2), ..., (1, 2), ...

    >>> F.pdist(phalanx.tensor([[0.0], [1.0], [3.0]])).tolist()
    [1.0, 3.0, 2.0]
    """
    if input.ndim != 2:
        raise ShapeError(f"pdist: expected rows (N, D), got shape {input.shape}")
    first, second = (array_module(input.array).asarray(i) for i in np.triu_indices(input.shape[0], 1))
    return (input[first] - input[second]).norm(p, -1)
