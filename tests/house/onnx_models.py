"""Models as people write them, and functions of tensors, for the ONNX export."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import phalanx
from phalanx import nn

from .onnx_cases import RANDOM, Case, floats, labels, several, statistics

F = nn.functional


class Block(nn.Module):
    """Of a residual net (He et al., 2016)."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or inside != width:
            self.downsample = nn.Sequential(nn.Conv2d(inside, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """With torchvision's names; ``width`` 64 is the original."""

    def __init__(self, width: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inside = width
        for number in range(4):
            outside = width * 2**number
            first = Block(inside, outside, 1 if number == 0 else 2)
            setattr(self, f"layer{number + 1}", nn.Sequential(first, Block(outside, outside, 1)))
            inside = outside
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inside, classes)

    def forward(self, x: Any) -> Any:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(phalanx.flatten(self.avgpool(x), 1))


class Words(nn.Module):
    """An LSTM over embedded words, classified by its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.lstm = nn.LSTM(8, 12, 2, batch_first=True, dropout=0.2, bidirectional=True)
        self.fc = nn.Linear(24, 3)

    def forward(self, words: Any) -> Any:
        outputs, _ = self.lstm(self.embedding(words))
        return F.log_softmax(self.fc(outputs[:, -1]), dim=-1)


class Attention(nn.Module):
    """Causal, as nanoGPT writes it by hand."""

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.register_buffer("bias", phalanx.tril(phalanx.ones(length, length)).view(1, 1, length, length))

    def forward(self, x: Any) -> Any:
        batch, length, width = x.size()
        q, k, v = self.c_attn(x).split(width, dim=2)
        q, k, v = (t.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for t in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(self.bias[:, :, :length, :length] == 0, float("-inf"))
        y = F.softmax(scores, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(batch, length, width))


class GPT(nn.Module):
    """Two blocks, learned positions, tied head."""

    def __init__(self, words: int = 40, length: int = 16, width: int = 24) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(words, width), nn.Embedding(length, width)
        self.drop = nn.Dropout(0.1)
        self.h = nn.ModuleList(
            nn.ModuleDict(
                {
                    "ln_1": nn.LayerNorm(width), "attn": Attention(width, 3, length), "ln_2": nn.LayerNorm(width),
                    "mlp": nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)),
                }
            ) for _ in range(2)
        )  # fmt: skip
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, words, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, words: Any) -> Any:
        places = phalanx.arange(0, words.size(1))
        x = self.drop(self.wte(words) + self.wpe(places))
        for block in self.h:
            x = x + block["attn"](block["ln_1"](x))
            x = x + block["mlp"](block["ln_2"](x))
        return self.lm_head(self.ln_f(x))


class Fused(nn.Module):
    """Causal attention by the library's function."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Any) -> Any:
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


class Masked(nn.Module):
    """A transformer with PyTorch's own causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)

    def forward(self, x: Any) -> Any:
        return self.encoder(x, mask=nn.Transformer.generate_square_subsequent_mask(x.shape[1]), is_causal=True)


class Autoencoder(nn.Module):
    """Convolutional, with skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1)

    def forward(self, x: Any) -> Any:
        y = F.interpolate(F.relu(self.down(x)), scale_factor=2) if hasattr(F, "interpolate") else self.up(self.down(x))
        return phalanx.cat([x, self.up(self.down(x)), y], dim=1)


MODELS: dict[str, tuple[Case, dict[int, str]]] = {
    "ResNet-18": (Case(lambda: statistics_of(ResNet18(8)), floats(3, 32, 32)), {0: "batch"}),
    "ResNet-18 of any size": (
        Case(lambda: statistics_of(ResNet18(8)), floats(3, 64, 32)),
        {0: "batch", 2: "h", 3: "w"},
    ),
    "LSTM": (Case(Words, labels(50, 7)), {0: "batch", 1: "length"}),
    "projected LSTM": (Case(lambda: nn.LSTM(3, 5, proj_size=2, bias=False), floats(2, 3)), {0: "steps", 1: "batch"}),
    "GPT": (Case(GPT, labels(40, 6)), {0: "batch", 1: "length"}),
    "causal attention": (Case(Fused, floats(6, 8)), {0: "batch", 1: "length"}),
    "masked transformer": (Case(Masked, floats(6, 8)), {0: "batch", 1: "length"}),
    "autoencoder": (Case(Autoencoder, floats(1, 8, 8)), {0: "batch", 2: "h", 3: "w"}),
}
"""Models and their input's dynamic axes."""


def statistics_of(model: Any) -> Any:
    """All batch norms as after some training."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            statistics(layer)
    return model


def positive(*shape: int) -> Callable[[int], tuple[np.ndarray, ...]]:
    """Numbers in (0.1, 0.9)."""
    return lambda n: (RANDOM.uniform(0.1, 0.9, (n, *shape)).astype(np.float32),)


def integers(*shapes: tuple[int, ...]) -> Callable[[int], tuple[np.ndarray, ...]]:
    """Whole numbers on both sides of 0, none of them 0."""
    return lambda n: tuple(RANDOM.integers(1, 9, (n, *s)) * RANDOM.choice([-1, 1], (n, *s)) for s in shapes)


def rows_and_places(n: int) -> tuple[np.ndarray, ...]:
    return RANDOM.normal(size=(n, 4, 3)).astype(np.float32), RANDOM.integers(0, 4, (n, 2, 3))


def with_nan(n: int) -> tuple[np.ndarray, ...]:
    x = RANDOM.normal(size=(n, 6)).astype(np.float32)
    x[:, 0], x[:, 1], x[:, 2], x[:, 3] = np.nan, np.inf, -np.inf, 0
    return x, np.roll(x, 1, axis=1)


_ONE = "abs neg exp expm1 exp2 sin cos tan sinh cosh asinh atan tanh sigmoid relu erf erfc sign floor ceil round trunc frac square sinc"
_POSITIVE = "log log2 log10 log1p sqrt rsqrt reciprocal asin acos atanh logit"
_TWO = "add sub mul div maximum minimum atan2 hypot logaddexp copysign fmax fmin eq ne lt le gt ge floor_divide remainder fmod"

_WEIGHTS = [phalanx.tensor(RANDOM.normal(size=shape).astype(np.float32)) for shape in ((6, 4), (6,), (3, 6), (3,))]

# fmt: off
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[int], tuple[np.ndarray, ...]]]] = {
    **{name: (lambda x, name=name: getattr(x, name)() if hasattr(x, name) else getattr(phalanx, name)(x), floats(4, 3)) for name in _ONE.split()},
    **{name: (lambda x, name=name: getattr(phalanx, name)(x), positive(5)) for name in _POSITIVE.split()},
    **{name: (lambda a, b, name=name: getattr(phalanx, name)(a, b), several((4, 3), (1, 3))) for name in _TWO.split()},
    **{f"{name} of integers": (lambda a, b, name=name: getattr(phalanx, name)(a, b), integers((4,), (4,)))
       for name in ["add", "mul", "maximum", "floor_divide", "remainder", "fmod", "eq", "lt"]},
    "acosh": (lambda x: phalanx.acosh(x + 1), positive(5)),
    "xlogy": (lambda a, b: phalanx.xlogy((a > 0).float(), b.abs()), several((4,), (4,))),
    "heaviside": (lambda a, b: phalanx.heaviside((a > 0).float() - 1, b), several((4,), (4,))),
    "numbers": (lambda x: 2 / (1.5 - x) + (3 - x) * 2 - 1 + 2 ** x + x ** 2 + x ** 0.5, positive(4)),
    "integers and floats": (lambda n: (n / 2, n + 0.5, n * 2, n > 3, n.sum(1), n.float().mean(1)), integers((4,))),
    "logic": (lambda x: (x > 0) & (x < 1) | ~(x > -1) ^ (x == 0), floats(9)),
    "logical functions": (lambda x: phalanx.logical_or(phalanx.logical_and(x, x > 0), phalanx.logical_xor(x > 1, phalanx.logical_not(x))), floats(9)),
    "not numbers": (lambda a, b: (a.isnan(), a.isinf(), a.isfinite(), phalanx.isposinf(a), phalanx.isneginf(a), phalanx.fmax(a, b), phalanx.fmin(a, b)), with_nan),
    "signbit": (lambda x: phalanx.signbit(x), floats(9)),
    "where": (lambda a, b: phalanx.where(a > b, a, 0.5), several((4,), (4,))),
    "where of booleans": (lambda a, b: phalanx.where(a > 0, b > 0, a < b), several((4,), (4,))),
    "masked_fill": (lambda x: x.masked_fill(x > 0, -1.0), floats(4)),
    "clamp": (lambda x: (x.clamp(-0.5, 0.5), x.clamp(min=0.1), x.clamp(max=0.1)), floats(9)),
    "clamp by tensors": (lambda a, b: a.clamp(min=b), several((4,), (4,))),
    "sums": (lambda x: (x.sum((1, 2)), x.mean(-1, keepdim=True), x.prod(2), x.amax((1, 2)), x.amin(1), x.norm(dim=1)), floats(4, 3)),
    "sum of all": (lambda x: x.sum(), floats(4, 3)),
    "var": (lambda x: (x.var(1), x.std((1, 2), unbiased=False), x.logsumexp(1)), floats(4, 3)),
    "other norms": (lambda x: (x.norm(1, dim=1), x.norm(3, dim=(1, 2)), x.norm(math.inf, dim=1)), floats(4, 3)),
    "any and all": (lambda x: ((x > 1).any(1), (x > -1).all(2)), floats(4, 3)),
    "max with places": (lambda x: (*x.max(1), *x.min(2, keepdim=True), x.argmax(1), x.argmin(-1, keepdim=True)), floats(4, 3)),
    "argmax of all": (lambda x: x.argmax(), floats(4, 3)),
    "order": (lambda x: (*x.sort(1), *x.topk(2, dim=1), x.argsort(1, descending=True)), floats(5)),
    "cumsum": (lambda x: x.cumsum(1), floats(4, 3)),
    "matmul": (lambda a, b: (a @ b.transpose(1, 2), a[:, 0] @ b[0, 0]), several((4, 3), (5, 3))),
    "einsum": (lambda a, b: phalanx.einsum("nij,nkj->nik", a, b), several((4, 3), (5, 3))),
    "outer and bmm": (lambda a, b: phalanx.bmm(a, b), several((4, 3), (3, 2))),
    "moves": (lambda x: (x.permute(0, 2, 1), x.transpose(1, 2), x.unsqueeze(1), x.flatten(1), x.movedim(1, 2), x.mT), floats(4, 3)),
    "squeezed": (lambda x: x.squeeze(1), floats(1, 3)),
    "reshapes": (lambda x: (x.reshape(-1, 3), x.view(x.shape[0], 2, 6), x.reshape(x.shape[0] * 2, -1), x.unflatten(1, (2, 2))), floats(4, 3)),
    "expand": (lambda x: (x[:, None].expand(-1, 5, -1), x.unsqueeze(0).expand(3, *x.shape)), floats(3)),
    "repeat": (lambda x: (x.repeat(1, 2), x.tile(2), x.repeat_interleave(2, dim=1)), floats(3)),
    "joins": (lambda a, b: (phalanx.cat([a, b], 1), phalanx.stack([a, b], -1), phalanx.cat([a, a])), several((4,), (4,))),
    "splits": (lambda x: (*x.split(2, 1), *x.chunk(3, 1), *x.unbind(2)), floats(5, 2)),
    "flip and roll": (lambda x: (x.flip(1), x.flip([1, 2]), x.roll(1, 1)), floats(4, 3)),
    "slices": (lambda x: (x[:, 1:3], x[:, -1], x[..., ::2], x[:, ::-1] if False else x[:, 0:1], x[1:], x[:-1], x[0], x[:, None, 2]), floats(4, 3)),
    "an array of places": (lambda x: (x[:, phalanx.tensor([2, 0])], x[phalanx.tensor([0, 0])]), floats(4, 3)),
    "gather": (lambda x, i: (x.gather(1, i), x.index_select(1, i[0, 0])), rows_and_places),
    "triangles": (lambda x: (x.tril(), x.triu(1)), floats(4, 4)),
    "det": (lambda x: phalanx.linalg.det(x), floats(3, 3)),
    "diagonal": (lambda x: (x.diagonal(0, 1, 2), x.diagonal(-1, 2, 1)), floats(4, 3)),
    "pad": (lambda x: (F.pad(x, (1, 2)), F.pad(x, (0, 1, 2, -1), value=3.0), F.pad(x[:, None], (1, 1), mode="reflect")), floats(4, 3)),
    "made from the size": (lambda x: (x + phalanx.zeros(x.shape[0], 1), x * phalanx.arange(x.shape[0]).unsqueeze(1), x / x.shape[0], x.new_ones(x.shape[0], 3)), floats(4)),
    "one_hot": (lambda n: F.one_hot(n.abs(), 10), integers((4,))),
    "attention": (lambda q, m: F.scaled_dot_product_attention(q, q, q, attn_mask=m > -1), several((5, 4), (5, 5))),
    "attention that sees nothing": (lambda q, m: F.scaled_dot_product_attention(q, q, q, attn_mask=(m > 0) & phalanx.tensor([[True], [False], [True]])),
                                    several((3, 4), (3, 3))),
    "casts": (lambda x: (x.double(), x.long(), x.bool(), x.int().float()), floats(4)),
    "activations": (lambda x: (F.normalize(x), F.softmin(x, -1), F.glu(x), F.log_softmax(x, 1)), floats(4)),
    "norms of sums": (lambda x: F.add_layer_norm(x, x * 2, 4, _WEIGHTS[0][0], _WEIGHTS[0][1]) + F.add_rms_norm(x, -x + 1, 4), floats(4)),
    "linear layers with activations": (lambda x: (F.linear_relu(x, *_WEIGHTS[:2]), F.linear_gelu(x, _WEIGHTS[0])), floats(4)),
    "feed-forward": (lambda x: (F.feed_forward(x, *_WEIGHTS), F.feed_forward(x, _WEIGHTS[0], None, *_WEIGHTS[2:], activation="relu")), floats(5, 4)),
    "bits": (lambda n: (n & 3, n | 1, n ^ 2, ~n), integers((4,))),
}
# fmt: on
"""Functions of tensors; names of ops where there is one."""
