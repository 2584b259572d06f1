"""Kernels of rows in CUDA graphs: sorted embeddings, masks drawn in place, norms of sums, the last layer with its loss, checks of labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.errors import RangeError

F = nn.functional


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.norm = nn.Embedding(90, 16, padding_idx=2), nn.Linear(16, 16), nn.LayerNorm(16)
        self.second, self.walk, self.dropout = nn.RMSNorm(16), nn.LSTM(16, 16), nn.Dropout(0.2)

    def forward(self, words: Any, targets: Any) -> Any:
        x = self.table(words)
        branch = self.dropout(self.first(x))
        x, y = F.add_layer_norm(x, branch, self.norm.normalized_shape, self.norm.weight, self.norm.bias)
        y = F.dropout2d(y.unsqueeze(0), 0.1, self.training).squeeze(0)
        y = self.walk(self.second(y))[0] + F.softmax(x, -1) + F.gelu(y)
        return F.linear_cross_entropy(y, self.table.weight, targets, ignore_index=3, label_smoothing=0.1)


@pytest.fixture(autouse=True)
def fast(standins: None) -> Iterator[None]:
    before = phalanx.kernels.chosen()
    phalanx.kernels.choose("fast")
    yield
    phalanx.kernels.choose(before)


def trained(device: str, captured: bool, wrong: int | None = None) -> tuple[list[float], bytes, Any]:
    phalanx.manual_seed(0)
    model = Words().to(device)
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)

    def learn(words: Any, targets: Any) -> Any:
        loss = model(words, targets)
        loss.backward()
        return loss

    step: Any = phalanx.capture(learn) if captured else learn
    random, losses = np.random.default_rng(0), []
    for number in range(7):
        words, targets = random.integers(0, 90, (2, 5, 8))
        if number == wrong:
            targets[1, 2] = 90
        optimizer.zero_grad()
        losses.append(step(phalanx.tensor(words).to(device), phalanx.tensor(targets).to(device)))
        optimizer.step()
    return [loss.item() for loss in losses], model.table.weight.detach().cpu().numpy().tobytes(), step


def test_a_graph_gives_the_bits_of_the_step(device: str) -> None:
    found, expected = trained(device, True), trained(device, False)
    assert found[:2] == expected[:2]
    assert found[2].graphs == 5 and found[2].why is None
    assert len(set(found[0])) == len(found[0])


def test_a_wrong_label_in_a_graph_is_said(device: str) -> None:
    with pytest.raises(
        RangeError, match=r"linear_cross_entropy: label 90 at position \(1, 2\) is out of range \[0, 90\)"
    ):
        trained(device, True, wrong=5)
    trained(device, True)
