"""Layers that learn their number of inputs from the first batch, and then are the ordinary ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import StateError
from ..tensor import Tensor
from .conv import Conv1d, Conv2d, Conv3d, Size
from .conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from .linear import Linear
from .module import Module
from .norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .norm_group import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from .parameter import Parameter
from .recorded import Built

_MISSING = (
    "this parameter has no shape yet: its layer learns it from the first batch. Call the model once on a sample batch before an "
    "optimizer, a DataParallel, initial values or a state dict need it"
)
_KEPT = {
    "training", "_penalties", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_hooks",
}  # fmt: skip
"""What belongs to the module whatever it becomes."""


class UninitializedParameter(Parameter):
    """The parameter of a layer that has seen no batch: whatever asks for its values or its shape is told so.

    >>> isinstance(nn.LazyLinear(3).weight, nn.UninitializedParameter)
    True
    """

    __slots__ = ()

    def __init__(self) -> None:  # no array, hence not the parent's
        self.requires_grad = True
        self._node = self._grad = self._slot = self._listener = self._weight = self._hooks = self.name = None
        self._store = self._index = None

    @property
    def array(self) -> Any:  # type: ignore[override]
        """Raises StateError."""
        raise StateError(_MISSING)

    def __deepcopy__(self, memo: dict[int, Any]) -> UninitializedParameter:
        return UninitializedParameter()

    def __repr__(self) -> str:
        return "<UninitializedParameter>"


class _Lazy(Module):
    """Keeps its options until the first forward, which makes it a ``becomes``."""

    becomes: Callable[..., Module]
    first: str
    """How the option is called that the first batch tells."""

    def _wait(self, bias: bool, options: dict[str, Any], weight: bool = True) -> None:
        """Remember the options; the parameters are there, without a shape."""
        super().__init__()
        self.__dict__["_options"] = options
        self.register_parameter("weight", UninitializedParameter() if weight else None)
        self.register_parameter("bias", UninitializedParameter() if bias else None)

    def _inputs(self, input: Tensor) -> int:
        """The number that the first batch tells."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Any:
        """The first one: takes the number of inputs from its shape and becomes the ordinary layer."""
        own, kind = self.__dict__, type(self).becomes
        options = {self.first: self._inputs(input), **own.pop("_options")}
        made = kind(**options).__dict__
        for key in ("weight", "bias"):
            own.pop(key)
        own.update({key: value for key, value in made.items() if key not in _KEPT})
        own["_built"] = Built(kind, (), options)  # type: ignore[arg-type]
        self.__class__ = kind  # type: ignore[assignment]
        return self.forward(input)

    def extra_repr(self) -> str:
        """Options."""
        return ", ".join(f"{key}={value!r}" for key, value in self.__dict__["_options"].items() if value is not None)


