"""Multi-head attention, with PyTorch's names, shapes and options.

Dimensions: N batch, L target length, S source length, E model width, H heads, D = E / H width of a head.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend import array_module
from ..errors import RangeError, ShapeError
from ..functions import cat
from ..graph import apply
from ..ops.arithmetic import WHERE
from ..tensor import Tensor
from . import functional as F
from . import init
from .linear import Linear
from .module import Module
from .parameter import Parameter


class MultiheadAttention(Module):
    """softmax(Q K^T / sqrt(D) + mask) V for each head, heads joined and projected.

    Shapes: query (L, N, E), key (S, N, kdim), value (S, N, vdim), with ``batch_first`` (N, L, E) and so on, or without N.
    ``attn_mask`` (L, S) or (N * H, L, S) and ``key_padding_mask`` (N, S): True, or -inf, means "do not attend". ``add_bias_kv`` appends a
    learned key and value to every sequence, ``add_zero_attn`` zeros. ``dropout`` falls on the weights.
    Returns (output like query, weights (N, L, S) averaged over heads, or None with ``need_weights=False``).
    Vaswani et al., "Attention is all you need", 2017.

    >>> import phalanx
    >>> x = phalanx.ones(2, 5, 8)
    >>> output, weights = nn.MultiheadAttention(8, 2, batch_first=True)(x, x, x)
    >>> output.shape, weights.shape
    ((2, 5, 8), (2, 5, 5))
    """

    in_proj_weight: Parameter | None
    q_proj_weight: Parameter | None
    k_proj_weight: Parameter | None
    v_proj_weight: Parameter | None
    in_proj_bias: Parameter | None
    bias_k: Parameter | None
    bias_v: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0 or embed_dim % num_heads:
            raise RangeError(f"MultiheadAttention: embed_dim={embed_dim} must be a multiple of num_heads={num_heads}")
        self.embed_dim, self.num_heads, self.dropout, self.batch_first = embed_dim, num_heads, dropout, batch_first
        self.head_dim, self.add_zero_attn = embed_dim // num_heads, add_zero_attn
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        together = self.kdim == embed_dim and self.vdim == embed_dim

        def weight(wanted: bool, *shape: int) -> Parameter | None:
            return Parameter.empty(shape, dtype, device) if wanted else None

        if together:  # PyTorch's order of names differs between the two forms
            self.register_parameter("in_proj_weight", weight(True, 3 * embed_dim, embed_dim))
        self.register_parameter("q_proj_weight", weight(not together, embed_dim, embed_dim))
        self.register_parameter("k_proj_weight", weight(not together, embed_dim, self.kdim))
        self.register_parameter("v_proj_weight", weight(not together, embed_dim, self.vdim))
        if not together:
            self.register_parameter("in_proj_weight", None)
        self.register_parameter("in_proj_bias", weight(bias, 3 * embed_dim))
        self.out_proj = Linear(embed_dim, embed_dim, bias, device, dtype)
        self.register_parameter("bias_k", weight(add_bias_kv, 1, 1, embed_dim))
        self.register_parameter("bias_v", weight(add_bias_kv, 1, 1, embed_dim))
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None and self.out_proj.bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                init.xavier_normal_(bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Query, key, value -> (attended values, weights). ``is_causal`` without a mask: place i sees places up to i."""
        batched = query.ndim == 3
        if query.ndim not in (2, 3) or key.ndim != query.ndim or value.ndim != query.ndim:
            raise ShapeError(
                "MultiheadAttention expects query, key and value of 3 dimensions (or 2 without a batch), "
                f"got shapes {tuple(query.shape)}, {tuple(key.shape)}, {tuple(value.shape)}"
            )
        itself = key is query and value is key
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        drop = self.dropout if self.training else 0.0
        extra = self.bias_k is not None or self.add_zero_attn
        free = attn_mask is None and key_padding_mask is None and not (need_weights or extra or drop)
        if free and itself and self.in_proj_weight is not None:
            output = self._packed(query, is_causal)
            return self._as_given(output, batched), None
        q, k, v = self._heads(query, query if itself else key, query if itself else value, itself)
        plain = is_causal and attn_mask is None and key_padding_mask is None and not (need_weights or extra)
        weights, mask = None, None if plain else self._mask(q, k, key_padding_mask, attn_mask, is_causal)
        k, v, mask = self._with_extra(k, v, mask)
        if need_weights:
            weights = F.softmax(_masked(q @ k.transpose(-2, -1) * (1.0 / math.sqrt(self.head_dim)), mask), dim=-1)
            weights = F.dropout(weights, drop) if drop else weights
            heads = weights @ v
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=_allowed(mask), dropout_p=drop, is_causal=plain)
        rows, length = heads.shape[0], heads.shape[2]
        output = self.out_proj(heads.transpose(1, 2).reshape(rows, length, self.embed_dim))
        return self._as_given(output, batched), weights if batched or weights is None else weights.squeeze(0)

    def _as_given(self, output: Tensor, batched: bool) -> Tensor:
        """``output`` (N, L, E) with its dimensions as the query had them."""
        if not batched:
            return output.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1)

    def _packed(self, x: Tensor, is_causal: bool) -> Tensor:
        """Attention of x (N, L, E) to itself and nothing else, out of one product."""
        assert self.in_proj_weight is not None
        rows, length = x.shape[:2]
        joined = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        heads = F.packed_attention(joined.reshape(rows, length, 3, self.num_heads, self.head_dim), is_causal)
        return self.out_proj(heads.reshape(rows, length, self.embed_dim))

    def _heads(self, query: Tensor, key: Tensor, value: Tensor, itself: bool) -> list[Tensor]:
        """Projections split into heads: (N, L, E) -> (N, H, L, D)."""
        width, bias = self.embed_dim, self.in_proj_bias
        if self.in_proj_weight is not None and itself:
            joined = F.linear(query, self.in_proj_weight, bias)
            projected = [joined[..., i * width : (i + 1) * width] for i in range(3)]
        else:
            weights: list[Any] = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
            if self.in_proj_weight is not None:
                weights = [self.in_proj_weight[i * width : (i + 1) * width] for i in range(3)]
            biases = [None if bias is None else bias[i * width : (i + 1) * width] for i in range(3)]
            projected = [F.linear(*one) for one in zip((query, key, value), weights, biases, strict=True)]
        return [x.reshape(x.shape[0], x.shape[1], self.num_heads, self.head_dim).transpose(1, 2) for x in projected]

    def _with_extra(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values with the learned ones and the zeros behind, which every mask lets pass."""
        rows, extra = k.shape[0], 0
        if self.bias_k is not None and self.bias_v is not None:
            learned = [b.reshape(1, self.num_heads, 1, self.head_dim) for b in (self.bias_k, self.bias_v)]
            k, v = (cat([x, b.expand(rows, -1, -1, -1)], dim=2) for x, b in zip((k, v), learned, strict=True))
            extra += 1
        if self.add_zero_attn:
            zeros = Tensor(array_module(k.array).zeros((rows, self.num_heads, 1, self.head_dim), k.dtype))
            k, v = cat([k, zeros], dim=2), cat([v, zeros], dim=2)
            extra += 1
        if mask is not None and extra:
            free = array_module(mask.array).zeros((*mask.shape[:-1], extra), mask.dtype)
            mask = cat([mask, Tensor(free)], dim=-1)
        return k, v, mask

    def _mask(
        self, q: Tensor, k: Tensor, padding: Tensor | None, attention: Tensor | None, is_causal: bool
    ) -> Tensor | None:
        """One mask that broadcasts to (N, H, L, S): boolean with True = masked, or numbers to add."""
        rows, length, source = q.shape[0], q.shape[2], k.shape[2]
        if is_causal and attention is None:
            attention = Tensor(array_module(q.array).triu(array_module(q.array).ones((length, source), bool), 1))
        parts = []
        if attention is not None:
            if attention.ndim == 3:
                _check(attention, (rows * self.num_heads, length, source), "attn_mask")
                attention = attention.reshape(rows, self.num_heads, length, source)
            else:
                _check(attention, (length, source), "attn_mask")
            parts.append(attention)
        if padding is not None:
            padding = padding.unsqueeze(0) if padding.ndim == 1 else padding
            _check(padding, (rows, source), "key_padding_mask")
            parts.append(padding.reshape(rows, 1, 1, source))
        if len(parts) == 2 and (parts[0].dtype.kind == "b") != (parts[1].dtype.kind == "b"):
            parts = [_additive(part, q.dtype) for part in parts]
        if len(parts) < 2:
            return parts[0] if parts else None
        return parts[0] | parts[1] if parts[0].dtype.kind == "b" else parts[0] + parts[1]


def _check(mask: Tensor, shape: tuple[int, ...], option: str) -> None:
    if tuple(mask.shape) != shape:
        raise ShapeError(f"MultiheadAttention: {option} of shape {shape} expected, got {tuple(mask.shape)}")
    if mask.dtype.kind not in "bfV":
        raise RangeError(
            f"MultiheadAttention: {option} is boolean (True: masked) or floating (added), got {mask.dtype}"
        )


def _additive(mask: Tensor, dtype: np.dtype) -> Tensor:
    """A boolean mask as numbers to add: -inf where it is True."""
    if mask.dtype.kind != "b":
        return mask
    return apply(WHERE, mask, dtype.type(-math.inf), dtype.type(0))


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    return scores if mask is None else scores + _additive(mask, scores.dtype)


def _allowed(mask: Tensor | None) -> Tensor | None:
    """The mask as scaled_dot_product_attention has it: a boolean True there means "attend"."""
    if mask is None or mask.dtype.kind != "b":
        return mask
    return ~mask
