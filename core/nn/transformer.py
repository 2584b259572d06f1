"""The transformer's encoder and decoder, with PyTorch's names, shapes and options.

Dimensions: N batch, S source length, T target length, E model width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import as_dtype, to_device
from ..errors import RangeError, ShapeError
from ..tensor import Tensor
from . import functional as F
from . import init
from .attention import MultiheadAttention
from .container import ModuleList
from .dropout import Dropout
from .fusion_norm import summed
from .linear import Linear
from .module import Module
from .norm import LayerNorm

Activation = Callable[[Tensor], Tensor]


def _activation(layer: str, activation: str | Activation) -> Activation:
    known: dict[str, Activation] = {"relu": F.relu, "gelu": F.gelu}
    if not isinstance(activation, str):
        return activation
    if activation not in known:
        raise RangeError(f"{layer}: activation is 'relu', 'gelu' or a function, got {activation!r}")
    return known[activation]


def _attended(
    attention: MultiheadAttention, x: Tensor, memory: Tensor, mask: Tensor | None, padding: Tensor | None, causal: bool
) -> Tensor:
    """What ``x`` takes from ``memory``, without the weights."""
    attended, _ = attention(
        x, memory, memory, key_padding_mask=padding, need_weights=False, attn_mask=mask, is_causal=causal
    )
    return attended


class TransformerEncoderLayer(Module):
    """Self-attention and a feed-forward network, each with dropout, a residual connection and a layer norm.

    ``norm_first`` puts the norm before each part (Xiong et al., 2020) instead of behind. Shapes: (L, N, E) to the same, with
    ``batch_first`` (N, L, E). Vaswani et al., 2017.

    >>> import phalanx
    >>> nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)(phalanx.ones(2, 5, 8)).shape
    (2, 5, 8)
    """

    def __init__(  # PyTorch's signature
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(
            d_model, nhead, dropout, bias, batch_first=batch_first, device=device, dtype=dtype
        )
        self.linear1 = Linear(d_model, dim_feedforward, bias, device, dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, device, dtype)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)
        self.activation = _activation("TransformerEncoderLayer", activation)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """(L, N, E) -> (L, N, E)."""
        masks = (src_mask, src_key_padding_mask, is_causal)
        if self.norm_first:
            normed = self.norm1(src)
            x, normed = summed(src, self.dropout1(_attended(self.self_attn, normed, normed, *masks)), self.norm2)
            return x + self._feed(normed)
        _, x = summed(src, self.dropout1(_attended(self.self_attn, src, src, *masks)), self.norm1)
        return summed(x, self._feed(x), self.norm2)[1]

    def _feed(self, x: Tensor) -> Tensor:
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class TransformerEncoder(Module):
    """``num_layers`` copies of a layer one after another, then ``norm`` if there is one.

    As in PyTorch the copies start with equal values. Shapes: (S, N, E) to the same, with the layer's ``batch_first`` (N, S, E).

    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> nn.TransformerEncoder(layer, num_layers=2)(phalanx.ones(2, 5, 8)).shape
    (2, 5, 8)
    """

    def __init__(
        self,
        encoder_layer: TransformerEncoderLayer,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(encoder_layer) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.add_module("norm", norm)

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """(L, N, E) -> (L, N, E)."""
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, bool(is_causal))
        norm = self.__dict__["norm"]
        return src if norm is None else norm(src)


class TransformerDecoderLayer(Module):
    """Self-attention, attention to ``memory`` and a feed-forward network, each with dropout, a residual connection and a layer norm.

    ``norm_first`` puts the norm before each part instead of behind. Shapes: tgt (T, N, E), memory (S, N, E) -> (T, N, E), with
    ``batch_first`` (N, T, E) and so on. Vaswani et al., 2017.

    >>> layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    >>> layer(phalanx.ones(2, 3, 8), phalanx.ones(2, 5, 8), tgt_is_causal=True).shape
    (2, 3, 8)
    """

    def __init__(  # PyTorch's signature
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **options)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **options)
        self.linear1 = Linear(d_model, dim_feedforward, bias, **options)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **options)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, **options)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, **options)
        self.norm3 = LayerNorm(d_model, layer_norm_eps, bias=bias, **options)
        self.dropout1, self.dropout2, self.dropout3 = Dropout(dropout), Dropout(dropout), Dropout(dropout)
        self.activation = _activation("TransformerDecoderLayer", activation)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Target (T, N, E) and memory (S, N, E) -> (T, N, E). A causal hint without a mask makes one."""
        own = (tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        other = (memory_mask, memory_key_padding_mask, memory_is_causal)
        x = tgt
        if self.norm_first:
            normed = self.norm1(x)
            x, normed = summed(x, self.dropout1(_attended(self.self_attn, normed, normed, *own)), self.norm2)
            x, normed = summed(x, self.dropout2(_attended(self.multihead_attn, normed, memory, *other)), self.norm3)
            return x + self._feed(normed)
        _, x = summed(x, self.dropout1(_attended(self.self_attn, x, x, *own)), self.norm1)
        _, x = summed(x, self.dropout2(_attended(self.multihead_attn, x, memory, *other)), self.norm2)
        return summed(x, self._feed(x), self.norm3)[1]

    def _feed(self, x: Tensor) -> Tensor:
        return self.dropout3(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class TransformerDecoder(Module):
    """``num_layers`` copies of a layer one after another, all looking at the same ``memory``, then ``norm`` if there is one.

    As in PyTorch the copies start with equal values.

    >>> layer = nn.TransformerDecoderLayer(8, 2, 16)
    >>> nn.TransformerDecoder(layer, num_layers=2)(phalanx.ones(3, 2, 8), phalanx.ones(5, 2, 8)).shape
    (3, 2, 8)
    """

    def __init__(self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(decoder_layer) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.add_module("norm", norm)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Target (T, N, E) and memory (S, N, E) -> (T, N, E)."""
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        for layer in self.layers:
            tgt = layer(tgt, memory, *masks, bool(tgt_is_causal), memory_is_causal)
        norm = self.__dict__["norm"]
        return tgt if norm is None else norm(tgt)


class Transformer(Module):
    """An encoder, and a decoder that looks at what it gives: sequence to sequence.

    Shapes: src (S, N, E), tgt (T, N, E) -> (T, N, E), with ``batch_first`` (N, S, E) and so on. Matrices start as Glorot and Bengio have it.
    ``custom_encoder`` and ``custom_decoder`` take the places of the two. Vaswani et al., "Attention is all you need", 2017.

    >>> model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    >>> mask = nn.Transformer.generate_square_subsequent_mask(3)
    >>> model(phalanx.ones(2, 5, 8), phalanx.ones(2, 3, 8), tgt_mask=mask).shape
    (2, 3, 8)
    """

    def __init__(  # PyTorch's signature
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = "relu",
        custom_encoder: Module | None = None,
        custom_decoder: Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        sizes = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias)

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)

        if custom_encoder is None:
            encoder_layer = TransformerEncoderLayer(*sizes, device, dtype)
            custom_encoder = TransformerEncoder(encoder_layer, num_encoder_layers, norm())
        self.encoder = custom_encoder
        if custom_decoder is None:
            decoder_layer = TransformerDecoderLayer(*sizes, device, dtype)
            custom_decoder = TransformerDecoder(decoder_layer, num_decoder_layers, norm())
        self.decoder = custom_decoder
        self._reset_parameters()
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first

    def _reset_parameters(self) -> None:
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Source (S, N, E) and target (T, N, E) -> (T, N, E)."""
        axis = 0 if self.batch_first else 1
        if src.ndim != tgt.ndim or (src.ndim == 3 and src.shape[axis] != tgt.shape[axis]):
            raise ShapeError(
                f"Transformer: src and tgt must have one batch size, got {tuple(src.shape)} and {tuple(tgt.shape)}"
            )
        if src.shape[-1] != self.d_model or tgt.shape[-1] != self.d_model:
            raise ShapeError(
                f"Transformer: the last dimension of src and tgt must be d_model={self.d_model}, got {tuple(src.shape)} and "
                f"{tuple(tgt.shape)}"
            )
        memory = self.encoder(src, src_mask, src_key_padding_mask, is_causal=src_is_causal)
        return self.decoder(
            tgt,
            memory,
            tgt_mask,
            memory_mask,
            tgt_key_padding_mask,
            memory_key_padding_mask,
            tgt_is_causal,
            memory_is_causal,
        )

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """A mask (sz, sz) to add: place i sees places up to i, -inf stands behind."""
        kind = as_dtype(np.float32 if dtype is None else dtype)
        return Tensor(to_device(np.triu(np.full((sz, sz), -math.inf, kind), 1), device))
