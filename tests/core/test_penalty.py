"""Penalties per layer: values, weights, and the gradient of mean loss + penalty on any number of shards, once."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.errors import RangeError
from phalanx.data import DataLoader, TensorDataset
from phalanx.dist.communicators.threads import run_threads


def penalized() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model[0].register_penalty("weight", nn.L2(0.3))
    model[2].register_penalty("weight", nn.L1L2(0.1, 0.2))
    model[2].register_penalty("bias", nn.L1(0.05))
    return model


def expected(model: nn.Sequential) -> float:
    first, second, bias = (p.numpy(force=True) for p in (model[0].weight, model[2].weight, model[2].bias))
    return 0.3 * (first**2).sum() + 0.1 * np.abs(second).sum() + 0.2 * (second**2).sum() + 0.05 * np.abs(bias).sum()


def test_the_sum_of_all_layers() -> None:
    model = penalized()
    assert model.penalty().item() == pytest.approx(expected(model), rel=1e-5)
    twin = copy.deepcopy(model)
    assert twin.penalty().item() == model.penalty().item()
    model[2].requires_grad_(False)
    assert model.penalty().item() == pytest.approx(0.3 * (model[0].weight.numpy(force=True) ** 2).sum(), rel=1e-5)
    model[0].register_penalty("weight", None)
    assert model.penalty() is None and nn.Linear(2, 2).penalty() is None
    twin[2] = nn.Identity()
    assert twin.penalty().item() == pytest.approx(0.3 * (twin[0].weight.numpy(force=True) ** 2).sum(), rel=1e-5)


def test_gradients() -> None:
    model = penalized()
    model.penalty().backward()
    second = model[2].weight.numpy(force=True)
    np.testing.assert_allclose(model[2].weight.grad.numpy(), 0.1 * np.sign(second) + 0.4 * second, rtol=1e-5)
    np.testing.assert_allclose(model[0].weight.grad.numpy(), 0.6 * model[0].weight.numpy(force=True), rtol=1e-5)
    assert model[0].bias.grad is None


def test_a_sum_keeps_the_weight_of_the_loss() -> None:
    model = penalized()
    loss = nn.MSELoss()(model(phalanx.ones(5, 3)), phalanx.zeros(5, 2))
    penalty = model.penalty()
    kept = [loss + penalty, penalty + loss, loss - penalty, loss / 2 + 3 * penalty, sum([loss, penalty, penalty])]
    assert [x.weight for x in kept] == [5.0] * len(kept)
    assert penalty.weight == (2 * penalty + 1).weight == nn.L1L2()(model[0].weight).weight == 0.0
    nothing = nn.CrossEntropyLoss(ignore_index=0)(model(phalanx.ones(2, 3)), phalanx.tensor([0, 0]))
    assert (nothing + penalty).weight == 0.0
    unknown = model(phalanx.ones(5, 3)).sum()
    assert (unknown + penalty).weight is None

    model[0].register_penalty("weight", lambda w: (w**4).sum())  # a user's own
    assert (loss + model.penalty()).weight == 5.0


def test_wrong_use() -> None:
    for build, words in (
        (lambda: nn.L2(-1.0), "l2"),
        (lambda: nn.L1(float("nan")), "l1"),
        (lambda: nn.L1L2(0.1, "0.2"), "l2"),
        (lambda: nn.Linear(2, 2).register_penalty("kernel", nn.L2(0.1)), "no parameter 'kernel'"),
        (lambda: nn.Linear(2, 2, bias=False).register_penalty("bias", nn.L2(0.1)), "no parameter 'bias'"),
    ):
        with pytest.raises(RangeError, match=words):
            build()
    assert repr(nn.L1(0.5)) == "L1(l1=0.5, l2=0.0)" and nn.L2(0.5) == nn.L2(0.5) != nn.L1L2(l2=0.5)


def gradients(shards: int | None, apart: bool, samples: int = 7):
    """The gradients of one step over all samples, whose labels are partly ignored: shards of unequal weight."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, samples)
    labels[[1, 4]] = -100
    x = phalanx.tensor(rng.standard_normal((samples, 3)).astype(np.float32))
    phalanx.init(shards=shards, seed=4)
    try:
        model = phalanx.DataParallel(penalized())
        optimizer = optim.SGD(model.parameters(), lr=0.0)
        for step in DataLoader(TensorDataset(x, phalanx.tensor(labels)), batch_size=samples).steps():
            optimizer.zero_grad()
            for inputs, targets in step:
                loss = nn.CrossEntropyLoss()(model(inputs), targets)
                if apart:
                    loss.backward()
                    model.penalty().backward()
                else:
                    (loss + model.penalty()).backward()
            optimizer.step()
        return {name: p.grad.numpy().copy() for name, p in model.named_parameters()}, model.step_loss
    finally:
        phalanx.shutdown()


@pytest.mark.parametrize("apart", [False, True])
def test_once_over_all_shards(apart: bool) -> None:
    """Mean loss + penalty, exactly once, whatever the shards; equal bits on any number of ranks."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole, loss = gradients(None, False)
        for shards in (1, 2, 4):
            (found,) = run_threads(lambda s=shards: gradients(s, apart), 1, timeout_s=20)
            for name, gradient in whole.items():
                np.testing.assert_allclose(
                    found[0][name], gradient, rtol=1e-5, atol=1e-6, err_msg=f"{shards} shards, {name}"
                )
            assert apart or found[1] == pytest.approx(loss, rel=1e-5)
            for other in run_threads(lambda s=shards: gradients(s, apart), 2, timeout_s=20):
                assert all(np.array_equal(other[0][name], found[0][name]) for name in whole) and other[1] == found[1]
