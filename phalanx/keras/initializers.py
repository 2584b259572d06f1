"""Initial values of weights, by Keras's names; fans are counted in Keras's layouts: (inputs, units), (height, width, inputs, filters)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.errors import RangeError
from ..core.nn import init
from ..core.nn.parameter import Parameter
from ..core.tensor import Tensor
from .names import by_name

_TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal cut at +-2."""


@dataclass(frozen=True)
class Initializer:
    """Base of initial values: ``initializer(shape)`` gives a Tensor. A subclass defines ``fill(tensor)``.

    >>> from phalanx import keras
    >>> keras.initializers.Constant(2.0)((2,)).tolist()
    [2.0, 2.0]
    """

    def fill(self, tensor: Any) -> None:
        """Set the values of ``tensor``."""
        raise NotImplementedError(f"{type(self).__name__} defines no fill()")

    def __call__(self, shape: Any, dtype: Any = "float32") -> Tensor:
        tensor = Parameter(np.zeros(tuple(shape), dtype))
        self.fill(tensor)
        return tensor.detach()


@dataclass(frozen=True)
class Zeros(Initializer):
    """All 0.

    >>> from phalanx import keras
    >>> keras.initializers.Zeros()((2,)).tolist()
    [0.0, 0.0]
    """

    def fill(self, tensor: Any) -> None:
        init.zeros_(tensor)


@dataclass(frozen=True)
class Ones(Initializer):
    """All 1.

    >>> from phalanx import keras
    >>> keras.initializers.Ones()((2,)).tolist()
    [1.0, 1.0]
    """

    def fill(self, tensor: Any) -> None:
        init.ones_(tensor)


@dataclass(frozen=True)
class Constant(Initializer):
    """All ``value``, a number or an array of the weight's shape.

    >>> from phalanx import keras
    >>> keras.layers.Dense(2, bias_initializer=keras.initializers.Constant(0.5)).name[:5]
    'dense'
    """

    value: Any = 0.0

    def fill(self, tensor: Any) -> None:
        value = self.value.array if isinstance(self.value, Tensor) else self.value
        tensor.array[...] = value


@dataclass(frozen=True)
class RandomNormal(Initializer):
    """Normal around ``mean`` with ``stddev``.

    >>> from phalanx import keras
    >>> keras.initializers.RandomNormal(stddev=0.1)((3, 2)).shape
    (3, 2)
    """

    mean: float = 0.0
    stddev: float = 0.05
    seed: Any = None

    def fill(self, tensor: Any) -> None:
        init.normal_(tensor, self.mean, self.stddev)


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """Normal, cut at two standard deviations.

    >>> from phalanx import keras
    >>> keras.initializers.TruncatedNormal(stddev=0.1)((99,)).abs().max().item() <= 0.2
    True
    """

    mean: float = 0.0
    stddev: float = 0.05
    seed: Any = None

    def fill(self, tensor: Any) -> None:
        reach = 2.0 * self.stddev
        init.trunc_normal_(tensor, self.mean, self.stddev, self.mean - reach, self.mean + reach)


@dataclass(frozen=True)
class RandomUniform(Initializer):
    """Uniform between ``minval`` and ``maxval``.

    >>> from phalanx import keras
    >>> keras.initializers.RandomUniform()((99,)).abs().max().item() <= 0.05
    True
    """

    minval: float = -0.05
    maxval: float = 0.05
    seed: Any = None

    def fill(self, tensor: Any) -> None:
        init.uniform_(tensor, self.minval, self.maxval)


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """A matrix with orthogonal columns or rows. Saxe et al., 2013.

    >>> from phalanx import keras
    >>> w = keras.initializers.Orthogonal()((3, 3))
    >>> bool((w.T @ w - phalanx.eye(3)).abs().max() < 1e-5)
    True
    """

    gain: float = 1.0
    seed: Any = None

    def fill(self, tensor: Any) -> None:
        init.orthogonal_(tensor, self.gain)


