"""autocast: which dtype an op runs in, as PyTorch's; masters and gradients stay float32; replays, recomputation and threads agree."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.mode import mode
from phalanx.core.op import TABLE
from phalanx.core.ops.arithmetic import CAST
from phalanx.nn import functional as F

BFLOAT16 = phalanx.bfloat16
RANDOM = np.random.default_rng(3)


def low(dtype: Any = "bfloat16", **options: Any) -> phalanx.autocast:
    return phalanx.autocast("cpu", dtype=dtype, **options)


def network() -> nn.Sequential:
    phalanx.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.LayerNorm(128),
        nn.Linear(128, 16), nn.GELU(), nn.Linear(16, 4),
    )  # fmt: skip


def data() -> tuple[phalanx.Tensor, phalanx.Tensor]:
    random = np.random.default_rng(5)
    return phalanx.tensor(random.normal(size=(12, 1, 8, 8)).astype(np.float32)), phalanx.arange(12) % 4


def train(
    model: Any, optimizer: Any, steps: int, step_of: Any = lambda step: step, dtype: Any = "bfloat16"
) -> list[float]:
    x, y = data()

    def step(x: Any, y: Any) -> Any:
        with low(dtype):
            loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    step = step_of(step)
    return [step(x, y).item() for _ in range(steps)]


# ---- which dtype -------------------------------------------------------------------------------------------------------


def test_what_stays_float32_and_what_does_not() -> None:
    model, (x, y) = network(), data()
    seen: dict[str, str] = {}
    for module in model:
        name = type(module).__name__
        module.register_forward_hook(lambda m, args, out, name=name: seen.update({name: out.dtype.name}))
    with low():
        output = model(x)
        loss = F.cross_entropy(output, y)
        assert phalanx.is_autocast_enabled("cpu") and phalanx.get_autocast_dtype("cpu") == BFLOAT16
    assert set(seen.values()) == {"bfloat16"} and loss.dtype == np.float32
    loss.backward()
    assert all(p.dtype == p.grad.dtype == np.float32 for p in model.parameters())
    assert model[1].running_mean.dtype == np.float32
    assert not phalanx.is_autocast_enabled("cpu") and model(x).dtype == np.float32


@pytest.mark.parametrize("name", ["exp", "log", "sum", "mean", "softmax", "pow", "norm"])
def test_what_runs_in_float32(name: str) -> None:
    x = phalanx.tensor([1.5, 2.5]).bfloat16()
    arguments = {"softmax": (0,), "pow": (2,)}.get(name, ())
    with low():
        assert getattr(x, name)(*arguments).dtype == np.float32
    assert getattr(x, name)(*arguments).dtype == BFLOAT16


def test_two_dtypes_meet_in_the_wider() -> None:
    a, b = phalanx.ones(2, 2, dtype=BFLOAT16), phalanx.ones(2, 2)
    with low():
        assert phalanx.cat([a, b]).dtype == phalanx.stack([b, a]).dtype == (a + b).dtype == np.float32
        assert phalanx.cat([a, a]).dtype == BFLOAT16
        assert (b.double() @ b.double()).dtype == np.float64  # float64 is left alone, as in PyTorch


def test_sums_before_norms() -> None:
    """Input and residual meet in the wider dtype; weights stay float32 beside halves."""
    norm = nn.LayerNorm(4)
    x, residual = phalanx.randn(3, 4).bfloat16(), phalanx.randn(3, 4)
    with low():
        assert [out.dtype.name for out in F.add_layer_norm(x, residual, (4,), norm.weight, norm.bias)] == [
            "float32"
        ] * 2
        h, y = F.add_layer_norm(x, residual.bfloat16(), (4,), norm.weight, norm.bias)
    assert h.dtype == y.dtype == BFLOAT16
    y.float().sum().backward()
    assert norm.weight.grad.dtype == norm.bias.grad.dtype == np.float32 and norm.bias.grad.tolist() == [3.0] * 4


def test_all_lists_name_ops() -> None:
    from phalanx.core.amp import lists

    every = lists.LOW | lists.FLOAT32 | lists.WIDEST
    assert not every - set(TABLE) and len(every) == len(lists.LOW) + len(lists.FLOAT32) + len(lists.WIDEST)


def test_nesting() -> None:
    layer, x = nn.Linear(2, 2), phalanx.ones(1, 2)
    with low():
        with low("float16"):
            assert layer(x).dtype == np.float16
        with low(enabled=False):
            assert layer(x).dtype == np.float32
            with low():
                assert layer(x).dtype == BFLOAT16
        with phalanx.autocast("cuda", dtype="float16"):  # another device: what lies here is left alone
            assert layer(x).dtype == np.float32
        assert layer(x).dtype == BFLOAT16
    assert mode.autocast is None


def test_as_decorator_and_after_an_error() -> None:
    @low()
    def forward(x: Any) -> Any:
        return nn.Linear(2, 2)(x)

    assert forward(phalanx.ones(1, 2)).dtype == BFLOAT16
    with pytest.raises(phalanx.core.errors.ShapeError):
        forward(phalanx.ones(1, 3))
    assert mode.autocast is None and forward(phalanx.ones(1, 2)).dtype == BFLOAT16


def test_other_threads_are_other_ranks() -> None:
    seen = []
    with low():
        thread = threading.Thread(target=lambda: seen.append(phalanx.is_autocast_enabled("cpu")))
        thread.start()
        thread.join()
    assert seen == [False]


def test_one_object_in_several_threads() -> None:
    """As shards that are under way together: one enters, then the other, and the first leaves first."""
    shared, seen = low(), []
    turns = [threading.Event() for _ in range(3)]

    def other() -> None:
        with low("float16"):
            turns[0].wait(20)
            with shared:
                turns[1].set()
                turns[2].wait(20)
            seen.append(phalanx.get_autocast_dtype("cpu"))

    thread = threading.Thread(target=other)
    thread.start()
    with shared:
        turns[0].set()
        turns[1].wait(20)
    seen.append(phalanx.is_autocast_enabled("cpu"))
    turns[2].set()
    thread.join()
    assert seen == [False, np.float16]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: phalanx.autocast("tpu"), phalanx.core.errors.RangeError, 'device_type "cuda" or "cpu", got \'tpu\''),
        (lambda: low("float32"), phalanx.core.errors.DTypeError, "float16 or bfloat16, got float32"),
    ],
)
def test_messages(make: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        make()


# ---- parameters --------------------------------------------------------------------------------------------------------


def test_a_store_is_cast_once_a_block() -> None:
    model, (x, _) = network(), data()
    optim.SGD(model.parameters(), lr=0.1)
    casts: list[int] = []
    forward = CAST.forward
    object.__setattr__(CAST, "forward", lambda a, dtype: (casts.append(a.size), forward(a, dtype=dtype))[1])
    try:
        with low():
            model(x)
            model(x)
        store = model[0].weight._store
        assert casts.count(store.length) == 1
        casts.clear()
        with low(cache_enabled=False):
            model[8](model[6](phalanx.ones(1, 128)))
        assert casts.count(store.length) == 4
    finally:
        object.__setattr__(CAST, "forward", forward)


def test_changed_parameters_are_seen() -> None:
    """By an update within a block, and by hand from block to block."""
    layer = nn.Linear(2, 1, bias=False)
    optimizer = optim.SGD(layer.parameters(), lr=1.0)
    layer.weight.data.fill_(1.0)
    x = phalanx.ones(1, 2)
    with low():
        layer(x).sum().backward()
        optimizer.step()
        assert layer(x).item() == 0.0
    layer.weight.data.fill_(3.0)
    with low():
        assert layer(x).item() == 6.0
    layer.load_state_dict({"weight": phalanx.full((1, 2), 4.0)})
    with low(), phalanx.no_grad():
        assert layer(x).item() == 8.0


def test_gradients_of_weights_are_not_rounded() -> None:
    """The product that is a weight's gradient goes into the float32 slot as it is, in a store or not, given whole or in two passes."""
    x = phalanx.tensor(RANDOM.normal(size=(64, 8)).astype(np.float32))
    found = []
    for packed in (True, False):
        phalanx.manual_seed(1)
        layer = nn.Linear(8, 3)
        if packed:
            optim.SGD(layer.parameters(), lr=0.1)
        with low():
            y = layer(x)
        y.backward(phalanx.ones(64, 3, dtype=BFLOAT16))
        found.append((layer.weight.grad.numpy().copy(), layer.bias.grad.numpy().copy()))
    exact = np.ones((3, 64), np.float32) @ x.bfloat16().float().numpy()
    for weight, bias in found:
        np.testing.assert_allclose(weight, exact, rtol=1e-5, atol=1e-5)
        assert not (weight == weight.astype(BFLOAT16).astype(np.float32)).all() and (bias == 64.0).all()
    np.testing.assert_array_equal(found[0][0], found[1][0])


