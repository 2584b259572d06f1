"""Batch norm whose statistics are those of the global batch."""

from __future__ import annotations

from typing import Any

from .. import collective
from ..errors import ShapeError
from ..graph import apply
from ..ops.sync_norm import SYNC_BATCH_NORM
from ..tensor import Tensor
from . import functional as F
from . import statistics
from .module import Module
from .norm import _BatchNorm


class SyncBatchNorm(_BatchNorm):
    """BatchNorm by mean and variance of the global batch: ``(x - mean) / sqrt(var + eps) * weight + bias`` per channel.

    Shapes: (N, C) or (N, C, *), of any number of dimensions. In training all shards of a step meet here, forward and backward;
    counts, means and squared deviations are merged by the tree over shards, so that results do not depend on the number of
    ranks. Where a rank owns several shards they must be alive together: ``phalanx.run_shards(fn, step)``. In evaluation,
    alone, and outside of a shard it is plain batch norm. ``process_group`` must be None: all ranks take part.

    Raises GraphError where shards cannot meet. Ioffe and Szegedy, 2015; Peng et al., "MegDet", 2018.

    >>> nn.SyncBatchNorm(3)(phalanx.randn(5, 3, 4, 4)).shape
    (5, 3, 4, 4)
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if process_group is not None:
            raise ValueError("SyncBatchNorm: process_group must be None, all ranks take part")
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.label = ""
        """The layer's dotted name, for messages; DataParallel says it."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, *) -> (N, C, *)."""
        if input.ndim < 2 or input.shape[1] != self.num_features:
            raise ShapeError(
                f"SyncBatchNorm expects at least 2 dimensions and {self.num_features} channels in dimension 1, got shape {tuple(input.shape)}"
            )
        mean, variance = self.running_mean, self.running_var
        if not self.training:
            if mean is not None:
                return F.batch_norm(input, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
            return F.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)
        place = f"SyncBatchNorm {self.label!r}" if self.label else "SyncBatchNorm"
        others = collective.meeting(place, silenced=statistics.silenced())
        meet = None
        if others is not None:
            where = others

            def meet(part: str, leaf: Any, merge: Any) -> Any:
                return collective.merged(where, f"{place}, {part}", leaf, merge)

        output, own_mean, own_m2, n, all_mean, all_m2 = apply(
            SYNC_BATCH_NORM,
            input,
            self.weight,
            self.bias,
            eps=self.eps,
            meet=meet,
            weight_of_pass=collective.pass_weight,
        )
        count = float(n.array)
        if count == 1 and not statistics.collecting():
            raise ShapeError(
                f"SyncBatchNorm: expected more than 1 value per channel when training, got shape {input.shape}"
            )
        if mean is not None:
            if statistics.collecting():  # whoever collects merges the shards himself
                statistics.record(self, input.array.size // self.num_features, own_mean.array, own_m2.array)
            elif count:
                self.commit(count, all_mean.array, all_m2.array)
        return output

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: None = None) -> Module:
        """``module`` with every BatchNorm layer replaced by a SyncBatchNorm of the same parameters, buffers and options.

        Layers are replaced in place; a module that is a BatchNorm itself comes back as a new one.

        >>> nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm1d(3)))[0]
        SyncBatchNorm(3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
        """
        if isinstance(module, _BatchNorm) and not isinstance(module, cls):
            new = cls(
                module.num_features,
                module.eps,
                module.momentum,
                module.affine,
                module.track_running_stats,
                process_group,
            )
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                setattr(new, name, getattr(module, name))
            return new.train(module.training)
        for name, child in module.named_children():
            converted = cls.convert_sync_batchnorm(child, process_group)
            if converted is not child:
                setattr(module, name, converted)
        return module


def name_layers(model: Module) -> bool:
    """Tell every SyncBatchNorm of ``model`` its dotted name; whether there is one."""
    found = False
    for name, module in model.named_modules():
        if isinstance(module, SyncBatchNorm):
            module.label, found = name, True
    return found
