"""The end of a step as one compiled call against the same in parts: equal bits, whoever is late and whatever changes between steps."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from phalanx.core.kernels import reference_meeting
from phalanx.core.kernels.cpu import loops_meeting
from phalanx.core.kernels.reference_optim import merge_moments
from phalanx.dist.reduction.expression import InPlace
from phalanx.dist.shard_state import Layout, ShardState, Votes, decode, encode, join, order_of_merging
from tests.jobs import run_job

SCRIPT = """
import sys, time
import numpy as np
import phalanx
from phalanx import nn, optim
from phalanx.dist.communicators import verbs
from phalanx.dist.reduction.as_before import AsBefore
from phalanx.dist.reduction.bucket import BucketSizes
from phalanx.dist.same_end import SameEnd

verbs.tuned_sizes = lambda wire: BucketSizes(256, 1024)  # whatever is summed in place is one bucket all the same
phalanx.kernels.choose("fast")
phalanx.init()
rank, size = phalanx.rank(), phalanx.size()
reached = []
run = AsBefore.run

def counted(self, messages, mine, *rest):
    stage, state = run(self, messages, mine, *rest)
    reached.append(stage)
    return stage, state

AsBefore.run = counted
begin = SameEnd.begin

def counted_same(self, reducer):
    begun = begin(self, reducer)
    if begun.stage == 5:
        reached.append(5)
    return begun

SameEnd.begin = counted_same


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second, self.spare = nn.Linear(20, 300), nn.BatchNorm1d(300), nn.Linear(300, 4), nn.Linear(20, 4)

    def forward(self, x, with_spare=False):
        y = self.second(nn.functional.relu(self.norm(self.first(x))))
        return y + self.spare(x) if with_spare else y


def train(in_parts):
    phalanx.manual_seed(3)
    model = phalanx.DataParallel(Net())
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    random, seen = np.random.default_rng(rank), []
    for step in range(28):
        samples = 12 if step in (9, 10) and rank == 1 else 16
        x = phalanx.tensor(random.standard_normal((samples, 20)).astype(np.float32))
        labels = phalanx.tensor(random.integers(0, 4, samples))
        for _ in range(2 if step == 15 else 1):
            nn.functional.cross_entropy(model(x, step >= 18 or (step == 6 and rank == 1)), labels).backward()
        if step == 12:
            phalanx.vote("now", rank == size - 1)
        if step == 20 + rank % 2:
            time.sleep(0.3)  # the others fall asleep
        optimizer.step()
        assert phalanx.agreed("now") == (step == 12), step
        optimizer.zero_grad()
        both = model.reducer.fold.both
        if in_parts:
            both._compiled, both.known = False, None
        seen.append(model.step_loss)
    return seen, [t.detach().numpy().copy() for t in (*model.parameters(), *model.buffers())]


losses, values = train(False)
stages = list(reached)
losses_in_parts, values_in_parts = train(True)
assert len(reached) == len(stages), "it was not switched off"
assert losses == losses_in_parts
assert all(a.tobytes() == b.tobytes() for a, b in zip(values, values_in_parts, strict=True))
done = [stage for stage in stages if stage >= 3]
print(f"rank {rank}: {len(done)} of 28 at once, {len(stages) - len(done)} begun so", flush=True)
assert len(done) >= 12 and (rank > 0 or len(stages) > len(done)), stages  # begun so, and ended in parts: somebody said something new
assert all(stage >= 3 for stage in stages[-4:]), stages
assert (5 in done or 4 in done) == (size == 2), stages
"""


@pytest.mark.parametrize("job", ["run 2", "run 3", "mpirun 2"])
def test_equal_bits_as_one_call_and_in_parts(job: str, tmp_path: Path) -> None:
    script = tmp_path / "steps.py"
    script.write_text(SCRIPT)
    code, output = run_job(job, script=str(script))
    assert code == 0, output


def test_what_is_not_as_before_goes_the_long_way() -> None:
    code, output = run_job("run 2", script=str(Path(__file__).with_name("same_end_script.py")))
    assert code == 0 and "rank 0 is through" in output, output


SHARDS = """
import numpy as np
import phalanx
from phalanx import nn, optim
from phalanx.dist.same_end import SameEnd

phalanx.init(shards=2, kernels="fast")
stages, begin = [], SameEnd.begin

def counted(self, reducer):
    begun = begin(self, reducer)
    stages.append(begun.stage)
    return begun

SameEnd.begin = counted


