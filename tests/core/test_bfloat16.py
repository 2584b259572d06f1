"""bfloat16: every op computes in float32 and rounds once; promotion, printing, modules and optimizers know the dtype."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.graph import unbroadcast
from phalanx.core.hashing import hash_array
from phalanx.core.op import TABLE
from phalanx.core.tensor import Tensor
from tests.core.op_cases import Case
from tests.core.op_cases_all import CASES
from tests.core.test_ops import every, run, tensors_of

BFLOAT16 = phalanx.bfloat16
FLOATING = [case for case in CASES if any(isinstance(x, np.ndarray) and x.dtype == np.float64 for x in case.inputs)]
OF_GPT_AND_RESNET = frozenset(
    "linear matmul attention softmax cross_entropy layer_norm embedding gelu add mul conv2d batch_norm_train relu max_pool2d".split()  # noqa: SIM905
)


def rounded(x: Any) -> Any:
    """float64 arrays of a case as bfloat16."""
    return x.astype(BFLOAT16) if isinstance(x, np.ndarray) and x.dtype == np.float64 else x


def wide(x: Any, dtype: Any = np.float32) -> Any:
    return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype == BFLOAT16 else x


def both(case: Case, arrays: list[Any]) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Outputs, and gradients of the wanted inputs for gradients of the outputs that bfloat16 can hold."""
    tensors = tensors_of(case, arrays)
    outputs = run(case, tensors)
    random = np.random.default_rng(5)
    for out in outputs:
        if out.requires_grad:
            seed = random.normal(size=out.shape).astype(BFLOAT16).astype(out.dtype)
            out.backward(Tensor(np.asarray(seed)), retain_graph=True)
    found = [None if tensors[i].grad is None else tensors[i].grad.array for i in case.wanted()]
    return [out.array for out in outputs], found


@every([case for case in FLOATING if case.op not in ("cast", "nextafter")])
def test_every_op_rounds_once(case: Case) -> None:
    """What comes out has the bits of the float32 result, rounded; gradients of a single pass too."""
    arrays = [rounded(x) for x in case.inputs]
    outputs, gradients = both(case, arrays)
    exact, exact_gradients = both(case, [wide(x) for x in arrays])
    graded = TABLE[case.op].differentiable
    first = next(x for x in arrays if isinstance(x, np.ndarray) and x.dtype.kind in "fV")
    assert first.dtype == BFLOAT16
    for index, (ours, theirs) in enumerate(zip(outputs, exact, strict=True)):
        if theirs.dtype == np.float32 and (graded is None or index in graded):
            assert ours.dtype == BFLOAT16
        np.testing.assert_array_equal(wide(ours), theirs.astype(ours.dtype).astype(wide(ours).dtype))
    if len(outputs) > 1:  # several passes add up, each rounded
        return
    for mine, its in zip(gradients, exact_gradients, strict=True):
        assert (mine is None) == (its is None)
        if mine is not None and its is not None:
            assert mine.dtype == BFLOAT16
            np.testing.assert_array_equal(wide(mine), wide(its.astype(BFLOAT16)))


@every([case for case in FLOATING if case.op in OF_GPT_AND_RESNET])
def test_close_to_float64(case: Case) -> None:
    arrays = [rounded(x) for x in case.inputs]
    outputs, gradients = both(case, arrays)
    exact, exact_gradients = both(case, [wide(x, np.float64) for x in arrays])
    for mine, its in zip([*outputs, *gradients], [*exact, *exact_gradients], strict=True):
        if mine is not None and its is not None:
            largest = float(np.abs(its).max(initial=0))
            np.testing.assert_allclose(wide(mine, np.float64), its, rtol=2**-7, atol=2**-8 * largest + 1e-30)


def test_what_moves_elements_gives_views() -> None:
    x = phalanx.ones(2, 3, dtype=BFLOAT16)
    x.reshape(3, 2)[0, 0] = 5.0
    x.t()[2, 1] = 7.0
    assert x.tolist() == [[5.0, 1.0, 1.0], [1.0, 1.0, 7.0]]


def test_sums_are_made_in_float32() -> None:
    ones = phalanx.ones(10_000, dtype=BFLOAT16)
    assert ones.sum().item() == 9984.0 and ones.mean().item() == 1.0  # the nearest that 8 bits hold
    row = np.ones((3000, 2), BFLOAT16)
    assert unbroadcast(row, (2,)).tolist() == [3008.0, 3008.0]


