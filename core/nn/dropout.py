"""Dropout and its kin."""

from __future__ import annotations

from ..errors import RangeError
from ..tensor import Tensor
from . import functional as F
from .module import Module


class _Dropout(Module):
    """What they share: a probability."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise RangeError(f"{type(self).__name__}: p is a probability in [0, 1], got {p}")
        self.p, self.inplace = p, inplace

    def extra_repr(self) -> str:
        """Probability."""
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """In training, zeroes each element with probability ``p`` and multiplies the others by 1 / (1 - p).

    The mask is keyed by (seed, step, shard, call): it does not depend on which rank draws it. Hinton et al., 2012.

    >>> nn.Dropout(0.5).eval()(phalanx.ones(2)).tolist()
    [1.0, 1.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return F.dropout(input, self.p, self.training)


class Dropout1d(_Dropout):
    """Dropout of whole channels of sequences (N, C, L) or (C, L). Tompson et al., 2015.

    >>> nn.Dropout1d(1.0)(phalanx.ones(1, 2, 3)).sum().item()
    0.0
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, L) -> the same."""
        return F.dropout1d(input, self.p, self.training)


class Dropout2d(_Dropout):
    """Dropout of whole channels of images (N, C, H, W). Tompson et al., 2015.

    >>> nn.Dropout2d(0.3).eval()(phalanx.ones(1, 2, 1, 1)).flatten().tolist()
    [1.0, 1.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        return F.dropout2d(input, self.p, self.training)


class Dropout3d(_Dropout):
    """Dropout of whole channels of volumes (N, C, D, H, W). Tompson et al., 2015.

    >>> nn.Dropout3d(1.0)(phalanx.ones(1, 2, 2, 2, 2)).sum().item()
    0.0
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, D, H, W) -> the same."""
        return F.dropout3d(input, self.p, self.training)


class AlphaDropout(_Dropout):
    """Dropout that keeps mean 0 and variance 1, for SELU. Klambauer et al., 2017.

    >>> nn.AlphaDropout(0.2).eval()(phalanx.ones(2)).tolist()
    [1.0, 1.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return F.alpha_dropout(input, self.p, self.training)


class FeatureAlphaDropout(_Dropout):
    """AlphaDropout of whole channels of (N, C, *).

    >>> nn.FeatureAlphaDropout(0.2).eval()(phalanx.ones(1, 2, 1)).flatten().tolist()
    [1.0, 1.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, *) -> the same."""
        return F.feature_alpha_dropout(input, self.p, self.training)
