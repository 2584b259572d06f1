"""Batch norm and layer norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import array_module, as_dtype, device_kind, to_device
from ..errors import ShapeError
from ..graph import apply
from ..kernels.table import kernel
from ..op import Array, Op
from ..ops.fused import BATCH_NORM_ADD_RELU, served
from ..tensor import Tensor
from . import functional as F
from . import init, statistics
from .hooks import is_plain
from .module import Module
from .parameter import Parameter


class _BatchNorm(Module):
    """What BatchNorm1d and BatchNorm2d share; subclasses say which numbers of dimensions they take."""

    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    dimensions: tuple[int, ...]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            self.register_parameter(name, Parameter.empty((num_features,), dtype, device) if wanted else None)
        kind = as_dtype(np.float32 if dtype is None else dtype)
        for name, array in (
            ("running_mean", np.zeros(num_features, kind)),
            ("running_var", np.ones(num_features, kind)),
            ("num_batches_tracked", np.zeros((), np.int64)),
        ):
            self.register_buffer(name, Tensor(to_device(array, device)) if track_running_stats else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batch seen."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, running statistics as at the start."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, *) -> (N, C, *)."""
        if input.ndim not in self.dimensions:
            expected = " or ".join(map(str, self.dimensions))
            raise ShapeError(f"{type(self).__name__} expects {expected} dimensions, got shape {tuple(input.shape)}")
        if input.shape[1] != self.num_features:
            raise ShapeError(
                f"{type(self).__name__} expects {self.num_features} channels in dimension 1, got shape {tuple(input.shape)}"
            )
        mean, variance = self.running_mean, self.running_var
        if not self.training and mean is not None:
            return F.batch_norm(input, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        output, seen_mean, seen_m2 = F.batch_norm_with_statistics(
            input, self.weight, self.bias, self.eps, allow_single=statistics.collecting()
        )
        self._record(input, seen_mean, seen_m2)
        return output

    def add_relu(self, input: Tensor, other: Tensor) -> Tensor:
        """``relu(self(input) + other)``, the end of a residual block: (N, C, *), (N, C, *) -> (N, C, *).

        On a GPU one pass over memory forward instead of three, with the same bits; where the layer has hooks, or evaluates, or there is
        no kernel for it, it is done in parts.

        >>> norm = nn.BatchNorm2d(3)
        >>> norm.add_relu(phalanx.randn(2, 3, 4, 4), phalanx.randn(2, 3, 4, 4)).shape
        (2, 3, 4, 4)
        """
        array, added = input.array, other.array
        alike = added.shape == array.shape and added.dtype == array.dtype
        if alike and device_kind(array) == "cuda" and served(array) and is_plain(self) and self.fits(array):
            return self.by_batch(input, BATCH_NORM_ADD_RELU, other)
        return F.relu(self(input) + other)

    def fits(self, array: Array) -> bool:
        """Whether what is fused with batch norm takes this input: by the batch's own statistics, with weights in float32."""
        return bool(
            (self.training or self.running_mean is None)
            and array.ndim in self.dimensions
            and array.shape[1] == self.num_features
            and array.size > array.shape[1]
            and all(p is None or p.array.dtype == np.float32 for p in (self.weight, self.bias))
        )

    def by_batch(self, input: Tensor, op: Op, *others: Tensor) -> Tensor:
        """The output of ``op``, which adds something to batch norm by the batch's statistics, on an input that was checked."""
        output, seen_mean, seen_m2 = apply(op, input, *others, self.weight, self.bias, eps=self.eps)
        self._record(input, seen_mean.array, seen_m2.array)
        return output

    def _record(self, input: Tensor, seen_mean: Array, seen_m2: Array) -> None:
        if self.training and self.running_mean is not None:
            statistics.record(self, input.array.size // self.num_features, seen_mean, seen_m2)

    def commit(self, n: float, mean: Array, m2: Array) -> None:
        """Move the running statistics once: ``running = (1 - momentum) * running + momentum * seen``.

        ``n`` values a channel with ``mean`` and squared deviations ``m2``; the running variance takes m2 / (n - 1). With
        ``momentum=None`` every batch counts alike. DataParallel calls this once per call and step, on all ranks alike.
        """
        mean_now, variance, batches = self.running_mean, self.running_var, self.num_batches_tracked
        if mean_now is None or variance is None or batches is None:
            return
        running, count, device = mean_now.array, batches.array, device_kind(mean_now.array)
        if device != "cpu":
            xp = array_module(running)
            mean, m2 = xp.asarray(mean), xp.asarray(m2)
        share = self.momentum if self.momentum is not None else 1.0 / (float(count) + 1.0)
        kernel("move_running", device)(running, variance.array, count, mean, m2, share, float(max(n - 1, 1)))

    def extra_repr(self) -> str:
        """Options."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    """(x - mean) / sqrt(var + eps) * weight + bias per channel, over samples (and length).

    Shapes: (N, C) or (N, C, L). In training mean and variance are those of the batch (in a DataParallel: of the shard), and
    running statistics are kept for evaluation. Ioffe and Szegedy, 2015.

    >>> nn.BatchNorm1d(3)(phalanx.randn(5, 3)).shape
    (5, 3)
    """

    dimensions = (2, 3)


class BatchNorm2d(_BatchNorm):
    """BatchNorm1d for images: shapes (N, C, H, W), statistics over samples, height and width.

    >>> nn.BatchNorm2d(3)(phalanx.randn(5, 3, 4, 4)).shape
    (5, 3, 4, 4)
    """

    dimensions = (4,)


class BatchNorm3d(_BatchNorm):
    """BatchNorm1d for volumes: shapes (N, C, D, H, W), statistics over samples, depth, height and width.

    >>> nn.BatchNorm3d(3)(phalanx.randn(5, 3, 2, 4, 4)).shape
    (5, 3, 2, 4, 4)
    """

    dimensions = (5,)


class LayerNorm(Module):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dimensions.

    Shapes: (*, *normalized_shape) to the same; weight and bias of normalized_shape. Ba et al., 2016.

    >>> nn.LayerNorm(8)(phalanx.randn(2, 5, 8)).shape
    (2, 5, 8)
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        affine = elementwise_affine
        self.register_parameter("weight", Parameter.empty(shape, dtype, device) if affine else None)
        self.register_parameter("bias", Parameter.empty(shape, dtype, device) if affine and bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """(*, *normalized_shape) -> the same."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Options."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
