"""Linear layers with bias, activation and bias gradient in the product, against float64; and what happens where cuBLASLt has none of it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn
from phalanx.core import backend
from phalanx.core.kernels import table
from phalanx.core.kernels.cuda import cublaslt, gemm, gemm_fused, products
from phalanx.core.trace import watched
from phalanx.nn import functional as F

ml_dtypes = pytest.importorskip("ml_dtypes")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
TYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16]
EPS = {"float32": 2e-6, "float64": 1e-14, "float16": 1e-3, "bfloat16": 8e-3}
RANDOM = np.random.default_rng(9)
ROOT = np.sqrt(2 / np.pi)


@pytest.fixture(autouse=True)
def fast_on_the_device(device: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins without plans."""
    monkeypatch.setattr(table, "_chosen", "fast")
    monkeypatch.setattr(table, "_kernels", {})
    products.context().plans.clear()
    yield


@pytest.fixture(params=["as it is", "nothing but products", "no bias gradient"])
def library(request: pytest.FixtureRequest) -> Iterator[str]:
    """What the library can do: where it is the host's it can be told to refuse epilogues; a real one is as it is."""
    refused = {"as it is": 0, "nothing but products": 0x3FE, "no bias gradient": 0x310}[request.param]
    switch = getattr(cublaslt.load(), "standin_refuse", None)
    if switch is None and refused:
        pytest.skip("a real cuBLASLt cannot be told to refuse")
    if switch is not None:
        switch(ctypes.c_uint(refused))
    yield request.param
    if switch is not None:
        switch(ctypes.c_uint(0))
    products.context().plans.clear()


def names(dtype: Any) -> str:
    return str(dtype.name)


def draw(*shape: int, dtype: Any = np.float32) -> Any:
    return backend.to_device(RANDOM.normal(size=shape).astype(dtype), "cuda")


def blank(*shape: int, dtype: Any = np.float32) -> Any:
    return backend.to_device(np.full(shape, np.nan, dtype), "cuda")


def host(array: Any) -> np.ndarray:
    return np.asarray(backend.to_host(array), np.float64)


def close(found: Any, expected: np.ndarray, dtype: Any, terms: int = 1) -> None:
    assert found.shape == expected.shape
    bound = 4 * EPS[np.dtype(dtype).name]
    np.testing.assert_allclose(host(found), expected, rtol=bound, atol=bound * max(1, terms) ** 0.5)


def epilogues() -> set[int]:
    return {plan.problem.epilogue for plan in products.context().plans.values() if plan is not None}


def gelu(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * x * (1 + np.tanh(ROOT * (x + 0.044715 * x**3))))


def gelu_slope(x: np.ndarray) -> np.ndarray:
    t = np.tanh(ROOT * (x + 0.044715 * x**3))
    return np.asarray(0.5 * (1 + t) + 0.5 * x * (1 - t * t) * ROOT * (1 + 3 * 0.044715 * x * x))


# ---- kernels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES, ids=names)
def test_linear_forward(dtype: Any, library: str) -> None:
    for shape, outputs in [((6, 3), 8), ((2, 1, 8), 7), ((4,), 5), ((0, 4), 3), ((3, 0), 2)]:
        x, weight, bias = draw(*shape, dtype=dtype), draw(outputs, shape[-1], dtype=dtype), draw(outputs, dtype=dtype)
        found = gemm.linear_forward(x, weight, bias)
        assert found.dtype == dtype
        close(found, host(x) @ host(weight).T + host(bias), dtype, shape[-1])
        close(gemm.linear_forward(x, weight), host(x) @ host(weight).T, dtype, shape[-1])
    if library == "as it is" and dtype != np.float64:
        assert epilogues() == {cublaslt.PLAIN, cublaslt.BIAS}


@pytest.mark.parametrize("dtype", TYPES, ids=names)
def test_linear_gradients(dtype: Any, library: str) -> None:
    slot_types = {dtype, np.dtype(np.float32)} if dtype != np.float64 else {dtype}
    for lead, outputs, inputs in [((6,), 8, 3), ((2, 5), 7, 8), ((), 5, 4), ((0,), 3, 4), ((3,), 2, 1)]:
        gradient, x, weight = (
            draw(*lead, outputs, dtype=dtype),
            draw(*lead, inputs, dtype=dtype),
            draw(outputs, inputs, dtype=dtype),
        )
        g, i = host(gradient).reshape(-1, outputs), host(x).reshape(-1, inputs)
        close(gemm.linear_input_gradient(gradient, weight), host(gradient) @ host(weight), dtype, outputs)
        out = blank(*x.shape, dtype=dtype)
        assert gemm.linear_input_gradient(gradient, weight, out) is out
        close(out, host(gradient) @ host(weight), dtype, outputs)
        dw, db = gemm_fused.linear_gradients(gradient, x)
        assert dw.dtype == db.dtype == dtype
        close(dw, g.T @ i, dtype, len(g))
        close(db, g.sum(0), dtype, len(g))
        for slot in slot_types:
            places = blank(outputs, inputs, dtype=slot), blank(outputs, dtype=slot)
            found = gemm_fused.linear_gradients(gradient, x, *places)
            assert found[0] is places[0] and found[1] is places[1]
            close(found[0], g.T @ i, slot, len(g))
            close(found[1], g.sum(0), slot if library == "as it is" else dtype, len(g))