@dataclass(frozen=True)
class Identity(Initializer):
    """``gain`` times the identity matrix.

    >>> from phalanx import keras
    >>> keras.initializers.Identity()((2, 2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    gain: float = 1.0

    def fill(self, tensor: Any) -> None:
        init.eye_(tensor)
        tensor.array *= self.gain


@dataclass(frozen=True)
class VarianceScaling(Initializer):
    """Variance ``scale / fan``; ``mode`` fan_in, fan_out or fan_avg; ``distribution`` truncated_normal, untruncated_normal or uniform.

    >>> from phalanx import keras
    >>> keras.initializers.VarianceScaling(2.0, mode="fan_out")((3, 2)).shape
    (3, 2)
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"
    seed: Any = None

    def fill(self, tensor: Any) -> None:
        inward, outward = fans(tuple(tensor.shape))
        fan = {"fan_in": inward, "fan_out": outward, "fan_avg": (inward + outward) / 2}.get(self.mode)
        if fan is None or self.distribution not in ("truncated_normal", "normal", "untruncated_normal", "uniform"):
            raise RangeError(
                f"VarianceScaling does not know mode {self.mode!r} with distribution {self.distribution!r}"
            )
        std = math.sqrt(self.scale / max(1.0, fan))
        if self.distribution == "uniform":
            init.uniform_(tensor, -math.sqrt(3.0) * std, math.sqrt(3.0) * std)
        elif self.distribution == "untruncated_normal":
            init.normal_(tensor, 0.0, std)
        else:
            std /= _TRUNCATED_STD
            init.trunc_normal_(tensor, 0.0, std, -2.0 * std, 2.0 * std)


def fans(shape: tuple[int, ...]) -> tuple[float, float]:
    """Inputs and outputs of a weight in Keras's layout.

    >>> fans((3, 3, 8, 16))
    (72, 144)
    """
    if len(shape) < 2:
        size = shape[0] if shape else 1
        return size, size
    field = math.prod(shape[:-2])
    return shape[-2] * field, shape[-1] * field


def _scaled(name: str, scale: float, mode: str, distribution: str, words: str) -> type[Any]:
    doc = f"""{words}

    >>> from phalanx import keras
    >>> keras.initializers.{name}()((3, 2)).shape
    (3, 2)
    """

    def __init__(
        self: Any, seed: Any = None, *, scale: float = scale, mode: str = mode, distribution: str = distribution
    ) -> None:
        VarianceScaling.__init__(self, scale, mode, distribution, seed)

    return type(
        name, (VarianceScaling,), {"__init__": __init__, "__doc__": doc, "__module__": __name__, "__qualname__": name}
    )


GlorotUniform: Any = _scaled("GlorotUniform", 1.0, "fan_avg", "uniform", "Uniform in +-sqrt(6 / (inputs + outputs)).")
GlorotNormal: Any = _scaled("GlorotNormal", 1.0, "fan_avg", "truncated_normal", "Variance 2 / (inputs + outputs).")
HeUniform: Any = _scaled("HeUniform", 2.0, "fan_in", "uniform", "Uniform in +-sqrt(6 / inputs), for relu.")
HeNormal: Any = _scaled("HeNormal", 2.0, "fan_in", "truncated_normal", "Variance 2 / inputs, for relu.")
LecunUniform: Any = _scaled("LecunUniform", 1.0, "fan_in", "uniform", "Uniform in +-sqrt(3 / inputs).")
LecunNormal: Any = _scaled("LecunNormal", 1.0, "fan_in", "truncated_normal", "Variance 1 / inputs, for selu.")

_KNOWN: dict[str, Any] = {
    "zeros": Zeros, "ones": Ones, "constant": Constant, "random_normal": RandomNormal, "normal": RandomNormal,
    "truncated_normal": TruncatedNormal, "random_uniform": RandomUniform, "uniform": RandomUniform,
    "orthogonal": Orthogonal, "identity": Identity, "variance_scaling": VarianceScaling,
    "glorot_uniform": GlorotUniform, "glorot_normal": GlorotNormal, "he_uniform": HeUniform, "he_normal": HeNormal,
    "lecun_uniform": LecunUniform, "lecun_normal": LecunNormal,
}  # fmt: skip


def get(identifier: Any) -> Any:
    """The initializer of that name; objects and functions of a shape as they are.

    >>> from phalanx import keras
    >>> keras.initializers.get("he_normal").scale
    2.0
    """
    found = by_name("initializer", identifier, _KNOWN)
    return found() if isinstance(found, type) else found


def fill(tensor: Any, initializer: Callable[..., Any]) -> None:
    """Set ``tensor`` by an Initializer, or by a function of shape and dtype."""
    if isinstance(initializer, Initializer):
        initializer.fill(tensor)
        return
    value = initializer(tuple(tensor.shape), dtype=str(tensor.dtype))
    tensor.array[...] = value.array if isinstance(value, Tensor) else np.asarray(value)


__all__ = [
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Identity",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "get",
]
