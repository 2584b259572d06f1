"""Every layer as users build it, with inputs: what the ONNX export must express, and what it must refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import phalanx
from phalanx import nn
from phalanx.core.tensor import Tensor

RANDOM = np.random.default_rng(11)


class Case(NamedTuple):
    """``inputs`` makes arrays for a batch of that size; their dimension ``batch`` is the batch."""

    build: Callable[[], Any]
    inputs: Callable[[int], tuple[np.ndarray, ...]]
    batch: int = 0


def floats(*shape: int) -> Callable[[int], tuple[np.ndarray, ...]]:
    """One input (N, *shape)."""
    return lambda n: (RANDOM.normal(size=(n, *shape)).astype(np.float32),)


def several(*shapes: tuple[int, ...]) -> Callable[[int], tuple[np.ndarray, ...]]:
    """One input for each shape."""
    return lambda n: tuple(RANDOM.normal(size=(n, *shape)).astype(np.float32) for shape in shapes)


def labels(top: int, *shape: int) -> Callable[[int], tuple[np.ndarray, ...]]:
    """Integers below ``top``."""
    return lambda n: (RANDOM.integers(0, top, size=(n, *shape)),)


class Of(nn.Module):
    """A function of inputs as a model."""

    def __init__(self, function: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def statistics(layer: Any) -> Any:
    """A norm whose running statistics and parameters are not what they were at first."""
    for name, tensor in layer.state_dict().items():
        if tensor.dtype.kind == "f":
            tensor.array[...] = RANDOM.uniform(0.5, 1.5, tensor.shape)
        assert name
    return layer


ACTIVATIONS = (
    "CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid", "Mish", "PReLU",
    "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink", "Identity",
    "Dropout", "Dropout1d", "AlphaDropout", "FeatureAlphaDropout",
)  # fmt: skip

# fmt: off
CASES: dict[str, Case] = {
    **{name: Case(lambda name=name: getattr(nn, name)(), floats(3, 5)) for name in ACTIVATIONS if hasattr(nn, name)},
    "GELU tanh": Case(lambda: nn.GELU("tanh"), floats(7)),
    "Softplus beta": Case(lambda: nn.Softplus(2.0, 1.0), floats(50)),
    "ELU alpha": Case(lambda: nn.ELU(0.3), floats(50)),
    "Hardtanh range": Case(lambda: nn.Hardtanh(-0.3, 0.7), floats(50)),
    "PReLU channels": Case(lambda: nn.PReLU(3), floats(3, 5)),
    "Threshold": Case(lambda: nn.Threshold(0.1, -2.0), floats(50)),
    "GLU": Case(lambda: nn.GLU(1), floats(4, 3)),
    "Softmax": Case(lambda: nn.Softmax(1), floats(4, 3)),
    "Softmin": Case(lambda: nn.Softmin(-1), floats(4, 3)),
    "Softmax2d": Case(lambda: nn.Softmax2d(), floats(4, 3, 2)),
    "LogSoftmax": Case(lambda: nn.LogSoftmax(-1), floats(4, 3)),
    "Dropout2d": Case(lambda: nn.Dropout2d(), floats(3, 5, 2)),
    "Dropout3d": Case(lambda: nn.Dropout3d(), floats(3, 5, 2, 2)),
    "Linear": Case(lambda: nn.Linear(4, 3), floats(4)),
    "Linear 3-D without bias": Case(lambda: nn.Linear(4, 3, bias=False), floats(5, 4)),
    "Bilinear": Case(lambda: nn.Bilinear(3, 4, 2), several((3,), (4,))),
    "Flatten": Case(lambda: nn.Flatten(), floats(2, 3, 4)),
    "Flatten the middle": Case(lambda: nn.Flatten(1, 2), floats(2, 3, 4)),
    "Unflatten": Case(lambda: nn.Unflatten(1, (2, 3)), floats(6)),
    "Sequential": Case(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), floats(4)),
    # convolution
    "Conv1d": Case(lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), floats(4, 11)),
    "Conv1d same": Case(lambda: nn.Conv1d(2, 3, 4, padding="same"), floats(2, 9)),
    "Conv2d": Case(lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2), floats(4, 7, 6)),
    "Conv2d reflect": Case(lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect", bias=False), floats(2, 5, 5)),
    "Conv2d circular": Case(lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), floats(2, 5, 5)),
    "Conv3d": Case(lambda: nn.Conv3d(2, 4, 2, stride=(1, 2, 1), padding=1), floats(2, 4, 5, 3)),
    "ConvTranspose1d": Case(lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), floats(4, 6)),
    "ConvTranspose2d": Case(lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, dilation=2), floats(2, 4, 5)),
    "ConvTranspose3d": Case(lambda: nn.ConvTranspose3d(2, 3, 2, stride=2, bias=False), floats(2, 3, 2, 3)),
    "Unfold": Case(lambda: nn.Unfold((2, 3), padding=1, stride=(2, 1)), floats(3, 5, 6)),
    "Fold": Case(lambda: nn.Fold((5, 6), (2, 3), padding=1, stride=(2, 1)), floats(18, 18)),
    # pools
    "MaxPool1d": Case(lambda: nn.MaxPool1d(3, 2, 1), floats(3, 9)),
    "MaxPool2d": Case(lambda: nn.MaxPool2d(3, 2, 1, dilation=2), floats(3, 9, 8)),
    "MaxPool2d ceil": Case(lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True), floats(3, 8, 7)),
    "MaxPool3d": Case(lambda: nn.MaxPool3d(2), floats(2, 4, 5, 6)),
    "MaxPool2d with indices": Case(lambda: nn.MaxPool2d(2, return_indices=True), floats(3, 6, 4)),
    "MaxUnpool1d": Case(lambda: Of(lambda m, x: m.u(*m.p(x)), p=nn.MaxPool1d(2, return_indices=True), u=nn.MaxUnpool1d(2)), floats(3, 6)),
    "MaxUnpool2d": Case(lambda: Of(lambda m, x: m.u(*m.p(x)), p=nn.MaxPool2d(2, return_indices=True), u=nn.MaxUnpool2d(2)), floats(3, 6, 4)),
    "MaxUnpool3d": Case(lambda: Of(lambda m, x: m.u(*m.p(x)), p=nn.MaxPool3d(2, return_indices=True), u=nn.MaxUnpool3d(2)), floats(1, 4, 4, 2)),
    "AvgPool1d": Case(lambda: nn.AvgPool1d(3, 2, 1), floats(3, 9)),
    "AvgPool2d": Case(lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), floats(3, 9, 8)),
    "AvgPool2d ceil": Case(lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True), floats(3, 8, 7)),
    "AvgPool2d ceil without padding": Case(lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), floats(3, 8, 7)),
    "AvgPool2d divisor": Case(lambda: nn.AvgPool2d(2, divisor_override=3), floats(3, 6, 6)),
    "AvgPool3d": Case(lambda: nn.AvgPool3d(2), floats(2, 4, 5, 6)),
    "LPPool1d": Case(lambda: nn.LPPool1d(2, 3), floats(2, 9)),
    "LPPool2d": Case(lambda: nn.LPPool2d(2, 2, stride=1), floats(2, 5, 6)),
    "LPPool3d": Case(lambda: nn.LPPool3d(2, 2), floats(2, 4, 4, 4)),
    "AdaptiveAvgPool1d": Case(lambda: nn.AdaptiveAvgPool1d(3), floats(2, 7)),
    "AdaptiveAvgPool2d": Case(lambda: nn.AdaptiveAvgPool2d((3, 2)), floats(2, 7, 8)),
    "AdaptiveAvgPool2d one": Case(lambda: nn.AdaptiveAvgPool2d(1), floats(2, 7, 8)),
    "AdaptiveAvgPool3d": Case(lambda: nn.AdaptiveAvgPool3d(2), floats(2, 4, 4, 4)),
    "AdaptiveMaxPool1d": Case(lambda: nn.AdaptiveMaxPool1d(3), floats(2, 7)),
    "AdaptiveMaxPool2d": Case(lambda: nn.AdaptiveMaxPool2d((3, None)), floats(2, 7, 8)),
    "AdaptiveMaxPool3d": Case(lambda: nn.AdaptiveMaxPool3d(2), floats(2, 4, 4, 4)),
    # norms
    "BatchNorm1d": Case(lambda: statistics(nn.BatchNorm1d(3)), floats(3)),
    "BatchNorm2d": Case(lambda: statistics(nn.BatchNorm2d(3)), floats(3, 4, 5)),
    "BatchNorm2d plain": Case(lambda: statistics(nn.BatchNorm2d(3, affine=False)), floats(3, 4, 5)),
    "BatchNorm2d of the batch": Case(lambda: nn.BatchNorm2d(3, track_running_stats=False), floats(3, 4, 5)),
    "BatchNorm3d": Case(lambda: statistics(nn.BatchNorm3d(3)), floats(3, 2, 4, 5)),
    "SyncBatchNorm": Case(lambda: statistics(nn.SyncBatchNorm(3)), floats(3, 4, 5)),
    "LayerNorm": Case(lambda: statistics(nn.LayerNorm((3, 4))), floats(2, 3, 4)),
    "LayerNorm plain": Case(lambda: nn.LayerNorm(4, elementwise_affine=False), floats(3, 4)),
    "GroupNorm": Case(lambda: statistics(nn.GroupNorm(2, 4)), floats(4, 3, 5)),
    "InstanceNorm1d": Case(lambda: statistics(nn.InstanceNorm1d(3, affine=True)), floats(3, 7)),
    "InstanceNorm2d": Case(lambda: nn.InstanceNorm2d(3), floats(3, 5, 4)),
    "InstanceNorm2d running": Case(lambda: statistics(nn.InstanceNorm2d(3, track_running_stats=True)), floats(3, 5, 4)),
    "InstanceNorm3d": Case(lambda: nn.InstanceNorm3d(2), floats(2, 5, 4, 3)),
    "RMSNorm": Case(lambda: statistics(nn.RMSNorm(5)), floats(3, 5)),
    "LocalResponseNorm": Case(lambda: nn.LocalResponseNorm(3), floats(6, 4, 4)),
    # rows of tables
    "Embedding": Case(lambda: nn.Embedding(10, 4, padding_idx=0), labels(10, 5)),
    "EmbeddingBag": Case(lambda: nn.EmbeddingBag(10, 4), labels(10, 5)),
    "EmbeddingBag max": Case(lambda: nn.EmbeddingBag(10, 4, mode="max"), labels(10, 5)),
    # recurrent
    "RNN": Case(lambda: nn.RNN(3, 5, num_layers=2, nonlinearity="relu"), lambda n: floats(n, 3)(6), 1),
    "LSTM": Case(lambda: nn.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True), floats(6, 3)),
    "LSTM without bias": Case(lambda: nn.LSTM(3, 5, bias=False), lambda n: floats(n, 3)(6), 1),
    "LSTM with a projection": Case(lambda: nn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2, batch_first=True), floats(6, 3)),
    "LSTM given states": Case(lambda: Of(lambda m, x, h, c: m.l(x, (h, c)), l=nn.LSTM(3, 5)),
                              lambda n: (*floats(n, 3)(6), *floats(n, 5)(1), *floats(n, 5)(1)), 1),
    "GRU": Case(lambda: nn.GRU(3, 5, num_layers=2, bidirectional=True, batch_first=True), floats(6, 3)),
    "RNNCell": Case(lambda: nn.RNNCell(3, 5), several((3,), (5,))),
    "LSTMCell": Case(lambda: nn.LSTMCell(3, 5), floats(3)),
    "GRUCell": Case(lambda: nn.GRUCell(3, 5), several((3,), (5,))),
    # attention
    "MultiheadAttention": Case(lambda: Of(lambda m, x: m.a(x, x, x), a=nn.MultiheadAttention(8, 2, batch_first=True)), floats(5, 8)),
    "MultiheadAttention to itself": Case(lambda: Of(lambda m, x: m.a(x, x, x, need_weights=False, is_causal=True)[0],
                                         a=nn.MultiheadAttention(8, 2, batch_first=True)), floats(5, 8)),
    "MultiheadAttention other keys": Case(lambda: Of(lambda m, q, k, v: m.a(q, k, v, need_weights=False)[0],
                                          a=nn.MultiheadAttention(8, 2, kdim=3, vdim=4, batch_first=True)),
                                          several((5, 8), (6, 3), (6, 4))),
    "MultiheadAttention masks": Case(lambda: Of(lambda m, x, p: m.a(x, x, x, key_padding_mask=(p > 0.5) & phalanx.tensor([False] + [True] * 4), attn_mask=phalanx.triu(phalanx.ones(5, 5), 1).bool()),
                                     a=nn.MultiheadAttention(8, 2, batch_first=True)), several((5, 8), (5,))),
    "MultiheadAttention more keys": Case(lambda: Of(lambda m, x: m.a(x, x, x), a=nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True, batch_first=True)), floats(5, 8)),
    "TransformerEncoder padded": Case(lambda: Of(lambda m, x, p: m.e(x, src_key_padding_mask=p > 1), e=nn.TransformerEncoder(
                                      nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)), several((5, 8), (5,))),
    "TransformerEncoderLayer": Case(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu"), floats(5, 8)),
    "TransformerEncoder": Case(lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, norm_first=True), 2),
                               lambda n: floats(n, 8)(5), 1),
    "TransformerDecoderLayer": Case(lambda: nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), several((5, 8), (4, 8))),
    "TransformerDecoder": Case(lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 2), several((5, 8), (4, 8))),
    "Transformer": Case(lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True), several((4, 8), (5, 8))),
    # geometry
    "Upsample": Case(lambda: nn.Upsample(scale_factor=2), floats(2, 3, 4)),
    "Upsample bilinear": Case(lambda: nn.Upsample(size=(5, 7), mode="bilinear"), floats(2, 3, 4)),
    "Upsample corners": Case(lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), floats(2, 3, 4)),
    "Upsample bicubic": Case(lambda: nn.Upsample(scale_factor=2, mode="bicubic"), floats(2, 4, 4)),
    "Upsample linear": Case(lambda: nn.Upsample(scale_factor=2, mode="linear"), floats(2, 4)),
    "Upsample trilinear": Case(lambda: nn.Upsample(scale_factor=2, mode="trilinear"), floats(2, 3, 2, 4)),
    "UpsamplingNearest2d": Case(lambda: nn.UpsamplingNearest2d(scale_factor=3), floats(2, 3, 4)),
    "UpsamplingBilinear2d": Case(lambda: nn.UpsamplingBilinear2d(scale_factor=2), floats(2, 3, 4)),
    "PixelShuffle": Case(lambda: nn.PixelShuffle(2), floats(8, 3, 4)),
    "PixelUnshuffle": Case(lambda: nn.PixelUnshuffle(2), floats(2, 4, 6)),
    "ChannelShuffle": Case(lambda: nn.ChannelShuffle(2), floats(6, 3, 4)),
    "CosineSimilarity": Case(lambda: nn.CosineSimilarity(), several((4,), (4,))),
    "PairwiseDistance": Case(lambda: nn.PairwiseDistance(), several((4,), (4,))),
    **{
        f"{kind}{count}d": Case(
            lambda kind=kind, count=count: getattr(nn, f"{kind}{count}d")(1, **({"value": 2.0} if kind == "ConstantPad" else {})),
            floats(2, *range(3, 3 + count)),
        )
        for kind in ("ConstantPad", "ZeroPad", "ReflectionPad", "ReplicationPad", "CircularPad")
        for count in (1, 2, 3)
    },
}
# fmt: on
"""By the class's name, and words behind it for a form of it."""

