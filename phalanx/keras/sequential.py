"""Models that are chains of layers."""

from __future__ import annotations

from collections.abc import Sequence as Listed
from typing import Any

from ..core.tensor import Tensor
from . import nest, scope
from .base_layer import Layer, Shape
from .layers.dense import InputLayer
from .model import Model, fitted
from .symbolic import KerasTensor


class Sequential(Model):
    """Layers one after another. Built at once if it begins with an Input or a layer with ``input_shape``, else by its first batch.

    >>> from phalanx import keras
    >>> model = keras.Sequential([keras.Input(shape=(4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    >>> model.count_params(), model.output_shape
    (19, (None, 1))
    """

    def __init__(self, layers: Listed[Any] | None = None, trainable: bool = True, name: str | None = None) -> None:
        super().__init__(name=name, trainable=trainable)
        self.__dict__.update(_chain=[], _begin=None, _end=None)
        for layer in layers or ():
            self.add(layer)

    def add(self, layer: Any) -> None:
        """Put a layer at the end."""
        chain = self.__dict__["_chain"]
        if isinstance(layer, KerasTensor):
            layer = layer.layer
        if isinstance(layer, InputLayer):
            if chain or self.__dict__["_begin"] is not None:
                raise ValueError("the Input of a Sequential comes first, and once")
            self._begin_with(layer.output)
            return
        if not isinstance(layer, Layer):
            raise TypeError(f"Sequential expects layers of keras.layers, got {layer!r}")
        if not chain and self.__dict__["_begin"] is None:
            shape, inner = layer.given_shape, getattr(layer, "inputs", None)
            if shape is not None:
                self._begin_with(InputLayer(shape).output)
            elif isinstance(layer, Model) and layer.built and inner:
                self._begin_with(InputLayer(inner[0].shape[1:], dtype=inner[0].dtype).output)
        self._add(layer)
        chain.append(layer)
        if self.__dict__["_end"] is not None:
            self.__dict__["_end"] = layer(self.__dict__["_end"])
        self.built = self.__dict__["_end"] is not None
        self._forget_trainer()

    def pop(self, rebuild: bool = True) -> Any:
        """Take the last layer away; returns it."""
        chain = self.__dict__["_chain"]
        if not chain:
            raise ValueError(f"{self.name} has no layer to take away")
        layer = chain.pop()
        delattr(self, next(key for key, module in self._branches() if module is layer))
        if self.__dict__["_end"] is not None:
            self.__dict__["_end"] = chain[-1].output if chain else self.__dict__["_begin"]
        self._forget_trainer()
        return layer

    def _begin_with(self, tensor: KerasTensor) -> None:
        self.__dict__.update(_begin=tensor, _end=tensor)

    def build(self, input_shape: Any = None) -> None:
        """Make the weights, for inputs of ``input_shape`` (with the samples' None)."""
        if self.__dict__["_begin"] is not None or input_shape is None:
            return
        self._begin_with(InputLayer(tuple(input_shape)[1:]).output)
        for layer in self.__dict__["_chain"]:
            self.__dict__["_end"] = layer(self.__dict__["_end"])
        self.built = True

    def _build_from(self, args: Any, kwargs: Any) -> None:
        first = nest.flat(args)[0]
        self.build(Shape(tuple(first.shape)[1:]))

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """Through all layers."""
        if self.__dict__["_begin"] is not None and isinstance(inputs, Tensor):
            inputs = fitted(self.name, self.__dict__["_begin"], inputs)
        if mask is not None:
            scope.set_mask(inputs, mask)
        for layer in self.__dict__["_chain"]:
            inputs = layer(inputs)
        return inputs

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The layers pass masks on themselves."""
        return None

    @property
    def inputs(self) -> list[KerasTensor]:
        """The symbolic tensor where it begins, once it is built."""
        begin = self.__dict__["_begin"]
        return [] if begin is None else [begin]

    @property
    def outputs(self) -> list[KerasTensor]:
        """The symbolic tensor where it ends, once it is built."""
        end = self.__dict__["_end"]
        return [] if end is None else nest.flat(end)

    def _known(self, tensor: Any) -> Any:
        if tensor is None:
            raise AttributeError(f"{self.name} is not built: give it an Input, or call it once")
        return tensor

    @property
    def input(self) -> Any:
        """The symbolic tensor where it begins."""
        return self._known(self.__dict__["_begin"])

    @property
    def output(self) -> Any:
        """The symbolic tensor where it ends."""
        return self._known(self.__dict__["_end"])

    @property
    def input_shape(self) -> Any:
        """Of the input."""
        return self.input.shape

    @property
    def output_shape(self) -> Any:
        """Of the output."""
        return self.output.shape

    def get_config(self) -> dict[str, Any]:
        """Name and layers, with the input's shape in front where it is known."""
        begin = self.__dict__["_begin"]
        head = [] if begin is None else [InputLayer(begin.shape[1:], dtype=begin.dtype, name=begin.name)]
        return {"name": self.name, "layers": [*head, *self.__dict__["_chain"]]}
