"""RNN, LSTM and GRU over sequences: stacked, in one or both directions, padded, masked or packed.

Dimensions: L steps, N sequences, H_in input_size, H hidden_size, H_out = proj_size if there is one, else H, D = 2 with
``bidirectional``, else 1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..backend import array_module, to_device, to_host
from ..errors import DTypeError, RangeError, ShapeError
from ..functions import cat, stack
from ..graph import apply
from ..op import Op
from ..ops.recurrent import GRU as GRU_OP
from ..ops.recurrent import LSTM as LSTM_OP
from ..ops.recurrent import RNN as RNN_OP
from ..tensor import Tensor
from . import functional as F
from . import init
from .module import Module
from .parameter import Parameter
from .rnn_utils import Layout, PackedSequence, flat_rows, longest_first, put_rows, take_rows

States = list[tuple[Tensor, ...]]
"""For each layer and direction its hidden state (N, H_out), and with an LSTM its cell (N, H)."""


class RNNBase(Module):
    """What RNN, LSTM and GRU share: parameters, shapes, stacking, directions, packing.

    ``mode`` is "RNN_TANH", "RNN_RELU", "LSTM" or "GRU"; use the classes of these names. All parameters start uniform in
    +-1/sqrt(hidden_size) and are called ``weight_ih_l{k}``, ``weight_hh_l{k}``, ``bias_ih_l{k}``, ``bias_hh_l{k}``, with a projection
    ``weight_hr_l{k}``, for the direction from the end with ``_reverse`` behind.

    >>> [name for name, _ in nn.GRU(3, 4, bias=False, bidirectional=True).named_parameters()]
    ['weight_ih_l0', 'weight_hh_l0', 'weight_ih_l0_reverse', 'weight_hh_l0_reverse']
    """

    op: ClassVar[Op]
    gates: ClassVar[int]

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        for option, size in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if not hasattr(size, "__index__") or size < 1:
                raise RangeError(f"{name}: {option} is an integer of at least 1, got {size!r}")
        if not 0.0 <= dropout <= 1.0:
            raise RangeError(f"{name}: dropout is a probability in [0, 1], got {dropout}")
        if not 0 <= proj_size < hidden_size or (proj_size and mode != "LSTM"):
            raise RangeError(
                f"{name}: proj_size is for an LSTM, at least 0 and below hidden_size={hidden_size}, got {proj_size}"
            )
        if dropout and num_layers == 1:
            warnings.warn(f"{name}: dropout={dropout} stands between layers, and there is one layer only", stacklevel=3)
        self.mode, self.input_size, self.hidden_size, self.num_layers = mode, input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size
        width = (proj_size or hidden_size) * (2 if bidirectional else 1)
        for layer in range(num_layers):
            for suffix in self._suffixes(layer):
                self._add_direction(suffix, input_size if layer == 0 else width, device, dtype)
        self.reset_parameters()

    def _add_direction(self, suffix: str, width: int, device: Any, dtype: Any) -> None:
        rows, out = self.gates * self.hidden_size, self.proj_size or self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width), "weight_hh": (rows, out)}
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if self.proj_size:
            shapes["weight_hr"] = (out, self.hidden_size)
        for name, shape in shapes.items():
            self.register_parameter(name + suffix, Parameter.empty(shape, dtype, device))

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: 2 if self.bidirectional else 1]

    def reset_parameters(self) -> None:
        """Draw the initial values anew."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each layer and direction."""
        names = [
            name
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
            if hasattr(self, f"{name}_l0")
        ]
        suffixes = [suffix for layer in range(self.num_layers) for suffix in self._suffixes(layer)]
        return [[self.__dict__[name + suffix] for name in names] for suffix in suffixes]

    def flatten_parameters(self) -> None:
        """Nothing: parameters lie in one buffer anyway. PyTorch code calls it."""

    # ------------------------------------------------------------------ forward

    def forward(self, input: Any, hx: Any = None, *, mask: Tensor | None = None) -> Any:
        """(L, N, H_in), (N, L, H_in) with ``batch_first``, (L, H_in) or a PackedSequence -> (output, last state).

        The output (..., D * H_out) has the input's form, the states (D * num_layers, N, H) lack N when the input does; ``hx`` is the first
        state, zeros if not given. ``mask``, boolean, (L, N) or (N, L) as the input: where it is False there is no step; the state passes
        by, and the output is 0.
        """
        if isinstance(input, PackedSequence):
            if mask is not None:
                raise RangeError(f"{type(self).__name__}: a packed input has no mask; leave the masked steps out of it")
            return self._packed(input, hx)
        self._check_input(input)
        if input.ndim == 2:
            axis = 1 if not self.batch_first else 0
            hx = None if hx is None else self._each(hx, lambda h: h.unsqueeze(1))
            y, last = self.forward(input.unsqueeze(axis), hx, mask=None if mask is None else mask.unsqueeze(axis))
            return y.squeeze(axis), self._each(last, lambda h: h.squeeze(1))
        if mask is not None:
            return self._masked(input, hx, mask)
        x = input.transpose(0, 1) if self.batch_first else input
        y, states = self._layers(x, self._first(hx, x, x.shape[1]), None)
        return (y.transpose(0, 1) if self.batch_first else y), self._last(states)

    def _packed(self, packed: PackedSequence, hx: Any) -> Any:
        sizes = tuple(to_host(packed.batch_sizes.array).tolist())
        self._check_width(packed.data)
        if hx is not None and packed.sorted_indices is not None:
            order = packed.sorted_indices
            hx = self._each(hx, lambda h: h.index_select(1, order))
        states = self._first(hx, packed.data, sizes[0] if sizes else 0)
        y, states = self._layers(packed.data, states, sizes)
        last = self._last(states)
        if packed.unsorted_indices is not None:
            back = packed.unsorted_indices
            last = self._each(last, lambda h: h.index_select(1, back))
        return packed._replace(data=y), last

    def _masked(self, x: Tensor, hx: Any, mask: Tensor) -> Any:
        """A step that is masked changes no state, so that a sequence is what is left without these steps: a packed one."""
        if tuple(mask.shape) != tuple(x.shape[:2]) or mask.dtype.kind != "b":
            raise ShapeError(
                f"{type(self).__name__}: mask is boolean, True where there is a step, and of shape {tuple(x.shape[:2])}, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
        host = to_host(mask.array)
        host = host if self.batch_first else host.T  # (N, L)
        lengths = host.sum(axis=1)
        order = longest_first(lengths)
        layout = Layout.of(lengths, order)
        places = np.argsort(~host, axis=1, kind="stable")  # the steps that are there come first, in order
        rows = flat_rows(layout.sequence, places[layout.sequence, layout.step], x.shape, self.batch_first)
        there, back = (Tensor(to_device(index, x.device)) for index in (order, np.argsort(order)))
        states = [tuple(h[there] for h in state) for state in self._first(hx, x, len(host))]
        y, states = self._layers(take_rows(x, rows), states, layout.sizes)
        return put_rows(y, rows, (x.shape[0], x.shape[1])), self._last([tuple(h[back] for h in s) for s in states])

    def _layers(self, x: Tensor, states: States, sizes: tuple[int, ...] | None) -> tuple[Tensor, States]:
        """All layers and directions; ``states`` are their first ones, and those returned their last."""
        last: States = []
        for layer in range(self.num_layers):
            outputs = []
            for direction, suffix in enumerate(self._suffixes(layer)):
                y, *state = self._direction(x, states[len(last)], suffix, reverse=direction == 1, sizes=sizes)
                outputs.append(y)
                last.append(tuple(state))
            x = outputs[0] if len(outputs) == 1 else cat(outputs, dim=-1)
            if layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, last

    def _direction(self, x: Tensor, state: tuple[Tensor, ...], suffix: str, **attributes: Any) -> tuple[Tensor, ...]:
        own = self.__dict__
        names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"]
        weights = [own.get(name + suffix) for name in names[: 5 if self.proj_size else 4 if self.bias else 2]]
        return apply(self.op, x, *state, *weights, **attributes)

    # ------------------------------------------------------------------ states and shapes

    def _widths(self) -> list[int]:
        return [self.proj_size or self.hidden_size]

    def _each(self, hx: Any, change: Any) -> Any:
        """``change`` applied to the state, or to both parts of an LSTM's."""
        return change(hx)

    def _parts(self, hx: Any) -> Sequence[Tensor]:
        return (hx,)

    def _first(self, hx: Any, x: Tensor, count: int) -> States:
        """The first states; zeros if none are given."""
        number = self.num_layers * (2 if self.bidirectional else 1)
        if hx is None:
            xp = array_module(x.array)
            zeros = tuple(Tensor(xp.zeros((count, width), x.dtype)) for width in self._widths())
            return [zeros] * number
        parts = self._parts(hx)
        for part, width in zip(parts, self._widths(), strict=True):
            if tuple(part.shape) != (number, count, width):
                raise ShapeError(
                    f"{type(self).__name__}: a state of shape {(number, count, width)} (layers and directions, batch, units) expected, "
                    f"got {tuple(part.shape)}"
                )
        return [tuple(part[k] for part in parts) for k in range(number)]

    def _last(self, states: States) -> Any:
        return stack([state[0] for state in states])

    def _check_input(self, input: Any) -> None:
        if not isinstance(input, Tensor) or input.ndim not in (2, 3):
            form = "(N, L, features)" if self.batch_first else "(L, N, features)"
            got = f"shape {tuple(input.shape)}" if isinstance(input, Tensor) else type(input).__name__
            raise ShapeError(f"{type(self).__name__}: expected {form}, (L, features) or a PackedSequence, got {got}")
        self._check_width(input)

    def _check_width(self, x: Tensor) -> None:
        if x.shape[-1] != self.input_size:
            raise ShapeError(
                f"{type(self).__name__}: the input's last dimension must be input_size={self.input_size}, got shape {tuple(x.shape)}"
            )

    def extra_repr(self) -> str:
        """Sizes, and what differs from the defaults."""
        words = [f"{self.input_size}, {self.hidden_size}"]
        words += [f"proj_size={self.proj_size}"] if self.proj_size else []
        words += [f"num_layers={self.num_layers}"] if self.num_layers != 1 else []
        words += ["bias=False"] if not self.bias else []
        words += ["batch_first=True"] if self.batch_first else []
        words += [f"dropout={self.dropout}"] if self.dropout else []
        words += ["bidirectional=True"] if self.bidirectional else []
        return ", ".join(words)


class RNN(RNNBase):
    """``h_t = tanh(x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh)``, or relu with ``nonlinearity="relu"``.

    Shapes: input (L, N, input_size), (N, L, input_size) with ``batch_first``, (L, input_size), or a PackedSequence. Returns the outputs of
    the last layer (L, N, D * hidden_size) and the last state of every layer and direction (D * num_layers, N, hidden_size).
    ``dropout`` stands between layers. Elman, "Finding Structure in Time", 1990.

    >>> output, last = nn.RNN(3, 4, num_layers=2, batch_first=True)(phalanx.ones(2, 5, 3))
    >>> output.shape, last.shape
    ((2, 5, 4), (2, 2, 4))
    """

    op, gates = RNN_OP, 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise RangeError(f"RNN: nonlinearity is 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.nonlinearity = nonlinearity

    def _direction(self, x: Tensor, state: tuple[Tensor, ...], suffix: str, **attributes: Any) -> tuple[Tensor, ...]:
        return super()._direction(x, state, suffix, nonlinearity=self.nonlinearity, **attributes)


class LSTM(RNNBase):
    """``c_t = f c_{t-1} + i g``, ``h_t = o tanh(c_t)``, with i, f, o sigmoids and g a tanh of ``x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh``.

    Shapes as of RNN; the state is a pair (h, c) of (D * num_layers, N, H_out) and (D * num_layers, N, hidden_size). With ``proj_size``
    outputs are projected to that width: ``h_t = W_hr (o tanh(c_t))``. Rows of the weights hold the gates as i, f, g, o.
    Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997; the projection: Sak et al., 2014.

    >>> output, (h, c) = nn.LSTM(3, 4, bidirectional=True)(phalanx.ones(5, 2, 3))
    >>> output.shape, h.shape, c.shape
    ((5, 2, 8), (2, 2, 4), (2, 2, 4))
    """

    op, gates = LSTM_OP, 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
        )

    def _widths(self) -> list[int]:
        return [self.proj_size or self.hidden_size, self.hidden_size]

    def _each(self, hx: Any, change: Any) -> Any:
        return tuple(change(part) for part in self._parts(hx))

    def _parts(self, hx: Any) -> Sequence[Tensor]:
        if not isinstance(hx, (tuple, list)) or len(hx) != 2:
            raise DTypeError(f"LSTM: a state is a pair (h, c) of tensors, got {type(hx).__name__}")
        return hx

    def _last(self, states: States) -> Any:
        return stack([h for h, _ in states]), stack([c for _, c in states])


class GRU(RNNBase):
    """``h_t = (1 - z) n + z h_{t-1}``, ``n = tanh(x_t W_in^T + b_in + r (h_{t-1} W_hn^T + b_hn))``, r and z sigmoids of such sums.

    Shapes as of RNN. Rows of the weights hold the gates as r, z, n. Cho et al., 2014 (arXiv 1406.1078), with the reset gate behind the
    product as in PyTorch and cuDNN.

    >>> output, last = nn.GRU(3, 4)(phalanx.ones(5, 3))
    >>> output.shape, last.shape
    ((5, 4), (1, 4))
    """

    op, gates = GRU_OP, 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            "GRU",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )
