"""Activations of straight pieces as modules."""

from __future__ import annotations

from typing import Any

from ..errors import RangeError
from ..tensor import Tensor
from . import functional as F
from . import init
from .activation import InPlace
from .module import Module
from .parameter import Parameter


class Hardtanh(Module):
    """x cut to [min_val, max_val].

    >>> nn.Hardtanh()(phalanx.tensor([-2.0, 0.5])).tolist()
    [-1.0, 0.5]
    """

    def __init__(
        self,
        min_val: float = -1.0,
        max_val: float = 1.0,
        inplace: bool = False,
        min_value: None = None,
        max_value: None = None,
    ) -> None:
        super().__init__()
        if min_value is not None or max_value is not None:
            raise RangeError(f"{type(self).__name__}: min_value and max_value are gone; use min_val and max_val")
        if min_val >= max_val:
            raise RangeError(f"{type(self).__name__}: min_val must be below max_val, got {min_val} and {max_val}")
        self.min_val, self.max_val, self.inplace = min_val, max_val, inplace

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.hardtanh(input, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        """Bounds."""
        return f"min_val={self.min_val}, max_val={self.max_val}" + (", inplace=True" if self.inplace else "")


class ReLU6(Hardtanh):
    """min(max(x, 0), 6).

    >>> nn.ReLU6()(phalanx.tensor([-1.0, 8.0])).tolist()
    [0.0, 6.0]
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.0, 6.0, inplace)

    def extra_repr(self) -> str:
        """Options that are not the default."""
        return "inplace=True" if self.inplace else ""


class Hardsigmoid(InPlace):
    """ReLU6(x + 3) / 6.

    >>> nn.Hardsigmoid()(phalanx.tensor([-4.0, 0.0])).tolist()
    [0.0, 0.5]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.hardsigmoid(input)

    def extra_repr(self) -> str:
        """None, as in PyTorch."""
        return ""


class Hardswish(Hardsigmoid):
    """x * ReLU6(x + 3) / 6. Howard et al., "Searching for MobileNetV3", 2019.

    >>> nn.Hardswish()(phalanx.tensor([3.0])).tolist()
    [3.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.hardswish(input)


class LeakyReLU(Module):
    """x where x > 0, else negative_slope * x.

    >>> nn.LeakyReLU(0.5)(phalanx.tensor([-2.0, 2.0])).tolist()
    [-1.0, 2.0]
    """

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope, self.inplace = negative_slope, inplace

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        """Slope."""
        return f"negative_slope={self.negative_slope}" + (", inplace=True" if self.inplace else "")


class PReLU(Module):
    """x where x > 0, else weight * x: one learned slope, or one for each channel (dimension 1). He et al., 2015.

    >>> nn.PReLU()(phalanx.tensor([-2.0, 2.0])).tolist()
    [-0.5, 2.0]
    """

    weight: Parameter

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.num_parameters, self.init = num_parameters, init
        self.weight = Parameter.empty((num_parameters,), dtype, device)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All slopes ``init``."""
        init.constant_(self.weight, self.init)

    def forward(self, input: Tensor) -> Tensor:
        """(N, *) or (N, num_parameters, *) to the same shape."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        """Number of slopes."""
        return f"num_parameters={self.num_parameters}"


class RReLU(Module):
    """x where x > 0, else a * x: a drawn from [lower, upper) for each element in training, else their mean.

    The draw is keyed by (seed, step, shard, call). Xu et al., 2015.

    >>> nn.RReLU(0.25, 0.75).eval()(phalanx.tensor([-2.0, 2.0])).tolist()
    [-1.0, 2.0]
    """

    def __init__(self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False) -> None:
        super().__init__()
        self.lower, self.upper, self.inplace = lower, upper, inplace

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.rrelu(input, self.lower, self.upper, self.training)

    def extra_repr(self) -> str:
        """Bounds."""
        return f"lower={self.lower}, upper={self.upper}" + (", inplace=True" if self.inplace else "")


class Threshold(Module):
    """x where x > threshold, else ``value``.

    >>> nn.Threshold(1.0, -1.0)(phalanx.tensor([0.5, 2.0])).tolist()
    [-1.0, 2.0]
    """

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__()
        self.threshold, self.value, self.inplace = threshold, value, inplace

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.threshold(input, self.threshold, self.value)

    def extra_repr(self) -> str:
        """Options."""
        return f"threshold={self.threshold}, value={self.value}" + (", inplace=True" if self.inplace else "")


class Hardshrink(Module):
    """x where |x| > lambd, else 0.

    >>> nn.Hardshrink()(phalanx.tensor([-1.0, 0.25])).tolist()
    [-1.0, 0.0]
    """

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.hardshrink(input, self.lambd)

    def extra_repr(self) -> str:
        """Lambda."""
        return str(self.lambd)


class Softshrink(Hardshrink):
    """x moved towards 0 by ``lambd``, and 0 where |x| <= lambd.

    >>> nn.Softshrink()(phalanx.tensor([-1.0, 0.25])).tolist()
    [-0.5, 0.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return F.softshrink(input, self.lambd)
