"""Losses of margins as modules; the functional forms are in ``functional``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import RangeError
from ..tensor import Tensor
from . import functional as F
from .loss import LossBase, WeightedLossBase


class HingeEmbeddingLoss(LossBase):
    """Of distances x: x where the target is 1, max(0, margin - x) where it is -1.

    >>> nn.HingeEmbeddingLoss()(phalanx.tensor([0.5]), phalanx.tensor([-1.0])).item()
    0.5
    """

    def __init__(
        self, margin: float = 1.0, size_average: None = None, reduce: None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin

    def forward(self, input: Tensor, target: Tensor, sample_weight: Any = None) -> Tensor:
        """Two equal shapes -> a number, or that shape with reduction "none"."""
        return F.hinge_embedding_loss(input, target, self.margin, reduction=self.reduction, sample_weight=sample_weight)


class MarginRankingLoss(LossBase):
    """max(0, -target (input1 - input2) + margin): target 1 wants the first larger, -1 the second.

    >>> nn.MarginRankingLoss()(phalanx.tensor([1.0]), phalanx.tensor([3.0]), phalanx.tensor([1.0])).item()
    2.0
    """

    def __init__(
        self, margin: float = 0.0, size_average: None = None, reduce: None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor, sample_weight: Any = None) -> Tensor:
        """Three equal shapes -> a number, or that shape with reduction "none"."""
        return F.margin_ranking_loss(
            input1, input2, target, self.margin, reduction=self.reduction, sample_weight=sample_weight
        )


class SoftMarginLoss(LossBase):
    """log(1 + exp(-target input)) for targets 1 and -1.

    >>> round(nn.SoftMarginLoss()(phalanx.tensor([0.0]), phalanx.tensor([1.0])).item(), 4)
    0.6931
    """

    def forward(self, input: Tensor, target: Tensor, sample_weight: Any = None) -> Tensor:
        """Two equal shapes -> a number, or that shape with reduction "none"."""
        return F.soft_margin_loss(input, target, reduction=self.reduction, sample_weight=sample_weight)


class MultiMarginLoss(WeightedLossBase):
    """Multi-class hinge loss: the mean over other classes c of max(0, margin - x[label] + x[c])^p.

    >>> nn.MultiMarginLoss()(phalanx.tensor([[0.0, 0.5]]), phalanx.tensor([0])).item()
    0.75
    """

    def __init__(
        self,
        p: int = 1,
        margin: float = 1.0,
        weight: Tensor | None = None,
        size_average: None = None,
        reduce: None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        if p not in (1, 2):
            raise RangeError(f"MultiMarginLoss: p must be 1 or 2, got {p}")
        self.p, self.margin = p, margin

    def forward(self, input: Tensor, target: Tensor, sample_weight: Any = None) -> Tensor:
        """(N, C) and (N,) -> a number, or (N,) with reduction "none"."""
        return F.multi_margin_loss(
            input, target, self.p, self.margin, self.weight, reduction=self.reduction, sample_weight=sample_weight
        )


class MultiLabelMarginLoss(LossBase):
    """Hinge loss of several labels, listed in the target up to the first -1.

    >>> x, labels = phalanx.tensor([[0.5, 0.0, 0.5]]), phalanx.tensor([[2, -1, 0]])
    >>> nn.MultiLabelMarginLoss()(x, labels).item()
    0.5
    """

    def forward(self, input: Tensor, target: Tensor, sample_weight: Any = None) -> Tensor:
        """(N, C) and (N, C) -> a number, or (N,) with reduction "none"."""
        return F.multilabel_margin_loss(input, target, reduction=self.reduction, sample_weight=sample_weight)


class MultiLabelSoftMarginLoss(WeightedLossBase):
    """BCEWithLogitsLoss averaged over the classes; ``weight`` multiplies the classes.

    >>> round(nn.MultiLabelSoftMarginLoss()(phalanx.zeros(2, 3), phalanx.ones(2, 3)).item(), 4)
    0.6931
    """

    def forward(self, input: Tensor, target: Tensor, sample_weight: Any = None) -> Tensor:
        """(N, C) and (N, C) -> a number, or (N,) with reduction "none"."""
        return F.multilabel_soft_margin_loss(
            input, target, self.weight, reduction=self.reduction, sample_weight=sample_weight
        )


class CosineEmbeddingLoss(LossBase):
    """1 - cos of vectors whose target is 1, max(0, cos - margin) where it is -1.

    >>> a, b = phalanx.tensor([[1.0, 0.0]]), phalanx.tensor([[0.0, 1.0]])
    >>> nn.CosineEmbeddingLoss()(a, b, phalanx.tensor([1.0])).item()
    1.0
    """

    def __init__(
        self, margin: float = 0.0, size_average: None = None, reduce: None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor, sample_weight: Any = None) -> Tensor:
        """(N, D), (N, D) and (N,) -> a number, or (N,) with reduction "none"."""
        return F.cosine_embedding_loss(
            input1, input2, target, self.margin, reduction=self.reduction, sample_weight=sample_weight
        )


class TripletMarginLoss(LossBase):
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), d a p-norm. Balntas et al., 2016.

    >>> a, n = phalanx.zeros(1, 2), phalanx.tensor([[3.0, 4.0]])
    >>> nn.TripletMarginLoss()(a, a, n).item()
    0.0
    """

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        size_average: None = None,
        reduce: None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        if not margin > 0:
            raise RangeError(f"TripletMarginLoss: margin must be positive, got {margin}")
        self.margin, self.p, self.eps, self.swap = margin, p, eps, swap

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor, sample_weight: Any = None) -> Tensor:
        """Three (N, D) -> a number, or (N,) with reduction "none"."""
        options: dict[str, Any] = {"margin": self.margin, "p": self.p, "eps": self.eps, "swap": self.swap}
        return F.triplet_margin_loss(
            anchor, positive, negative, reduction=self.reduction, sample_weight=sample_weight, **options
        )


class TripletMarginWithDistanceLoss(LossBase):
    """TripletMarginLoss with a distance of your own.

    >>> loss = nn.TripletMarginWithDistanceLoss(distance_function=lambda x, y: (x - y).abs().sum(dim=-1))
    >>> loss(phalanx.zeros(1, 2), phalanx.ones(1, 2), phalanx.ones(1, 2)).item()
    1.0
    """

    def __init__(
        self,
        *,
        distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        if not margin > 0:
            raise RangeError(f"TripletMarginWithDistanceLoss: margin must be positive, got {margin}")
        self.distance_function = F.pairwise_distance if distance_function is None else distance_function
        self.margin, self.swap = margin, swap

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor, sample_weight: Any = None) -> Tensor:
        """Three of one shape -> a number, or the distances' shape with reduction "none"."""
        return F.triplet_margin_with_distance_loss(
            anchor,
            positive,
            negative,
            distance_function=self.distance_function,
            margin=self.margin,
            swap=self.swap,
            reduction=self.reduction,
            sample_weight=sample_weight,
        )
