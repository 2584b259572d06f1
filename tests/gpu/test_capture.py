"""A captured step on the device: CUDA graphs give the bits of the step itself, and where there can be none the reason is said."""

from __future__ import annotations

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.backend import to_host
from phalanx.core.errors import RangeError

F = nn.functional


def mlp():
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4))


def cnn():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(16, 4),
    )


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


MODELS = {"mlp": (mlp, (12,)), "cnn": (cnn, (2, 6, 6)), "lstm": (Recurrent, (5, 6)), "transformer": (Attending, None)}


def batches(shape, count, size=8, seed=3):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        x = rng.integers(0, 11, (size, 5)) if shape is None else rng.standard_normal((size, *shape)).astype(np.float32)
        yield phalanx.tensor(x).cuda(), phalanx.tensor(rng.integers(0, 4, size)).cuda()


def plain_step(model, optimizer):
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def host(value):
    """The bytes of a tensor, an array or a number."""
    return np.asarray(to_host(getattr(value, "array", value))).tobytes()


def train(make, capture, count, make_step=plain_step, optimizer_of=None):
    """All that training leaves, as bytes, and the step."""
    build, shape = make
    phalanx.manual_seed(1)
    model = build().cuda()
    optimizer = optimizer_of(model) if optimizer_of else optim.Adam(model.parameters(), lr=0.01)
    step = make_step(model, optimizer)
    step = phalanx.capture(step) if capture else step
    losses = [step(x, y) for x, y in batches(shape, count)]
    left = {name: host(tensor) for name, tensor in model.state_dict().items()}
    state = optimizer.state_dict()["state"]
    left |= {f"{k} {n}": host(v) for k in state for n, v in state[k].items()}
    grads = [None if p.grad is None else host(p.grad) for p in model.parameters()]
    return ([(loss.item(), loss.weight) for loss in losses], left, grads, phalanx.rand(2).tolist()), step


def compare(make, count=12, make_step=plain_step, graphs=None, **options):
    """Captured and eager training leave the same; returns the captured step."""
    expected, _ = train(make, False, count, make_step, **options)
    got, step = train(make, True, count, make_step, **options)
    for a, b in zip(got, expected, strict=True):
        assert a == b
    assert step.graphs == (count - 2 if graphs is None else graphs) and step.why is None, step.why
    return step


def fails(reason, count=6):
    """A check of a step that is replayed without graphs, and says why."""

    def check(make, make_step, **options):
        expected, _ = train(make, False, count, make_step, **options)
        with pytest.warns(UserWarning, match="without CUDA graphs"):
            got, step = train(make, True, count, make_step, **options)
        assert got == expected
        assert step.graphs == 0 and step.replays == count - 2 and reason in step.why

    return check


@pytest.fixture(autouse=True)
def fast(standins):
    before = phalanx.kernels.chosen()
    phalanx.kernels.choose("fast")
    yield
    phalanx.kernels.choose(before)


@pytest.mark.parametrize("name", MODELS)
def test_graphs_give_the_bits_of_the_step(name):
    compare(MODELS[name])


@pytest.mark.whole
@pytest.mark.parametrize("name", MODELS)
def test_fifty_steps(name):
    compare(MODELS[name], 50)


def small():
    return (lambda: nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4))), (12,)


# ---- what steps are made of ------------------------------------------------------------------------------------------


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
        loss = F.cross_entropy(model(x), y, label_smoothing=0.1, ignore_index=1) * 2.0
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        nn.utils.clip_grad_value_(model.parameters(), 0.05)
        optimizer.step()
        return loss.detach() + norm

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


def late_clearing(model, optimizer):
    """Gradients of the last step are still there when the first graph begins."""

    def step(x, y):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def low(model, optimizer):
    """float16 with a scale that falls and grows."""
    scaler = phalanx.amp.GradScaler(init_scale=2.0**40, growth_interval=3)

    def step(x, y):
        optimizer.zero_grad()
        with phalanx.autocast("cuda", dtype=phalanx.float16):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    return step


@pytest.mark.parametrize("make_step", [accumulating, clipped, noisy, never_cleared, twice, late_clearing, low])
def test_what_steps_are_made_of(make_step):
    compare(small(), 30 if make_step is low else 12, make_step)


def test_the_graphs_are_few(monkeypatch):
    """Forward and backward of a plain step are one graph, between the calls that stay Python."""
    step = compare(small())
    (known,) = step._shapes.values()
    kinds = [piece.kind for piece in known.variants[0].graphs.pieces]
    assert kinds == ["call", "graph", "call", "return"]


def test_masks_are_part_of_the_graph():
    """What changes of a draw reaches it through memory: nothing is cut for dropout."""
    step = compare((mlp, (12,)))
    (known,) = step._shapes.values()
    graphs = known.variants[0].graphs
    assert [piece.kind for piece in graphs.pieces] == ["call", "graph", "call", "return"]
    ((graph,),) = [tuple(chosen.graphs.values()) for chosen in graphs._sets.values()]
    assert len(graph._fed) == 1


def test_an_index_out_of_range_is_found_in_a_replay():
    _, step = train(small(), True, 5)
    x, y = next(batches((12,), 1))
    y[3] = 9
    with pytest.raises(RangeError, match="label 9 at position 3 is out of range"):
        step(x, y).item()
    assert step.why is None


def test_a_wrong_graph_would_be_seen(monkeypatch):
    from phalanx.core.capture import graph

    launch = graph.Graph._launch

    def late(self):  # with the numbers and inputs of the step before
        self.copies, kept = [], self.copies
        launch(self)
        self.copies = kept

    monkeypatch.setattr(graph.Graph, "replay", lambda self, values: (late(self), values.update(self.outputs)))
    with pytest.raises(AssertionError):
        compare(small())


