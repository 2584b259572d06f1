"""Normalisation with Keras's defaults and meaning of momentum."""

from __future__ import annotations

from typing import Any

from ...core.backend import array_module
from ...core.errors import RangeError
from ...core.functions import permute
from ...core.nn import functional as F
from ...core.nn import statistics
from ...core.op import Array
from ...core.tensor import Tensor
from ..base_layer import Layer


def _last(who: str, axis: Any, ndim: int) -> None:
    axis = axis[0] if isinstance(axis, list | tuple) and len(axis) == 1 else axis
    if axis not in (-1, ndim - 1):
        raise RangeError(f"{who}: channels are the last dimension here, got axis={axis!r}")


class BatchNormalization(Layer):
    """``(x - mean) / sqrt(var + epsilon) * gamma + beta`` per channel, the last dimension. Ioffe and Szegedy, 2015.

    ``moving = momentum * moving + (1 - momentum) * batch``, with the biased variance as in Keras. In a fit on several ranks statistics are
    of a shard, and the moving ones are merged exactly. A layer that is not ``trainable`` infers, also in training.

    >>> from phalanx import keras
    >>> layer = keras.layers.BatchNormalization()
    >>> layer(phalanx.ones(4, 3)).shape, [w.name for w in layer.weights]
    ((4, 3), ['gamma', 'beta', 'moving_mean', 'moving_variance'])
    """

    supports_masking = True

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        synchronized: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if synchronized:
            raise RangeError("BatchNormalization: synchronized is not known here; phalanx.nn.SyncBatchNorm has it")
        self.axis, self.momentum, self.epsilon, self.center, self.scale = axis, momentum, epsilon, center, scale
        self.initializers = (gamma_initializer, beta_initializer, moving_mean_initializer, moving_variance_initializer)
        self.regularizers = (gamma_regularizer, beta_regularizer)
        self.constraints = (gamma_constraint, beta_constraint)

    def build(self, input_shape: Any) -> None:
        """Factor, offset, and the moving statistics."""
        _last("BatchNormalization", self.axis, len(input_shape))
        shape = (input_shape[-1],)
        gamma, beta, mean, variance = self.initializers
        self.gamma = self.beta = None
        if self.scale:
            self.gamma = self.add_weight(
                shape, gamma, regularizer=self.regularizers[0], constraint=self.constraints[0], name="gamma"
            )
        if self.center:
            self.beta = self.add_weight(
                shape, beta, regularizer=self.regularizers[1], constraint=self.constraints[1], name="beta"
            )
        self.moving_mean = self.add_weight(shape, mean, trainable=False, name="moving_mean")
        self.moving_variance = self.add_weight(shape, variance, trainable=False, name="moving_variance")

    def call(self, inputs: Tensor) -> Tensor:
        """(N, ..., C) to the same."""
        count = inputs.ndim
        x = inputs if count == 2 else permute(inputs, (0, count - 1, *range(1, count - 1)))
        if self.training and self.trainable:
            y, mean, m2 = F.batch_norm_with_statistics(x, self.gamma, self.beta, self.epsilon, allow_single=True)
            statistics.record(self, x.array.size // max(1, mean.size), mean, m2)
        else:
            y = F.batch_norm(x, self.moving_mean, self.moving_variance, self.gamma, self.beta, False, 0.0, self.epsilon)
        return y if count == 2 else permute(y, (0, *range(2, count), 1))

    def commit(self, n: float, mean: Array, m2: Array) -> None:
        """Move the moving statistics once; a DataParallel calls it for each call and step, on all ranks alike."""
        xp = array_module(self.moving_mean.array)
        for weight, seen in ((self.moving_mean, xp.asarray(mean)), (self.moving_variance, xp.asarray(m2) / max(n, 1))):
            moving = weight.array
            moving[...] = moving * self.momentum + seen.astype(moving.dtype, copy=False) * (1.0 - self.momentum)


class LayerNormalization(Layer):
    """``(x - mean) / sqrt(var + epsilon) * gamma + beta`` within each sample, over the last dimension or the last few. Ba et al., 2016.

    >>> from phalanx import keras
    >>> keras.layers.LayerNormalization()(phalanx.ones(2, 5, 3)).shape
    (2, 5, 3)
    """

    supports_masking = True

    def __init__(
        self,
        axis: Any = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.axis, self.epsilon, self.center, self.scale = axis, epsilon, center, scale
        self.beta_initializer, self.gamma_initializer = beta_initializer, gamma_initializer
        self.beta_regularizer, self.gamma_regularizer = beta_regularizer, gamma_regularizer

    def build(self, input_shape: Any) -> None:
        """Factor and offset."""
        axes = self.axis if isinstance(self.axis, list | tuple) else [self.axis]
        axes = sorted(axis % len(input_shape) for axis in axes)
        if axes != list(range(axes[0], len(input_shape))):
            raise RangeError(f"LayerNormalization: axis is the last dimension or the last few, got {self.axis!r}")
        self.shape = tuple(input_shape[axis] for axis in axes)
        self.gamma = self.beta = None
        if self.scale:
            self.gamma = self.add_weight(
                self.shape, self.gamma_initializer, regularizer=self.gamma_regularizer, name="gamma"
            )
        if self.center:
            self.beta = self.add_weight(
                self.shape, self.beta_initializer, regularizer=self.beta_regularizer, name="beta"
            )

    def call(self, inputs: Tensor) -> Tensor:
        """(N, ...) to the same."""
        return F.layer_norm(inputs, self.shape, self.gamma, self.beta, self.epsilon)


class GroupNormalization(Layer):
    """Normalises within each sample over groups of channels, the last dimension. Wu and He, 2018.

    >>> from phalanx import keras
    >>> keras.layers.GroupNormalization(groups=2)(phalanx.ones(2, 5, 5, 4)).shape
    (2, 5, 5, 4)
    """

    def __init__(
        self,
        groups: int = 32,
        axis: int = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.groups, self.axis, self.epsilon, self.center, self.scale = groups, axis, epsilon, center, scale

    def build(self, input_shape: Any) -> None:
        """Factor and offset."""
        _last("GroupNormalization", self.axis, len(input_shape))
        shape = (input_shape[-1],)
        self.gamma = self.add_weight(shape, "ones", name="gamma") if self.scale else None
        self.beta = self.add_weight(shape, "zeros", name="beta") if self.center else None

    def call(self, inputs: Tensor) -> Tensor:
        """(N, ..., C) to the same."""
        groups = inputs.shape[-1] if self.groups == -1 else self.groups
        x = permute(inputs, (0, inputs.ndim - 1, *range(1, inputs.ndim - 1)))
        y = F.group_norm(x, groups, self.gamma, self.beta, self.epsilon)
        return permute(y, (0, *range(2, inputs.ndim), 1))


class UnitNormalization(Layer):
    """Scales each sample to norm 1 along the last dimension.

    >>> from phalanx import keras
    >>> keras.layers.UnitNormalization()(phalanx.tensor([[3.0, 4.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """

    def __init__(self, axis: int = -1, **options: Any) -> None:
        super().__init__(**options)
        self.axis = axis

    def call(self, inputs: Tensor) -> Tensor:
        """(N, ...) to the same."""
        return F.normalize(inputs, dim=self.axis)


class RMSNormalization(Layer):
    """``x / sqrt(mean(x^2) + epsilon) * scale`` over the last dimension. Zhang and Sennrich, 2019.

    >>> from phalanx import keras
    >>> keras.layers.RMSNormalization()(phalanx.ones(2, 3)).shape
    (2, 3)
    """

    def __init__(self, axis: int = -1, epsilon: float = 1e-6, **options: Any) -> None:
        super().__init__(**options)
        self.axis, self.epsilon = axis, epsilon

    def build(self, input_shape: Any) -> None:
        """The factor."""
        _last("RMSNormalization", self.axis, len(input_shape))
        self.scale = self.add_weight((input_shape[-1],), "ones", name="scale")

    def call(self, inputs: Tensor) -> Tensor:
        """(N, ...) to the same."""
        return F.rms_norm(inputs, inputs.shape[-1], self.scale, self.epsilon)
