"""Initial values: bounds, moments, keys, and PyTorch's numbers where they are no draw."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

import phalanx
from phalanx import nn
from phalanx.core.errors import RangeError, ShapeError
from phalanx.nn import init

SHAPE = (60, 40, 3, 3)
FAN_IN, FAN_OUT = 40 * 9, 60 * 9


def moments(tensor) -> tuple[float, float, float, float]:
    values = tensor.detach().numpy().astype(np.float64)
    return values.mean(), values.std(), values.min(), values.max()


def blank(*shape: int, dtype=np.float32):
    return phalanx.zeros(*shape, dtype=dtype)


UNIFORM = {
    "uniform_": (lambda t: init.uniform_(t, -2.0, 6.0), -2.0, 6.0),
    "xavier_uniform_": (lambda t: init.xavier_uniform_(t, gain=2.0), *(2 * math.sqrt(6 / (FAN_IN + FAN_OUT)),) * 2),
    "kaiming_uniform_": (init.kaiming_uniform_, *(math.sqrt(6 / FAN_IN),) * 2),
    "kaiming_uniform_ a": (lambda t: init.kaiming_uniform_(t, a=math.sqrt(5)), *(1 / math.sqrt(FAN_IN),) * 2),
    "kaiming_uniform_ fan_out relu": (
        lambda t: init.kaiming_uniform_(t, mode="fan_out", nonlinearity="relu"),
        *(math.sqrt(6 / FAN_OUT),) * 2,
    ),
    "glorot_uniform_": (init.glorot_uniform_, *(math.sqrt(6 / (FAN_IN + FAN_OUT)),) * 2),
    "he_uniform_": (init.he_uniform_, *(math.sqrt(6 / FAN_IN),) * 2),
    "lecun_uniform_": (init.lecun_uniform_, *(math.sqrt(3 / FAN_IN),) * 2),
    "kaiming_uniform_ tanh": (
        lambda t: init.kaiming_uniform_(t, nonlinearity="tanh"),
        *(5 / 3 * math.sqrt(3 / FAN_IN),) * 2,
    ),
}


@pytest.mark.parametrize("name", UNIFORM)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_uniform_families(name: str, dtype) -> None:
    phalanx.manual_seed(5)
    fill, low, high = UNIFORM[name]
    low = low if low < 0 else -high
    tensor = blank(*SHAPE, dtype=dtype)
    assert fill(tensor) is tensor and tensor.dtype == dtype
    mean, std, least, most = moments(tensor)
    span, count = high - low, math.prod(SHAPE)
    slack = 1e-3 * span
    assert low - slack <= least < low + slack and high - slack < most <= high + slack
    assert abs(mean - (low + high) / 2) < 5 * span / math.sqrt(12 * count) + slack / 10
    assert abs(std - span / math.sqrt(12)) < 0.01 * span
    assert tensor.requires_grad is False


NORMAL = {
    "normal_": (lambda t: init.normal_(t, 3.0, 0.5), 3.0, 0.5),
    "xavier_normal_": (init.xavier_normal_, 0.0, math.sqrt(2 / (FAN_IN + FAN_OUT))),
    "kaiming_normal_": (init.kaiming_normal_, 0.0, math.sqrt(2 / FAN_IN)),
    "variance_scaling_": (
        lambda t: init.variance_scaling_(t, 3.0, "fan_out", "untruncated_normal"),
        0.0,
        math.sqrt(3 / FAN_OUT),
    ),
    "kaiming_normal_ leaky": (lambda t: init.kaiming_normal_(t, a=1.0, mode="fan_out"), 0.0, math.sqrt(1 / FAN_OUT)),
}


@pytest.mark.parametrize("name", NORMAL)
def test_normal_families(name: str) -> None:
    phalanx.manual_seed(5)
    fill, expected_mean, expected_std = NORMAL[name]
    tensor = blank(*SHAPE)
    assert fill(tensor) is tensor
    mean, std, *_ = moments(tensor)
    assert abs(mean - expected_mean) < 5 * expected_std / math.sqrt(math.prod(SHAPE))
    assert abs(std / expected_std - 1) < 0.02
    z = (tensor.numpy() - expected_mean) / expected_std
    assert abs((np.abs(z) < 1).mean() - 0.6827) < 0.01 and 3.5 < max(-z.min(), z.max()) < 6.5


def test_trunc_normal() -> None:
    phalanx.manual_seed(5)
    tensor = init.trunc_normal_(blank(200, 500), mean=1.0, std=2.0, a=-1.0, b=2.0)
    mean, std, least, most = moments(tensor)
    # scipy.stats.truncnorm(-1, 0.5, 1, 2): mean 0.5802..., std 0.8163...; from phi and Phi:
    phi = [math.exp(-z * z / 2) / math.sqrt(2 * math.pi) for z in (-1.0, 0.5)]
    mass = (math.erf(0.5 / math.sqrt(2)) - math.erf(-1 / math.sqrt(2))) / 2
    shift = (phi[0] - phi[1]) / mass
    variance = 1 + (-1.0 * phi[0] - 0.5 * phi[1]) / mass - shift**2
    assert -1.0 <= least < -0.99 and 1.99 < most <= 2.0
    assert abs(mean - (1 + 2 * shift)) < 0.01 and abs(std - 2 * math.sqrt(variance)) < 0.01


@pytest.mark.parametrize(
    ("fill", "variance"),
    [
        (init.glorot_normal_, 2 / (FAN_IN + FAN_OUT)),
        (init.he_normal_, 2 / FAN_IN),
        (init.lecun_normal_, 1 / FAN_IN),
        (lambda t: init.variance_scaling_(t, 0.5, "fan_out"), 0.5 / FAN_OUT),
    ],
)
def test_truncated_families(fill, variance: float) -> None:
    """Keras's: cut at two standard deviations, which are widened so that the variance is the wanted one."""
    phalanx.manual_seed(5)
    mean, std, least, most = moments(fill(blank(*SHAPE)))
    wanted = math.sqrt(variance)
    assert abs(mean) < 5 * wanted / math.sqrt(math.prod(SHAPE)) and abs(std / wanted - 1) < 0.02
    assert 2.2 < max(-least, most) / wanted < 2.0 / 0.8796 + 1e-3


