"""Activations as modules: the smooth ones and the softmax family; those of straight pieces are in ``piecewise``."""

from __future__ import annotations

from ..errors import ShapeError
from ..tensor import Tensor
from . import functional as F
from .module import Module


class InPlace(Module):
    """Takes ``inplace`` as PyTorch does; the result is the same, so it is only remembered."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        """Options that are not the default."""
        return "inplace=True" if self.inplace else ""


class ReLU(InPlace):
    """max(x, 0).

    >>> nn.ReLU()(phalanx.tensor([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.relu(input)


class SiLU(InPlace):
    """x * sigmoid(x), also called swish. Elfwing et al., 2017.

    >>> nn.SiLU()(phalanx.tensor([0.0])).tolist()
    [0.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.silu(input)


class Mish(InPlace):
    """x * tanh(log(1 + exp(x))). Misra, 2019.

    >>> nn.Mish()(phalanx.tensor([0.0])).tolist()
    [0.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.mish(input)


class SELU(InPlace):
    """1.0507 * ELU with alpha 1.6733: keeps mean 0 and variance 1. Klambauer et al., 2017.

    >>> nn.SELU()(phalanx.tensor([0.0])).tolist()
    [0.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.selu(input)


class Sigmoid(Module):
    """1 / (1 + exp(-x)).

    >>> nn.Sigmoid()(phalanx.tensor([0.0])).tolist()
    [0.5]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.sigmoid(input)


class LogSigmoid(Module):
    """log(1 / (1 + exp(-x))) without overflow.

    >>> nn.LogSigmoid()(phalanx.tensor([-1000.0])).tolist()
    [-1000.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.logsigmoid(input)


class Tanh(Module):
    """tanh(x).

    >>> nn.Tanh()(phalanx.tensor([0.0])).tolist()
    [0.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.tanh(input)


class Tanhshrink(Module):
    """x - tanh(x).

    >>> nn.Tanhshrink()(phalanx.tensor([0.0])).tolist()
    [0.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.tanhshrink(input)


class Softsign(Module):
    """x / (1 + |x|).

    >>> nn.Softsign()(phalanx.tensor([1.0, -3.0])).tolist()
    [0.5, -0.75]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.softsign(input)


class GELU(Module):
    """x * Phi(x), Phi the normal distribution function; ``approximate="tanh"`` for the cheaper form.

    Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.

    >>> nn.GELU()(phalanx.tensor([0.0])).tolist()
    [0.0]
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.gelu(input, approximate=self.approximate)

    def extra_repr(self) -> str:
        """Form."""
        return f"approximate={self.approximate!r}"


class ELU(Module):
    """x where x > 0, else alpha * (exp(x) - 1). Clevert et al., 2015.

    >>> nn.ELU()(phalanx.tensor([2.0])).tolist()
    [2.0]
    """

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha, self.inplace = alpha, inplace

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.elu(input, self.alpha)

    def extra_repr(self) -> str:
        """Alpha."""
        return f"alpha={self.alpha}" + (", inplace=True" if self.inplace else "")


class CELU(ELU):
    """x where x > 0, else alpha * (exp(x / alpha) - 1). Barron, 2017.

    >>> nn.CELU(2.0)(phalanx.tensor([2.0])).tolist()
    [2.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.celu(input, self.alpha)


class Softplus(Module):
    """log(1 + exp(beta x)) / beta; x itself where beta x > threshold.

    >>> nn.Softplus()(phalanx.tensor([30.0])).tolist()
    [30.0]
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta, self.threshold = beta, threshold

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        """Options."""
        return f"beta={self.beta}, threshold={self.threshold}"


class GLU(Module):
    """a * sigmoid(b) where a and b are the halves of the input along ``dim``. Dauphin et al., 2016.

    >>> nn.GLU()(phalanx.ones(3, 8)).shape
    (3, 4)
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """(*, 2 M, *) -> (*, M, *)."""
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        """Dimension."""
        return f"dim={self.dim}"


class Softmax(Module):
    """exp(x) / sum of exp(x) along ``dim``.

    >>> nn.Softmax(dim=-1)(phalanx.zeros(1, 2)).tolist()
    [[0.5, 0.5]]
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return F.softmax(input, dim=self.dim)

    def extra_repr(self) -> str:
        """Dimension."""
        return f"dim={self.dim}"


class Softmin(Softmax):
    """Softmax of -x.

    >>> nn.Softmin(dim=-1)(phalanx.zeros(1, 2)).tolist()
    [[0.5, 0.5]]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return F.softmin(input, dim=self.dim)


class LogSoftmax(Softmax):
    """x - log of the sum of exp(x) along ``dim``.

    >>> nn.LogSoftmax(dim=-1)(phalanx.zeros(1, 1)).tolist()
    [[0.0]]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return F.log_softmax(input, dim=self.dim)


class Softmax2d(Module):
    """Softmax over the channels of images (N, C, H, W) or (C, H, W).

    >>> nn.Softmax2d()(phalanx.zeros(1, 2, 1, 1)).flatten().tolist()
    [0.5, 0.5]
    """

    def forward(self, input: Tensor) -> Tensor:
        """The same shape."""
        if input.ndim not in (3, 4):
            raise ShapeError(f"Softmax2d expects (N, C, H, W) or (C, H, W), got shape {tuple(input.shape)}")
        return F.softmax(input, dim=-3)
