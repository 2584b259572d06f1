"""Model: what is compiled, trained, evaluated, saved; and the models that are graphs or chains of layers."""

from __future__ import annotations

import copy
from typing import Any

from ..core.errors import RangeError
from ..core.tensor import Tensor
from .base_layer import Layer
from .saving import Savable
from .summary import print_summary
from .symbolic import KerasTensor, run_on_zeros
from .training import Trainable

KINDS: dict[str, type[Any]] = {}
"""What ``Model(inputs, outputs)`` makes; graphs enter themselves."""


class Model(Trainable, Savable, Layer):
    """A model: ``Model(inputs, outputs)`` of symbolic tensors, or a subclass with ``call(inputs)``.

    ``model(x)`` infers and records nothing; ``model(x, training=True)`` records for ``backward()``.

    >>> from phalanx import keras
    >>> x = keras.Input(shape=(3,))
    >>> model = keras.Model(inputs=x, outputs=keras.layers.Dense(2)(x))
    >>> model(np.ones((5, 3), np.float32)).shape
    (5, 2)
    """

    _infers = True

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is Model and (len(args) > 1 or "outputs" in kwargs):
            cls = KINDS["functional"]
        return super().__new__(cls, *args, **kwargs)

    def __init__(self, *args: Any, **options: Any) -> None:
        if args or "inputs" in options:
            raise TypeError(f"{type(self).__name__}: a subclass calls super().__init__() without inputs and outputs")
        super().__init__(**options)
        self._prepare()

    @property
    def layers(self) -> list[Any]:
        """The layers directly below, in order."""
        return [child for child in self.children() if isinstance(child, Layer)]

    def get_layer(self, name: str | None = None, index: int | None = None) -> Any:
        """The layer of that name or number. Raises ValueError where there is none."""
        layers = self.layers
        if index is not None:
            if not -len(layers) <= index < len(layers):
                raise ValueError(f"{self.name} has {len(layers)} layers, there is no number {index}")
            return layers[index]
        for layer in layers:
            if layer.name == name:
                return layer
        raise ValueError(f"{self.name} has no layer {name!r}; it has {', '.join(layer.name for layer in layers)}")

    def summary(
        self, line_length: int | None = None, print_fn: Any = None, expand_nested: bool = False, **unused: Any
    ) -> None:
        """Print layers, shapes and parameters; on rank 0 alone, unless ``print_fn`` is given."""
        print_summary(self, print_fn, expand_nested)

    def build(self, input_shape: Any = None) -> None:
        """Make the weights, for inputs of ``input_shape`` (with the samples' None): by a run on zeros."""
        if self.built or input_shape is None:
            return
        several = isinstance(input_shape, list) or (input_shape and isinstance(input_shape[0], list | tuple))
        inputs = [KerasTensor(tuple(s)) for s in input_shape] if several else KerasTensor(tuple(input_shape))
        run_on_zeros(self, (inputs,), {})

    def _build_from(self, args: Any, kwargs: Any) -> None:
        """A subclass's layers are built by its first call."""
        self._track()
        self.built = True

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A model of equal weights, compiled alike; what trains it stays behind."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        for key, value in self.__dict__.items():
            twin.__dict__[key] = None if key in ("_trainer", "_runner", "history") else copy.deepcopy(value, memo)
        return twin

    def _layer_key(self, layer: Layer) -> str:
        """Under which attribute the layer stands: its name, if that is free."""
        key = layer.name.replace(".", "_") or "layer"
        return key if not hasattr(self, key) else f"{key}_"

    def _add(self, layer: Layer) -> None:
        if any(layer is known for known in self.children()):
            return
        if any(layer.name == known.name for known in self.layers):
            raise ValueError(f"{self.name} has two layers called {layer.name!r}: give each a name of its own")
        self.add_module(self._layer_key(layer), layer)


def fitted(name: str, tensor: KerasTensor, value: Any) -> Any:
    if isinstance(value, Tensor) and value.ndim == tensor.ndim - 1 and tensor.shape[-1] == 1:
        value = value.unsqueeze(-1)
    wrong = value.ndim != tensor.ndim or any(
        want is not None and want != got for want, got in zip(tensor.shape[1:], value.shape[1:], strict=True)
    )
    if wrong:
        raise RangeError(f"input {tensor.name!r} of {name} has shape {tensor.shape}, got {tuple(value.shape)}")
    return value
