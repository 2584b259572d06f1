"""A captured step gives the bits of the step itself, and stays eager where it cannot: with the reason."""

from __future__ import annotations

import random
import threading
import warnings

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.capture import program
from phalanx.core.capture import step as capture_step
from phalanx.core.errors import DTypeError, RangeError
from phalanx.core.kernels import table as kernels

F = nn.functional
pytestmark = pytest.mark.filterwarnings("ignore:capture. the step stays eager")


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 10, num_layers=2, batch_first=True, dropout=0.2)
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 11)
        self.head.weight = self.embedding.weight  # tied: two contributions to one gradient

    def forward(self, x):
        return self.head(self.block(self.embedding(x)).mean(dim=1))[:, :4]


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4)), (12,)),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2),
            nn.Linear(16, 4),
        ),
        (2, 6, 6),
    ),
    "lstm": (Recurrent, (5, 6)),
    "transformer": (Attending, None),
}  # fmt: skip


def batches(shape, count, size=8, seed=3):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        x = rng.integers(0, 11, (size, 5)) if shape is None else rng.standard_normal((size, *shape)).astype(np.float32)
        yield phalanx.tensor(x), phalanx.tensor(rng.integers(0, 4, size))


def plain_step(model, optimizer):
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def train(make, capture, count, make_step=plain_step, given=None):
    """All that training leaves, as bytes, and the step."""
    build, shape = make
    phalanx.manual_seed(1)
    model = build()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    step = make_step(model, optimizer)
    step = phalanx.capture(step) if capture else step
    losses = []
    for x, y in given or batches(shape, count):
        loss = step(x, y)
        losses.append((loss.item(), loss.weight))
    left = {name: tensor.array.tobytes() for name, tensor in model.state_dict().items()}
    state = optimizer.state_dict()["state"]
    left |= {f"{k} {name}": np.asarray(getattr(v, "array", v)).tobytes() for k in state for name, v in state[k].items()}
    grads = [None if p.grad is None else p.grad.array.tobytes() for p in model.parameters()]
    return (losses, left, grads, phalanx.rand(2).tolist(), F.dropout(phalanx.ones(9)).tolist()), step


def compare(make, count, make_step=plain_step, replays=None, given=None):
    """Captured and eager training leave the same; returns the captured step."""
    expected, _ = train(make, False, count, make_step, given)
    got, step = train(make, True, count, make_step, given)
    assert got == expected
    assert step.replays == (count - 2 if replays is None else replays), step.why
    return step


def small(hidden=nn.ReLU):
    return (lambda: nn.Sequential(nn.Linear(12, 8), hidden(), nn.Linear(8, 4))), (12,)


@pytest.fixture
def fast_kernels():
    before = phalanx.kernels.chosen()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is not installed
        phalanx.kernels.choose("fast")
        yield
        phalanx.kernels.choose(before)


@pytest.mark.parametrize("name", MODELS)
def test_two_hundred_steps_to_the_bit(name):
    step = compare(MODELS[name], 200)
    assert step.why is None and "backward" not in step.program and "vjp" in step.program


@pytest.mark.parametrize("name", MODELS)
def test_with_fast_kernels(name, fast_kernels):
    compare(MODELS[name], 20)


@pytest.mark.parametrize("name", MODELS)
def test_a_replay_asks_for_the_steps_own_kernels(name, monkeypatch):
    asked = []
    for each, work in kernels.table().items():
        monkeypatch.setitem(kernels.table(), each, lambda *a, _n=each, _f=work, **k: (asked.append(_n), _f(*a, **k))[1])
    build, shape = MODELS[name]
    model = build()
    plain = plain_step(model, optim.Adam(model.parameters(), lr=0.01))
    step = phalanx.capture(plain)
    given = list(batches(shape, 4))
    for x, y in given[:3]:
        step(x, y)
    asked.clear()
    step(*given[3])
    replayed = list(asked)
    asked.clear()
    plain(*given[3])
    assert replayed == asked and asked and step.replays == 2


def test_a_wrong_program_would_be_seen(monkeypatch):
    """The comparison above can fail."""
    deliver = program.deliver
    monkeypatch.setattr(program, "deliver", lambda leaf, gradient, slot: deliver(leaf, gradient * 2, slot))
    with pytest.raises(AssertionError):
        compare(MODELS["mlp"], 5)


# ---- what works inside -----------------------------------------------------------------------------------------------


def accumulating(model, optimizer):
    def step(x, y):
        optimizer.zero_grad()
        total = None
        for part in range(2):
            loss = F.cross_entropy(model(x[part * 4 : part * 4 + 4]), y[part * 4 : part * 4 + 4]) / 2
            loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
        optimizer.step()
        return total

    return step


