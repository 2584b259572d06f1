"""Activations as layers, attention, and numbers scaled on their way in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...core import functions as T
from ...core.backend import array_module
from ...core.errors import RangeError
from ...core.nn import functional as F
from ...core.tensor import Tensor
from .. import activations, nest
from ..base_layer import Layer, shape_of
from ..losses.functions import tensor


class ReLU(Layer):
    """``max(x, 0)``, with a slope below, a ceiling and a threshold if wanted.

    >>> from phalanx import keras
    >>> keras.layers.ReLU(max_value=6.0)(phalanx.tensor([-1.0, 9.0])).tolist()
    [0.0, 6.0]
    """

    supports_masking = True

    def __init__(
        self, max_value: float | None = None, negative_slope: float = 0.0, threshold: float = 0.0, **options: Any
    ) -> None:
        super().__init__(**options)
        self.max_value, self.negative_slope, self.threshold = max_value, negative_slope, threshold

    def call(self, inputs: Tensor) -> Tensor:
        """To the same shape."""
        return activations.relu(inputs, self.negative_slope, self.max_value, self.threshold)


class LeakyReLU(Layer):
    """``x`` where positive, ``negative_slope * x`` elsewhere; 0.3 as in Keras's layer.

    >>> from phalanx import keras
    >>> keras.layers.LeakyReLU(0.5)(phalanx.tensor([-1.0])).item()
    -0.5
    """

    supports_masking = True

    def __init__(self, negative_slope: float = 0.3, alpha: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.negative_slope = negative_slope if alpha is None else alpha

    def call(self, inputs: Tensor) -> Tensor:
        """To the same shape."""
        return F.leaky_relu(inputs, self.negative_slope)


class ELU(Layer):
    """``x`` where positive, ``alpha * (exp(x) - 1)`` elsewhere.

    >>> from phalanx import keras
    >>> keras.layers.ELU()(phalanx.ones(1)).item()
    1.0
    """

    supports_masking = True

    def __init__(self, alpha: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.alpha = alpha

    def call(self, inputs: Tensor) -> Tensor:
        """To the same shape."""
        return F.elu(inputs, self.alpha)


class PReLU(Layer):
    """LeakyReLU whose slopes are trained; ``shared_axes`` share one, for example (1, 2) of images. He et al., 2015.

    >>> from phalanx import keras
    >>> keras.layers.PReLU()(phalanx.tensor([[-1.0, 2.0]])).tolist()
    [[0.0, 2.0]]
    """

    supports_masking = True

    def __init__(
        self, alpha_initializer: Any = "zeros", alpha_regularizer: Any = None, shared_axes: Any = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.alpha_initializer, self.alpha_regularizer = alpha_initializer, alpha_regularizer
        self.shared_axes = [shared_axes] if isinstance(shared_axes, int) else list(shared_axes or ())

    def build(self, input_shape: Any) -> None:
        """The slopes."""
        shape = [1 if axis in self.shared_axes else size for axis, size in enumerate(input_shape)][1:]
        self.alpha = self.add_weight(shape, self.alpha_initializer, regularizer=self.alpha_regularizer, name="alpha")

    def call(self, inputs: Tensor) -> Tensor:
        """To the same shape."""
        return F.relu(inputs) - self.alpha * F.relu(-inputs)


class Softmax(Layer):
    """``exp(x) / sum(exp(x))`` along ``axis``.

    >>> from phalanx import keras
    >>> keras.layers.Softmax()(phalanx.zeros(1, 2)).tolist()
    [[0.5, 0.5]]
    """

    supports_masking = True

    def __init__(self, axis: int = -1, **options: Any) -> None:
        super().__init__(**options)
        self.axis = axis

    def call(self, inputs: Tensor) -> Tensor:
        """To the same shape."""
        return F.softmax(inputs, dim=self.axis)


class Rescaling(Layer):
    """``x * scale + offset``.

    >>> from phalanx import keras
    >>> keras.layers.Rescaling(1 / 255)(np.array([255], np.uint8)).item()
    1.0
    """

    def __init__(self, scale: float, offset: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.scale, self.offset = scale, offset

    def call(self, inputs: Tensor) -> Tensor:
        """To the same shape."""
        return inputs * float(self.scale) + float(self.offset)


class Normalization(Layer):
    """``(x - mean) / sqrt(variance)`` along ``axis``, given or found by ``adapt(data)``.

    >>> from phalanx import keras
    >>> layer = keras.layers.Normalization()
    >>> layer.adapt(np.array([[1.0], [3.0]]))
    >>> layer(np.array([[3.0]])).item()
    1.0
    """

    def __init__(
        self, axis: Any = -1, mean: Any = None, variance: Any = None, invert: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        if (mean is None) != (variance is None):
            raise RangeError("Normalization expects mean and variance together, or neither and a call of adapt()")
        self.axis, self.invert = axis, invert
        self.given = None if mean is None else (np.asarray(mean, np.float32), np.asarray(variance, np.float32))

    def build(self, input_shape: Any) -> None:
        """Mean and variance."""
        axes = [] if self.axis is None else [self.axis] if isinstance(self.axis, int) else list(self.axis)
        kept = {axis % len(input_shape) for axis in axes}
        shape = [size if axis in kept else 1 for axis, size in enumerate(input_shape)][1:]
        self.mean = self.add_weight(shape, "zeros", trainable=False, name="mean")
        self.variance = self.add_weight(shape, "ones", trainable=False, name="variance")
        if self.given is not None:
            for weight, value in zip((self.mean, self.variance), self.given, strict=True):
                weight.array[...] = value

    def adapt(self, data: Any) -> None:
        """Take mean and variance of ``data``, the same on all ranks."""
        array = np.asarray(data.numpy() if isinstance(data, Tensor) else data, np.float64)
        array = array[:, None] if array.ndim == 1 else array
        if not self.built:
            self.build_with((None, *array.shape[1:]))
        shape = tuple(self.mean.shape)
        axes = tuple(axis for axis in range(array.ndim) if axis == 0 or shape[axis - 1] == 1)
        self.mean.array[...] = array.mean(axis=axes).reshape(shape)
        self.variance.array[...] = array.var(axis=axes).reshape(shape)

    def call(self, inputs: Tensor) -> Tensor:
        """To the same shape."""
        deviation = self.variance.sqrt().clamp(min=1e-7)
        return inputs * deviation + self.mean if self.invert else (inputs - self.mean) / deviation


class MultiHeadAttention(Layer):
    """Attention in ``num_heads`` subspaces: ``layer(query, value, key=value)``. Vaswani et al., 2017.

    Weights: kernels of query, key and value (features, heads, key_dim), of the output (heads, value_dim, features). ``attention_mask``
    (N, T, S) is True where a place may look; ``use_causal_mask``: only at itself and what lies before.

    >>> from phalanx import keras
    >>> x = phalanx.ones(2, 5, 8)
    >>> keras.layers.MultiHeadAttention(num_heads=2, key_dim=4)(x, x, use_causal_mask=True).shape
    (2, 5, 8)
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: int | None = None,
        attention_axes: Any = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if attention_axes not in (None, 1, (1,)):
            raise RangeError("MultiHeadAttention: attention_axes other than the steps are not known here")
        self.num_heads, self.key_dim, self.value_dim = num_heads, key_dim, value_dim or key_dim
        self.dropout, self.use_bias = dropout, use_bias
        self.output_features = output_shape[0] if isinstance(output_shape, list | tuple) else output_shape
        self.kernel_options: dict[str, Any] = {"initializer": kernel_initializer, "regularizer": kernel_regularizer}
        self.bias_options: dict[str, Any] = {"initializer": bias_initializer, "regularizer": bias_regularizer}

    def _build_from(self, args: Any, kwargs: Any) -> None:
        named = dict(zip(("query", "value", "key"), args, strict=False)) | kwargs
        shapes = [nest.changed(named[part], shape_of) for part in ("query", "value")]
        shapes.append(shapes[1] if named.get("key") is None else shape_of(named["key"]))
        self.build_with(shapes)

    def build(self, input_shape: Any) -> None:
        """Kernels and biases."""
        query, value, key = (shape[-1] for shape in input_shape)
        heads, out = self.num_heads, self.output_features or query
        for part, width, size in (
            ("query", query, self.key_dim),
            ("key", key, self.key_dim),
            ("value", value, self.value_dim),
        ):
            setattr(
                self,
                f"{part}_kernel",
                self.add_weight((width, heads, size), name=f"{part}_kernel", **self.kernel_options),
            )
            bias = self.add_weight((heads, size), name=f"{part}_bias", **self.bias_options) if self.use_bias else None
            setattr(self, f"{part}_bias", bias)
        self.output_kernel = self.add_weight((heads, self.value_dim, out), name="output_kernel", **self.kernel_options)
        self.output_bias = self.add_weight((out,), name="output_bias", **self.bias_options) if self.use_bias else None

    def _heads(self, x: Tensor, part: str) -> Tensor:
        """(N, L, features) -> (N, heads, L, size)."""
        kernel, bias = getattr(self, f"{part}_kernel"), getattr(self, f"{part}_bias")
        flat = F.linear(x, kernel.reshape(kernel.shape[0], -1).T, None if bias is None else bias.reshape(-1))
        return flat.reshape(*x.shape[:2], *kernel.shape[1:]).transpose(1, 2)

    def call(
        self,
        query: Tensor,
        value: Tensor,
        key: Tensor | None = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
        value_mask: Any = None,
    ) -> Any:
        """(N, T, features), (N, S, features) -> (N, T, features)."""
        q, k, v = (
            self._heads(query, "query"),
            self._heads(value if key is None else key, "key"),
            self._heads(value, "value"),
        )
        allowed = _allowed(q, k, attention_mask, use_causal_mask, value_mask)
        scores = (q * (1.0 / math.sqrt(self.key_dim))) @ k.transpose(-2, -1)
        if allowed is not None:
            scores = T.where(allowed, scores, Tensor(np.asarray(-1e9, np.float32)).to(scores.dtype))
        weights = F.softmax(scores, dim=-1)
        y = F.dropout(weights, self.dropout, self.training) @ v
        y = y.transpose(1, 2).reshape(*query.shape[:2], self.num_heads * self.value_dim)
        y = F.linear(y, self.output_kernel.reshape(-1, self.output_kernel.shape[-1]).T, self.output_bias)
        return (y, weights) if return_attention_scores else y


