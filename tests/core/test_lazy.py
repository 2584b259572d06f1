"""Lazy layers beside PyTorch's: what they become, and what is said before they are."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.errors import StateError

pytest.importorskip("torch")

from tests.core.layer_cases import floats
from tests.core.test_layers import close, torch

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "LazyLinear": (lambda nn: nn.LazyLinear(4, bias=False), (3, 5)),
    "LazyConv1d": (lambda nn: nn.LazyConv1d(4, 3, 2), (2, 6, 9)),
    "LazyConv2d": (lambda nn: nn.LazyConv2d(4, 3, groups=2, padding="same", padding_mode="reflect"), (2, 6, 5, 5)),
    "LazyConv3d": (lambda nn: nn.LazyConv3d(4, 2), (6, 3, 4, 4)),
    "LazyConvTranspose1d": (lambda nn: nn.LazyConvTranspose1d(4, 3, 2), (2, 6, 5)),
    "LazyConvTranspose2d": (lambda nn: nn.LazyConvTranspose2d(4, 3, 2, 1, 1, 2, False, 2), (2, 6, 5, 5)),
    "LazyConvTranspose3d": (lambda nn: nn.LazyConvTranspose3d(4, 2), (2, 6, 2, 3, 3)),
    "LazyBatchNorm1d": (lambda nn: nn.LazyBatchNorm1d(1e-3), (4, 6)),
    "LazyBatchNorm2d": (lambda nn: nn.LazyBatchNorm2d(affine=False), (4, 6, 3, 3)),
    "LazyBatchNorm3d": (lambda nn: nn.LazyBatchNorm3d(bias=False), (4, 6, 2, 3, 3)),
    "LazyInstanceNorm1d": (lambda nn: nn.LazyInstanceNorm1d(), (4, 6, 5)),
    "LazyInstanceNorm2d": (lambda nn: nn.LazyInstanceNorm2d(momentum=0.3), (4, 6, 3, 3)),
    "LazyInstanceNorm3d": (lambda nn: nn.LazyInstanceNorm3d(), (4, 6, 2, 3, 3)),
}


def _after_a_batch(build: Any, shape: tuple[int, ...]) -> Any:
    """What a lazy layer of either library has become."""

    def make(library: Any) -> Any:
        layer = build(library)
        layer(phalanx.zeros(*shape) if library is nn else torch.zeros(shape))
        return layer

    return make


CHECKED = {name: (_after_a_batch(build, shape), floats(*shape)) for name, (build, shape) in LAYERS.items()}
"""For ``phalanx ops --check``."""


@pytest.mark.parametrize("name", LAYERS)
def test_becomes_what_torchs_becomes(name: str) -> None:
    build, shape = LAYERS[name]
    mine, theirs = build(nn), build(torch.nn)
    waiting = [key for key, _ in theirs.named_parameters()]
    assert [key for key, _ in mine.named_parameters()] == waiting
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    mine(phalanx.tensor(x))
    theirs(torch.tensor(x))
    assert type(mine).__name__ == type(theirs).__name__
    assert list(mine.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict({key: torch.tensor(tensor.numpy()) for key, tensor in mine.state_dict().items()})
    close(mine(phalanx.tensor(x)), theirs(torch.tensor(x)), np.float32, "output")
    signatures = [inspect.signature(getattr(library, name).__init__).parameters.values() for library in (nn, torch.nn)]
    assert [(p.name, p.default) for p in signatures[0]] == [(p.name, p.default) for p in signatures[1]]


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(2))


@pytest.mark.parametrize(
    "use",
    [
        lambda model: optim.SGD(model.parameters(), lr=0.1),
        phalanx.DataParallel,
        lambda model: model.state_dict(),
        lambda model: model.load_state_dict({"0.weight": phalanx.ones(4, 7)}, strict=False),
        lambda model: model[0].weight.shape,
        lambda model: nn.init.zeros_(model[0].weight),
        lambda model: model.double(),
    ],
)
def test_nothing_takes_it_before_the_first_batch(use: Any) -> None:
    with pytest.raises(StateError, match="once on a sample batch"):
        use(lazy())


def test_copies_hooks_and_modes_survive() -> None:
    model = lazy()
    seen = []
    model[0].register_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    model[0].remark = "mine"
    twin = copy.deepcopy(model).eval()
    x = phalanx.randn(5, 7)
    phalanx.manual_seed(1)
    y = model.eval()(x)
    assert seen == ["Linear"] and not model[1].training and model[0].remark == "mine"
    phalanx.manual_seed(1)
    assert phalanx.equal(twin(x), y) and twin[0].weight is not model[0].weight
    assert model[0].weight.shape == (4, 7) and repr(model[0]) == "Linear(in_features=7, out_features=4, bias=True)"
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    model.train()(x).sum().backward()
    optimizer.step()
    assert "LazyLinear(out_features=4, bias=True)" in repr(lazy()) and "<Uninit" in repr(lazy()[0].weight)
