"""One step of an RNN, LSTM or GRU as a layer, for loops that a user writes himself."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from ..backend import array_module
from ..errors import DTypeError, RangeError, ShapeError
from ..graph import apply
from ..op import Op
from ..ops.recurrent import GRU, LSTM, RNN
from ..tensor import Tensor
from . import init
from .module import Module
from .parameter import Parameter


class RNNCellBase(Module):
    """What the cells share: ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``, all uniform in +-1/sqrt(hidden_size) at the start.

    >>> [name for name, _ in nn.GRUCell(3, 4).named_parameters()]
    ['weight_ih', 'weight_hh', 'bias_ih', 'bias_hh']
    """

    op: ClassVar[Op]
    bias_ih: Parameter | None
    bias_hh: Parameter | None

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, num_chunks: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        if not hasattr(hidden_size, "__index__") or hidden_size < 1:
            raise RangeError(f"{type(self).__name__}: hidden_size is an integer of at least 1, got {hidden_size!r}")
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = num_chunks * hidden_size
        self.weight_ih = Parameter.empty((rows, input_size), dtype, device)
        self.weight_hh = Parameter.empty((rows, hidden_size), dtype, device)
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, Parameter.empty((rows,), dtype, device) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values anew."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _step(self, input: Tensor, states: list[Tensor] | None, count: int, **attributes: Any) -> list[Tensor]:
        """The new states; each (N, hidden_size), or (hidden_size,) for an input without a batch."""
        name = type(self).__name__
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ShapeError(
                f"{name}: expected (N, {self.input_size}) or ({self.input_size},), got {tuple(input.shape)}"
            )
        expected = (*input.shape[:-1], self.hidden_size)
        if states is None:
            states = [Tensor(array_module(input.array).zeros(expected, input.dtype))] * count
        for state in states:
            if tuple(state.shape) != expected:
                raise ShapeError(f"{name}: a state of shape {expected} expected, got {tuple(state.shape)}")
        lone = input.ndim == 1
        if lone:
            input, states = input.unsqueeze(0), [state.unsqueeze(0) for state in states]
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        _, *new = apply(self.op, input.unsqueeze(0), *states, *weights, **attributes)
        return [state.squeeze(0) for state in new] if lone else new

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(RNNCellBase):
    """``h' = tanh(x W_ih^T + b_ih + h W_hh^T + b_hh)``, or relu: x (N, input_size), h (N, hidden_size), both also without N.

    >>> nn.RNNCell(3, 4)(phalanx.ones(2, 3)).shape
    (2, 4)
    """

    op = RNN

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        if nonlinearity not in ("tanh", "relu"):
            raise RangeError(f"RNNCell: nonlinearity is 'tanh' or 'relu', got {nonlinearity!r}")
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """(N, input_size) and a state (zeros if None) -> the next state (N, hidden_size)."""
        return self._step(input, None if hx is None else [hx], 1, nonlinearity=self.nonlinearity)[0]

    def extra_repr(self) -> str:
        """Sizes and nonlinearity."""
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}")


class LSTMCell(RNNCellBase):
    """``c' = f c + i g``, ``h' = o tanh(c')`` as in LSTM: x (N, input_size), state (h, c) of (N, hidden_size), all also without N.

    >>> h, c = nn.LSTMCell(3, 4)(phalanx.ones(2, 3))
    >>> h.shape, c.shape
    ((2, 4), (2, 4))
    """

    op = LSTM

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """(N, input_size) and a state (h, c) (zeros if None) -> the next (h, c)."""
        if hx is not None and (not isinstance(hx, (tuple, list)) or len(hx) != 2):
            raise DTypeError(f"LSTMCell: a state is a pair (h, c) of tensors, got {type(hx).__name__}")
        h, c = self._step(input, None if hx is None else list(hx), 2)
        return h, c


class GRUCell(RNNCellBase):
    """``h' = (1 - z) n + z h`` as in GRU: x (N, input_size), h (N, hidden_size), both also without N.

    >>> nn.GRUCell(3, 4)(phalanx.ones(3)).shape
    (4,)
    """

    op = GRU

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """(N, input_size) and a state (zeros if None) -> the next state (N, hidden_size)."""
        return self._step(input, None if hx is None else [hx], 1)[0]
