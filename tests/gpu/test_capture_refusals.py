"""Where a captured step on the device goes without CUDA graphs: the same bits, and the reason is said."""

from __future__ import annotations

import pytest

import phalanx
from phalanx import nn, optim
from tests.gpu.captured_training import batches, fails, mlp, plain_step, small

F = nn.functional


@pytest.fixture(autouse=True)
def fast(standins):
    before = phalanx.kernels.chosen()
    phalanx.kernels.choose("fast")
    yield
    phalanx.kernels.choose(before)


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
