"""Running a function of ours and PyTorch's of the same name on the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import phalanx.nn.functional as F
from phalanx.core.tensor import Tensor

torch = pytest.importorskip("torch")

RANDOM = np.random.default_rng(7)


def draw(*shape: int, dtype: Any = np.float64) -> np.ndarray:
    """Normal numbers."""
    return RANDOM.normal(size=shape).astype(dtype)


def same(
    name: str, arrays: Sequence[np.ndarray], *, constants: Sequence[Any] = (), tolerance: float = 1e-9, **options: Any
) -> None:
    """Our function and PyTorch's give equal values and equal gradients of ``arrays`` (the first arguments)."""
    ours = [Tensor(a.copy()) for a in arrays]
    theirs = [torch.tensor(a) for a in arrays]
    for tensor in (*ours, *theirs):
        tensor.requires_grad = True
    tensors = {k: v for k, v in options.items() if isinstance(v, np.ndarray)}
    plain = {k: v for k, v in options.items() if k not in tensors}
    mine = getattr(F, name)(*ours, *map(_wrap, constants), **plain, **{k: Tensor(v) for k, v in tensors.items()})
    peer = getattr(torch.nn.functional, name)(
        *theirs, *map(_wrap_torch, constants), **plain, **{k: torch.tensor(v) for k, v in tensors.items()}
    )
    assert tuple(mine.shape) == tuple(peer.shape)
    assert mine.dtype == peer.detach().numpy().dtype
    np.testing.assert_allclose(mine.detach().numpy(), peer.detach().numpy(), rtol=tolerance, atol=tolerance)
    seed = RANDOM.normal(size=tuple(peer.shape))
    seed = np.asarray(seed, mine.dtype)
    mine.backward(Tensor(seed))
    peer.backward(torch.tensor(seed))
    for position, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert (a.grad is None) == (b.grad is None), f"gradient of argument {position}"
        if a.grad is not None:
            np.testing.assert_allclose(
                a.grad.numpy(),
                b.grad.numpy(),
                rtol=tolerance,
                atol=tolerance,
                err_msg=f"gradient of argument {position}",
            )


def _wrap(value: Any) -> Any:
    return Tensor(value) if isinstance(value, np.ndarray) else value


def _wrap_torch(value: Any) -> Any:
    return torch.tensor(value) if isinstance(value, np.ndarray) else value
