"""Sequential does several layers at once: nobody can tell, and whoever watches a layer sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")
import phalanx
from phalanx import nn
from phalanx.core.errors import ShapeError
from phalanx.core.kernels import table
from phalanx.core.op import TABLE
from phalanx.core.trace import watched
from tests.core.onednn_cases import needs_onednn

MODELS: dict[str, tuple[Callable[[], list[Any]], tuple[int, ...], list[str]]] = {
    "all three": (
        lambda: [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()],
        (4, 3, 7, 6),
        ["conv2d", "batch_norm_relu_pool", "reshape"],
    ),
    "norm and relu": (
        lambda: [nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 3)],
        (6, 5),
        ["linear", "batch_norm_relu", "linear"],
    ),
    "relu and maximum": (
        lambda: [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d((2, 2), stride=2)],
        (4, 3, 8, 8),
        ["conv2d", "relu_pool"],
    ),
    "another window": (
        lambda: [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16, affine=False), nn.ReLU(), nn.MaxPool2d(3, 2)],
        (4, 3, 8, 8),
        ["conv2d", "batch_norm_relu", "max_pool2d"],
    ),
    "few channels": (
        lambda: [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(8, track_running_stats=False)],
        (4, 3, 8, 8),
        ["conv2d", "relu", "max_pool2d", "batch_norm_train"],
    ),
    "another activation": (
        lambda: [nn.BatchNorm1d(5), nn.GELU(), nn.BatchNorm1d(5), nn.ReLU6()],
        (6, 5),
        ["batch_norm_train", "gelu", "batch_norm_train", "hardtanh"],
    ),
}
LINEAR: dict[str, tuple[Callable[[], list[Any]], tuple[int, ...], list[str]]] = {
    "small": (
        lambda: [nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3), nn.GELU()],
        (6, 5),
        ["linear_relu", "linear", "gelu"],
    ),
    "few long rows": (
        lambda: [nn.Linear(400, 90), nn.ReLU(inplace=True), nn.Linear(90, 70), nn.ReLU()],
        (32, 400),
        ["linear_relu", "linear_relu"],
    ),
    "many rows, no bias": (lambda: [nn.Linear(70, 130, bias=False), nn.ReLU()], (3, 50, 70), ["linear_relu"]),
    "a lone row": (lambda: [nn.Linear(400, 90), nn.ReLU(), nn.Linear(90, 4)], (400,), ["linear_relu", "linear"]),
}
"""With oneDNN's products alone."""
MODELS_OF_ALL = MODELS | LINEAR


@pytest.fixture(autouse=True)
def fast_kernels() -> Iterator[None]:
    before = table.chosen()
    table.choose("fast")
    yield
    table.choose(before)


def model(name: str) -> tuple[Any, Any]:
    build, shape, _ = MODELS_OF_ALL[name]
    phalanx.manual_seed(1)
    return nn.Sequential(*build()), phalanx.randn(*shape, requires_grad=True)


def ops_of(run: Callable[[], Any]) -> list[str]:
    seen: list[str] = []
    with watched(lambda op, *rest: seen.append(op.name)):
        run()
    return seen


def trained(net: Any, x: Any, steps: int = 3) -> list[np.ndarray]:
    """Outputs, gradients, parameters and running statistics of some steps."""
    optimizer, found = phalanx.optim.SGD(net.parameters(), lr=0.1) if list(net.parameters()) else None, []
    for _ in range(steps):
        x.grad = None
        net.zero_grad()
        y = net(x)
        (y * y).sum().backward()
        found += [y.detach().numpy(), x.grad.numpy().copy(), *(p.grad.numpy().copy() for p in net.parameters())]
        if optimizer is not None:
            optimizer.step()
    return found + [value.numpy().copy() for value in net.state_dict().values()]


@pytest.mark.parametrize("name", [*MODELS, *(pytest.param(name, marks=needs_onednn) for name in LINEAR)])
def test_several_layers_at_once_train_as_one_by_one(name: str) -> None:
    net, x = model(name)
    assert ops_of(lambda: net(x)) == MODELS_OF_ALL[name][2]
    net, x = model(name)
    together = trained(net, x)
    net, x = model(name)
    for module in net:
        module.register_forward_hook(lambda *_: None)
    alone = trained(net, x)
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))
    assert len(together) == len(alone)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_a_hooked_layer_is_called(kind: str, place: int) -> None:
    net, x = model("all three")
    calls: list[str] = []
    getattr(net[place], f"register_{kind}_hook")(lambda *_: calls.append("hook") and None)
    net(x).sum().backward()
    assert calls == ["hook"]


def test_reference_kernels_do_one_layer_after_the_other() -> None:
    table.choose("reference")
    net, x = model("all three")
    assert ops_of(lambda: net(x)) == ["conv2d", "batch_norm_train", "relu", "max_pool2d", "reshape"]


def test_what_is_not_the_class_itself_is_called() -> None:
    class Loud(nn.ReLU):
        def forward(self, input: Any) -> Any:
            return super().forward(input) * 2

    net, x = model("norm and relu")
    net[2] = Loud()
    assert "relu" in ops_of(lambda: net(x))
    net[2] = nn.ReLU()
    net[2].forward = lambda input: input  # type: ignore[method-assign]
    assert ops_of(lambda: net(x)) == ["linear", "batch_norm_train", "linear"]


@needs_onednn
def test_a_linear_layer_that_does_not_fit_is_named() -> None:
    net, x = model("small")
    with pytest.raises(ShapeError, match=r"layer '0' .*in_features=5"):
        net(x[:, :4])
    net, wide = net.double(), x.double()
    assert ops_of(lambda: net(wide))[:3] == ["linear", "relu", "linear"]


def test_evaluation_other_dtypes_and_lone_samples() -> None:
    net, x = model("norm and relu")
    assert ops_of(lambda: net.eval()(x)) == ["linear", "batch_norm_eval", "relu", "linear"]
    net.train().double()
    assert ops_of(lambda: net(x.double()))[-3:] == ["batch_norm_train", "relu", "linear"]
    net.float()
    with pytest.raises(ShapeError, match=r"layer '1' .*more than 1 value per channel"):
        net(x[:1])
    with pytest.raises(ShapeError, match=r"layer '0'"):
        nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())(x)


def test_a_captured_step_replays_what_was_done_at_once() -> None:
    net, x = model("all three")

    def train(x: Any) -> Any:
        loss = net(x).sum()
        loss.backward()
        return loss.detach()

    step, x = phalanx.capture(train), x.detach()
    for _ in range(3):
        step(x)
    assert ops_of(lambda: step(x)) == [*MODELS["all three"][2], "sum"]
    net[1].eval()
    assert "batch_norm_eval" in ops_of(lambda: step(x))


def test_running_statistics_move_once() -> None:
    net, x = model("all three")
    net(x)
    assert int(net[1].num_batches_tracked) == 1 and float(abs(net[1].running_mean).sum()) > 0


def test_the_ops_are_in_the_table() -> None:
    assert {"batch_norm_relu", "batch_norm_relu_pool", "relu_pool"} <= TABLE.keys()
