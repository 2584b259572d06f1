"""Losses over classes and of distances as modules; the functional forms are in ``functional``, margins in ``loss_margin``.

Mean losses carry their weight (items averaged). ``forward`` takes ``sample_weight`` besides: one number a sample.
"""

from __future__ import annotations

from typing import Any

from ..errors import RangeError
from ..tensor import Tensor
from . import functional as F
from .module import Module


class LossBase(Module):
    """Remembers ``reduction``: "mean" (default), "sum" or "none"."""

    reductions: tuple[str, ...] = ("mean", "sum", "none")

    def __init__(self, size_average: None = None, reduce: None = None, reduction: str = "mean") -> None:
        super().__init__()
        if size_average is not None or reduce is not None:
            raise RangeError(
                f"{type(self).__name__}: size_average and reduce are gone, use reduction='mean', 'sum', 'none'"
            )
        if reduction not in self.reductions:
            known = ", ".join(map(repr, self.reductions))
            raise RangeError(f"{type(self).__name__}: reduction must be one of {known}, got {reduction!r}")
        self.reduction = reduction


class WeightedLossBase(LossBase):
    """A loss with a constant weight, which moves with the module and is part of its state."""

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: None = None,
        reduce: None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)


# ---- classes ---------------------------------------------------------------------------------------------------------


class CrossEntropyLoss(WeightedLossBase):
    """-log softmax(input)[target], averaged over the targets that are not ``ignore_index``.

    Shapes: input (N, C) or (N, C, *), target (N, *) of class numbers or (N, C, *) of probabilities. ``weight`` (C,) is one
    factor per class. Raises RangeError for a label outside [0, C), DTypeError for float labels of class-number shape.

    >>> round(nn.CrossEntropyLoss()(phalanx.zeros(2, 4), phalanx.tensor([0, 3])).item(), 4)
    1.3863
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: None = None,
        ignore_index: int = -100,
        reduce: None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        if not 0.0 <= label_smoothing <= 1.0:
            raise RangeError(f"CrossEntropyLoss: label_smoothing is in [0, 1], got {label_smoothing}")
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(self, input: Tensor, target: Tensor, sample_weight: Any = None) -> Tensor:
        """(N, C, *) and (N, *) -> a number, or (N, *) with reduction "none"."""
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            sample_weight=sample_weight,
        )


class NLLLoss(WeightedLossBase):
    """-input[target] for log probabilities, averaged over the targets that are not ``ignore_index``.

    >>> nn.NLLLoss()(phalanx.tensor([[-1.0, -2.0]]), phalanx.tensor([1])).item()
    2.0
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: None = None,
        ignore_index: int = -100,
        reduce: None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.ignore_index = ignore_index

    def forward(self, input: Tensor, target: Tensor, sample_weight: Any = None) -> Tensor:
        """(N, C, *) and (N, *) -> a number, or (N, *) with reduction "none"."""
        return F.nll_loss(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            sample_weight=sample_weight,
        )


class BCELoss(WeightedLossBase):
    """-(t log p + (1 - t) log(1 - p)) for probabilities p; logarithms are cut off at -100 as in PyTorch.

    >>> round(nn.BCELoss()(phalanx.tensor([0.5]), phalanx.tensor([1.0])).item(), 4)
    0.6931
    """

    def forward(self, input: Tensor, target: Tensor, sample_weight: Any = None) -> Tensor:
        """Two equal shapes -> a number, or that shape with reduction "none"."""
        return F.binary_cross_entropy(
            input, target, weight=self.weight, reduction=self.reduction, sample_weight=sample_weight
        )


class BCEWithLogitsLoss(LossBase):
    """BCELoss of sigmoid(input), computed without overflow. ``pos_weight`` multiplies the term of positive targets.

    >>> round(nn.BCEWithLogitsLoss()(phalanx.tensor([0.0]), phalanx.tensor([1.0])).item(), 4)
    0.6931
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: None = None,
        reduce: None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Any = None) -> Tensor:
        """Two equal shapes -> a number, or that shape with reduction "none"."""
        return F.binary_cross_entropy_with_logits(
            input,
            target,
            weight=self.weight,
            reduction=self.reduction,
            pos_weight=self.pos_weight,
            sample_weight=sample_weight,
        )


class CTCLoss(LossBase):
    """Minus the log-probability that a sequence reads as its labels, once repeats are merged and blanks removed.

    Shapes: log_probs (T, N, C) from log_softmax, targets (N, S), lengths (N,). Graves et al., ICML 2006.

    >>> log_p = F.log_softmax(phalanx.zeros(2, 1, 2), dim=2)
    >>> round(nn.CTCLoss()(log_p, phalanx.tensor([[1]]), (2,), (1,)).item(), 4)
    0.2877
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__(reduction=reduction)
        self.blank, self.zero_infinity = blank, zero_infinity

    def forward(
        self,
        log_probs: Tensor,
        targets: Tensor,
        input_lengths: Any,
        target_lengths: Any,
        sample_weight: Any = None,
    ) -> Tensor:
        """(T, N, C), (N, S), (N,), (N,) -> a number, or (N,) with reduction "none"."""
        options = (self.blank, self.reduction, self.zero_infinity)
        return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, *options, sample_weight=sample_weight)


