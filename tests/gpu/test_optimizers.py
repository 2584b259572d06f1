"""Every optimizer on the device as on the CPU, its state, clipping and averages included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from tests.core.test_optimizers import OWN, RUNS, gradients, groups, start

STEPS = 12
CASES: dict[str, tuple[str, Any]] = {
    **{
        f"{name} {'-'.join(options)}": (name, lambda p, n=name, o=options: getattr(optim, n)(groups(p), **o))
        for name, options in RUNS
    },
    **{name: (name, lambda p, m=make: m(groups(p), lr=0.01, weight_decay=0.1)) for name, (make, _) in OWN.items()},
}


def trained(name: str, make: Any, device: str, dtype: Any) -> tuple[list[np.ndarray], Any]:
    """Parameters after some steps in host memory, and the optimizer."""
    arrays = start(name, dtype)
    parameters = [nn.Parameter(phalanx.tensor(a).to(device)) for a in arrays]
    optimizer = make(parameters)
    for step in gradients(arrays, STEPS):
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = phalanx.tensor(gradient).to(device)
        optimizer.step()
        assert all(p.device == device for p in parameters)
    return [p.detach().cpu().numpy() for p in parameters], optimizer


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_trajectory_is_the_cpus(case: str, dtype: Any, device: str) -> None:
    name, make = CASES[case]
    expected, there = trained(name, make, "cpu", dtype)
    found, here = trained(name, make, device, dtype)
    tolerance = 2e-5 if dtype is np.float32 else 1e-9
    if name == "Muon":
        tolerance *= 100  # Newton-Schulz multiplies rounding
    for value, reference in zip(found, expected, strict=True):
        assert value.dtype == dtype
        np.testing.assert_allclose(value, reference, rtol=tolerance, atol=tolerance)
    saved, known = here.state_dict(), there.state_dict()
    assert saved["state"].keys() == known["state"].keys()
    for index, entry in known["state"].items():
        assert saved["state"][index].keys() == entry.keys()
        for key, value in entry.items():
            if hasattr(value, "shape"):
                mine = saved["state"][index][key]
                mine = (
                    mine.cpu().numpy()
                    if isinstance(mine, phalanx.Tensor)
                    else mine.get()
                    if hasattr(mine, "get")
                    else mine
                )
                other = value.numpy() if isinstance(value, phalanx.Tensor) else value
                np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance, err_msg=key)
    twin = make([nn.Parameter(phalanx.tensor(a).to(device)) for a in start(name, dtype)])
    twin.load_state_dict(known)
    other = make([nn.Parameter(phalanx.tensor(a)) for a in start(name, dtype)])
    other.load_state_dict(saved)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, np.inf])
def test_clipping(norm_type: float, device: str) -> None:
    norms, results = [], []
    for place in ("cpu", device):
        parameters = [nn.Parameter(phalanx.tensor(a).to(place)) for a in start(dtype=np.float32)]
        optimizer = optim.SGD(parameters, lr=1.0)
        for parameter, gradient in zip(parameters, next(gradients(start(dtype=np.float32))), strict=True):
            parameter.grad = phalanx.tensor(gradient).to(place)
        norms.append(float(nn.utils.clip_grad_norm_(parameters, 0.5, norm_type)))
        optimizer.step()
        results.append([p.detach().cpu().numpy() for p in parameters])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    for value, reference in zip(*results, strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-5, atol=1e-6)


def test_values_are_clipped(device: str) -> None:
    parameter = nn.Parameter(phalanx.zeros(4, device=device))
    parameter.grad = phalanx.tensor([-3.0, 0.5, 2.0, 0.0], device=device)
    nn.utils.clip_grad_value_([parameter], 1.0)
    assert parameter.grad.tolist() == [-1.0, 0.5, 1.0, 0.0]


def test_average(device: str) -> None:
    averages = []
    for place in ("cpu", device):
        parameters = [nn.Parameter(phalanx.tensor(a).to(place)) for a in start(dtype=np.float32)]
        optimizer = optim.SGD(parameters, lr=0.1)
        average = optim.EMA(optimizer, decay=0.9)
        for step in gradients(start(dtype=np.float32), 5):
            for parameter, gradient in zip(parameters, step, strict=True):
                parameter.grad = phalanx.tensor(gradient).to(place)
            optimizer.step()
            average.update()
        with average.swapped():
            averages.append([p.detach().cpu().numpy().copy() for p in parameters])
    for value, reference in zip(*averages, strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-5, atol=1e-6)
