"""Layers that end residual branches: on a device the sum and the norm behind it are one pass, and nobody can tell."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn


def layers(kind: str, norm_first: bool) -> Any:
    phalanx.manual_seed(2)
    options = {"dim_feedforward": 24, "dropout": 0.1, "norm_first": norm_first, "batch_first": True}
    if kind == "encoder":
        return nn.TransformerEncoderLayer(16, 2, **options)
    return nn.TransformerDecoderLayer(16, 2, **options)


def trained(kind: str, norm_first: bool, device: str, hook: bool = False) -> tuple[list[np.ndarray], int]:
    layer = layers(kind, norm_first).to(device)
    heard: list[Any] = []
    if hook:
        layer.norm2.register_forward_hook(lambda *call: heard.append(call))
    x = phalanx.randn(2, 5, 16).to(device).requires_grad_()
    inputs = (x,) if kind == "encoder" else (x, phalanx.ones(2, 3, 16, device=device))
    y = layer(*inputs)
    (y * y).sum().backward()
    arrays = [y, x.grad, *[p.grad for p in layer.parameters()]]
    return [a.detach().cpu().numpy() for a in arrays], len(heard)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_layers(device: str, kernels: str, kind: str, norm_first: bool) -> None:
    (found, _), (expected, _) = trained(kind, norm_first, device), trained(kind, norm_first, "cpu")
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm_first", [False, True])
def test_hooks_are_called(device: str, norm_first: bool) -> None:
    found, heard = trained("decoder", norm_first, device, hook=True)
    plain, _ = trained("decoder", norm_first, device)
    assert heard == 1
    for a, b in zip(found, plain, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(8), nn.LayerNorm((2, 8), bias=False), nn.RMSNorm(8), nn.RMSNorm(8, 1e-3, False)]
)
def test_one_pass_has_the_bits_of_two(device: str, norm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fusion = importlib.import_module("phalanx.core.nn.fusion_norm")
    norm, results = norm.to(device), []
    for together in (True, False):
        if not together:
            monkeypatch.setattr(fusion, "is_plain", lambda module: False)
        phalanx.manual_seed(1)
        x, branch = (phalanx.randn(3, 2, 8, device=device, requires_grad=True) for _ in range(2))
        both, normed = fusion.summed(x, branch, norm)
        (both * 0.3 + normed * normed).sum().backward()
        results.append([a.detach().cpu().numpy().tobytes() for a in (both, normed, x.grad, branch.grad)])
    assert results[0][:2] == results[1][:2]
    a, b = (np.frombuffer(each, np.float32) for each in (results[0][2], results[1][2]))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
