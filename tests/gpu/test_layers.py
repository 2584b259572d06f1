"""Every layer and loss on the device as on the CPU: outputs, gradients and state, in training and in evaluation."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn
from tests.core.layer_cases import LAYERS, MORE, SEQUENCES

CASES: dict[str, Any] = {**LAYERS, **MORE, **SEQUENCES}


def close(found: Any, expected: Any, what: str, rtol: float = 2e-5) -> None:
    assert found.device != "cpu", what
    value, reference = (
        found.numpy(force=True) if found.device == "cpu" else found.cpu().numpy(force=True),
        expected.numpy(force=True),
    )
    assert value.shape == reference.shape, what
    assert value.dtype == reference.dtype, what
    scale = max(1.0, float(np.abs(reference).max(initial=0.0)))
    np.testing.assert_allclose(value, reference, rtol=rtol, atol=rtol * scale, err_msg=what)


def tensors(value: Any) -> list[phalanx.Tensor]:
    """All tensors in a layer's result."""
    if isinstance(value, phalanx.Tensor):
        return [value]
    return [t for v in value for t in tensors(v)] if isinstance(value, tuple | list) else []


def inputs(makes: list[Any], device: str, seed: int) -> list[phalanx.Tensor]:
    """The same on any device; the first wants a gradient if it can."""
    random = np.random.default_rng(seed)
    found = []
    for index, make in enumerate(makes):
        array = make(random)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        tensor = phalanx.tensor(array).to(device)
        found.append(tensor.requires_grad_() if array.dtype.kind == "f" and not index else tensor)
    return found


def passed(layer: nn.Module, given: list[phalanx.Tensor], device: str) -> list[phalanx.Tensor]:
    """Outputs, behind a backward pass from gradients that are the same on any device."""
    layer.zero_grad()
    outputs = tensors(layer(*given))
    random = np.random.default_rng(3)
    for out in outputs:
        seed = random.standard_normal(out.shape).astype(np.float32)
        if out.requires_grad:
            out.backward(phalanx.tensor(seed).to(device), retain_graph=True)
    return outputs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_on_the_device_as_on_the_cpu(name: str, device: str) -> None:
    build, *makes = CASES[name]
    phalanx.manual_seed(11)
    layer = build(nn)
    twin = copy.deepcopy(layer).to(device)
    for turn, training in enumerate((True, True, False)):
        layer.train(training)
        twin.train(training)
        there, here = inputs(makes, device, turn), inputs(makes, "cpu", turn)
        expected, found = passed(layer, here, "cpu"), passed(twin, there, device)
        assert len(found) == len(expected)
        for index, (out, reference) in enumerate(zip(found, expected, strict=True)):
            close(out, reference, f"output {index}")
        if here[0].grad is not None:
            close(there[0].grad, here[0].grad, "gradient of the input", 1e-4)
        for (key, p), q in zip(twin.named_parameters(), layer.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None)
            if q.grad is not None:
                close(p.grad, q.grad, f"gradient of {key}", 1e-4)
    for key, tensor in twin.state_dict().items():
        close(tensor, layer.state_dict()[key], f"state {key}")
