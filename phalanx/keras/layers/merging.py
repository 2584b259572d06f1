"""Layers that make one tensor of several, and their functions."""

from __future__ import annotations

import functools
from typing import Any

from ...core import functions as T
from ...core.errors import RangeError
from ...core.nn import functional as F
from ...core.tensor import Tensor
from ..base_layer import Layer


class _Merge(Layer):
    supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Nothing, but there must be several inputs."""

    def call(self, inputs: Any) -> Tensor:
        """A list of tensors -> one."""
        if not isinstance(inputs, list | tuple) or not inputs:
            raise RangeError(f"{type(self).__name__} expects a list of tensors")
        return self.merged(list(inputs))

    def merged(self, inputs: list[Tensor]) -> Tensor:
        """One of several."""
        raise NotImplementedError

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Steps that all inputs have."""
        found = [part for part in mask or () if part is not None]
        return functools.reduce(lambda a, b: a & b, found) if found else None


class Add(_Merge):
    """The sum of its inputs.

    >>> from phalanx import keras
    >>> keras.layers.Add()([phalanx.ones(2), phalanx.ones(2)]).tolist()
    [2.0, 2.0]
    """

    def merged(self, inputs: list[Tensor]) -> Tensor:
        return functools.reduce(lambda a, b: a + b, inputs)


class Subtract(_Merge):
    """The first input less the second.

    >>> from phalanx import keras
    >>> keras.layers.Subtract()([phalanx.ones(2), phalanx.ones(2)]).tolist()
    [0.0, 0.0]
    """

    def merged(self, inputs: list[Tensor]) -> Tensor:
        if len(inputs) != 2:
            raise RangeError(f"Subtract expects two inputs, got {len(inputs)}")
        return inputs[0] - inputs[1]


class Multiply(_Merge):
    """The product of its inputs.

    >>> from phalanx import keras
    >>> keras.layers.Multiply()([phalanx.ones(2), phalanx.ones(2) * 3]).tolist()
    [3.0, 3.0]
    """

    def merged(self, inputs: list[Tensor]) -> Tensor:
        return functools.reduce(lambda a, b: a * b, inputs)


class Average(_Merge):
    """The mean of its inputs.

    >>> from phalanx import keras
    >>> keras.layers.Average()([phalanx.ones(2), phalanx.ones(2) * 3]).tolist()
    [2.0, 2.0]
    """

    def merged(self, inputs: list[Tensor]) -> Tensor:
        return functools.reduce(lambda a, b: a + b, inputs) / len(inputs)


class Maximum(_Merge):
    """The highest of its inputs, element by element.

    >>> from phalanx import keras
    >>> keras.layers.Maximum()([phalanx.ones(2), phalanx.ones(2) * 3]).tolist()
    [3.0, 3.0]
    """

    def merged(self, inputs: list[Tensor]) -> Tensor:
        return functools.reduce(T.maximum, inputs)


class Minimum(_Merge):
    """The lowest of its inputs, element by element.

    >>> from phalanx import keras
    >>> keras.layers.Minimum()([phalanx.ones(2), phalanx.ones(2) * 3]).tolist()
    [1.0, 1.0]
    """

    def merged(self, inputs: list[Tensor]) -> Tensor:
        return functools.reduce(T.minimum, inputs)


class Concatenate(_Merge):
    """Its inputs one behind the other along ``axis``.

    >>> from phalanx import keras
    >>> keras.layers.Concatenate()([phalanx.ones(2, 3), phalanx.ones(2, 1)]).shape
    (2, 4)
    """

    def __init__(self, axis: int = -1, **options: Any) -> None:
        super().__init__(**options)
        self.axis = axis

    def merged(self, inputs: list[Tensor]) -> Tensor:
        return T.cat(inputs, dim=self.axis)


class Dot(_Merge):
    """The products of both inputs summed over ``axes``, sample by sample; of unit vectors with ``normalize``.

    >>> from phalanx import keras
    >>> keras.layers.Dot(axes=1)([phalanx.ones(2, 3), phalanx.ones(2, 3)]).tolist()
    [[3.0], [3.0]]
    """

    def __init__(self, axes: Any, normalize: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.axes, self.normalize = axes, normalize

    def merged(self, inputs: list[Tensor]) -> Tensor:
        a, b = inputs
        axes = (self.axes, self.axes) if isinstance(self.axes, int) else self.axes
        i, j = axes[0] % a.ndim, axes[1] % b.ndim
        if not i or not j:
            raise RangeError(f"Dot: axes count the samples as 0, which cannot be summed over; got {self.axes!r}")
        if self.normalize:
            a, b = F.normalize(a, dim=i), F.normalize(b, dim=j)
        a, b = a.movedim(i, -1), b.movedim(j, -1)
        y = a.reshape(a.shape[0], -1, a.shape[-1]) @ b.reshape(b.shape[0], -1, b.shape[-1]).transpose(1, 2)
        return y.reshape(a.shape[0], *(a.shape[1:-1] + b.shape[1:-1] or (1,)))

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The steps are gone."""
        return None


def add(inputs: Any, **options: Any) -> Any:
    """``Add()(inputs)``.

    >>> from phalanx import keras
    >>> keras.layers.add([phalanx.ones(1), phalanx.ones(1)]).item()
    2.0
    """
    return Add(**options)(inputs)


def subtract(inputs: Any, **options: Any) -> Any:
    """``Subtract()(inputs)``.

    >>> from phalanx import keras
    >>> keras.layers.subtract([phalanx.ones(1), phalanx.ones(1)]).item()
    0.0
    """
    return Subtract(**options)(inputs)


def multiply(inputs: Any, **options: Any) -> Any:
    """``Multiply()(inputs)``.

    >>> from phalanx import keras
    >>> keras.layers.multiply([phalanx.ones(1), phalanx.ones(1)]).item()
    1.0
    """
    return Multiply(**options)(inputs)


def average(inputs: Any, **options: Any) -> Any:
    """``Average()(inputs)``.

    >>> from phalanx import keras
    >>> keras.layers.average([phalanx.ones(1), phalanx.ones(1)]).item()
    1.0
    """
    return Average(**options)(inputs)


def maximum(inputs: Any, **options: Any) -> Any:
    """``Maximum()(inputs)``.

    >>> from phalanx import keras
    >>> keras.layers.maximum([phalanx.ones(1), phalanx.zeros(1)]).item()
    1.0
    """
    return Maximum(**options)(inputs)


def concatenate(inputs: Any, axis: int = -1, **options: Any) -> Any:
    """``Concatenate(axis)(inputs)``.

    >>> from phalanx import keras
    >>> keras.layers.concatenate([phalanx.ones(1, 2), phalanx.ones(1, 2)]).shape
    (1, 4)
    """
    return Concatenate(axis, **options)(inputs)


def dot(inputs: Any, axes: Any, normalize: bool = False, **options: Any) -> Any:
    """``Dot(axes)(inputs)``.

    >>> from phalanx import keras
    >>> keras.layers.dot([phalanx.ones(1, 2), phalanx.ones(1, 2)], axes=1).item()
    2.0
    """
    return Dot(axes, normalize, **options)(inputs)