def clipped(model, optimizer):
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y, label_smoothing=0.1, ignore_index=1) + 0.5 * F.nll_loss(
            F.log_softmax(model(x), dim=1), y
        )
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        nn.utils.clip_grad_value_(model.parameters(), 0.05)
        optimizer.step()
        return loss

    return step


def noisy(model, optimizer):
    average = optim.EMA(model, decay=0.9)
    schedule = optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x + phalanx.randn_like(x) * 0.1), y)
        loss.backward()
        optimizer.step()
        average.update()
        schedule.step()
        return loss

    return step


def never_cleared(model, optimizer):
    """Gradients go on adding up."""

    def step(x, y):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def twice(model, optimizer):
    """Two walks over one graph."""

    def step(x, y):
        optimizer.zero_grad()
        hidden = model[0](x).tanh()
        first, second = F.cross_entropy(model[2](hidden), y), hidden.square().mean()
        first.backward(retain_graph=True)
        (second + first).backward()
        optimizer.step()
        return first

    return step


@pytest.mark.parametrize("make_step", [accumulating, clipped, noisy, never_cleared, twice])
def test_what_steps_are_made_of(make_step):
    if (
        make_step is clipped
    ):  # two weights, which differ by the labels that are ignored, join in a way that values decide
        assert "different numbers of items" in compare(small(), 12, make_step, replays=0).why
        return
    compare(small(), 12, make_step)


def test_clipping_and_ignored_labels():
    def make_step(model, optimizer):
        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y, label_smoothing=0.1, ignore_index=1) * 2.0
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            nn.utils.clip_grad_value_(model.parameters(), 0.05)
            optimizer.step()
            return loss

        return step

    compare(small(), 12, make_step)


def test_a_learning_rate_changed_by_hand_and_a_group_added():
    def run(capture):
        phalanx.manual_seed(1)
        model, extra = nn.Linear(12, 4), nn.Linear(4, 4)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        step = plain_step(nn.Sequential(model, extra), optimizer)
        step = phalanx.capture(step) if capture else step
        for place, (x, y) in enumerate(batches((12,), 12)):
            if place == 5:
                optimizer.param_groups[0]["lr"] = 0.01
            if place == 8:
                optimizer.add_param_group({"params": extra.parameters(), "lr": 0.5})
            step(x, y)
        return [p.array.tobytes() for p in [*model.parameters(), *extra.parameters()]], step

    expected, _ = run(False)
    got, step = run(True)
    assert got == expected and step.replays >= 6


def test_other_shapes_are_further_programs():
    given = [pair for size in (8, 8, 8, 5, 5, 5, 8, 5, 3, 8) for pair in batches((12,), 1, size, seed=size)]
    compare(small(), 10, given=given, replays=5)


def test_training_and_evaluation_mode():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    forward = phalanx.capture(lambda x: model(x).detach())
    x = phalanx.ones(4, 3)
    for _ in range(3):
        forward(x)
    assert forward.replays == 1
    model.eval()
    for _ in range(4):
        assert phalanx.equal(forward(x), model(x).detach())
    assert forward.replays == 3
    model.train()
    assert (forward(x).array == 0).any() and forward.replays == 4
    model[1].p = 1.0
    assert not forward(x).array.any()


def test_freezing_is_seen():
    given = list(batches((12,), 12))

    def make_step(model, optimizer):
        step, calls = plain_step(model, optimizer), iter(range(99))

        def outer(x, y):
            model[0].weight.requires_grad = next(calls) < 6
            return step_(x, y)

        step_ = phalanx.capture(step) if capture[0] else step
        return outer

    capture = [False]
    expected, _ = train(small(), False, 12, make_step, given)
    capture[0] = True
    assert train(small(), False, 12, make_step, given)[0] == expected


def test_nested_arguments_and_results():
    scale = phalanx.capture(lambda pair, *, by, names: {"y": [pair["x"] * by, (names, pair["x"].sum())]})
    for k in range(4):
        got = scale({"x": phalanx.full((2,), float(k))}, by=3.0, names="ab")
        assert got["y"][0].tolist() == [3.0 * k] * 2 and got["y"][1][0] == "ab" and got["y"][1][1].item() == 2 * k
    assert scale.replays == 2
    assert scale({"x": phalanx.ones(2)}, by=2.0, names="ab")["y"][0].tolist() == [2.0, 2.0]


def test_errors_of_inputs_are_raised_in_a_replay():
    model = nn.Linear(3, 2)
    step = phalanx.capture(plain_step(model, optim.SGD(model.parameters(), lr=0.1)))
    for _ in range(3):
        step(phalanx.ones(2, 3), phalanx.tensor([0, 1]))
    with pytest.raises(RangeError, match="label 7"):
        step(phalanx.ones(2, 3), phalanx.tensor([0, 7]))
    step(phalanx.ones(2, 3), phalanx.tensor([0, 1]))
    assert step.replays == 3 and step.why is None
    with pytest.raises(TypeError, match="expects a function"):
        phalanx.capture(3)