def test_a_weight_that_is_used_twice() -> None:
    x = phalanx.tensor(RANDOM.normal(size=(16, 4)).astype(np.float32))
    gradients = []
    for packed in (True, False):
        phalanx.manual_seed(2)
        layer = nn.Linear(4, 4, bias=False)
        if packed:
            optim.SGD(layer.parameters(), lr=0.1)
        with low():
            loss = layer(layer(x)).sum()
        loss.backward()
        gradients.append(layer.weight.grad.numpy().copy())
    with phalanx.no_grad():
        w = layer.weight.bfloat16().float().numpy()
    low_x = x.bfloat16().float().numpy()
    h = (low_x @ w.T).astype(BFLOAT16).astype(np.float32)
    exact = np.ones((4, 16), np.float32) @ h + (np.ones((16, 4), np.float32) @ w).T @ low_x
    np.testing.assert_allclose(gradients[0], exact, rtol=0.02, atol=0.05)
    np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_last_layer_with_its_loss(dtype: str) -> None:
    """Gradients that float16 cannot hold without a scale are not made before it is there."""
    x = phalanx.tensor(RANDOM.normal(size=(64, 8)).astype(np.float32))
    labels, factor = phalanx.arange(64) % 5, 2.0**-12
    gradients = []
    for together in (True, False):
        phalanx.manual_seed(3)
        layer = nn.Linear(8, 5, bias=False)
        scaler = phalanx.amp.GradScaler("cpu", enabled=dtype == "float16")
        optimizer = optim.SGD(layer.parameters(), lr=1.0)
        class_weight = phalanx.tensor([1.0, 1.0009765625, 1.0, 1.0, 1.0])
        with low(dtype):
            if together:
                loss = F.linear_cross_entropy(x, layer.weight, labels, class_weight)
            else:
                loss = F.cross_entropy(layer(x), labels, class_weight)
            assert loss.dtype == np.float32 and loss.weight == pytest.approx(64, abs=0.1) and loss.weight != 64
            loss = loss * factor
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        gradients.append(layer.weight.grad.numpy().copy() / factor)
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=0.02, atol=2e-4)