def test_sparse() -> None:
    phalanx.manual_seed(5)
    matrix = init.sparse_(blank(40, 300), 0.3, std=2.0).numpy()
    assert ((matrix == 0).sum(axis=0) == 12).all()
    assert abs(matrix[matrix != 0].std() - 2.0) < 0.1
    assert (matrix == 0).mean(axis=1).min() > 0.2 and (matrix == 0).mean(axis=1).max() < 0.4  # rows by lot


@pytest.mark.torch
@pytest.mark.parametrize(("shape", "groups"), [((4, 3, 3), 1), ((6, 3, 3, 2), 2), ((2, 5, 1, 4, 3), 1)])
def test_dirac_is_torchs(shape: tuple[int, ...], groups: int) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.nn.init.dirac_(torch.zeros(shape), groups).numpy()
    assert np.array_equal(init.dirac_(blank(*shape), groups).numpy(), theirs)


def test_normal_quantile_inverts_the_distribution_function() -> None:
    from phalanx.core.nn.quantile import normal_quantile

    z = np.linspace(-6, 6, 241)
    p = np.array([(1 + math.erf(x / math.sqrt(2))) / 2 for x in z])
    assert np.abs(normal_quantile(p) - z).max() < 1e-6


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (4, 2, 3)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    matrix = init.orthogonal_(blank(*shape, dtype=np.float64), gain=2.0).numpy().reshape(shape[0], -1)
    product = matrix @ matrix.T if shape[0] <= matrix.shape[1] else matrix.T @ matrix
    assert np.allclose(product, 4 * np.eye(len(product)), atol=1e-10)


def test_constants() -> None:
    assert init.ones_(blank(2)).tolist() == [1.0, 1.0]
    assert init.zeros_(phalanx.ones(2)).tolist() == [0.0, 0.0]
    assert init.constant_(blank(2), 0.25).tolist() == [0.25, 0.25]
    assert init.eye_(blank(2, 3)).tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


@pytest.mark.torch
def test_gains_as_in_torch() -> None:
    torch = pytest.importorskip("torch")
    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"):
        assert init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
    assert init.calculate_gain("leaky_relu", 0.3) == pytest.approx(torch.nn.init.calculate_gain("leaky_relu", 0.3))


def test_errors() -> None:
    with pytest.raises(RangeError, match="'swish'"):
        init.calculate_gain("swish")
    with pytest.raises(RangeError, match="'fan_up'"):
        init.kaiming_normal_(blank(2, 2), mode="fan_up")
    for fill in (init.xavier_uniform_, init.kaiming_normal_, init.orthogonal_):
        with pytest.raises(ShapeError, match=r"\(3,\)"):
            fill(blank(3))
    for wrong in (
        lambda: init.variance_scaling_(blank(2, 2), mode="fan_up"),
        lambda: init.variance_scaling_(blank(2, 2), scale=0.0),
        lambda: init.variance_scaling_(blank(2, 2), distribution="normal"),
        lambda: init.sparse_(blank(2, 2), 1.5),
        lambda: init.dirac_(blank(3, 2, 2), groups=2),
    ):
        with pytest.raises(RangeError, match="must"):
            wrong()
    with pytest.raises(ShapeError, match="dirac_"):
        init.dirac_(blank(2, 2))
    with pytest.raises(ShapeError, match="eye_"):
        init.eye_(blank(3))


# ---------------------------------------------------------------- keys


def build() -> dict[str, np.ndarray]:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Conv2d(2, 3, 3), nn.Embedding(7, 4))
    return {name: tensor.numpy(force=True).copy() for name, tensor in model.state_dict().items()}


