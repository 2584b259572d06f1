"""Dense, Embedding, and layers that apply one function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...core.bfloat16 import is_floating
from ...core.errors import RangeError
from ...core.nn import functional as F
from ...core.tensor import Tensor
from .. import activations
from ..base_layer import Layer
from ..symbolic import OPERATE, KerasTensor


class InputLayer(Layer):
    """Says what goes into a model; ``shape`` is that of one sample, ``dtype`` of its elements.

    >>> from phalanx import keras
    >>> keras.layers.InputLayer(shape=(3,)).output.shape
    (None, 3)
    """

    integer_inputs = True

    def __init__(
        self,
        shape: Any = None,
        batch_size: int | None = None,
        dtype: Any = None,
        name: str | None = None,
        *,
        input_shape: Any = None,
        batch_shape: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        shape = (
            shape if shape is not None else input_shape if input_shape is not None else batch_shape and batch_shape[1:]
        )
        if shape is None:
            raise RangeError("InputLayer needs shape=..., that of one sample")
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        """The input."""
        return inputs

    @property
    def output(self) -> Any:
        """The symbolic tensor."""
        if "_symbolic" not in self.__dict__:
            made = KerasTensor((None, *self.shape), self.dtype, self.name)
            made.layer = self
            self.__dict__["_symbolic"] = made
        return self.__dict__["_symbolic"]

    input = output


def Input(
    shape: Any = None,
    batch_size: int | None = None,
    dtype: Any = None,
    name: str | None = None,
    *,
    batch_shape: Any = None,
    **unused: Any,
) -> KerasTensor:
    """The symbolic tensor where a graph of layers begins; ``shape`` is that of one sample, None where a size is open.

    >>> from phalanx import keras
    >>> keras.Input(shape=(28, 28, 1)).shape
    (None, 28, 28, 1)
    """
    return InputLayer(shape, batch_size, dtype, name, batch_shape=batch_shape).output


class Dense(Layer):
    """``activation(inputs @ kernel + bias)``; kernel (inputs, units). Works on the last dimension.

    >>> from phalanx import keras
    >>> layer = keras.layers.Dense(2, activation="relu")
    >>> layer(np.ones((4, 3), np.float32)).shape, layer.kernel.shape
    ((4, 2), (3, 2))
    """

    supports_masking = True

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(activity_regularizer=activity_regularizer, **options)
        if not isinstance(units, int | np.integer) or units < 1:
            raise RangeError(f"Dense expects units to be an integer of at least 1, got {units!r}")
        self.units, self.use_bias = int(units), use_bias
        self.activation = activations.get(activation)
        self.kernel_initializer, self.bias_initializer = kernel_initializer, bias_initializer
        self.kernel_regularizer, self.bias_regularizer = kernel_regularizer, bias_regularizer
        self.kernel_constraint, self.bias_constraint = kernel_constraint, bias_constraint

    def build(self, input_shape: Any) -> None:
        """Kernel and bias."""
        if len(input_shape) < 2:
            raise RangeError(f"Dense expects (samples, ..., features), got shape {tuple(input_shape)}")
        self.kernel = self.add_weight(
            (input_shape[-1], self.units), self.kernel_initializer, regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint, name="kernel",
        )  # fmt: skip
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                (self.units,), self.bias_initializer, regularizer=self.bias_regularizer,
                constraint=self.bias_constraint, name="bias",
            )  # fmt: skip

    def call(self, inputs: Tensor) -> Tensor:
        """(..., features) -> (..., units)."""
        return self.activation(F.linear(inputs, self.kernel.T, self.bias))


class Embedding(Layer):
    """Row ``i`` of a table for each integer ``i``; table (input_dim, output_dim).

    With ``mask_zero`` 0 is padding: recurrent layers behind leave these steps out.

    >>> from phalanx import keras
    >>> keras.layers.Embedding(10, 4)(np.array([[1, 2, 3]])).shape
    (1, 3, 4)
    """

    integer_inputs = True

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        mask_zero: bool = False,
        weights: Any = None,
        input_length: int | None = None,
        **options: Any,
    ) -> None:
        if input_length is not None:
            options.setdefault("input_shape", (input_length,))
        super().__init__(**options)
        self.input_dim, self.output_dim, self.mask_zero = input_dim, output_dim, mask_zero
        self.supports_masking = mask_zero
        self.embeddings_initializer, self.embeddings_regularizer = embeddings_initializer, embeddings_regularizer
        self.embeddings_constraint, self.__dict__["_given"] = embeddings_constraint, weights

    def build(self, input_shape: Any) -> None:
        """The table."""
        self.embeddings = self.add_weight(
            (self.input_dim, self.output_dim), self.embeddings_initializer, regularizer=self.embeddings_regularizer,
            constraint=self.embeddings_constraint, name="embeddings",
        )  # fmt: skip
        if self.__dict__["_given"] is not None:
            given = self.__dict__["_given"]
            self.embeddings.assign(given[0] if isinstance(given, list) else given)

    def call(self, inputs: Tensor) -> Tensor:
        """(...) -> (..., output_dim)."""
        if is_floating(inputs.dtype):
            inputs = inputs.to(np.int64)
        return F.embedding(inputs, self.embeddings)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Where the input is not 0, with ``mask_zero``."""
        return inputs != 0 if self.mask_zero else None