# ---- distances and densities -----------------------------------------------------------------------------------------


class MSELoss(LossBase):
    """(input - target)^2.

    >>> nn.MSELoss()(phalanx.tensor([1.0, 2.0]), phalanx.tensor([1.0, 4.0])).item()
    2.0
    """

    def forward(self, input: Tensor, target: Tensor, sample_weight: Any = None) -> Tensor:
        """Two equal shapes -> a number, or that shape with reduction "none"."""
        return F.mse_loss(input, target, reduction=self.reduction, sample_weight=sample_weight)


class L1Loss(LossBase):
    """|input - target|.

    >>> nn.L1Loss()(phalanx.tensor([1.0, 2.0]), phalanx.tensor([1.0, 4.0])).item()
    1.0
    """

    def forward(self, input: Tensor, target: Tensor, sample_weight: Any = None) -> Tensor:
        """Two equal shapes -> a number, or that shape with reduction "none"."""
        return F.l1_loss(input, target, reduction=self.reduction, sample_weight=sample_weight)


class SmoothL1Loss(LossBase):
    """d^2 / (2 beta) where d = |input - target| < beta, else d - beta / 2. Girshick, "Fast R-CNN", 2015.

    >>> nn.SmoothL1Loss()(phalanx.tensor([0.0, 0.0]), phalanx.tensor([1.0, 4.0])).item()
    2.0
    """

    def __init__(
        self, size_average: None = None, reduce: None = None, reduction: str = "mean", beta: float = 1.0
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.beta = beta

    def forward(self, input: Tensor, target: Tensor, sample_weight: Any = None) -> Tensor:
        """Two equal shapes -> a number, or that shape with reduction "none"."""
        return F.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta, sample_weight=sample_weight)


class HuberLoss(LossBase):
    """d^2 / 2 where d = |input - target| <= delta, else delta (d - delta / 2). Huber, 1964.

    >>> nn.HuberLoss()(phalanx.tensor([0.0, 0.0]), phalanx.tensor([1.0, 4.0])).item()
    2.0
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction=reduction)
        self.delta = delta

    def forward(self, input: Tensor, target: Tensor, sample_weight: Any = None) -> Tensor:
        """Two equal shapes -> a number, or that shape with reduction "none"."""
        return F.huber_loss(input, target, self.reduction, self.delta, sample_weight=sample_weight)


class KLDivLoss(LossBase):
    """target (log target - input) for log-probabilities; the divergence itself is ``reduction="batchmean"``.

    >>> p = phalanx.tensor([[0.5, 0.5]])
    >>> nn.KLDivLoss(reduction="batchmean")(p.log(), p).item()
    0.0
    """

    reductions = ("mean", "sum", "none", "batchmean")

    def __init__(
        self, size_average: None = None, reduce: None = None, reduction: str = "mean", log_target: bool = False
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.log_target = log_target

    def forward(self, input: Tensor, target: Tensor, sample_weight: Any = None) -> Tensor:
        """Two equal shapes -> a number, or that shape with reduction "none"."""
        return F.kl_div(
            input, target, reduction=self.reduction, log_target=self.log_target, sample_weight=sample_weight
        )


class PoissonNLLLoss(LossBase):
    """exp(input) - target * input for the logarithm of a Poisson rate, or ``log_input=False`` for the rate itself.

    >>> nn.PoissonNLLLoss()(phalanx.tensor([0.0]), phalanx.tensor([3.0])).item()
    1.0
    """

    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        size_average: None = None,
        eps: float = 1e-8,
        reduce: None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.log_input, self.full, self.eps = log_input, full, eps

    def forward(self, log_input: Tensor, target: Tensor, sample_weight: Any = None) -> Tensor:
        """Two equal shapes -> a number, or that shape with reduction "none"."""
        options: dict[str, Any] = {"log_input": self.log_input, "full": self.full, "eps": self.eps}
        return F.poisson_nll_loss(log_input, target, reduction=self.reduction, sample_weight=sample_weight, **options)


class GaussianNLLLoss(LossBase):
    """(log(var) + (input - target)^2 / var) / 2, the variance not below ``eps``. Nix and Weigend, 1994.

    >>> nn.GaussianNLLLoss()(phalanx.tensor([0.0]), phalanx.tensor([2.0]), phalanx.ones(1)).item()
    2.0
    """

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.full, self.eps = full, eps

    def forward(self, input: Tensor, target: Tensor, var: Tensor | float, sample_weight: Any = None) -> Tensor:
        """Three equal shapes -> a number, or that shape with reduction "none"."""
        return F.gaussian_nll_loss(input, target, var, self.full, self.eps, self.reduction, sample_weight=sample_weight)