@pytest.mark.parametrize("activation", ["gelu_tanh", "relu"])
@pytest.mark.parametrize("dtype", TYPES, ids=names)
def test_activations_and_their_slopes(dtype: Any, activation: str, library: str) -> None:
    for lead, inputs, hidden, outputs in [
        ((6,), 3, 8, 5),
        ((2, 5), 8, 136, 4),
        ((3,), 4, 7, 2),
        ((), 4, 16, 3),
        ((0,), 4, 8, 2),
    ]:
        x, weight, behind = (
            draw(*lead, inputs, dtype=dtype),
            draw(hidden, inputs, dtype=dtype),
            draw(outputs, hidden, dtype=dtype),
        )
        for bias in (draw(hidden, dtype=dtype), None):
            z = host(x) @ host(weight).T + (0 if bias is None else host(bias))
            y, aux = gemm_fused.linear_activation(x, weight, bias, activation, True)
            assert y.dtype == dtype
            close(y, gelu(z) if activation == "gelu_tanh" else np.maximum(z, 0), dtype, inputs)
            if activation == "gelu_tanh":
                close(aux, z, dtype, inputs)
            gradient = draw(*lead, outputs, dtype=dtype)
            slope = gelu_slope(host(aux)) if activation == "gelu_tanh" else host(y) > 0
            expected = host(gradient) @ host(behind) * slope
            for bias_out in (None, blank(hidden, dtype=dtype), blank(hidden)):
                dz, db = gemm_fused.linear_activation_input_gradient(gradient, behind, y, aux, activation, bias_out)
                close(dz, expected, dtype, outputs)
                assert db is None or bias_out is None or db is bias_out
                if db is not None:
                    close(db, expected.reshape(-1, hidden).sum(0), dtype, outputs * max(1, expected.size // hidden))
    if library == "as it is" and dtype != np.float64:
        slope_number = cublaslt.DGELU if activation == "gelu_tanh" else cublaslt.DRELU
        assert {slope_number, slope_number | cublaslt.BGRAD} & epilogues()


def test_what_the_reference_saved_fits_a_fast_backward_and_the_other_way_round() -> None:
    from phalanx.core.kernels import reference_linear

    x, weight, bias, behind, gradient = draw(6, 4), draw(8, 4), draw(8), draw(3, 8), draw(6, 3)
    for activation in ("gelu_tanh", "relu"):
        found = []
        for forward in (gemm_fused, reference_linear):
            for backward in (gemm_fused, reference_linear):
                y, aux = forward.linear_activation(x, weight, bias, activation, True)
                found.append(backward.linear_activation_input_gradient(gradient, behind, y, aux, activation)[0])
        for each in found[1:]:
            close(each, host(found[0]), np.float32, 4)


# ---- ops and layers --------------------------------------------------------------------------------------------------


def trained(build: Callable[[], Any], device: str, dtype: Any = "float32") -> list[np.ndarray]:
    """Losses and gradients of a few steps."""
    phalanx.manual_seed(2)
    net = build().to(device)
    x = phalanx.Tensor(np.random.default_rng(3).normal(size=(12, 16)).astype(np.float32)).to(device)
    optimizer, found = phalanx.optim.SGD(net.parameters(), lr=0.05), []
    for _ in range(3):
        optimizer.zero_grad()
        loss = (net(x) ** 2).sum()
        loss.backward()
        found += [loss.detach().cpu().numpy(), *(p.grad.cpu().numpy().copy() for p in net.parameters())]
        optimizer.step()
    return found


NETS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "gelu": (lambda: nn.Sequential(nn.Linear(16, 24), nn.GELU("tanh")), ["linear_gelu"]),
    "relu": (lambda: nn.Sequential(nn.Linear(16, 20, bias=False), nn.ReLU()), ["linear_relu"]),
    "feed-forward": (lambda: nn.Sequential(nn.Linear(16, 32), nn.GELU("tanh"), nn.Linear(32, 4)), ["feed_forward"]),
    "four layers": (
        lambda: nn.Sequential(
            nn.Linear(16, 40),
            nn.ReLU(),
            nn.Linear(40, 24, bias=False),
            nn.ReLU(),
            nn.Linear(24, 8),
            nn.ReLU(),
            nn.Linear(8, 3),
        ),
        ["feed_forward"],
    ),
    "two kinds": (
        lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU("tanh"), nn.Linear(8, 2)),
        ["feed_forward", "gelu", "linear"],
    ),
    "another gelu": (lambda: nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 2)), ["linear", "gelu", "linear"]),
    "frozen": (
        lambda: nn.Sequential(
            nn.Linear(16, 8).requires_grad_(False), nn.ReLU(), nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 2)
        ),
        ["feed_forward"],
    ),
}