def test_gradients_that_come_and_go():
    """Cleared outside of the step at every third call: two states that gradients may be in, two sets of graphs."""

    def run(capture):
        phalanx.manual_seed(1)
        model = small()[0]().cuda()
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def learn(x, y):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        learn = phalanx.capture(learn) if capture else learn
        losses = []
        for place, (x, y) in enumerate(batches((12,), 15)):
            losses.append(learn(x, y))
            if place % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()
        return [loss.item() for loss in losses], [host(p) for p in model.parameters()], learn

    *expected, _ = run(False)
    *got, step = run(True)
    assert got == expected and step.graphs == 13
    (known,) = step._shapes.values()
    assert len(known.variants[0].graphs._sets) == 2


def test_the_rate_is_live_and_what_is_loaded_is_seen():
    def run(capture):
        phalanx.manual_seed(1)
        model = small()[0]().cuda()
        optimizer = optim.AdamW(model.parameters(), lr=0.1)
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        step = plain_step(model, optimizer)
        step = phalanx.capture(step) if capture else step
        for place, (x, y) in enumerate(batches((12,), 12)):
            if place == 5:
                optimizer.param_groups[0]["lr"] = 0.01
            if place == 8:
                model.load_state_dict(start)
            step(x, y)
        return [host(p) for p in model.parameters()], step

    expected, _ = run(False)
    got, step = run(True)
    assert got == expected and step.graphs == 10


def test_memory_that_moves_is_captured_anew():
    """A second optimizer packs the parameters of both models anew: other addresses."""

    def run(capture):
        phalanx.manual_seed(1)
        model, other = small()[0]().cuda(), nn.Linear(4, 4).cuda()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        step = plain_step(model, optimizer)
        step = phalanx.capture(step) if capture else step
        for place, (x, y) in enumerate(batches((12,), 10)):
            if place == 5:
                optim.SGD([*model.parameters(), *other.parameters()], lr=0.1)
            step(x, y)
        return [host(p) for p in model.parameters()], step

    expected, _ = run(False)
    got, step = run(True)
    assert got == expected and step.graphs == 8


def test_other_shapes_are_further_graphs():
    def run(capture):
        phalanx.manual_seed(1)
        model = small()[0]().cuda()
        step = plain_step(model, optim.SGD(model.parameters(), lr=0.1))
        step = phalanx.capture(step) if capture else step
        losses = []
        for size in (8, 8, 8, 5, 5, 5, 8, 5, 8):
            losses += [step(x, y).item() for x, y in batches((12,), 1, size, seed=size)]
        return losses, step

    expected, _ = run(False)
    got, step = run(True)
    assert got == expected and step.graphs == 5


def test_results_stay_what_they_were():
    """What a step returned is not written to by the next one."""
    _, step = train(small(), True, 4)
    first = step(*next(batches((12,), 1)))
    value = first.item()
    for x, y in batches((12,), 3, seed=9):
        step(x, y)
    assert first.item() == value and step.why is None


# ---- where there can be no graphs ------------------------------------------------------------------------------------


def test_inputs_in_host_memory():
    def make_step(model, optimizer):
        inner = plain_step(model, optimizer)

        def step(x, y):
            return inner(x.cuda(), y.cuda())

        return step

    given = [(phalanx.tensor(x.cpu().numpy()), phalanx.tensor(y.cpu().numpy())) for x, y in batches((12,), 6)]
    phalanx.manual_seed(1)
    model = small()[0]().cuda()
    step = phalanx.capture(make_step(model, optim.SGD(model.parameters(), lr=0.1)))
    with pytest.warns(UserWarning, match="without CUDA graphs"):
        for x, y in given:
            step(x, y)
    assert step.graphs == 0 and step.replays == 4 and "host memory" in step.why


def test_parameters_that_no_optimizer_holds():
    phalanx.manual_seed(1)
    model = small()[0]().cuda()

    def learn(x, y):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    step = phalanx.capture(learn)
    with pytest.warns(UserWarning, match="no optimizer holds"):
        for x, y in batches((12,), 4):
            step(x, y)
    assert step.graphs == 0 and step.replays == 2


def test_a_capture_that_fails_leaves_no_trace(monkeypatch):
    """Dropout has drawn and gradients were given when it fails: the step then runs as if nothing had been."""
    from phalanx.core.capture import graphs

    captured = graphs.captured

    def failing(graph, function, pool):
        def then_fail():
            function()
            raise RuntimeError("as the driver would say")

        return captured(graph, then_fail, pool)

    monkeypatch.setattr(graphs, "captured", failing)
    fails("as the driver would say")((mlp, (12,)), plain_step)


def test_without_graphs_where_that_is_asked():
    phalanx.manual_seed(1)
    model = small()[0]().cuda()
    step = phalanx.capture(plain_step(model, optim.SGD(model.parameters(), lr=0.1)), graphs=False)
    for x, y in batches((12,), 4):
        step(x, y)
    assert (step.graphs, step.replays, step.why) == (0, 2, None)


def test_values_are_watched_on_the_device():
    def reads(x, y):
        if x.array.sum() > 0:  # the array itself, past the tensor
            return x * 2
        return x * 3

    step = phalanx.capture(reads)
    with pytest.warns(UserWarning, match="depends on values"):
        for x, y in batches((12,), 3):
            step(x, y)
    assert step.replays == 0
