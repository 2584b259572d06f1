"""Training on the device beside PyTorch, from equal weights: losses over steps, of four models. On a GPU PyTorch's runs there too."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

import phalanx
from tests.jobs import ROOT

torch = pytest.importorskip("torch") if importlib.util.find_spec("torch") else None
pytestmark = [pytest.mark.torch, pytest.mark.skipif(torch is None, reason="PyTorch is not installed")]
STEPS = 12
TOLERANCE = {False: 2e-4, True: 3e-2}
"""Of the loss, relative: in float32 and in bfloat16."""


@pytest.fixture
def models(monkeypatch):
    """benchmarks/gpu_models.py, which builds each model for either library."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_models

    yield gpu_models
    for name in ("gpu_models", "models"):
        sys.modules.pop(name, None)


def losses(models, name, library, device, capture=False):
    """Of some steps of a small form, without dropout."""
    case = models.CASES[name]
    size, root = case.small, library.root
    model = case.build(library, size)
    models.fill(library, model)
    model = model.to(device).eval()
    optimizer = case.optimizer(library, model)
    draw = np.random.default_rng(0)
    given = [[root.tensor(part).to(device) for part in case.batch(draw, size)] for _ in range(2)]

    def step(x, y):
        optimizer.zero_grad()
        with models.on(library, device, case.half):
            loss = case.loss(library, model, x, y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    step = root.capture(step) if capture else step
    return [float(step(*given[n % 2])) for n in range(STEPS)]


@pytest.mark.parametrize("name", ["mlp", "cnn", "lstm", "vae", "gpt2", "resnet50"])
def test_equal_losses(device, models, name):
    ours, theirs = models.Library("phalanx"), models.Library("torch")
    there = "cuda" if torch.cuda.is_available() else "cpu"
    expected = losses(models, name, theirs, there)
    phalanx.kernels.choose("fast")
    found = losses(models, name, ours, device)
    assert np.allclose(found, expected, rtol=TOLERANCE[models.CASES[name].half]), (found, expected)
    assert losses(models, name, ours, device, capture=True) == found