def test_same_seed_same_values_and_layers_differ() -> None:
    phalanx.manual_seed(11)
    first = build()
    second = build()
    phalanx.manual_seed(11)
    again = build()
    phalanx.manual_seed(12)
    other = build()
    for name in first:
        assert np.array_equal(first[name], again[name]), name
        assert not np.array_equal(first[name], second[name]), f"{name}: two models in a row are equal"
        assert not np.array_equal(first[name], other[name]), f"{name}: the seed does not matter"
    assert not np.array_equal(first["0.weight"], first["1.weight"])
    assert not np.isclose(first["0.bias"][0], first["0.weight"].ravel()[0])


def test_draws_of_values_do_not_shift_with_other_random_numbers() -> None:
    phalanx.manual_seed(11)
    first = build()
    phalanx.manual_seed(11)
    phalanx.rand(100)
    nn.functional.dropout(phalanx.ones(100), 0.5, True)
    assert all(np.array_equal(first[name], value) for name, value in build().items())


@pytest.mark.torch
@pytest.mark.parametrize(
    "name", [name for name in init.__all__ if name.split("_")[0] not in ("glorot", "he", "lecun", "variance")]
)
def test_arguments_are_torchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    mine, theirs = (inspect.signature(getattr(module, name)).parameters.values() for module in (init, torch.nn.init))
    assert [(p.name, p.default) for p in mine] == [(p.name, p.default) for p in theirs]


def test_a_generator_of_ones_own() -> None:
    fills = [init.uniform_, init.normal_, init.trunc_normal_, init.xavier_uniform_, init.xavier_normal_]
    fills += [init.kaiming_uniform_, init.kaiming_normal_, init.orthogonal_]
    generator = phalanx.Generator().manual_seed(3)
    first = [fill(blank(3, 4), generator=generator).numpy().copy() for fill in fills]
    phalanx.manual_seed(9)
    generator.manual_seed(3)
    for fill, expected in zip(fills, first, strict=True):
        assert np.array_equal(fill(blank(3, 4), generator=generator).numpy(), expected)
        assert not np.array_equal(fill(blank(3, 4), generator=None).numpy(), expected)
    phalanx.manual_seed(9)
    expected = build()
    phalanx.manual_seed(9)
    init.normal_(blank(3, 4), generator=generator)
    assert all(np.array_equal(expected[name], value) for name, value in build().items())


# ---------------------------------------------------------------- default distributions of layers, beside PyTorch's

LAYERS = {
    "Linear": lambda nn: nn.Linear(300, 200),
    "Conv1d": lambda nn: nn.Conv1d(64, 64, 5),
    "Conv2d": lambda nn: nn.Conv2d(32, 64, 3, groups=2),
    "Embedding": lambda nn: nn.Embedding(300, 200),
    "Embedding padding": lambda nn: nn.Embedding(300, 200, padding_idx=2),
    "BatchNorm2d": lambda nn: nn.BatchNorm2d(8),
    "LayerNorm": lambda nn: nn.LayerNorm(8),
    "Conv3d": lambda nn: nn.Conv3d(8, 16, 3),
    "ConvTranspose1d": lambda nn: nn.ConvTranspose1d(64, 32, 5),
    "ConvTranspose2d": lambda nn: nn.ConvTranspose2d(32, 64, 3, groups=2),
    "Bilinear": lambda nn: nn.Bilinear(30, 20, 40),
    "EmbeddingBag": lambda nn: nn.EmbeddingBag(300, 200),
    "PReLU": lambda nn: nn.PReLU(3),
    "GroupNorm": lambda nn: nn.GroupNorm(2, 8),
    "InstanceNorm2d": lambda nn: nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
    "RMSNorm": lambda nn: nn.RMSNorm(8),
    "MultiheadAttention": lambda nn: nn.MultiheadAttention(64, 4),
    "MultiheadAttention kdim": lambda nn: nn.MultiheadAttention(64, 4, kdim=48, vdim=40),
    "TransformerEncoderLayer": lambda nn: nn.TransformerEncoderLayer(64, 4, 128),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", LAYERS)
def test_default_distribution_is_torchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    phalanx.manual_seed(1)
    mine, theirs = LAYERS[name](nn).state_dict(), LAYERS[name](torch.nn).state_dict()
    assert list(mine) == list(theirs)
    for key, tensor in theirs.items():
        a, b = mine[key].numpy(force=True).astype(np.float64), tensor.numpy().astype(np.float64)
        assert a.shape == b.shape and str(mine[key].dtype) == str(tensor.dtype).removeprefix("torch.")
        if b.std() == 0:
            assert np.array_equal(a, b), key
            continue
        count = a.size
        assert abs(a.std() / b.std() - 1) < 6 / math.sqrt(count) + 0.005, key
        assert abs(a.mean() - b.mean()) < 8 * b.std() / math.sqrt(count), key
        quantiles = np.linspace(0.02, 0.98, 25)
        far = np.abs(np.quantile(a, quantiles) - np.quantile(b, quantiles)).max()
        assert far < 10 * b.std() / math.sqrt(count), key
        if "Embedding" not in name:  # uniform: the bound itself
            assert np.abs(a).max() == pytest.approx(np.abs(b).max(), rel=10 / count), key
    if name == "Embedding padding":
        assert not mine["weight"].array[2].any()