def train(in_parts):
    phalanx.manual_seed(3)
    net = nn.Sequential(nn.Linear(20, 300), nn.BatchNorm1d(300), nn.ReLU(), nn.Linear(300, 4))
    model, random, losses = phalanx.DataParallel(net), np.random.default_rng(0), []
    optimizer = optim.Adam(model.parameters())
    x, labels = random.standard_normal((330, 20)).astype(np.float32), random.integers(0, 4, 330)
    loader = phalanx.data.DataLoader(phalanx.data.TensorDataset(x, labels), batch_size=32)
    for step in loader.steps():
        if len(losses) != 7:  # once the gradients are carried on
            optimizer.zero_grad()
        for a, b in step:
            nn.functional.cross_entropy(model(a), b).backward()
        optimizer.step()
        losses.append(model.step_loss)
        if in_parts:
            both = model.reducer.fold.both
            model.reducer._same, both.known, both._compiled = None, None, False
    return losses, [t.detach().numpy().tobytes() for t in (*model.parameters(), *model.buffers())]


at_once = train(False)
found = list(stages)
assert at_once == train(True)
assert found[4] != 0 and found[5] == 0, found  # the steps before it had no record
print(f"rank {phalanx.rank()} is through", flush=True)
"""


@pytest.mark.whole
def test_a_step_of_shards_ends_at_once_and_what_is_carried_on_does_not(tmp_path: Path) -> None:
    script = tmp_path / "shards.py"
    script.write_text(SHARDS)
    code, output = run_job("run 2", script=str(script))
    assert code == 0 and "rank 0 is through" in output, output


@pytest.mark.parametrize("number", [0, 9, 10, 65, 123456789012])
def test_numbers_and_their_checksum_are_written_as_python_does(number: int) -> None:
    control = np.zeros(64, np.uint8)
    end = loops_meeting._write_number.py_func(control, 5, number)
    assert control[5:end].tobytes() == str(number).encode() and not control[end:].any()
    with np.errstate(over="ignore"):
        found = loops_meeting._checksum.py_func(control, 5, end - 5, number & 0xFFFF)
    assert int(found) == zlib.crc32(control[5:end].tobytes(), number & 0xFFFF)


def states(ranks: int, channels: int) -> list[bytes]:
    random, rows = np.random.default_rng(ranks), []
    for rank in range(ranks):
        layout = (
            Layout(b"\1\1", b"\1\0", ("norm#0",), (float(3 + rank),), (channels,)) if channels else Layout(b"\1", b"\1")
        )
        moments = np.abs(random.standard_normal((2, channels)))
        rows.append(encode([ShardState(1.0 + rank, 0.1 * rank, layout, moments)], Votes()))
    return rows


@pytest.mark.parametrize("channels", [0, 1, 37])
@pytest.mark.parametrize("ranks", [2, 3, 5, 8])
def test_the_loop_merges_as_the_tree_does(ranks: int, channels: int) -> None:
    rows = states(ranks, channels)
    ranges = [(rank, rank + 1) for rank in range(ranks)]
    wanted, _ = join(rows, ranges, ranks)
    order = order_of_merging(rows, ranges, ranks)
    assert order is not None and wanted is not None
    pairs, shares = order
    own = [decode(row)[0][0] for row in rows]
    totals = np.array([(state.weight, state.loss) for state in own if state is not None])
    moments = np.array([state.moments for state in own if state is not None])
    for (a, b), (share, product) in zip(pairs, shares, strict=True):
        totals[a] += totals[b]
        moments[a] = merge_moments(moments[a], moments[b], share, product)
    assert (wanted.weight, wanted.loss) == tuple(totals[0])
    assert wanted.moments.tobytes() == moments[0].tobytes()


def test_votes_and_other_layers_are_merged_in_parts() -> None:
    rows, ranges = states(2, 3), [(0, 1), (1, 2)]
    (state,), _ = decode(rows[1])
    assert state is not None
    other = ShardState(1.0, 0.0, Layout(b"\1\1", b"\1\1", ("other#0",), (3.0,), (3,)), state.moments)
    for row in (encode([state], Votes(stop="SIGTERM")), encode([None], Votes()), encode([other], Votes())):
        assert order_of_merging([rows[0], row], ranges, 2) is None
    assert order_of_merging(rows, ranges, 2) is not None


def test_where_nothing_is_compiled_nothing_is_begun() -> None:
    assert reference_meeting.end_of_step(reference_meeting.BEGIN) == reference_meeting.BEGIN


@pytest.mark.parametrize("divisor", [1.0, 2.0, 3.0, 0.75])
def test_the_mean_is_that_of_the_sum_in_place(divisor: float) -> None:
    random = np.random.default_rng(7)
    first, second = random.standard_normal((2, 1000)).astype(np.float32)
    one, other = first.copy(), second.copy()
    loops_meeting._mean.py_func(one[3:9], other[3:9], divisor)
    InPlace(((0, 1), (1, 2)), {(0, 1): first, (1, 2): second}, slice(3, 9)).run(divisor)
    assert one[:10].tobytes() == first[:10].tobytes() and other[:10].tobytes() == second[:10].tobytes()