class Activation(Layer):
    """An activation function by name, or any function.

    >>> from phalanx import keras
    >>> keras.layers.Activation("relu")(np.array([-1.0, 2.0], np.float32)).tolist()
    [0.0, 2.0]
    """

    supports_masking = True

    def __init__(self, activation: Any, **options: Any) -> None:
        super().__init__(**options)
        self.activation = activations.get(activation)

    def call(self, inputs: Tensor) -> Tensor:
        """The function of the input."""
        return self.activation(inputs)


class Lambda(Layer):
    """A function as a layer. Such a layer cannot be saved: write a Layer of your own for that.

    >>> from phalanx import keras
    >>> keras.layers.Lambda(lambda x: 2 * x)(np.ones(2, np.float32)).tolist()
    [2.0, 2.0]
    """

    integer_inputs = True

    def __init__(
        self,
        function: Callable[..., Any],
        output_shape: Any = None,
        mask: Any = None,
        arguments: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.function, self.arguments = function, dict(arguments or {})

    def call(self, inputs: Any) -> Any:
        """The function of the input."""
        return self.function(inputs, **self.arguments)


class Masking(Layer):
    """Steps whose features all are ``mask_value`` are left out by recurrent layers behind; their features become 0.

    >>> from phalanx import keras
    >>> keras.layers.Masking()(np.ones((1, 2, 3), np.float32)).shape
    (1, 2, 3)
    """

    def __init__(self, mask_value: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.mask_value, self.supports_masking = mask_value, True

    def call(self, inputs: Tensor) -> Tensor:
        """(N, L, features) to the same."""
        there = (inputs != self.mask_value).any(dim=-1, keepdim=True)
        return inputs * there.to(inputs.dtype)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """(N, L), True where there is a step."""
        return (inputs != self.mask_value).any(dim=-1)


class Operator(Layer):
    """An operator of symbolic tensors, such as ``x + y`` or ``x[:, 0]``.

    >>> from phalanx import keras
    >>> (1.0 - keras.Input(shape=(3,))).shape
    (None, 3)
    """

    integer_inputs = True

    def __init__(self, function: str, **options: Any) -> None:
        super().__init__(**{"name": None, **options})
        self.function = function

    def call(self, *operands: Any) -> Any:
        """What the operator gives."""
        return FUNCTIONS[self.function](*operands)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "truediv": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "matmul": lambda a, b: a @ b,
    "neg": lambda a: -a,
    "getitem": lambda a, index: a[index],
}


def _operate(name: str) -> Callable[..., Any]:
    return lambda *operands: Operator(name)(*operands)


OPERATE.update({name: _operate(name) for name in FUNCTIONS})