@pytest.mark.parametrize(
    ("other", "expected"),
    [("float16", "float32"), ("float32", "float32"), ("float64", "float64"), ("int64", "bfloat16"), ("bool", "bfloat16")],
)  # fmt: skip
def test_promotion(other: str, expected: str) -> None:
    a, b = phalanx.ones(2, dtype="bfloat16"), phalanx.ones(2).to(other)
    assert phalanx.promote_types("bfloat16", other).name == expected
    assert (a + b).dtype.name == (b * a).dtype.name == expected
    assert (a * 2.5).dtype == (2 - a).dtype == (a / 3).dtype == (a + phalanx.tensor(2.5)).dtype == BFLOAT16


def test_conversions() -> None:
    x = phalanx.tensor([1.0, 2.5, -0.1], requires_grad=True)
    y = x.bfloat16()
    assert y.dtype == x.to(phalanx.bfloat16).dtype == phalanx.zeros(2, dtype="bfloat16").dtype == BFLOAT16
    assert y.is_floating_point() and y.is_signed() and y.element_size() == 2
    y.sum().backward()
    assert x.grad is not None and x.grad.dtype == np.float32
    assert repr(y.detach()) == "tensor([ 1.    ,  2.5   , -0.1001], dtype=bfloat16)"
    assert y.tolist()[1] == 2.5 and isinstance(y[0].item(), float)
    limits = phalanx.finfo(BFLOAT16)
    assert float(limits.eps) == 2**-7 and limits.bits == 16
    assert y.half().dtype == np.float16 and y.float().numpy(force=True).dtype == np.float32
    y = phalanx.nan_to_num(phalanx.tensor([float("inf"), float("nan")], dtype=BFLOAT16))
    assert y.tolist() == [float(limits.max), 0.0]


def test_in_place() -> None:
    x = phalanx.ones(3, dtype=BFLOAT16)
    x += 0.5
    x.mul_(phalanx.tensor([2.0, 3.0, 4.0])).add_(phalanx.ones(3, dtype=BFLOAT16), alpha=0.25)
    x[0] = 7
    assert x.tolist() == [7.0, 4.75, 6.25] and x.dtype == BFLOAT16
    assert phalanx.empty(1000, dtype=BFLOAT16).normal_().std().item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("make", [
    lambda p: optim.SGD(p, 0.1, momentum=0.9), lambda p: optim.Adam(p, 1e-2), lambda p: optim.LAMB(p, 5e-2),
    lambda p: optim.Lion(p, 1e-3),
])  # fmt: skip
def test_a_model_in_bfloat16_learns(make: Any) -> None:
    phalanx.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4))
    model.bfloat16()
    x, y = phalanx.randn(16, 1, 8, 8).bfloat16(), phalanx.arange(16) % 4
    optimizer = make(model.parameters())
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert all(p.dtype == p.grad.dtype == BFLOAT16 for p in model.parameters())
    assert model[1].running_mean.dtype == BFLOAT16


def test_an_update_is_rounded_once() -> None:
    """The update of bfloat16 parameters is that of float32, rounded."""
    start = np.random.default_rng(0).normal(size=1000).astype(BFLOAT16)
    slope = np.random.default_rng(1).normal(size=1000).astype(BFLOAT16)
    low, high = nn.Parameter(Tensor(start)), nn.Parameter(Tensor(start.astype(np.float32)))
    for parameter, gradient in ((low, slope), (high, slope.astype(np.float32))):
        optimizer = optim.AdamW([parameter], lr=0.01)
        parameter.grad = Tensor(gradient.copy())
        optimizer.step()
    np.testing.assert_array_equal(low.array, high.array.astype(BFLOAT16))


def test_message_without_the_package() -> None:
    code = "import sys; sys.modules['ml_dtypes'] = None; import phalanx; phalanx.zeros(2, dtype='bfloat16')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "bfloat16 needs the package ml_dtypes" in done.stderr and "phalanx[bf16]" in done.stderr


def test_nothing_loads_it_unasked() -> None:
    code = "import phalanx, sys; (phalanx.ones(2) + 1).sum(); print('ml_dtypes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "False", done.stderr


def test_files_keep_it(tmp_path: Path) -> None:
    model = nn.Linear(3, 2).bfloat16()
    phalanx.save(model.state_dict(), tmp_path / "low.safetensors")
    state = phalanx.load(tmp_path / "low.safetensors")
    assert state["weight"].dtype == BFLOAT16
    other, wide = nn.Linear(3, 2).bfloat16(), nn.Linear(3, 2)
    other.load_state_dict(state)
    wide.load_state_dict(state)
    assert phalanx.equal(other.weight, model.weight) and phalanx.equal(wide.weight, model.weight.float())
    assert hash_array(other.weight.array) == hash_array(model.weight.array)
