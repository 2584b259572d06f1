"""Special functions under the names of ``torch.special``; most are those of the top level."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .functions import erf, expm1, log1p, log_softmax, logsumexp, sigmoid, softmax
from .functions_elementary import digamma, erfc, erfinv, exp2, lgamma, logit, round, sinc
from .functions_pairs import xlogy

if TYPE_CHECKING:
    from .tensor import Tensor

__all__ = [
    "digamma", "entr", "erf", "erfc", "erfinv", "exp2", "expit", "expm1", "gammaln", "log1p", "log_softmax",
    "logit", "logsumexp", "ndtr", "ndtri", "psi", "round", "sinc", "softmax", "xlog1py", "xlogy",
]  # fmt: skip

expit, gammaln, psi = sigmoid, lgamma, digamma


def entr(input: Tensor) -> Tensor:
    """``-x log(x)``: 0 at 0, -infinity below.

    >>> phalanx.special.entr(phalanx.tensor([0.0, 0.5]))
    tensor([-0.    ,  0.3466])
    """
    found = -xlogy(input, input)
    return found.where(input >= 0, -math.inf)


def ndtr(input: Tensor) -> Tensor:
    """The standard normal distribution: how much of it lies below x.

    >>> phalanx.special.ndtr(phalanx.tensor([0.0, 1.0]))
    tensor([0.5   , 0.8413])
    """
    return erfc(input * -math.sqrt(0.5)) * 0.5


def ndtri(input: Tensor) -> Tensor:
    """The inverse of :func:`ndtr`.

    >>> phalanx.special.ndtri(phalanx.tensor([0.5, 0.8]))
    tensor([0.    , 0.8416])
    """
    return erfinv(input * 2 - 1) * math.sqrt(2.0)


def xlog1py(input: Tensor, other: Tensor) -> Tensor:
    """``x log(1 + y)``, 0 where x is 0.

    >>> phalanx.special.xlog1py(phalanx.tensor([0.0, 2.0]), phalanx.tensor([-1.0, 1.0]))
    tensor([0.    , 1.3863])
    """
    return xlogy(input, other + 1)
