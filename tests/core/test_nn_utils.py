"""Parameters as a vector, weight norm and spectral norm, beside PyTorch's."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.errors import RangeError, ShapeError

pytest.importorskip("torch")

from tests.core.test_layers import close, compare, pair, torch

pytestmark = pytest.mark.torch


def test_vector_and_back() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    vector = nn.utils.parameters_to_vector(model.parameters())
    theirs = torch.nn.utils.parameters_to_vector([torch.tensor(p.detach().numpy()) for p in model.parameters()])
    np.testing.assert_array_equal(vector.detach().numpy(), theirs.numpy())
    (vector * vector).sum().backward()
    np.testing.assert_allclose(model[0].weight.grad.numpy(), 2 * model[0].weight.detach().numpy())
    optimizer = optim.SGD(model.parameters(), lr=1.0)  # values go into the optimizer's store
    nn.utils.vector_to_parameters(phalanx.arange(24.0), model.parameters())
    assert model[0].weight.tolist() == np.arange(12.0).reshape(4, 3).tolist()
    assert model[1].weight.tolist() == np.arange(16.0, 24.0).reshape(2, 4).tolist()
    model.zero_grad()
    model[1].weight.sum().backward()
    optimizer.step()
    assert model[1].weight.tolist() == np.arange(15.0, 23.0).reshape(2, 4).tolist()
    with pytest.raises(ShapeError, match="24 elements"):
        nn.utils.vector_to_parameters(phalanx.arange(23.0), model.parameters())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_is_torchs(dim: int | None) -> None:
    for build, shape in [
        (lambda nn: nn.utils.weight_norm(nn.Linear(4, 3), dim=dim), (5, 4)),
        (lambda nn: nn.utils.weight_norm(nn.Conv1d(4, 3, 2), dim=dim), (2, 4, 6)),
    ]:
        mine, theirs = pair(build, np.float64)
        compare(mine, theirs, [np.random.default_rng(1).standard_normal(shape)], np.float64)


def test_weight_norm_trains_copies_and_goes_away() -> None:
    layer = nn.utils.weight_norm(nn.Linear(4, 3))
    x = phalanx.randn(5, 4)
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    before = layer(x).detach().numpy().copy()
    (layer(x) ** 2).sum().backward()
    optimizer.step()
    after = layer(x).detach().numpy()
    assert not np.allclose(before, after)
    np.testing.assert_array_equal(copy.deepcopy(layer)(x).detach().numpy(), after)
    plain = nn.utils.remove_weight_norm(layer)
    assert sorted(plain.state_dict()) == ["bias", "weight"]
    close(plain(x), torch.tensor(after), np.float32, "output")
    for wrong in (lambda: nn.utils.remove_weight_norm(plain), lambda: nn.utils.weight_norm(plain, "gain")):
        with pytest.raises(RangeError, match="weight_norm"):
            wrong()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("iterations", [1, 3])
def test_spectral_norm_is_torchs(iterations: int) -> None:
    for build, shape in [
        (lambda nn: nn.utils.spectral_norm(nn.Linear(4, 3), n_power_iterations=iterations), (5, 4)),
        (lambda nn: nn.utils.spectral_norm(nn.Conv2d(4, 3, 2), n_power_iterations=iterations), (2, 4, 3, 3)),
        (lambda nn: nn.utils.spectral_norm(nn.ConvTranspose1d(4, 3, 2), n_power_iterations=iterations), (2, 4, 3)),
        (lambda nn: nn.utils.spectral_norm(nn.Linear(4, 3, bias=False), dim=1), (5, 4)),
    ]:
        mine, theirs = pair(build, np.float64)
        generator = np.random.default_rng(1)
        for mode in (True, True, False):  # the vectors go on from forward to forward in training
            mine.train(mode)
            theirs.train(mode)
            compare(mine, theirs, [generator.standard_normal(shape)], np.float64)
        for key, tensor in theirs.state_dict().items():
            close(mine.state_dict()[key], tensor, np.float64, key)


def test_spectral_norm_is_one_copies_and_goes_away() -> None:
    layer = nn.utils.spectral_norm(nn.Linear(6, 5))
    x = phalanx.randn(3, 6)
    for _ in range(200):
        layer(x)
    assert np.linalg.svd(layer.weight.numpy(), compute_uv=False)[0] == pytest.approx(1.0, rel=1e-3)
    twin = copy.deepcopy(layer)
    twin(x)
    assert twin.weight_u is not layer.weight_u
    layer.eval()
    y = layer(x).detach()
    plain = nn.utils.remove_spectral_norm(layer)
    close(plain(x), torch.tensor(y.numpy()), np.float32, "output")
    assert list(plain.state_dict()) == ["bias", "weight"] and not plain.training
    for wrong in (
        lambda: nn.utils.remove_spectral_norm(plain),
        lambda: nn.utils.spectral_norm(plain, "gain"),
        lambda: nn.utils.spectral_norm(nn.BatchNorm1d(3)),
        lambda: nn.utils.spectral_norm(plain, n_power_iterations=0),
    ):
        with pytest.raises(RangeError, match="spectral_norm"):
            wrong()