@pytest.mark.parametrize("name", [name for name in NETS if name != "frozen"])
def test_layers_at_once_train_as_on_the_cpu(name: str, library: str) -> None:
    build, ops = NETS[name]
    seen: list[str] = []
    net, x = build().to("cuda"), phalanx.zeros(2, 16, device="cuda")
    with watched(lambda op, *rest: seen.append(op.name)):
        net(x)
    assert seen == ops
    for found, expected in zip(trained(build, "cuda"), trained(build, "cpu"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_frozen_layers_get_no_gradient() -> None:
    net = NETS["frozen"][0]().to("cuda")
    net(phalanx.randn(5, 16).to("cuda")).sum().backward()
    assert net[0].weight.grad is None and net[0].bias.grad is None
    assert net[2].weight.grad is not None and net[4].bias.grad is not None


def test_a_hooked_layer_is_called() -> None:
    net = NETS["feed-forward"][0]().to("cuda")
    calls: list[Any] = []
    net[1].register_forward_hook(lambda *_: calls.append(1))
    net(phalanx.zeros(2, 16, device="cuda"))
    assert calls


def test_gradients_go_straight_into_their_slots() -> None:
    net = NETS["feed-forward"][0]().to("cuda")
    phalanx.optim.SGD(net.parameters(), lr=0.1)
    x = phalanx.randn(6, 16).to("cuda")
    net(x).sum().backward()
    for parameter in net.parameters():
        assert parameter.grad.array is parameter._slot or parameter.grad.array.data.ptr == parameter._slot.data.ptr
    assert cublaslt.BGRAD_B in epilogues() and cublaslt.DGELU | cublaslt.BGRAD in epilogues()


def test_in_mixed_precision_gradients_are_float32_in_their_slots_and_not_rounded() -> None:
    phalanx.manual_seed(4)
    net = NETS["feed-forward"][0]().to("cuda")
    phalanx.optim.SGD(net.parameters(), lr=0.1)
    x = phalanx.randn(64, 16).to("cuda")
    with phalanx.autocast("cuda", dtype=phalanx.bfloat16):
        y = net(x)
    assert y.dtype == phalanx.bfloat16
    gradient = phalanx.randn(64, 4).to("cuda").to(phalanx.bfloat16)
    y.backward(gradient)
    low = [host(p.detach().to(phalanx.bfloat16).array) for p in net.parameters()]
    i, g = host(x.to(phalanx.bfloat16).array), host(gradient.array)
    z = i @ low[0].T + low[1]
    dz = g @ low[2] * gelu_slope(z)
    expected = [dz.T @ i, dz.sum(0), g.T @ gelu(z), g.sum(0)]
    for parameter, value, bound in zip(net.parameters(), expected, (4e-2, 4e-2, 4e-2, 1e-6), strict=True):
        assert parameter.grad.dtype == np.float32 and parameter.grad.array is parameter._slot
        np.testing.assert_allclose(host(parameter.grad.array), value, rtol=bound, atol=bound * np.abs(value).max())
    assert cublaslt.BGRAD_B in epilogues() and cublaslt.DGELU in epilogues()
    assert {(plan.problem.type_in, plan.problem.type_out) for plan in products.context().plans.values() if plan} == {
        (14, 14),
        (14, 0),
    }


def test_functions_say_what_does_not_fit() -> None:
    x, weight = phalanx.ones(2, 3, device="cuda"), phalanx.ones(4, 5, device="cuda")
    with pytest.raises(
        phalanx.core.errors.ShapeError, match=r"linear_gelu: the input's last dimension must be in_features=5"
    ):
        F.linear_gelu(x, weight)
    with pytest.raises(phalanx.core.errors.ShapeError, match=r"feed_forward expects a weight and a bias"):
        F.feed_forward(x, weight)
    with pytest.raises(phalanx.core.errors.RangeError, match=r"activation must be one of gelu_tanh, relu, got 'silu'"):
        F.feed_forward(x, weight.reshape(5, 4)[:, :3], None, weight.reshape(4, 5), None, activation="silu")


def test_the_library_is_the_one_that_the_variable_names() -> None:
    named = os.environ.get(cublaslt.VARIABLE)
    if named:
        assert cublaslt.load()._name == named
    assert table.describe("cuda").count(f"cuBLASLt {cublaslt.version()}") == 1
