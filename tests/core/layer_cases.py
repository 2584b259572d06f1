"""Layers and losses with inputs: how to build each from either library, and how to draw what goes in.

Nothing here needs PyTorch: the tables serve comparisons with it and comparisons between devices.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import phalanx
from phalanx import nn

N, C, H, W, L, E = 4, 6, 9, 8, 5, 8


def floats(*shape: int):
    return lambda generator: generator.standard_normal(shape)


def probabilities(*shape: int):
    return lambda generator: generator.uniform(0.05, 0.95, shape)


def integers(high: int, *shape: int):
    return lambda generator: generator.integers(0, high, shape)


def weight_of(library, *values: float):
    return phalanx.tensor(values) if library is nn else sys.modules["torch"].tensor(values)


def _no_dropout(nn: Any, kind: str, **options: Any) -> Any:
    return getattr(nn, kind)(E, 2, dim_feedforward=16, dropout=0.0, **options)


S = 7
"""Length of what is decoded."""
LAYERS = {
    "Identity": (lambda nn: nn.Identity(1, key=2), floats(N, C)),
    "Linear": (lambda nn: nn.Linear(C, 5), floats(N, C)),
    "Linear no bias": (lambda nn: nn.Linear(C, 5, bias=False), floats(N, C)),
    "Linear vector": (lambda nn: nn.Linear(C, 5), floats(C)),
    "Linear 4-d": (lambda nn: nn.Linear(C, 5), floats(2, 3, 4, C)),
    "Linear empty": (lambda nn: nn.Linear(C, 5), floats(0, C)),
    "Conv1d": (lambda nn: nn.Conv1d(C, 4, 3, 2, 1), floats(N, C, L)),
    "Conv1d options": (lambda nn: nn.Conv1d(C, 4, 3, dilation=2, padding=2, groups=2, bias=False), floats(N, C, L)),
    "Conv1d unbatched": (lambda nn: nn.Conv1d(C, 4, 3), floats(C, L)),
    "Conv1d same": (lambda nn: nn.Conv1d(C, 4, 4, padding="same"), floats(N, C, L)),
    "Conv2d": (lambda nn: nn.Conv2d(C, 4, 3), floats(N, C, H, W)),
    "Conv2d options": (
        lambda nn: nn.Conv2d(C, 4, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=2),
        floats(N, C, H, W),
    ),
    "Conv2d depthwise": (lambda nn: nn.Conv2d(C, 2 * C, 3, padding=1, groups=C, bias=False), floats(N, C, H, W)),
    "Conv2d same": (lambda nn: nn.Conv2d(C, 4, 4, padding="same"), floats(N, C, H, W)),
    "Conv2d valid": (lambda nn: nn.Conv2d(C, 4, 1, padding="valid"), floats(N, C, H, W)),
    "Conv2d unbatched": (lambda nn: nn.Conv2d(C, 4, 3), floats(C, H, W)),
    "BatchNorm1d": (lambda nn: nn.BatchNorm1d(C), floats(N, C)),
    "BatchNorm1d length": (lambda nn: nn.BatchNorm1d(C, momentum=None), floats(N, C, L)),
    "BatchNorm2d": (lambda nn: nn.BatchNorm2d(C, eps=1e-3, momentum=0.3), floats(N, C, H, W)),
    "BatchNorm2d plain": (lambda nn: nn.BatchNorm2d(C, affine=False), floats(N, C, H, W)),
    "BatchNorm2d no bias": (lambda nn: nn.BatchNorm2d(C, bias=False), floats(N, C, H, W)),
    "BatchNorm2d untracked": (lambda nn: nn.BatchNorm2d(C, track_running_stats=False), floats(N, C, H, W)),
    "LayerNorm": (lambda nn: nn.LayerNorm(C), floats(N, L, C)),
    "LayerNorm 2-d": (lambda nn: nn.LayerNorm((L, C), eps=1e-3), floats(N, L, C)),
    "LayerNorm plain": (lambda nn: nn.LayerNorm(C, elementwise_affine=False), floats(N, C)),
    "LayerNorm no bias": (lambda nn: nn.LayerNorm(C, bias=False), floats(N, C)),
    "Dropout off": (lambda nn: nn.Dropout(0.0), floats(N, C)),
    "Embedding": (lambda nn: nn.Embedding(7, 5), integers(7, N, L)),
    "Embedding padding": (lambda nn: nn.Embedding(7, 5, padding_idx=-3), integers(7, N, L)),
    "ReLU": (lambda nn: nn.ReLU(inplace=False), floats(N, C)),
    "GELU": (lambda nn: nn.GELU(), floats(N, C)),
    "GELU tanh": (lambda nn: nn.GELU(approximate="tanh"), floats(N, C)),
    "Sigmoid": (lambda nn: nn.Sigmoid(), floats(N, C)),
    "Tanh": (lambda nn: nn.Tanh(), floats(N, C)),
    "SiLU": (lambda nn: nn.SiLU(), floats(N, C)),
    "LeakyReLU": (lambda nn: nn.LeakyReLU(0.2), floats(N, C)),
    "ELU": (lambda nn: nn.ELU(1.5), floats(N, C)),
    "Softmax": (lambda nn: nn.Softmax(dim=1), floats(N, C, L)),
    "Softmax default 2-d": (lambda nn: nn.Softmax(), floats(N, C)),
    "Softmax default 3-d": (lambda nn: nn.Softmax(), floats(N, C, L)),
    "LogSoftmax": (lambda nn: nn.LogSoftmax(dim=-1), floats(N, C)),
    "Softplus": (lambda nn: nn.Softplus(beta=2.0, threshold=1.0), floats(N, C)),
    "Flatten": (lambda nn: nn.Flatten(), floats(N, C, L)),
    "Flatten part": (lambda nn: nn.Flatten(0, 1), floats(N, C, L)),
    "Unflatten": (lambda nn: nn.Unflatten(-1, (2, -1)), floats(N, C)),
    "MaxPool2d": (lambda nn: nn.MaxPool2d(2), floats(N, C, H, W)),
    "MaxPool2d options": (lambda nn: nn.MaxPool2d((3, 2), (2, 1), (1, 1)), floats(N, C, H, W)),
    "MaxPool2d ceil": (lambda nn: nn.MaxPool2d(2, ceil_mode=True), floats(N, C, H, W)),
    "AvgPool2d": (lambda nn: nn.AvgPool2d(3, 2, 1), floats(N, C, H, W)),
    "AvgPool2d no pad": (lambda nn: nn.AvgPool2d(3, 2, 1, count_include_pad=False), floats(N, C, H, W)),
    "AdaptiveAvgPool2d": (lambda nn: nn.AdaptiveAvgPool2d((4, 3)), floats(N, C, H, W)),
    "AdaptiveAvgPool2d one": (lambda nn: nn.AdaptiveAvgPool2d(1), floats(N, C, H, W)),
    "AdaptiveAvgPool2d keep": (lambda nn: nn.AdaptiveAvgPool2d((None, 3)), floats(N, C, H, W)),
    "Sequential": (lambda nn: nn.Sequential(nn.Linear(C, 5), nn.ReLU(), nn.Linear(5, 2)), floats(N, C)),
    "CrossEntropyLoss": (lambda nn: nn.CrossEntropyLoss(), floats(N, C), integers(C, N)),
    "CrossEntropyLoss options": (
        lambda nn: nn.CrossEntropyLoss(
            weight_of(nn, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0), ignore_index=2, label_smoothing=0.1
        ),
        floats(N, C, L),
        integers(C, N, L),
    ),
    "CrossEntropyLoss none": (lambda nn: nn.CrossEntropyLoss(reduction="none"), floats(N, C), integers(C, N)),
    "CrossEntropyLoss soft": (lambda nn: nn.CrossEntropyLoss(), floats(N, C), probabilities(N, C)),
    "NLLLoss": (lambda nn: nn.NLLLoss(ignore_index=1), floats(N, C), integers(C, N)),
    "NLLLoss sum": (
        lambda nn: nn.NLLLoss(weight_of(nn, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0), reduction="sum"),
        floats(N, C),
        integers(C, N),
    ),
    "MSELoss": (lambda nn: nn.MSELoss(), floats(N, C), floats(N, C)),
    "MSELoss sum": (lambda nn: nn.MSELoss(reduction="sum"), floats(N, C), floats(N, C)),
    "L1Loss": (lambda nn: nn.L1Loss(), floats(N, C), floats(N, C)),
    "SmoothL1Loss": (lambda nn: nn.SmoothL1Loss(beta=0.5), floats(N, C), floats(N, C)),
    "BCELoss": (lambda nn: nn.BCELoss(), probabilities(N, C), probabilities(N, C)),
    "BCELoss weight": (
        lambda nn: nn.BCELoss(weight_of(nn, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)),
        probabilities(N, C),
        probabilities(N, C),
    ),
    "BCEWithLogitsLoss": (lambda nn: nn.BCEWithLogitsLoss(), floats(N, C), probabilities(N, C)),
    "BCEWithLogitsLoss options": (
        lambda nn: nn.BCEWithLogitsLoss(pos_weight=weight_of(nn, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0), reduction="sum"),
        floats(N, C),
        probabilities(N, C),
    ),
    "TransformerEncoderLayer": (lambda nn: nn.TransformerEncoderLayer(E, 2, 16, dropout=0.0), floats(L, N, E)),
    "TransformerEncoderLayer first": (
        lambda nn: nn.TransformerEncoderLayer(E, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True),
        floats(N, L, E),
    ),
    "TransformerEncoderLayer no bias": (
        lambda nn: nn.TransformerEncoderLayer(E, 2, 16, 0.0, bias=False),
        floats(L, N, E),
    ),
    "TransformerEncoder": (
        lambda nn: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(E, 2, 16, 0.0, batch_first=True), 2, nn.LayerNorm(E)
        ),
        floats(N, L, E),
    ),
}

D = 3
CLASS_WEIGHTS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)


def signs(*shape: int) -> Any:
    return lambda generator: np.where(generator.random(shape) < 0.5, 1.0, -1.0)


def listed(*shape: int) -> Any:
    """Labels up to a -1."""
    return lambda generator: np.where(
        np.arange(shape[1]) < 2, generator.permuted(np.tile(np.arange(shape[1]), (shape[0], 1)), axis=1), -1
    )


MORE: dict[str, Any] = {
    "Conv1d reflect": (lambda nn: nn.Conv1d(C, 4, 3, padding=2, padding_mode="reflect"), floats(N, C, L)),
    "Conv2d circular": (lambda nn: nn.Conv2d(C, 4, 3, padding=(1, 2), padding_mode="circular"), floats(2, C, 5, 4)),
    "Conv2d replicate same": (lambda nn: nn.Conv2d(C, 4, 4, padding="same", padding_mode="replicate"), floats(N, C, H, W)),
    "Conv3d": (lambda nn: nn.Conv3d(C, 4, 3, stride=2, padding=1), floats(2, C, D, H, W)),
    "Conv3d options": (lambda nn: nn.Conv3d(C, 4, (1, 2, 3), dilation=(1, 2, 1), groups=2, bias=False), floats(2, C, D, H, W)),
    "Conv3d unbatched": (lambda nn: nn.Conv3d(C, 4, 2), floats(C, D, H, W)),
    "ConvTranspose1d": (lambda nn: nn.ConvTranspose1d(C, 4, 4, 2, 1), floats(N, C, L)),
    "ConvTranspose2d": (lambda nn: nn.ConvTranspose2d(C, 4, 4, 2, 1), floats(N, C, H, W)),
    "ConvTranspose2d options": (
        lambda nn: nn.ConvTranspose2d(C, 4, 3, (2, 3), (1, 0), (1, 2), groups=2, bias=False, dilation=2), floats(N, C, H, W)),
    "ConvTranspose2d unbatched": (lambda nn: nn.ConvTranspose2d(C, 4, 2), floats(C, H, W)),
    "ConvTranspose3d": (lambda nn: nn.ConvTranspose3d(C, 2, 2, 2), floats(2, C, D, 4, 4)),
    "MaxPool1d": (lambda nn: nn.MaxPool1d(2), floats(N, C, L)),
    "MaxPool1d options": (lambda nn: nn.MaxPool1d(3, 1, 1, 1, ceil_mode=True), floats(C, L)),
    "MaxPool3d": (lambda nn: nn.MaxPool3d((1, 2, 2)), floats(2, C, D, H, W)),
    "AvgPool1d": (lambda nn: nn.AvgPool1d(3, 2, 1), floats(N, C, L)),
    "AvgPool3d": (lambda nn: nn.AvgPool3d(2, ceil_mode=True), floats(2, C, D, H, W)),
    "LPPool1d": (lambda nn: nn.LPPool1d(2, 2), floats(N, C, L)),
    "LPPool2d": (lambda nn: nn.LPPool2d(2, 3, stride=2), floats(N, C, H, W)),
    "LPPool3d": (lambda nn: nn.LPPool3d(2, 2), floats(2, C, D, H, W)),
    "AdaptiveAvgPool1d": (lambda nn: nn.AdaptiveAvgPool1d(3), floats(N, C, L)),
    "AdaptiveAvgPool3d": (lambda nn: nn.AdaptiveAvgPool3d((None, 3, 2)), floats(2, C, D, H, W)),
    "AdaptiveMaxPool1d": (lambda nn: nn.AdaptiveMaxPool1d(3), floats(N, C, L)),
    "AdaptiveMaxPool2d": (lambda nn: nn.AdaptiveMaxPool2d((4, 3)), floats(N, C, H, W)),
    "AdaptiveMaxPool3d": (lambda nn: nn.AdaptiveMaxPool3d(2), floats(2, C, D, H, W)),
    "BatchNorm3d": (lambda nn: nn.BatchNorm3d(C), floats(2, C, D, 4, 4)),
    "GroupNorm": (lambda nn: nn.GroupNorm(3, C, eps=1e-3), floats(N, C, H, W)),
    "GroupNorm rows": (lambda nn: nn.GroupNorm(2, C, affine=False), floats(N, C)),
    "GroupNorm no bias": (lambda nn: nn.GroupNorm(2, C, bias=False), floats(N, C, L)),
    "InstanceNorm1d": (lambda nn: nn.InstanceNorm1d(C), floats(N, C, L)),
    "InstanceNorm1d tracked": (lambda nn: nn.InstanceNorm1d(C, momentum=0.3, track_running_stats=True), floats(C, L)),
    "InstanceNorm2d": (lambda nn: nn.InstanceNorm2d(C, affine=True, track_running_stats=True), floats(N, C, H, W)),
    "InstanceNorm3d": (lambda nn: nn.InstanceNorm3d(C, affine=True), floats(2, C, D, 4, 4)),
    "RMSNorm": (lambda nn: nn.RMSNorm(C), floats(N, L, C)),
    "RMSNorm 2-d": (lambda nn: nn.RMSNorm((L, C), eps=1e-3), floats(N, L, C)),
    "RMSNorm plain": (lambda nn: nn.RMSNorm(C, elementwise_affine=False), floats(N, C)),
    "LocalResponseNorm": (lambda nn: nn.LocalResponseNorm(3, alpha=0.1, k=2.0), floats(N, C, H, W)),
    "LocalResponseNorm even": (lambda nn: nn.LocalResponseNorm(4, alpha=0.5), floats(N, C, L)),
    "Bilinear": (lambda nn: nn.Bilinear(C, 5, 3), floats(N, C), floats(N, 5)),
    "Bilinear deep": (lambda nn: nn.Bilinear(C, 5, 3, bias=False), floats(N, L, C), floats(N, L, 5)),
    "Embedding by frequency": (lambda nn: nn.Embedding(7, 5, scale_grad_by_freq=True), integers(7, N, L)),
    "EmbeddingBag": (lambda nn: nn.EmbeddingBag(7, 5), integers(7, N, L)),
    "EmbeddingBag sum": (lambda nn: nn.EmbeddingBag(7, 5, mode="sum", padding_idx=2), integers(7, N, L)),
    "EmbeddingBag max": (lambda nn: nn.EmbeddingBag(70, 5, mode="max"), integers(70, N, L)),
    "Dropout1d off": (lambda nn: nn.Dropout1d(0.0), floats(N, C, L)),
    "Dropout2d off": (lambda nn: nn.Dropout2d(0.0), floats(N, C, H, W)),
    "Dropout3d off": (lambda nn: nn.Dropout3d(0.0), floats(2, C, D, 4, 4)),
    "AlphaDropout off": (lambda nn: nn.AlphaDropout(0.0), floats(N, C)),
    "FeatureAlphaDropout off": (lambda nn: nn.FeatureAlphaDropout(0.0), floats(N, C, L)),
    "CosineSimilarity": (lambda nn: nn.CosineSimilarity(), floats(N, C), floats(N, C)),
    "PairwiseDistance": (lambda nn: nn.PairwiseDistance(keepdim=True), floats(N, C), floats(N, C)),
    "Upsample": (lambda nn: nn.Upsample(scale_factor=2), floats(N, C, L)),
    "Upsample bilinear": (lambda nn: nn.Upsample((7, 9), mode="bilinear", align_corners=True), floats(2, C, 4, 5)),
    "Upsample bicubic": (lambda nn: nn.Upsample(scale_factor=(1.5, 2), mode="bicubic"), floats(2, C, 4, 5)),
    "UpsamplingNearest2d": (lambda nn: nn.UpsamplingNearest2d(scale_factor=2), floats(2, C, 4, 5)),
    "UpsamplingBilinear2d": (lambda nn: nn.UpsamplingBilinear2d(size=(6, 7)), floats(2, C, 4, 5)),
    **{
        f"{kind}Pad{count}d": (
            lambda nn, k=kind, n=count: getattr(nn, f"{k}Pad{n}d")((1, 2, 0, 1, 2, 0)[: 2 * n], *([7.5] if k == "Constant" else [])),
            floats(*(2, 2, 3, 4, 4)[: 2 + count]),
        )
        for kind in ("Constant", "Zero", "Reflection", "Replication", "Circular")
        for count in (1, 2, 3)
    },
    "ReLU6": (lambda nn: nn.ReLU6(), floats(N, C)),
    "Hardtanh": (lambda nn: nn.Hardtanh(-0.5, 0.7), floats(N, C)),
    "Hardsigmoid": (lambda nn: nn.Hardsigmoid(), floats(N, C)),
    "Hardswish": (lambda nn: nn.Hardswish(), floats(N, C)),
    "SELU": (lambda nn: nn.SELU(), floats(N, C)),
    "CELU": (lambda nn: nn.CELU(0.5), floats(N, C)),
    "Mish": (lambda nn: nn.Mish(), floats(N, C)),
    "Softsign": (lambda nn: nn.Softsign(), floats(N, C)),
    "Tanhshrink": (lambda nn: nn.Tanhshrink(), floats(N, C)),
    "Softshrink": (lambda nn: nn.Softshrink(0.3), floats(N, C)),
    "Hardshrink": (lambda nn: nn.Hardshrink(0.3), floats(N, C)),
    "LogSigmoid": (lambda nn: nn.LogSigmoid(), floats(N, C)),
    "PReLU": (lambda nn: nn.PReLU(), floats(N, C)),
    "PReLU channels": (lambda nn: nn.PReLU(C, init=0.1), floats(N, C, L)),
    "Threshold": (lambda nn: nn.Threshold(0.1, 20), floats(N, C)),
    "GLU": (lambda nn: nn.GLU(1), floats(N, C, L)),
    "Softmin": (lambda nn: nn.Softmin(dim=1), floats(N, C)),
    "Softmax2d": (lambda nn: nn.Softmax2d(), floats(N, C, H, W)),
    "PixelShuffle": (lambda nn: nn.PixelShuffle(2), floats(N, 8, 3, 4)),
    "PixelUnshuffle": (lambda nn: nn.PixelUnshuffle(2), floats(N, 2, 6, 4)),
    "ChannelShuffle": (lambda nn: nn.ChannelShuffle(3), floats(N, C, 3, 4)),
    "Unfold": (lambda nn: nn.Unfold(2, 1, (1, 0), 2), floats(N, C, H, W)),
    "Fold": (lambda nn: nn.Fold((H, W), 3, padding=1), floats(N, 18, H * W)),
    "HuberLoss": (lambda nn: nn.HuberLoss(delta=0.5), floats(N, C), floats(N, C)),
    "KLDivLoss": (lambda nn: nn.KLDivLoss(reduction="batchmean"), floats(N, C), probabilities(N, C)),
    "PoissonNLLLoss": (lambda nn: nn.PoissonNLLLoss(full=True), floats(N, C), probabilities(N, C)),
    "GaussianNLLLoss": (lambda nn: nn.GaussianNLLLoss(full=True), floats(N, C), floats(N, C), probabilities(N, C)),
    "HingeEmbeddingLoss": (lambda nn: nn.HingeEmbeddingLoss(0.5), floats(N, C), signs(N, C)),
    "MarginRankingLoss": (lambda nn: nn.MarginRankingLoss(0.5), floats(N), floats(N), signs(N)),
    "SoftMarginLoss": (lambda nn: nn.SoftMarginLoss(), floats(N, C), signs(N, C)),
    "MultiMarginLoss": (lambda nn: nn.MultiMarginLoss(2, 0.5, weight_of(nn, *CLASS_WEIGHTS)), floats(N, C), integers(C, N)),
    "MultiLabelMarginLoss": (lambda nn: nn.MultiLabelMarginLoss(), floats(N, C), listed(N, C)),
    "MultiLabelSoftMarginLoss": (
        lambda nn: nn.MultiLabelSoftMarginLoss(weight_of(nn, *CLASS_WEIGHTS)), floats(N, C), probabilities(N, C)),
    "CosineEmbeddingLoss": (lambda nn: nn.CosineEmbeddingLoss(0.1), floats(N, C), floats(N, C), signs(N)),
    "TripletMarginLoss": (lambda nn: nn.TripletMarginLoss(2.0, swap=True), floats(N, C), floats(N, C), floats(N, C)),
    "TripletMarginWithDistanceLoss": (
        lambda nn: nn.TripletMarginWithDistanceLoss(margin=2.0), floats(N, C), floats(N, C), floats(N, C)),
}  # fmt: skip

SEQUENCES: dict[str, Any] = {
    "RNN": (lambda nn: nn.RNN(C, 5), floats(L, N, C)),
    "RNN options": (lambda nn: nn.RNN(C, 5, 2, nonlinearity="relu", bidirectional=True, batch_first=True), floats(N, L, C)),
    "LSTM": (lambda nn: nn.LSTM(C, 5), floats(L, N, C)),
    "LSTM options": (lambda nn: nn.LSTM(C, 5, 2, bidirectional=True, batch_first=True, proj_size=3), floats(N, L, C)),
    "GRU": (lambda nn: nn.GRU(C, 5), floats(L, N, C)),
    "GRU options": (lambda nn: nn.GRU(C, 5, 2, bias=False, bidirectional=True), floats(L, N, C)),
    "RNNCell": (lambda nn: nn.RNNCell(C, 5), floats(N, C), floats(N, 5)),
    "LSTMCell": (lambda nn: nn.LSTMCell(C, 5), floats(N, C)),
    "GRUCell": (lambda nn: nn.GRUCell(C, 5), floats(N, C), floats(N, 5)),
    "MultiheadAttention": (lambda nn: nn.MultiheadAttention(E, 2), floats(S, N, E), floats(L, N, E), floats(L, N, E)),
    "MultiheadAttention options": (
        lambda nn: nn.MultiheadAttention(E, 2, bias=False, kdim=C, vdim=C, batch_first=True),
        floats(N, S, E), floats(N, L, C), floats(N, L, C),
    ),
    "TransformerDecoderLayer": (lambda nn: _no_dropout(nn, "TransformerDecoderLayer"), floats(S, N, E), floats(L, N, E)),
    "TransformerDecoder": (
        lambda nn: nn.TransformerDecoder(_no_dropout(nn, "TransformerDecoderLayer", batch_first=True), 2),
        floats(N, S, E), floats(N, L, E),
    ),
    "Transformer": (
        lambda nn: nn.Transformer(E, 2, 1, 1, 16, 0.0, batch_first=True), floats(N, L, E), floats(N, S, E),
    ),
}  # fmt: skip
"""Recurrent and attending layers."""
