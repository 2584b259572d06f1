"""Whole models of PyTorch with random weights, carried over by names in a safetensors file: the same logits, the same gradients.

Each model is written once and built from either library: a residual network of 18 layers (He et al., 2016, names as torchvision's), a
bidirectional LSTM over tokens, and a block of a GPT (Radford et al., 2019) with tied embedding.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import phalanx

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file
pytestmark = pytest.mark.torch

VOCABULARY, LENGTH, WIDTH, HEADS = 50, 12, 32, 4


def resnet18(library, classes: int = 10):
    nn = library.nn

    class BasicBlock(nn.Module):
        def __init__(self, inputs: int, planes: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(planes)
            self.relu = nn.ReLU(inplace=True)
            self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
            self.downsample = None
            if stride != 1 or inputs != planes:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
                )

        def forward(self, x):
            identity = x if self.downsample is None else self.downsample(x)
            out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            return self.relu(out + identity)

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            self.relu = nn.ReLU(inplace=True)
            self.maxpool = nn.MaxPool2d(3, 2, 1)
            width = 64
            for number, planes in enumerate((64, 128, 256, 512), start=1):
                blocks = [BasicBlock(width, planes, 1 if number == 1 else 2), BasicBlock(planes, planes, 1)]
                setattr(self, f"layer{number}", nn.Sequential(*blocks))
                width = planes
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.fc = nn.Linear(width, classes)

        def forward(self, x):
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.fc(library.flatten(self.avgpool(x), 1))

    return ResNet()


def lstm(library):
    nn = library.nn

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
            self.lstm = nn.LSTM(WIDTH, 24, num_layers=2, batch_first=True, bidirectional=True)
            self.fc = nn.Linear(4 * 24, 5)

        def forward(self, tokens):
            output, (hidden, _) = self.lstm(self.embedding(tokens))
            return self.fc(library.cat([output.mean(dim=1), hidden[-2], hidden[-1]], dim=1))

    return Tagger()


def gpt(library):
    nn, functional = library.nn, library.nn.functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.mlp = nn.Sequential(
                nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(approximate="tanh"), nn.Linear(4 * WIDTH, WIDTH), nn.Dropout(0.0)
            )

        def forward(self, x):
            rows, length, width = x.size()
            parts = self.c_attn(self.ln_1(x)).split(width, dim=2)
            q, k, v = (part.view(rows, length, HEADS, width // HEADS).transpose(1, 2) for part in parts)
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.c_proj(y.transpose(1, 2).contiguous().view(rows, length, width))
            return x + self.mlp(self.ln_2(x))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte, self.wpe = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
            self.h = nn.ModuleList([Block() for _ in range(2)])
            self.ln_f = nn.LayerNorm(WIDTH)
            self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
            self.wte.weight = self.lm_head.weight

        def forward(self, tokens):
            x = self.wte(tokens) + self.wpe(library.arange(tokens.size(1)))
            for block in self.h:
                x = block(x)
            return self.lm_head(self.ln_f(x))

    return GPT()


def pictures(random: np.random.Generator) -> np.ndarray:
    return random.standard_normal((3, 3, 48, 48)).astype(np.float32)


def tokens(random: np.random.Generator) -> np.ndarray:
    return random.integers(0, VOCABULARY, (4, LENGTH))


MODELS = {"resnet18": (resnet18, pictures), "lstm": (lstm, tokens), "gpt": (gpt, tokens)}


def carried_over(build, path: Path):
    """PyTorch's model with weights off their round values, and ours with the same by way of a file."""
    torch.manual_seed(11)
    theirs = build(torch)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            if name == "lm_head.weight" or name.startswith("wpe"):
                parameter.mul_(1 / math.sqrt(WIDTH))
        for buffer in theirs.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.2 * torch.rand_like(buffer))
    save_file({name: tensor.clone() for name, tensor in theirs.state_dict().items()}, path)
    mine = build(phalanx)
    assert str(mine.load_state_dict(phalanx.load(path))) == "<All keys matched successfully>"
    return mine, theirs


def worst(found, expected, floor: float = 1.0) -> float:
    """The largest difference, measured by the largest value or by ``floor``."""
    found, expected = (np.asarray(value.detach().numpy(), np.float64) for value in (found, expected))
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / max(floor, np.abs(expected).max()))


@pytest.mark.parametrize("name", MODELS)
def test_same_logits_and_gradients(name: str, tmp_path: Path, record_property) -> None:
    build, make = MODELS[name]
    mine, theirs = carried_over(build, tmp_path / "weights.safetensors")
    assert list(mine.state_dict()) == list(theirs.state_dict())
    x = make(np.random.default_rng(5))
    logits = []
    for training in (False, True):
        mine.train(training)
        theirs.train(training)
        ours, others = mine(phalanx.tensor(x)), theirs(torch.tensor(x))
        logits.append(worst(ours, others))
    labels = np.random.default_rng(6).integers(0, others.shape[-1], others.shape[:-1])
    losses = []
    for library, output in ((phalanx, ours), (torch, others)):
        flat = output.reshape(-1, output.shape[-1])
        loss = library.nn.functional.cross_entropy(flat, library.tensor(labels.reshape(-1)))
        loss.backward()
        losses.append(loss.item())
    floor = 1e-3 * max(float(q.grad.abs().max()) for q in theirs.parameters())
    pairs = zip(mine.named_parameters(), theirs.named_parameters(), strict=True)
    gradients = {a: worst(p.grad, q.grad, floor) for (a, p), (_, q) in pairs}
    for key, value in theirs.named_buffers():  # running statistics have moved alike
        assert worst(mine.get_buffer(key), value) < 1e-5, key
    record_property("told", f"{name}: logits off by {max(logits):.1e}, gradients by {max(gradients.values()):.1e}")
    assert max(logits) < 1e-5
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert all(error < 1e-4 for error in gradients.values()), gradients
