"""The sum with which a residual branch ends and the norm behind it: one pass on a GPU, whose bits are those of the two."""

from __future__ import annotations

from typing import Any

from ..backend import device_kind
from ..kernels import reference_add_norm
from ..kernels.table import kernel
from ..tensor import Tensor
from . import functional as F
from .hooks import is_plain
from .norm import LayerNorm
from .norm_group import RMSNorm

_REFERENCE = reference_add_norm.KERNELS["add_layer_norm_forward"]


def summed(input: Tensor, branch: Tensor, norm: Any) -> tuple[Tensor, Any]:
    """``input + branch`` and ``norm`` of it; at once where there is a kernel for it and nobody can tell.

    >>> both, normed = summed(phalanx.ones(1, 2), phalanx.tensor([[0.0, 2.0]]), nn.LayerNorm(2, eps=0.0))
    >>> both.tolist(), normed.tolist()
    ([[1.0, 3.0]], [[-1.0, 1.0]])
    """
    if (
        device_kind(input.array) == "cuda"
        and kernel("add_layer_norm_forward", "cuda") is not _REFERENCE
        and is_plain(norm)
    ):
        if type(norm) is LayerNorm:
            return F.add_layer_norm(input, branch, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        if type(norm) is RMSNorm:
            return F.add_rms_norm(input, branch, norm.normalized_shape, norm.weight, norm.eps)
    both = input + branch
    return both, norm(both)