# ---- together with the rest of the engine ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_replayed_step_has_the_same_bits(dtype: str) -> None:
    weights, losses, made = [], [], []

    def captured(step: Any) -> Any:
        made.append(phalanx.capture(step))
        return made[0]

    for how in (lambda step: step, captured):
        model = network()
        optimizer = optim.AdamW(model.parameters(), lr=1e-2)
        losses.append(train(model, optimizer, 8, how, dtype))
        weights.append([p.array.copy() for p in model.parameters()])
    assert made[0].replays == 6, made[0].why
    assert losses[0] == losses[1]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_replay_knows_the_mode_around_it() -> None:
    layer = nn.Linear(2, 2)
    step = phalanx.capture(lambda x: layer(x).detach())
    x = phalanx.ones(1, 2)
    for _ in range(4):
        assert step(x).dtype == np.float32
        with low():
            assert step(x).dtype == BFLOAT16
    assert step.replays == 4


def test_recomputed_parts_run_in_the_same_precision() -> None:
    x, y = data()
    found = []
    for recompute in (False, True):
        model = network()
        optim.SGD(model.parameters(), lr=0.1)
        with low():
            if recompute:
                middle = phalanx.utils.checkpoint.checkpoint(model[:6], x)
                assert middle.dtype == BFLOAT16
                output = phalanx.utils.checkpoint.checkpoint(model[6:], middle)
            else:
                output = model(x)
            loss = F.cross_entropy(output, y)
        loss.backward()
        found.append([p.grad.numpy().copy() for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_learns_as_float32_does(dtype: str) -> None:
    model = network()
    losses = train(model, optim.AdamW(model.parameters(), lr=1e-2), 25, dtype=dtype)
    assert losses[0] == pytest.approx(np.log(4), rel=0.3) and losses[-1] < 0.05


def test_functions_of_the_user() -> None:
    class Double(phalanx.autograd.Function):
        @staticmethod
        @phalanx.amp.custom_fwd(device_type="cpu", cast_inputs=phalanx.float32)
        def forward(ctx: Any, x: Any) -> Any:
            assert x.dtype == np.float32 and not phalanx.is_autocast_enabled("cpu")
            return x * 2

        @staticmethod
        @phalanx.amp.custom_bwd(device_type="cpu")
        def backward(ctx: Any, gradient: Any) -> Any:
            return gradient * 2

    layer = nn.Linear(2, 2)
    with low():
        y = Double.apply(layer(phalanx.ones(1, 2)))
    y.sum().backward()
    assert y.dtype == np.float32 and layer.bias.grad.tolist() == [2.0, 2.0]


# ---- beside PyTorch ----------------------------------------------------------------------------------------------------

LAYERS: dict[str, tuple[tuple[Any, ...], tuple[int, ...]]] = {
    "Linear": ((6, 3), (4, 6)),
    "Conv1d": ((4, 3, 3), (2, 4, 6)),
    "Conv2d": ((4, 3, 3), (2, 4, 6, 6)),
    "ConvTranspose1d": ((4, 3, 3), (2, 4, 6)),
    "BatchNorm1d": ((4,), (8, 4, 6)),
    "GroupNorm": ((2, 4), (2, 4, 6)),
    "LayerNorm": ((6,), (2, 4, 6)),
    "LSTM": ((6, 5), (3, 2, 6)),
    "RNN": ((6, 5), (3, 2, 6)),
    "Bilinear": ((6, 6, 3), (4, 6)),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", LAYERS)
def test_layers_beside_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    options, shape = LAYERS[name]
    mine, theirs = getattr(nn, name)(*options), getattr(torch.nn, name)(*options)
    theirs.load_state_dict({key: torch.tensor(np.asarray(value.detach())) for key, value in mine.state_dict().items()})
    array = RANDOM.normal(size=shape).astype(np.float32)
    given = [array, array] if name == "Bilinear" else [array]
    with low():
        y = mine(*map(phalanx.tensor, given))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = theirs(*map(torch.tensor, given))
    y, z = (out[0] if isinstance(out, tuple) else out for out in (y, z))
    assert str(y.dtype) == str(z.dtype).removeprefix("torch.")
    y.float().pow(2).sum().backward()
    z.float().pow(2).sum().backward()
    pairs = [(y.float().numpy(force=True), z.detach().float().numpy())]
    pairs += [(p.grad.numpy(), q.grad.numpy()) for p, q in zip(mine.parameters(), theirs.parameters(), strict=True)]
    for a, b in pairs:
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0.05, atol=0.03 * max(1.0, float(np.abs(b).max())))


LOSSES = [
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "soft_margin_loss",
    "poisson_nll_loss",
    "cosine_similarity",
    "pairwise_distance",
    "binary_cross_entropy_with_logits",
]


@pytest.mark.torch
@pytest.mark.parametrize("name", LOSSES)
def test_losses_beside_torch(name: str) -> None:
    """They are as exact as in float32, on the halves that they were given."""
    torch = pytest.importorskip("torch")
    a, b = (RANDOM.normal(size=(5, 6)).astype(BFLOAT16).astype(np.float32) for _ in range(2))
    b = (b > 0).astype(np.float32) if name.startswith("binary") else b
    with low():
        loss = getattr(F, name)(phalanx.tensor(a).bfloat16(), phalanx.tensor(b).bfloat16())
    assert loss.dtype == np.float32
    expected = getattr(torch.nn.functional, name)(torch.tensor(a), torch.tensor(b))
    np.testing.assert_allclose(loss.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
