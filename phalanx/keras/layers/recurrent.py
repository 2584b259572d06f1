"""SimpleRNN, LSTM and GRU, and what wraps them. Data is (N, L, features); weights in Keras's layout."""

from __future__ import annotations

from typing import Any, ClassVar

from ...core import nn
from ...core.backend import array_module
from ...core.errors import RangeError
from ...core.functions import cat, flip, stack
from ...core.graph import apply
from ...core.nn import functional as F
from ...core.tensor import Tensor
from ..base_layer import Layer


class _Walk:
    """The walk of an nn layer over the steps, with weights of somebody else's."""

    weights: tuple[Any, ...] = ()

    def _add_direction(self, *unused: Any) -> None:
        """No weights of its own."""

    def reset_parameters(self) -> None:
        """Nothing to draw."""

    def _direction(self, x: Tensor, state: Any, suffix: str, **attributes: Any) -> Any:
        more = {"nonlinearity": self.nonlinearity} if hasattr(self, "nonlinearity") else {}
        return apply(self.op, x, *state, *self.weights, **attributes, **more)  # type: ignore[attr-defined]


class _RNNWalk(_Walk, nn.RNN):
    pass


class _LSTMWalk(_Walk, nn.LSTM):
    pass


class _GRUWalk(_Walk, nn.GRU):
    pass