# ---- what stays eager --------------------------------------------------------------------------------------------------


def eager_cases():
    def of(change):
        return lambda model, optimizer, log: lambda x, y: change(model, optimizer, log, x, y)

    def finish(loss, optimizer):
        loss.backward()
        optimizer.step()
        return loss

    def start(model, optimizer, x, y):
        optimizer.zero_grad()
        return F.cross_entropy(model(x), y)

    def reads(model, optimizer, log, x, y):
        loss = start(model, optimizer, x, y)
        _ = loss.item()
        return finish(loss, optimizer)

    def branches(model, optimizer, log, x, y):
        loss = start(model, optimizer, x, y)
        return finish(loss * 2.0 if loss > 1.4 else loss, optimizer)

    def numpy(model, optimizer, log, x, y):
        return finish(start(model, optimizer, phalanx.tensor(np.tanh(x.numpy())), y), optimizer)

    def mask(model, optimizer, log, x, y):
        optimizer.zero_grad()
        out = model(x)
        return finish((out[out > 0]).square().sum(), optimizer)

    def gradient(model, optimizer, log, x, y):
        loss = start(model, optimizer, x, y)
        loss.backward()
        for p in model.parameters():
            p.grad = p.grad * 0.5
        optimizer.step()
        return loss

    def by_hand(model, optimizer, log, x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        with phalanx.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
        return loss

    def pythons(model, optimizer, log, x, y):
        return finish(start(model, optimizer, x, y) * random.random(), optimizer)

    def appends(model, optimizer, log, x, y):
        log.append(1)
        return finish(start(model, optimizer, x, y), optimizer)

    def counts(model, optimizer, log, x, y):
        model.count = getattr(model, "count", 0) + 1
        return finish(start(model, optimizer, x, y), optimizer)

    def own(model, optimizer, log, x, y):
        class Double(phalanx.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x * 2

            @staticmethod
            def backward(ctx, gradient):
                return gradient * 2

        return finish(Double.apply(start(model, optimizer, x, y)), optimizer)

    def checkpointed(model, optimizer, log, x, y):
        optimizer.zero_grad()
        return finish(F.cross_entropy(phalanx.utils.checkpoint.checkpoint(model, x), y), optimizer)

    def hooked(model, optimizer, log, x, y):
        loss = start(model, optimizer, x, y)
        loss.register_hook(lambda g: g * 2)
        return finish(loss, optimizer)

    def grads(model, optimizer, log, x, y):
        phalanx.grad(model(x).sum(), list(model.parameters()))
        return finish(start(model, optimizer, x, y), optimizer)

    def unfinished(model, optimizer, log, x, y):
        return F.cross_entropy(model(x), y)

    def annealed(model, optimizer, log, x, y):
        log[:] = [len(log) + 1] if not log else [log[0] + 1]
        return finish(start(model, optimizer, x, y) * (1.0 / log[0]), optimizer)

    def raw(model, optimizer, log, x, y):
        return finish(start(model, optimizer, phalanx.Tensor(np.asarray(x.array)), y), optimizer)

    def rate(model, optimizer, log, x, y):
        return finish(start(model, optimizer, x, y) * optimizer.param_groups[0]["lr"], optimizer)

    return {
        "raw": (of(raw), ".array"), "rate": (of(rate), "param_groups"),
        "reads": (of(reads), "item"), "branches": (of(branches), "item"), "numpy": (of(numpy), "tanh"),
        "mask": (of(mask), "mask"), "gradient": (of(gradient), "gradient"), "by_hand": (of(by_hand), "gradient"),
        "pythons": (of(pythons), "Python's or NumPy's own random"), "appends": (of(appends), "'log'"),
        "counts": (of(counts), "'count' of Sequential"), "own": (of(own), "Double"),
        "checkpointed": (of(checkpointed), "checkpointing"), "hooked": (of(hooked), "hook"), "grads": (of(grads), "grad"),
        "unfinished": (of(unfinished), "backward"), "annealed": (of(annealed), "'log'"),
    }  # fmt: skip


EAGER = eager_cases()


@pytest.mark.parametrize("name", EAGER)
def test_what_stays_eager_says_why(name):
    make, words = EAGER[name]

    def run(capture):
        random.seed(4)
        phalanx.manual_seed(1)
        model = small(nn.Tanh)[0]()
        step = make(model, optim.SGD(model.parameters(), lr=0.1), [])
        step = phalanx.capture(step) if capture else step
        losses = [step(x, y).item() for x, y in batches((12,), 8)]
        return losses, [p.array.tobytes() for p in model.parameters()], step

    *expected, _ = run(False)
    with pytest.warns(UserWarning, match="stays eager") as warned:
        *got, step = run(True)
    assert got == expected
    assert step.replays == 0 and words in step.why, step.why
    assert sum("stays eager" in str(w.message) for w in warned) == 1
    assert "file" not in step.why and (".py:" not in step.why or __file__ in step.why)


def test_hooks_that_come_later():
    model = nn.Linear(3, 2)
    step = phalanx.capture(plain_step(model, optim.SGD(model.parameters(), lr=0.1)))
    batch = phalanx.ones(2, 3), phalanx.tensor([0, 1])
    for _ in range(4):
        step(*batch)
    seen = []
    handle = model.register_forward_hook(lambda *_: seen.append(1))
    step(*batch)
    assert seen == [1] and "hook of Linear" in step.why
    handle.remove()
    step(*batch)
    assert seen == [1] and step.why is None
    handle = model.weight.register_hook(lambda g: seen.append(2))
    step(*batch)
    assert seen == [1, 2]


def test_globals_and_attributes_are_watched():
    class Config:
        beta = None

    config, x = Config(), phalanx.ones(2)
    config.beta = 2.0
    step = phalanx.capture(lambda x: x * config.beta)
    for _ in range(3):
        step(x)
    assert step.replays == 1
    config.beta = 3.0
    assert step(x).tolist() == [3.0, 3.0]
    config.beta = 2.0
    assert step(x).tolist() == [2.0, 2.0] and step.why is None


def test_what_keeps_changing_is_given_up():
    for beta in range(40):
        settings["beta"] = float(beta)
        assert changing(phalanx.ones(2)).tolist() == [beta, beta]
    assert "'settings'" in changing.why or "option of" in changing.why or "input of" in changing.why, changing.why


settings = {"beta": 0.0}
changing = phalanx.capture(lambda x: x * settings["beta"])


def test_what_nobody_watches_is_found_in_time(monkeypatch):
    """A value behind several objects is not looked at in each step; a recording from time to time finds it, aloud."""
    monkeypatch.setattr(capture_step, "RECHECK", 10)

    class Deep:
        pass

    deep = Deep()
    deep.a = Deep()
    deep.a.b = Deep()
    deep.a.b.c = Deep()
    deep.a.b.c.beta = 2.0
    step = phalanx.capture(lambda x: x * deep.a.b.c.beta)
    for _ in range(15):
        assert step(phalanx.ones(1)).item() == 2.0
    deep.a.b.c.beta = 5.0
    with pytest.warns(UserWarning, match="pass what changes as an argument"):
        got = [step(phalanx.ones(1)).item() for _ in range(12)]
    assert got[-1] == 5.0


@pytest.mark.filterwarnings("error:capture")
def test_what_a_step_makes_anew_each_time_is_the_same_when_it_is_recorded_again(monkeypatch):
    """States of zeros that a recurrent layer makes, and a tensor that a function which draws is given."""
    monkeypatch.setattr(capture_step, "RECHECK", 5)
    layer = nn.LSTM(3, 4)

    def step(x):
        y, _ = layer(x)
        (y * phalanx.rand_like(phalanx.ones(2, 1, 4))).sum().backward()
        return y.sum().detach()

    captured = phalanx.capture(step)
    x = phalanx.randn(2, 1, 3)
    for _ in range(16):
        assert captured(x).item() == step(x).item()
    assert captured.replays == 12 and captured.why is None


def test_anomaly_detection_is_eager():
    step = phalanx.capture(lambda x: x * 2)
    for _ in range(3):
        step(phalanx.ones(1))
    with phalanx.autograd.detect_anomaly():
        step(phalanx.ones(1))
    assert "anomaly" in step.why and step.replays == 1


def test_a_step_in_a_step_and_threads_beside_it():
    inner = phalanx.capture(lambda x: x * 2)
    outer = phalanx.capture(lambda x: inner(x) + 1)
    stop = threading.Event()
    wrong = []

    def beside():
        while not stop.is_set():
            x = phalanx.ones(3, requires_grad=True)
            (x * 3).sum().backward()
            if x.grad.tolist() != [3.0] * 3:
                wrong.append(x.grad)

    thread = threading.Thread(target=beside)
    thread.start()
    for k in range(30):
        outer._shapes.clear()
        for _ in range(3):
            assert outer(phalanx.full((2,), float(k))).tolist() == [2.0 * k + 1] * 2
    stop.set()
    thread.join()
    assert not wrong and outer.replays == 30
    assert "array" not in vars(phalanx.Tensor), "all that was exchanged is back"


def test_wrong_dtypes_are_errors_as_ever():
    step = phalanx.capture(lambda x, y: F.cross_entropy(x, y))
    with pytest.raises(DTypeError):
        step(phalanx.ones(2, 3), phalanx.ones(2))