def _allowed(q: Tensor, k: Tensor, mask: Any, causal: bool, value_mask: Any) -> Any:
    """True where a place may look: broadcasts to (N, heads, T, S)."""
    allowed: Any = None
    if mask is not None:
        given = tensor(mask)
        given = given if given.dtype.kind == "b" else given != 0
        allowed = given.unsqueeze(-3) if given.ndim > 2 else given
    if causal:
        lower = Tensor(array_module(q.array).tri(q.shape[-2], k.shape[-2], dtype=bool))
        allowed = lower if allowed is None else allowed & lower
    if value_mask is not None:
        there = tensor(value_mask)[:, None, None, :]
        allowed = there if allowed is None else allowed & there
    return allowed


class Attention(Layer):
    """Dot-product attention: ``layer([query, value])`` or ``[query, value, key]``. Luong et al., 2015.

    >>> from phalanx import keras
    >>> keras.layers.Attention()([phalanx.ones(2, 3, 4), phalanx.ones(2, 5, 4)]).shape
    (2, 3, 4)
    """

    def __init__(self, use_scale: bool = False, score_mode: str = "dot", dropout: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        if score_mode != "dot":
            raise RangeError(f"Attention knows score_mode 'dot', got {score_mode!r}")
        self.use_scale, self.dropout = use_scale, dropout

    def build(self, input_shape: Any) -> None:
        """The scale, if there is one."""
        self.scale = self.add_weight((), "ones", name="scale") if self.use_scale else None

    def call(self, inputs: Any, mask: Any = None, use_causal_mask: bool = False) -> Any:
        """(N, T, width), (N, S, width) -> (N, T, width)."""
        query, value, key = (*inputs, inputs[1])[:3]
        scores = query @ key.transpose(-2, -1)
        scores = scores if self.scale is None else scores * self.scale
        allowed = _allowed(query, key, None, use_causal_mask, None)
        if mask is not None and mask[1] is not None:
            there = mask[1][:, None, :]
            allowed = there if allowed is None else allowed & there
        if allowed is not None:
            scores = T.where(allowed, scores, Tensor(np.asarray(-1e9, np.float32)).to(scores.dtype))
        return F.dropout(F.softmax(scores, dim=-1), self.dropout, self.training) @ value
