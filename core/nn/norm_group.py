"""Norms that need no batch: group, instance, root mean square and local response norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import array_module
from ..errors import RangeError, ShapeError
from ..op import Array
from ..tensor import Tensor
from . import functional as F
from . import init, statistics
from .functional_norm import instance_statistics
from .module import Module
from .norm import _BatchNorm
from .parameter import Parameter


class GroupNorm(Module):
    """(x - mean) / sqrt(var + eps) * weight + bias over each of ``num_groups`` groups of channels of each sample.

    Shapes: (N, num_channels, *) to the same. Wu and He, "Group Normalization", 2018.

    >>> nn.GroupNorm(2, 6)(phalanx.randn(4, 6, 5, 5)).shape
    (4, 6, 5, 5)
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise RangeError(f"GroupNorm: num_channels={num_channels} must be a multiple of num_groups={num_groups}")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            self.register_parameter(name, Parameter.empty((num_channels,), dtype, device) if wanted else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """(N, num_channels, *) -> the same."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Options."""
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class RMSNorm(Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimensions; ``eps`` is the dtype's if not given.

    Shapes: (*, *normalized_shape) to the same. Zhang and Sennrich, 2019.

    >>> nn.RMSNorm(8)(phalanx.randn(2, 5, 8)).shape
    (2, 5, 8)
    """

    weight: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self.register_parameter("weight", Parameter.empty(shape, dtype, device) if elementwise_affine else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1."""
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """(*, *normalized_shape) -> the same."""
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """Options."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class LocalResponseNorm(Module):
    """x / (k + alpha * mean(x^2 over size neighbouring channels))^beta. Krizhevsky et al., 2012.

    >>> nn.LocalResponseNorm(2)(phalanx.ones(1, 4, 5, 5)).shape
    (1, 4, 5, 5)
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, *) -> the same."""
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        """Options."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class _InstanceNorm(_BatchNorm):
    """What InstanceNorm1d, 2d and 3d share. ``dimensions`` are with a batch; one less is without."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, *) or (C, *) -> the same."""
        count = self.dimensions[0]
        if input.ndim not in (count - 1, count) or input.shape[input.ndim - count + 1] != self.num_features:
            raise ShapeError(
                f"{type(self).__name__} expects {count} dimensions (or {count - 1} without a batch) with {self.num_features} channels, "
                f"got shape {tuple(input.shape)}"
            )
        if input.ndim == count - 1:
            return self._normalized(input.unsqueeze(0)).squeeze(0)
        return self._normalized(input)

    def _normalized(self, input: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        if not self.training and mean is not None:
            return F.instance_norm(input, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        output = F.instance_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)
        if self.training and mean is not None and input.shape[0]:
            # Means over samples, both of them: what the record merges by the number of samples is (mean, variance) as one row.
            seen = np.concatenate(instance_statistics(input))
            statistics.record(self, input.shape[0], seen, array_module(seen).zeros_like(seen))
        return output

    def commit(self, n: float, mean: Array, m2: Array) -> None:
        """Move the running statistics once; ``mean`` holds the samples' mean means and mean variances."""
        if self.running_mean is None or self.running_var is None:
            return
        share = self.momentum if self.momentum is not None else 0.0
        xp = array_module(self.running_mean.array)
        for running, seen in zip(
            (self.running_mean.array, self.running_var.array), xp.split(xp.asarray(mean), 2), strict=True
        ):
            running[...] = running * (1.0 - share) + seen.astype(running.dtype, copy=False) * share


class InstanceNorm1d(_InstanceNorm):
    """InstanceNorm2d for sequences (N, C, L) or (C, L).

    >>> nn.InstanceNorm1d(3)(phalanx.randn(5, 3, 8)).shape
    (5, 3, 8)
    """

    dimensions = (3,)


class InstanceNorm2d(_InstanceNorm):
    """(x - mean) / sqrt(var + eps) over each channel of each sample; no parameters and no running statistics by default.

    Shapes: (N, C, H, W) or (C, H, W) to the same. Ulyanov et al., "Instance Normalization", 2016.

    >>> nn.InstanceNorm2d(3, affine=True)(phalanx.randn(5, 3, 4, 4)).shape
    (5, 3, 4, 4)
    """

    dimensions = (4,)


class InstanceNorm3d(_InstanceNorm):
    """InstanceNorm2d for volumes (N, C, D, H, W) or (C, D, H, W).

    >>> nn.InstanceNorm3d(3)(phalanx.randn(2, 3, 4, 4, 4)).shape
    (2, 3, 4, 4, 4)
    """

    dimensions = (5,)