class _Recurrent(Layer):
    """What the three share."""

    walk: ClassVar[Any]
    gates = 1
    states = 1
    supports_masking = True

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        use_cudnn: Any = "auto",
        implementation: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        who = type(self).__name__
        if not isinstance(units, int) or units < 1:
            raise RangeError(f"{who} expects units to be an integer of at least 1, got {units!r}")
        if recurrent_dropout or stateful:
            raise RangeError(f"{who}: recurrent_dropout and stateful are not known here; pass initial_state instead")
        if getattr(activation, "__name__", activation) not in self._activations or (
            getattr(recurrent_activation, "__name__", recurrent_activation) != "sigmoid"
        ):
            raise RangeError(
                f"{who} knows activation {' or '.join(self._activations)} with recurrent_activation sigmoid, got "
                f"{activation!r} and {recurrent_activation!r}"
            )
        self.units, self.use_bias, self.dropout = units, use_bias, dropout
        self.activation = str(getattr(activation, "__name__", activation))
        self.initializers = (kernel_initializer, recurrent_initializer, bias_initializer)
        self.regularizers = (kernel_regularizer, recurrent_regularizer, bias_regularizer)
        self.return_sequences, self.return_state, self.go_backwards = return_sequences, return_state, go_backwards

    _activations: ClassVar[tuple[str, ...]] = ("tanh",)

    def build(self, input_shape: Any) -> None:
        """Both kernels and the bias."""
        rows = self.gates * self.units
        kernel, recurrent, bias = self.initializers
        self.kernel = self.add_weight((input_shape[-1], rows), kernel, regularizer=self.regularizers[0], name="kernel")
        self.recurrent_kernel = self.add_weight(
            (self.units, rows), recurrent, regularizer=self.regularizers[1], name="recurrent_kernel"
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(self._bias_shape, bias, regularizer=self.regularizers[2], name="bias")

    @property
    def _bias_shape(self) -> tuple[int, ...]:
        return (self.gates * self.units,)

    def _weights(self) -> tuple[Any, ...]:
        """Kernels and biases in the engine's layout: (rows, inputs), (rows, units), (rows,), (rows,)."""
        weights = (self.kernel.T, self.recurrent_kernel.T)
        return weights if self.bias is None else (*weights, self.bias, self.bias.detach() * 0.0)

    def call(self, sequences: Tensor, initial_state: Any = None, mask: Any = None) -> Any:
        """(N, L, features) -> (N, units), or (N, L, units) with ``return_sequences``; and the last states with ``return_state``."""
        x = sequences
        if self.dropout and self.training:  # one mask for all steps
            ones = Tensor(array_module(x.array).ones((x.shape[0], 1, x.shape[2]), x.dtype))
            x = x * F.dropout(ones, self.dropout)
        if self.go_backwards:
            x, mask = flip(x, (1,)), None if mask is None else flip(mask, (1,))
        walk = type(self).walk(x.shape[2], self.units, bias=self.bias is not None, batch_first=True, **self._of_walk())
        walk.__dict__["weights"] = self._weights()
        y, last = walk(x, self._first(initial_state), mask=mask)
        states = [state[0] for state in (last if isinstance(last, tuple) else (last,))]
        output = y if self.return_sequences else states[0]
        return [output, *states] if self.return_state else output

    def _of_walk(self) -> dict[str, Any]:
        return {}

    def _first(self, initial_state: Any) -> Any:
        if initial_state is None:
            return None
        given = list(initial_state) if isinstance(initial_state, list | tuple) else [initial_state]
        if len(given) != self.states:
            raise RangeError(f"{type(self).__name__} expects {self.states} initial states, got {len(given)}")
        parts = [state.unsqueeze(0) for state in given]
        return tuple(parts) if self.states > 1 else parts[0]

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask goes on where there are steps."""
        if isinstance(mask, list):
            mask = mask[0]
        return mask if self.return_sequences else None


class SimpleRNN(_Recurrent):
    """``h = tanh(x kernel + h recurrent_kernel + bias)``; ``activation`` may be ``"relu"``.

    >>> from phalanx import keras
    >>> keras.layers.SimpleRNN(4)(phalanx.ones(2, 5, 3)).shape
    (2, 4)
    """

    walk = _RNNWalk
    _activations = ("tanh", "relu")

    def __init__(self, units: int, activation: Any = "tanh", use_bias: bool = True, **options: Any) -> None:
        super().__init__(units, activation, use_bias=use_bias, **options)

    def _of_walk(self) -> dict[str, Any]:
        return {"nonlinearity": self.activation}


class LSTM(_Recurrent):
    """``c = f c + i g``, ``h = o tanh(c)``; the gates stand as i, f, g, o, the forget gate's bias begins at 1. Hochreiter and Schmidhuber, 1997.

    >>> from phalanx import keras
    >>> y, h, c = keras.layers.LSTM(4, return_sequences=True, return_state=True)(phalanx.ones(2, 5, 3))
    >>> y.shape, h.shape, c.shape
    ((2, 5, 4), (2, 4), (2, 4))
    """

    walk, gates, states = _LSTMWalk, 4, 2

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        unit_forget_bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            units, activation, recurrent_activation, use_bias, kernel_initializer, recurrent_initializer, bias_initializer,
            **options,
        )  # fmt: skip
        self.unit_forget_bias = unit_forget_bias

    def build(self, input_shape: Any) -> None:
        """Both kernels and the bias."""
        super().build(input_shape)
        if self.bias is not None and self.unit_forget_bias:
            self.bias.array[self.units : 2 * self.units] = 1.0


class GRU(_Recurrent):
    """``h = z h + (1 - z) n``; the gates stand as z, r, n, the reset gate behind the product. Cho et al., 2014.

    >>> from phalanx import keras
    >>> keras.layers.GRU(4, return_sequences=True)(phalanx.ones(2, 5, 3)).shape
    (2, 5, 4)
    """

    walk, gates = _GRUWalk, 3

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        reset_after: bool = True,
        **options: Any,
    ) -> None:
        if not reset_after:
            raise RangeError("GRU: reset_after=False is not known here")
        super().__init__(units, activation, recurrent_activation, use_bias, **options)

    @property
    def _bias_shape(self) -> tuple[int, ...]:
        return (2, 3 * self.units)

    def _weights(self) -> tuple[Any, ...]:
        """The engine has r before z."""
        u = self.units
        found = [self._turned(self.kernel.T, u), self._turned(self.recurrent_kernel.T, u)]
        if self.bias is not None:
            found += [self._turned(self.bias[0], u), self._turned(self.bias[1], u)]
        return tuple(found)

    @staticmethod
    def _turned(rows: Tensor, units: int) -> Tensor:
        return cat([rows[units : 2 * units], rows[:units], rows[2 * units :]], dim=0)


class Bidirectional(Layer):
    """A recurrent layer and a twin that reads from the end; ``merge_mode`` concat, sum, mul, ave or None (both apart).

    >>> from phalanx import keras
    >>> keras.layers.Bidirectional(keras.layers.LSTM(4))(phalanx.ones(2, 5, 3)).shape
    (2, 8)
    """

    supports_masking = True

    def __init__(
        self,
        layer: Any,
        merge_mode: str | None = "concat",
        weights: Any = None,
        backward_layer: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**{"input_shape": layer.given_shape, **options})
        if merge_mode not in ("concat", "sum", "mul", "ave", None):
            raise RangeError(f"Bidirectional: merge_mode is concat, sum, mul, ave or None, got {merge_mode!r}")
        if not isinstance(layer, _Recurrent):
            raise TypeError(f"Bidirectional expects a recurrent layer, got {type(layer).__name__}")
        self.merge_mode = merge_mode
        self.forward_layer = layer
        if backward_layer is None:
            config = layer.get_config() | {"go_backwards": not layer.go_backwards, "name": f"backward_{layer.name}"}
            backward_layer = type(layer)(**config)
        self.backward_layer = backward_layer

    def call(self, inputs: Tensor, initial_state: Any = None, mask: Any = None) -> Any:
        """(N, L, features) -> both directions' outputs, merged."""
        half = len(initial_state) // 2 if initial_state is not None else 0
        states = (None, None) if initial_state is None else (initial_state[:half], initial_state[half:])
        there = self.forward_layer(inputs, initial_state=states[0], mask=mask)
        back = self.backward_layer(inputs, initial_state=states[1], mask=mask)
        more: list[Any] = []
        if self.forward_layer.return_state:
            (there, *first), (back, *second) = there, back
            more = [*first, *second]
        if self.forward_layer.return_sequences:
            back = flip(back, (1,))
        merged = self._merged(there, back)
        return [*merged, *more] if isinstance(merged, list) else [merged, *more] if more else merged

    def _merged(self, a: Tensor, b: Tensor) -> Any:
        if self.merge_mode == "concat":
            return cat([a, b], dim=-1)
        if self.merge_mode is None:
            return [a, b]
        return {"sum": lambda: a + b, "mul": lambda: a * b, "ave": lambda: (a + b) * 0.5}[self.merge_mode]()

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask goes on where there are steps."""
        return mask if self.forward_layer.return_sequences else None


class TimeDistributed(Layer):
    """A layer applied to each step of (N, L, ...).

    >>> from phalanx import keras
    >>> keras.layers.TimeDistributed(keras.layers.Dense(4))(phalanx.ones(2, 5, 3)).shape
    (2, 5, 4)
    """

    supports_masking = True

    def __init__(self, layer: Layer, **options: Any) -> None:
        super().__init__(**options)
        self.layer = layer
        self.integer_inputs = layer.integer_inputs

    def call(self, inputs: Tensor) -> Tensor:
        """(N, L, ...) -> (N, L, ...)."""
        samples, steps = inputs.shape[:2]
        y = self.layer(inputs.reshape(samples * steps, *inputs.shape[2:]))
        return y.reshape(samples, steps, *y.shape[1:])


class RNNCells(Layer):
    """Cells of one's own walked over the steps: ``RNN(cell)``, ``cell(x, states) -> (output, states)``, ``cell.state_size``.

    >>> from phalanx import keras
    >>> class Sum(keras.layers.Layer):
    ...     state_size = 3
    ...     def call(self, x, states):
    ...         return x + states[0], [x + states[0]]
    >>> keras.layers.RNN(Sum())(phalanx.ones(1, 4, 3)).tolist()
    [[4.0, 4.0, 4.0]]
    """

    def __init__(
        self,
        cell: Any,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.cell, self.return_sequences, self.return_state = cell, return_sequences, return_state
        self.go_backwards = go_backwards

    def call(self, sequences: Tensor, initial_state: Any = None) -> Any:
        """(N, L, features) -> the last output, or all of them."""
        sizes = self.cell.state_size if isinstance(self.cell.state_size, list | tuple) else [self.cell.state_size]
        xp = array_module(sequences.array)
        states = initial_state or [Tensor(xp.zeros((sequences.shape[0], size), sequences.dtype)) for size in sizes]
        steps = range(sequences.shape[1])
        outputs = []
        for step in reversed(steps) if self.go_backwards else steps:
            output, states = self.cell(sequences[:, step], states)
            outputs.append(output)
        y = stack(outputs, dim=1) if self.return_sequences else outputs[-1]
        return [y, *states] if self.return_state else y


RNN = RNNCells
