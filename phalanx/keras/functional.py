"""Models that are graphs of layers."""

from __future__ import annotations

from typing import Any

from . import names, nest
from .graph import from_graph, graph_of, order_of
from .model import KINDS, Model, fitted
from .symbolic import KerasTensor, has_symbolic


class Functional(Model):
    """A graph of layers, from ``inputs`` to ``outputs``; what ``Model(inputs, outputs)`` makes.

    >>> from phalanx import keras
    >>> x = keras.Input(shape=(3,))
    >>> [layer.name for layer in keras.Model(x, x + 1.0).layers][0][:11]
    'input_layer'
    """

    def __init__(
        self, inputs: Any = None, outputs: Any = None, name: str | None = None, *, graph: Any = None, **options: Any
    ) -> None:
        super().__init__(name=name or names.unique("functional"), **options)
        if graph is not None:
            inputs, outputs = from_graph(graph)
        if not has_symbolic(inputs) or not has_symbolic(outputs):
            raise TypeError(
                "Model(inputs, outputs) expects symbolic tensors: keras.Input(shape=...) and what layers make of it"
            )
        self.__dict__.update(_inputs=inputs, _outputs=outputs, _order=order_of(inputs, outputs))
        for tensor in nest.flat(inputs):
            if tensor.layer is not None:
                self._add(tensor.layer)
        for node in self.__dict__["_order"]:
            self._add(node.layer)
        self.built = True

    @property
    def inputs(self) -> list[KerasTensor]:
        """The symbolic tensors where the graph begins."""
        return nest.flat(self.__dict__["_inputs"])

    @property
    def outputs(self) -> list[KerasTensor]:
        """The symbolic tensors where it ends."""
        return nest.flat(self.__dict__["_outputs"])

    @property
    def input(self) -> Any:
        """As it was given."""
        return self.__dict__["_inputs"]

    @property
    def output(self) -> Any:
        """As it was given."""
        return self.__dict__["_outputs"]

    @property
    def input_shape(self) -> Any:
        """Of one input, or of each."""
        shapes = [tensor.shape for tensor in self.inputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def output_shape(self) -> Any:
        """Of one output, or of each."""
        shapes = [tensor.shape for tensor in self.outputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def output_names(self) -> list[str]:
        """The layers that give the outputs."""
        return [str(tensor.node.layer.name if tensor.node else tensor.name) for tensor in self.outputs]

    @property
    def input_names(self) -> list[str]:
        """Of the inputs."""
        return [str(tensor.name) for tensor in self.inputs]

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """Run the graph."""
        given = self._matched(inputs)
        values: dict[int, Any] = {}
        for tensor, value in zip(self.inputs, given, strict=True):
            values[id(tensor)] = value
        for node in self.__dict__["_order"]:
            args, kwargs = nest.changed(node.arguments, lambda leaf: values.get(id(leaf), leaf))
            outputs = node.layer(*args, **kwargs)
            for tensor, value in zip(nest.flat(node.outputs), nest.flat(outputs), strict=True):
                values[id(tensor)] = value
        return nest.changed(self.__dict__["_outputs"], lambda leaf: values[id(leaf)])

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The graph passes masks on itself."""
        return None

    def _matched(self, inputs: Any) -> list[Any]:
        if isinstance(inputs, dict):
            missing = [name for name in self.input_names if name not in inputs]
            if missing:
                raise ValueError(
                    f"{self.name} has the inputs {', '.join(self.input_names)}; without a value: {', '.join(missing)}"
                )
            found = [inputs[name] for name in self.input_names]
        else:
            found = nest.flat(inputs)
        if len(found) != len(self.inputs):
            raise ValueError(f"{self.name} has {len(self.inputs)} inputs, got {len(found)}")
        return [fitted(self.name, *pair) for pair in zip(self.inputs, found, strict=True)]

    def get_config(self) -> dict[str, Any]:
        """The graph as data: layers, calls, and what goes where."""
        return {"name": self.name, "graph": graph_of(self)}


KINDS["functional"] = Functional