class LazyLinear(_Lazy):
    """A Linear whose in_features are the last dimension of its first input.

    Run the model once on a sample batch before an optimizer or a DataParallel takes it.

    >>> layer = nn.LazyLinear(3)
    >>> layer(phalanx.ones(2, 5)).shape, layer
    ((2, 3), Linear(in_features=5, out_features=3, bias=True))
    """

    becomes, first = Linear, "in_features"

    def __init__(self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        self._wait(bias, {"out_features": out_features, "bias": bias, "device": device, "dtype": dtype})

    def _inputs(self, input: Tensor) -> int:
        return input.shape[-1]


# ---- convolutions ----------------------------------------------------------------------------------------------------


class _Channels(_Lazy):
    first = "in_channels"

    def _inputs(self, input: Tensor) -> int:
        return input.shape[-1 - self.becomes.dimensions]  # type: ignore[attr-defined]


class _LazyConv(_Channels):
    def __init__(  # PyTorch's signature
        self,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        options = {"out_channels": out_channels, "kernel_size": kernel_size, "stride": stride, "padding": padding}
        options |= {"dilation": dilation, "groups": groups, "bias": bias, "padding_mode": padding_mode}
        self._wait(bias, options | {"device": device, "dtype": dtype})


class LazyConv1d(_LazyConv):
    """A Conv1d whose in_channels are those of its first input; see LazyLinear.

    >>> nn.LazyConv1d(4, 3)(phalanx.ones(2, 5, 9)).shape
    (2, 4, 7)
    """

    becomes = Conv1d


class LazyConv2d(_LazyConv):
    """A Conv2d whose in_channels are those of its first input; see LazyLinear.

    >>> nn.LazyConv2d(4, 3, padding=1)(phalanx.ones(2, 5, 9, 9)).shape
    (2, 4, 9, 9)
    """

    becomes = Conv2d


class LazyConv3d(_LazyConv):
    """A Conv3d whose in_channels are those of its first input; see LazyLinear.

    >>> nn.LazyConv3d(4, 3)(phalanx.ones(2, 5, 3, 9, 9)).shape
    (2, 4, 1, 7, 7)
    """

    becomes = Conv3d


class _LazyConvTranspose(_Channels):
    def __init__(  # PyTorch's signature
        self,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        options = {"out_channels": out_channels, "kernel_size": kernel_size, "stride": stride, "padding": padding}
        options |= {"output_padding": output_padding, "groups": groups, "bias": bias, "dilation": dilation}
        self._wait(bias, options | {"padding_mode": padding_mode, "device": device, "dtype": dtype})


class LazyConvTranspose1d(_LazyConvTranspose):
    """A ConvTranspose1d whose in_channels are those of its first input; see LazyLinear.

    >>> nn.LazyConvTranspose1d(4, 2, stride=2)(phalanx.ones(2, 5, 9)).shape
    (2, 4, 18)
    """

    becomes = ConvTranspose1d


class LazyConvTranspose2d(_LazyConvTranspose):
    """A ConvTranspose2d whose in_channels are those of its first input; see LazyLinear.

    >>> nn.LazyConvTranspose2d(4, 2, stride=2)(phalanx.ones(2, 5, 9, 9)).shape
    (2, 4, 18, 18)
    """

    becomes = ConvTranspose2d


class LazyConvTranspose3d(_LazyConvTranspose):
    """A ConvTranspose3d whose in_channels are those of its first input; see LazyLinear.

    >>> nn.LazyConvTranspose3d(4, 2, stride=2)(phalanx.ones(2, 5, 2, 3, 3)).shape
    (2, 4, 4, 6, 6)
    """

    becomes = ConvTranspose3d


# ---- norms -----------------------------------------------------------------------------------------------------------


class _LazyNorm(_Lazy):
    first = "num_features"

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        options = {"eps": eps, "momentum": momentum, "affine": affine, "track_running_stats": track_running_stats}
        self._wait(affine and bias, options | {"device": device, "dtype": dtype, "bias": bias}, affine)

    def _inputs(self, input: Tensor) -> int:
        return input.shape[1] if input.ndim > 1 else 0


class _LazyInstanceNorm(_LazyNorm):
    def _inputs(self, input: Tensor) -> int:
        return input.shape[1 - self.becomes.dimensions[0]]  # type: ignore[attr-defined]


class LazyBatchNorm1d(_LazyNorm):
    """A BatchNorm1d whose num_features are the channels of its first input; see LazyLinear.

    >>> nn.LazyBatchNorm1d()(phalanx.randn(4, 5)).shape
    (4, 5)
    """

    becomes = BatchNorm1d


class LazyBatchNorm2d(_LazyNorm):
    """A BatchNorm2d whose num_features are the channels of its first input; see LazyLinear.

    >>> nn.LazyBatchNorm2d()(phalanx.randn(4, 5, 3, 3)).shape
    (4, 5, 3, 3)
    """

    becomes = BatchNorm2d


class LazyBatchNorm3d(_LazyNorm):
    """A BatchNorm3d whose num_features are the channels of its first input; see LazyLinear.

    >>> nn.LazyBatchNorm3d()(phalanx.randn(4, 5, 2, 3, 3)).shape
    (4, 5, 2, 3, 3)
    """

    becomes = BatchNorm3d


class LazyInstanceNorm1d(_LazyInstanceNorm):
    """An InstanceNorm1d whose num_features are the channels of its first input; see LazyLinear.

    >>> nn.LazyInstanceNorm1d()(phalanx.randn(4, 5, 7)).shape
    (4, 5, 7)
    """

    becomes = InstanceNorm1d


class LazyInstanceNorm2d(_LazyInstanceNorm):
    """An InstanceNorm2d whose num_features are the channels of its first input; see LazyLinear.

    >>> nn.LazyInstanceNorm2d()(phalanx.randn(4, 5, 3, 3)).shape
    (4, 5, 3, 3)
    """

    becomes = InstanceNorm2d


class LazyInstanceNorm3d(_LazyInstanceNorm):
    """An InstanceNorm3d whose num_features are the channels of its first input; see LazyLinear.

    >>> nn.LazyInstanceNorm3d()(phalanx.randn(4, 5, 2, 3, 3)).shape
    (4, 5, 2, 3, 3)
    """

    becomes = InstanceNorm3d
