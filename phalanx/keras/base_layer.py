"""Layer: the base of all layers of the Keras door, and of those that users write."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..core.backend import as_dtype, is_array
from ..core.errors import RangeError, ShapeError, StateError
from ..core.mode import no_grad
from ..core.nn.module import Module
from ..core.tensor import Tensor
from . import initializers, names, nest, regularizers, scope
from .symbolic import KerasTensor, has_symbolic, symbolic_call
from .weights import State, Weight, assign


class Layer(Module):
    """Base of layers: ``build(input_shape)`` makes weights by :meth:`add_weight`, ``call(inputs)`` computes. Builds at its first call.

    Args:
        trainable: whether the weights are trained.
        name: of the layer; made from the class's if not given.
        dtype: of weights; float32 if not given.
        input_shape: of one sample; a Sequential whose first layer knows it is built at once. ``input_dim`` is the same of one dimension.

    Called on symbolic tensors (:func:`keras.Input`) a layer becomes part of a graph. ``call`` may take ``training`` and ``mask``.

    >>> from phalanx import keras
    >>> class Scale(keras.layers.Layer):
    ...     def build(self, input_shape):
    ...         self.factor = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="factor")
    ...     def call(self, inputs):
    ...         return inputs * self.factor
    >>> Scale()(np.ones((2, 3), np.float32)).shape
    (2, 3)
    """

    supports_masking = False
    integer_inputs = False
    """Whether integers stay integers on the way in."""

    def __init__(
        self,
        *,
        trainable: bool = True,
        name: str | None = None,
        dtype: Any = None,
        input_shape: Any = None,
        input_dim: int | None = None,
        batch_input_shape: Any = None,
        input_length: int | None = None,
        activity_regularizer: Any = None,
        autocast: bool = True,
    ) -> None:
        super().__init__()
        if activity_regularizer is not None:
            raise RangeError(f"{type(self).__name__}: activity_regularizer is not known here; penalise weights instead")
        given = name is not None
        self.name = str(name) if given else names.unique(names.snake_case(type(self).__name__))
        self.dtype = "float32" if dtype is None else str(as_dtype(dtype))
        if input_dim is not None:
            input_shape = (input_dim,) if input_length is None else (input_length, input_dim)
        if batch_input_shape is not None:
            input_shape = batch_input_shape[1:]
        self.given_shape = None if input_shape is None else tuple(input_shape)
        self.built = False
        self.training = False
        self._trainable = trainable
        self._own: list[Tensor] = []

    # -- what a subclass defines ------------------------------------------------------------------------------------

    def build(self, input_shape: Any) -> None:
        """Make the weights; ``input_shape`` has the dimension of the samples, as None or as it came."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer computes."""
        raise NotImplementedError(f"{type(self).__name__} defines no call()")

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask of the output; that of the input where the layer treats each step alike."""
        return mask if self.supports_masking else None

    def get_config(self) -> dict[str, Any]:
        """The arguments that build an equal layer."""
        config, more = self.__dict__["_built"].named()
        if more:
            raise StateError(f"{type(self).__name__} takes arguments without names; give it get_config()")
        return {**config, "name": self.name, **({} if self._trainable else {"trainable": False})}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """The layer that :meth:`get_config` described."""
        return cls(**config)

    def config(self) -> dict[str, Any]:
        """What a saved model holds of this layer."""
        config = self.get_config()
        return {key: value for key, value in config.items() if value is not None}

    # -- weights ----------------------------------------------------------------------------------------------------

    def add_weight(
        self,
        shape: Any = (),
        initializer: Any = None,
        dtype: Any = None,
        trainable: bool = True,
        regularizer: Any = None,
        constraint: Any = None,
        name: str | None = None,
        **unused: Any,
    ) -> Any:
        """A new weight of ``shape``; assign it to an attribute. ``glorot_uniform`` if no initializer is given."""
        if isinstance(shape, str):  # as before Keras 3: add_weight(name, shape)
            raise TypeError("add_weight expects the shape first: add_weight(shape=..., name=...)")
        if constraint is not None:
            raise RangeError(f"{type(self).__name__}: constraints of weights are not known here")
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        kind = as_dtype(self.dtype if dtype is None else dtype)
        if None in shape:
            raise ShapeError(f"{type(self).__name__}: a weight of shape {shape} needs a size that is not known yet")
        initializer = initializers.get("glorot_uniform" if initializer is None else initializer)
        weight: Any = Weight(np.zeros(shape, kind)) if trainable else State(np.zeros(shape, kind))
        initializers.fill(weight, initializer)
        weight.name = name
        if trainable:
            weight.requires_grad = self._trainable
        self._own.append(weight)
        if regularizer is not None:
            self.__dict__.setdefault("_regularized", []).append((weight, regularizers.get(regularizer)))
        return weight

    def _register_penalties(self) -> None:
        for weight, regularizer in self.__dict__.pop("_regularized", []):
            for name in self._parameter_names:
                if self.__dict__[name] is weight and regularizer is not None:
                    self.register_penalty(name, regularizer)

    def _all_weights(self) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for path, module in self.named_modules():
            own = [*module._parameter_names, *(name for name, kept in module._buffer_names.items() if kept)]
            order = {id(weight): number for number, weight in enumerate(getattr(module, "_own", ()))}
            own.sort(key=lambda name: order.get(id(module.__dict__[name]), len(order)))
            for name in own:
                weight = module.__dict__[name]
                if weight is not None and id(weight) not in seen:
                    seen.add(id(weight))
                    yield f"{path}.{name}" if path else name, weight

    @property
    def weights(self) -> list[Any]:
        """All weights, those that are not trained too, in Keras's order."""
        return [weight for _, weight in self._all_weights()]

    variables = weights

    @property
    def trainable_weights(self) -> list[Any]:
        """The weights that are trained."""
        return [weight for weight in self.weights if weight.requires_grad]

    trainable_variables = trainable_weights

    @property
    def non_trainable_weights(self) -> list[Any]:
        """The weights that are not trained."""
        return [weight for weight in self.weights if not weight.requires_grad]

    non_trainable_variables = non_trainable_weights

    @property
    def trainable(self) -> bool:
        """Whether the weights are trained; setting it counts for all layers below too. Compile the model again afterwards."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for module in self.modules():
            if isinstance(module, Layer):
                module._trainable = bool(value)
        self.requires_grad_(bool(value))

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all weights as arrays."""
        return [np.array(weight.detach().cpu().numpy()) for weight in self.weights]

    def set_weights(self, weights: Any) -> None:
        """Take arrays as :meth:`get_weights` gave them. Raises ShapeError where they do not fit; then nothing is changed."""
        own, values = self.weights, [np.asarray(value) for value in weights]
        if len(own) != len(values):
            hint = "" if self.built else "; it is not built yet: call it once"
            raise ShapeError(f"{self.name} has {len(own)} weights, got {len(values)}{hint}")
        wrong = [
            f"number {number} has shape {tuple(weight.shape)}, got {value.shape}"
            for number, (weight, value) in enumerate(zip(own, values, strict=True))
            if tuple(weight.shape) != value.shape
        ]
        if wrong:
            raise ShapeError(f"set_weights of {self.name}: {'; '.join(wrong)}")
        for weight, value in zip(own, values, strict=True):
            assign(weight, value)

    def count_params(self) -> int:
        """Numbers in all weights."""
        if not self.built and not self.weights:
            raise StateError(f"{self.name} has no weights yet: build it by an input shape or a first call")
        return sum(int(np.prod(weight.shape)) for weight in self.weights)

    def add_loss(self, loss: Any) -> None:
        """Not here: raises NotImplementedError with the way to do it."""
        raise NotImplementedError(
            f"{self.name}.add_loss is not known here: penalise weights by regularizer=..., or give the term as an output with a loss of "
            "its own, or train with phalanx.Trainer and compute_loss"
        )

    @property
    def losses(self) -> list[Any]:
        """The penalties of the layer's weights, as one Tensor or none."""
        penalty = self.penalty()
        return [] if penalty is None else [penalty]

    # -- calls ------------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if has_symbolic(list(args)) or has_symbolic(kwargs):
            return symbolic_call(self, args, kwargs)
        args, kwargs = nest.changed(args, self._tensor), nest.changed(kwargs, self._tensor)
        with scope.entered() as outermost:
            if not self.built:
                self._build_from(args, kwargs)
            takes = _parameters(type(self))
            training = kwargs.pop("training", None)
            if outermost and not scope.is_engine():
                training = bool(training)
            if "mask" in takes and kwargs.get("mask") is None:
                kwargs["mask"] = scope.mask_of(args[0] if args else None)
            elif "mask" not in takes:
                kwargs.pop("mask", None)
            if training is None or bool(training) == self.training:
                return self._called(takes, args, kwargs, outermost)
            before = [(module, module.training) for module in self.modules()]
            try:
                self.train(bool(training))
                return self._called(takes, args, kwargs, outermost)
            finally:
                for module, mode in before:
                    module.training = mode

    def _called(self, takes: tuple[str, ...], args: Any, kwargs: dict[str, Any], outermost: bool) -> Any:
        if "training" in takes:
            kwargs["training"] = self.training
        mask = kwargs.get("mask")
        if outermost and self._infers and not self.training and not scope.is_engine():
            with no_grad():
                output = super().__call__(*args, **kwargs)
        else:
            output = super().__call__(*args, **kwargs)
        if args and not isinstance(output, list | tuple | dict):
            scope.set_mask(output, self.compute_mask(args[0], scope.mask_of(args[0]) if mask is None else mask))
        return output

    _infers = False
    """Whether an outermost call that is no training records nothing, so that its result is read as it is: models do."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The engine's name for :meth:`call`."""
        return self.call(*args, **kwargs)

    def _tensor(self, leaf: Any) -> Any:
        if is_array(leaf) or isinstance(leaf, np.generic):
            leaf = Tensor(leaf)
        if isinstance(leaf, Tensor):
            kind = leaf.dtype.kind
            if (kind == "f" and str(leaf.dtype) == "float64" and self.dtype != "float64") or (
                kind in "iu" and not self.integer_inputs
            ):
                return leaf.to(as_dtype(self.dtype))
        return leaf

    def _build_from(self, args: Any, kwargs: Any) -> None:
        first = args[0] if args else next(iter(kwargs.values()), None)
        self.build_with(nest.changed(first, shape_of))

    def build_with(self, input_shape: Any) -> None:
        """Build now, for inputs of ``input_shape``; once."""
        if self.built:
            return
        self.input_spec_shape = input_shape
        self._track()
        self.build(input_shape)
        self._track()
        self._register_penalties()
        self.built = True

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, list | tuple | dict) and "_module_names" in self.__dict__:
            self._track_in(name, value)

    def _track(self) -> None:
        """Layers that were put into lists and dicts of attributes since belong to the layer as well."""
        for name, value in list(self.__dict__.items()):
            if isinstance(value, list | tuple | dict):
                self._track_in(name, value)

    def _track_in(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            return
        for key in value if isinstance(value, dict) else range(len(value)):
            part = value[key]
            if isinstance(part, Module) and not any(part is known for known in self.children()):
                self.add_module(f"{name}_{key}".replace(".", "_"), part)

    # -- places in graphs -------------------------------------------------------------------------------------------

    @property
    def output(self) -> Any:
        """What the layer gave where it was first called in a graph."""
        return self._node.outputs

    @property
    def input(self) -> Any:
        """The symbolic tensor that it was called with there, or a list of them."""
        inputs = self._node.inputs
        return inputs[0] if len(inputs) == 1 else inputs

    @property
    def _node(self) -> Any:
        nodes = self.__dict__.get("_nodes")
        if not nodes:
            raise AttributeError(f"{self.name} was not called in a graph of layers yet")
        return nodes[0]

    def extra_repr(self) -> str:
        """The name."""
        return f"name={self.name}, built={self.built}"


def shape_of(leaf: Any) -> Any:
    """The shape of a Tensor or symbolic tensor, its samples as None."""
    if isinstance(leaf, Tensor | KerasTensor):
        return Shape(tuple(leaf.shape)[1:])
    return leaf


class Shape(tuple[int | None, ...]):
    """(None, ...): a shape of samples, which is one leaf of nested structures.

    >>> Shape((3, 4))
    (None, 3, 4)
    """

    __slots__ = ()

    def __new__(cls, sizes: Any) -> Shape:
        return super().__new__(cls, (None, *sizes))


def _parameters(kind: type) -> tuple[str, ...]:
    found = kind.__dict__.get("_call_parameters")
    if found is None:
        found = tuple(inspect.signature(kind.call).parameters)  # type: ignore[attr-defined]
        kind._call_parameters = found  # type: ignore[attr-defined]
    return found
