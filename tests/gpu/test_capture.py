"""A captured step on the device: CUDA graphs give the bits of the step itself."""

from __future__ import annotations

import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.errors import RangeError
from tests.core.test_capture import never_cleared, noisy, twice
from tests.gpu.captured_training import MODELS, batches, compare, host, mlp, plain_step, small, train

F = nn.functional


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