NO_LAYERS = {
    "Module", "ModuleList", "ModuleDict", "Parameter", "ParameterList", "ParameterDict", "L1", "L2", "L1L2", "RNNBase",
    "RNNCellBase", "Buffer", "UninitializedParameter", "UninitializedBuffer", "Container", "ParametrizationList",
}  # fmt: skip
"""Names in ``nn`` that have no forward of their own."""

REFUSED = {
    "a loss": (Case(lambda: Of(lambda m, x: nn.functional.cross_entropy(x, x[:, 0].long().clamp(0, 2))), floats(3)),
               "knows no rule for op 'cross_entropy'"),
    "linear algebra": (Case(lambda: Of(lambda m, x: phalanx.linalg.inv(x)), floats(3, 3)), "knows no rule for op 'inv'"),
    "dropout in evaluation": (Case(lambda: Of(lambda m, x: nn.functional.dropout(x)), floats(3)), "pass training=self.training"),
    "NumPy on arrays": (Case(lambda: Of(lambda m, x: x * Tensor(np.tanh(x.array))), floats(3)), "made by NumPy"),
    "an order by NumPy": (Case(lambda: Of(lambda m, x: x[:, np.argsort(x.array[0])]), floats(9)), "made by NumPy"),
    "whole numbers in place": (Case(lambda: Of(lambda m, x: x.argmax(1).add_(1)), floats(9)), "is not the model's"),
    "leaving the graph": (Case(lambda: Of(lambda m, x: x * Tensor(np.tanh(x.numpy()))), floats(3)), "cannot follow forward"),
    "in place": (Case(lambda: Of(lambda m, x: (x * 2).add_(1)), floats(3)), "cannot follow forward"),
    "a choice by value": (Case(lambda: Of(lambda m, x: x if x.sum() > 0 else x * 2), lambda n: (np.float32([[1, 2], [-1, -2.5]])[:n],)),
                          "other values the model runs other ops"),
    "a number by value": (Case(lambda: Of(lambda m, x: x * x.max().item()), floats(3)), "depend on the input"),
    "a mask": (Case(lambda: Of(lambda m, x: x[x > 0]), floats(3)), "shape depends on values"),
    "packed sequences": (Case(lambda: Of(lambda m, x: m.l(nn.utils.rnn.pack_padded_sequence(x, [3, 2], batch_first=True))[1], l=nn.GRU(3, 2)),
                              floats(3, 3)), "packed sequences cannot be exported"),
    "text": (Case(lambda: Of(lambda m, x: object()), floats(3)), "returned object"),
}  # fmt: skip
"""What ONNX has no words for, and what the error says."""
