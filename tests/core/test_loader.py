"""The loader: which samples come, when, to whom, and what is left behind."""

import gc
import random
import threading
import time

import numpy as np
import pytest

from phalanx.core import rng
from phalanx.core.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    Placement,
    Subset,
    TensorDataset,
    default_collate,
    fingerprint,
    observers,
    placement,
    random_split,
    sample_random,
    set_placement,
)
from phalanx.core.data import loader as loader_module
from phalanx.core.data.prefetch import Prefetcher
from phalanx.core.errors import DataError, RangeError, ShapeError, StateError
from phalanx.core.tensor import Tensor

RANKS = (1, 2, 3, 5, 7, 8)
SHARDS = (None, 1, 3, 8)


@pytest.fixture(autouse=True)
def alone():
    before = set_placement(Placement())
    watchers = list(observers())
    yield
    set_placement(before)
    observers()[:] = watchers


@pytest.fixture(params=["inline", "thread"])
def background(request, monkeypatch):
    """Batches cut from arrays come from the training thread or from a background thread, whatever their size."""
    monkeypatch.setattr(loader_module, "BACKGROUND_NBYTES", 0 if request.param == "thread" else 1 << 60)
    return request.param


class Numbers(Dataset):
    """Sample i is (i, draws of `random` and `numpy.random`)."""

    def __init__(self, length=23, broken=None):
        self.length, self.broken = length, broken

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index == self.broken:
            raise KeyError("no such file")
        return index, random.random(), np.random.rand(2)


class Keyed(Numbers):
    """Sample i is (i, draw of the sample's own generator); slower for some samples than for others."""

    keyed = True

    def __getitem__(self, index):
        if index == self.broken:
            raise KeyError("no such file")
        time.sleep(0.0005 * (index % 3))
        return index, sample_random().random()


def ids(batch):
    return np.asarray(batch[0].numpy()).reshape(-1).tolist()


def epoch_of(make, size, shards, *, plain=False):
    """shard contents of one epoch: [(step, shard, ids)], from all ranks one after another, sorted."""
    found = []
    for rank in range(size):
        set_placement(Placement(rank, size, shards))
        loader = make()
        if plain:
            found += [(number, rank, ids(batch)) for number, batch in enumerate(loader)]
        else:
            found += [(step.index, step.shard, ids(batch)) for step in loader.steps() for batch in step]
        assert loader.step == len(loader) and loader.epoch == 1
    return sorted(found)


# -- which samples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 5, 23, 64])
@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("size", RANKS)
def test_every_sample_comes_exactly_once(size, shards, length, background):
    data = TensorDataset(np.arange(length))
    found = epoch_of(lambda: DataLoader(data, 10, shuffle=True, seed=3), size, shards)
    assert sorted(i for *_, batch in found for i in batch) == list(range(length))


@pytest.mark.parametrize("shards", [1, 3, 8])
def test_a_shard_holds_the_same_samples_at_any_number_of_ranks(shards):
    data = TensorDataset(np.arange(53))
    whole = epoch_of(lambda: DataLoader(data, 10, shuffle=True, seed=3), 1, shards)
    assert any(len(batch) == 1 for *_, batch in whole) or shards == 1
    for size in RANKS[1:]:
        assert epoch_of(lambda: DataLoader(data, 10, shuffle=True, seed=3), size, shards) == whole


@pytest.mark.parametrize("size", RANKS)
def test_the_plain_loop_gives_the_same_parts_and_empty_ones_too(size):
    data = TensorDataset(np.arange(23), np.zeros((23, 2, 3), np.float32))
    parts = epoch_of(lambda: DataLoader(data, 10, seed=0), size, None)
    plain = epoch_of(lambda: DataLoader(data, 10, seed=0), size, None, plain=True)
    assert len(plain) == 3 * size
    assert [part for part in plain if part[2]] == parts


@pytest.mark.parametrize(
    "dataset", [TensorDataset(np.arange(3), np.zeros((3, 2, 2), np.float32)), Keyed(3), Numbers(3)]
)
def test_a_part_without_samples_has_the_shapes_of_the_others(dataset):
    set_placement(Placement(4, 5))
    (batch,) = DataLoader(dataset, 8)
    set_placement(Placement(0, 5))
    (full,) = DataLoader(dataset, 8)
    assert [part.shape for part in batch] == [(0, *part.shape[1:]) for part in full]
    assert [part.dtype for part in batch] == [part.dtype for part in full]


def test_drop_last_leaves_the_short_batch_out():
    loader = DataLoader(TensorDataset(np.arange(23)), 10, drop_last=True)
    assert len(loader) == 2
    assert [i for batch in loader for i in ids(batch)] == list(range(20))
    assert loader.epoch == 1 and loader.step == 2


def test_the_order_follows_from_seed_and_epoch():
    data = TensorDataset(np.arange(50))
    loader = DataLoader(data, 7, shuffle=True, seed=5)
    first, second = ([i for batch in loader for i in ids(batch)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second and first != list(range(50))
    assert first == rng.permutation(50, 5, 0).tolist() and second == rng.permutation(50, 5, 1).tolist()
    rng.manual_seed(5)
    assert [i for batch in DataLoader(data, 9, shuffle=True) for i in ids(batch)] == first
    assert [i for batch in DataLoader(data, 9, shuffle=True, seed=6) for i in ids(batch)] != first


@pytest.mark.parametrize("dataset", [Keyed(23), Numbers(23), Subset(Keyed(40), range(5, 28))])
@pytest.mark.parametrize("options", [{"prefetch": 0}, {"prefetch": 1}, {"prefetch": 5}, {"num_workers": 3}])
@pytest.mark.filterwarnings("ignore:num_workers")
def test_prefetch_and_workers_change_nothing(dataset, options):
    def contents(size, **options):
        found = []
        for rank in range(size):
            set_placement(Placement(rank, size, 4))
            loader = DataLoader(dataset, 6, shuffle=True, seed=1, **options)
            for _ in range(2):
                for step in loader.steps():
                    found += [(step.index, step.shard, *(part.numpy().tolist() for part in batch)) for batch in step]
        return sorted(found)

    assert contents(1, **options) == contents(1, prefetch=0) == contents(3, **options)


def test_big_batches_come_from_a_thread_and_are_the_same(background):
    data = TensorDataset(np.arange(230).reshape(23, 10))
    seen = []
    for batch in DataLoader(data, 4, shuffle=True, seed=2):
        seen += batch[0].numpy()[:, 0].tolist()
        if len(seen) < 8:
            assert any(t.name.startswith("phalanx-prefetch") for t in threading.enumerate()) == (background == "thread")
    assert seen == (10 * rng.permutation(23, 2, 0)).tolist()


# -- randomness of samples ----------------------------------------------------------------------------------------


def test_a_sample_draws_by_seed_epoch_and_index_and_the_globals_come_back():
    def draws(batch_size, order_seed, **options):
        loader = DataLoader(Numbers(12), batch_size, shuffle=True, seed=order_seed, **options)
        return [
            {
                int(i): (float(a), *b.tolist())
                for batch in loader
                for i, a, b in zip(*(p.numpy() for p in batch), strict=True)
            }
            for _ in range(2)
        ]

    random.seed(11)
    np.random.seed(11)
    expected = (random.random(), np.random.rand())
    random.seed(11)
    np.random.seed(11)
    first = draws(3, 7)
    assert (random.random(), np.random.rand()) == expected
    assert first == draws(5, 7)
    assert len(set(first[0].values()) | set(first[1].values())) == 24
    assert first[0] != draws(3, 8)[0]


@pytest.mark.parametrize("num_workers", [0, 3])
def test_numbers_that_a_sample_draws_from_phalanx_are_its_own(num_workers):
    class Drawing(Keyed):
        def __getitem__(self, index):
            return index, rng.next_key("user").bits(1)[0], sample_random().random()

    def draws(size, batch_size):
        found = {}
        for rank in range(size):
            set_placement(Placement(rank, size))
            rng.manual_seed(rank)  # another seed than the loader's leaves no trace
            for batch in DataLoader(Drawing(), batch_size, shuffle=True, seed=4, num_workers=num_workers):
                found |= {int(row[0]): row[1:] for row in zip(*(part.numpy().tolist() for part in batch), strict=True)}
                assert rng.next_key("user").call == 0
        return found

    first = draws(1, 4)
    assert len({row[0] for row in first.values()}) == 23
    assert first == draws(3, 5)


def test_ranks_as_threads_draw_the_same():
    def run(rank, size, out):
        set_placement(Placement(rank, size, 4))
        loader = DataLoader(Numbers(40), 8, shuffle=True, seed=4)
        out += [(s.index, s.shard, [p.numpy().tolist() for p in batch]) for s in loader.steps() for batch in s]

    alone: list = []
    run(0, 1, alone)
    together: list = []
    threads = [threading.Thread(target=run, args=(rank, 4, together)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(together) == sorted(alone)


def test_a_collate_function_of_ones_own_sees_samples_and_may_draw():
    def collate(samples):
        return [sample[0] for sample in samples], random.random()

    def batches():
        return list(DataLoader(Numbers(9), 4, seed=1, collate_fn=collate))

    assert [batch[0] for batch in batches()] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert batches() == batches()
    (whole,) = DataLoader(TensorDataset(np.arange(3)), 4, collate_fn=lambda samples: [type(s) for s in samples])
    assert whole == [tuple] * 3


# -- scope and observers ------------------------------------------------------------------------------------------


class Recorder:
    def __init__(self):
        self.log = []

    def step_opens(self, step):
        self.log.append(("step", step.index, rng.scope()))

    def shard_opens(self, step, shard, samples):
        self.log.append(("shard", shard, samples, rng.scope()))

    def shard_closes(self):
        self.log.append("close shard")

    def step_closes(self, step):
        self.log.append(("close step", step.index))


def test_observers_and_scope_follow_the_loop():
    set_placement(Placement(1, 2, 3))
    recorder = Recorder()
    observers().append(recorder)
    loader = DataLoader(TensorDataset(np.arange(5)), 4)
    for step in loader.steps():
        assert rng.scope() == (step.index, None)
        assert step.sizes == ((2, 1, 1), (1, 0, 0))[step.index] and step.weight == (4, 1)[step.index]
        for (x,) in step:
            assert rng.scope() == (step.index, step.shard) == (0, 2) and x.shape == (1,)
        assert step.shard is None
    assert recorder.log == [
        ("step", 0, (0, None)),
        ("shard", 2, 1, (0, 2)),
        "close shard",
        ("close step", 0),
        ("step", 1, (1, None)),
        ("close step", 1),
    ]


def test_the_plain_loop_opens_its_ranks_shard():
    set_placement(Placement(1, 2))
    recorder = Recorder()
    observers().append(recorder)
    for number, _ in enumerate(DataLoader(TensorDataset(np.arange(5)), 4)):
        assert rng.scope() == (number, 1)
    assert recorder.log == [
        *(("step", 0, (0, None)), ("shard", 1, 2, (0, 1)), "close shard", ("close step", 0)),
        *(("step", 1, (1, None)), ("shard", 1, 0, (1, 1)), "close shard", ("close step", 1)),
    ]


@pytest.mark.parametrize("how", ["break inner", "break outer", "raise"])
def test_leaving_a_loop_early_closes_what_is_open(how):
    set_placement(Placement(0, 1, 2))
    recorder = Recorder()
    observers().append(recorder)
    loader = DataLoader(TensorDataset(np.arange(6)), 4)
    try:
        for step in loader.steps():
            for _ in step:
                if how == "raise":
                    raise RuntimeError
                break
            if how == "break outer":
                break
    except RuntimeError:
        pass
    closes = recorder.log.count("close shard")
    assert closes == sum(entry[0] == "shard" for entry in recorder.log) == (2 if how == "break inner" else 1)
    assert recorder.log[-1] == ("close step", loader.step - 1 if how == "break inner" else 0)
    # a step that was left counts when the loop over steps moves on, not when that is left too
    assert loader.step == (2 if how == "break inner" else 0)
    assert rng.scope()[1] is None


def test_an_evaluation_inside_a_shard_gives_the_scope_back():
    set_placement(Placement(0, 1, 2))
    train, test = (DataLoader(TensorDataset(np.arange(6)), 2) for _ in range(2))
    for step in train.steps():
        for _ in step:
            for evaluation in test.steps():
                for _ in evaluation:
                    assert rng.scope() == (evaluation.index, evaluation.shard)
            assert rng.scope() == (step.index, step.shard)


def test_two_plain_loaders_side_by_side_leave_no_scope():
    a, b = DataLoader(TensorDataset(np.arange(3))), DataLoader(TensorDataset(np.arange(9)))
    for number, _ in enumerate(zip(a, b, strict=False)):
        assert rng.scope() == (number, 0)
    assert rng.scope()[1] is None


def test_a_step_may_be_gone_over_twice_and_not_after_its_time(background):
    set_placement(Placement(0, 1, 3))
    loader = DataLoader(TensorDataset(np.arange(10)), 5, shuffle=True, seed=1)
    for step in loader.steps():
        first = [ids(batch) for batch in step]
        assert loader.step == step.index + 1
        assert [ids(batch) for batch in step] == first
        assert loader.step == step.index + 1
    with pytest.raises(DataError, match="step 1 is over"):
        next(iter(step))


def test_batches_stay_in_line_after_an_inner_loop_was_left(background):
    set_placement(Placement(0, 1, 3))
    seen = []
    for step in DataLoader(TensorDataset(np.arange(12)), 6).steps():
        for batch in step:
            seen.append(ids(batch))
            break
    assert seen == [[0, 1], [6, 7]]


def test_a_shard_whose_iterator_is_still_held_closes_with_its_step():
    set_placement(Placement(0, 1, 2))
    recorder = Recorder()
    observers().append(recorder)
    held = []
    for step in DataLoader(TensorDataset(np.arange(4)), 2).steps():
        held.append(iter(step))
        next(held[-1])
    assert [entry if isinstance(entry, str) else entry[0] for entry in recorder.log] == [
        *("step", "shard", "close shard", "close step"),
        *("step", "shard", "close shard", "close step"),
    ]
    held.clear()
    assert recorder.log.count("close shard") == 2


# -- the position -------------------------------------------------------------------------------------------------


def run_until(make, size, shards, state=None, stop=None):
    """Shards of all ranks from ``state`` on, over two epochs, and the state after ``stop`` steps."""
    found, states = [], []
    for rank in range(size):
        set_placement(Placement(rank, size, shards))
        loader = make()
        if state is not None:
            loader.load_state_dict(state)
        while loader.epoch < 2 and loader.step != stop:
            for step in loader.steps():
                found += [(step.index, step.epoch, step.shard, [p.numpy().tolist() for p in batch]) for batch in step]
                if loader.step == stop:
                    break
        states.append(loader.state_dict())
    assert all(state == states[0] for state in states)
    return sorted(found), states[0]


@pytest.mark.parametrize("stop", [1, 4, 5, 6, 9])
@pytest.mark.parametrize("before, after", [(1, 3), (3, 1), (2, 8), (8, 5)])
def test_resuming_at_another_number_of_ranks_equals_not_stopping(before, after, stop):
    def make():
        return DataLoader(Keyed(23), 5, shuffle=True, seed=9, prefetch=stop % 3)

    whole, end = run_until(make, 1, 3)
    head, state = run_until(make, before, 3, stop=stop)
    tail, resumed_end = run_until(make, after, 3, state=state)
    assert head + tail == whole
    assert {key: state[key] for key in ("step", "epoch", "batch")} == {
        "step": stop,
        "epoch": 0 if stop <= 5 else 1,
        "batch": stop if stop <= 5 else stop - 5,
    }
    assert end == resumed_end


def test_the_plain_loop_counts_a_batch_when_it_hands_it_out_and_resumes_behind_it():
    def make():
        return DataLoader(TensorDataset(np.arange(23)), 5, shuffle=True, seed=2)

    loader, seen = make(), []
    for batch in loader:
        seen += ids(batch)
        if loader.step == 3:
            state = loader.state_dict()
            break
    resumed = make()
    resumed.load_state_dict(state)
    seen += [i for batch in resumed for i in ids(batch)]
    assert seen == rng.permutation(23, 2, 0).tolist()
    assert resumed.epoch == 1 and resumed.step == 5


def test_a_plain_loop_that_was_left_begins_a_new_epoch():
    loader = DataLoader(TensorDataset(np.arange(6)), 2)
    assert ids(next(iter(loader))) == [0, 1]
    assert ids(next(iter(loader))) == [0, 1]
    assert [ids(batch) for batch in loader] == [[0, 1], [2, 3], [4, 5]]
    assert loader.step == 5 and loader.epoch == 3


def test_steps_go_on_where_they_were_left():
    loader = DataLoader(TensorDataset(np.arange(6)), 2)
    for step in loader.steps():
        list(step)
        break
    assert [step.index for step in loader.steps() for _ in step] == [1, 2]


def test_a_saved_position_of_another_run_is_refused_with_all_differences():
    data = np.arange(23)
    saved = DataLoader(TensorDataset(data), 5, shuffle=True, seed=1).state_dict()
    set_placement(Placement(0, 1, 4))
    other = DataLoader(TensorDataset(data[:20]), 6, seed=2, drop_last=True)
    with pytest.raises(StateError) as caught:
        other.load_state_dict(saved)
    for key in ("seed", "batch_size", "shards", "length", "shuffle", "drop_last", "fingerprint"):
        assert f"{key}: saved {saved[key]!r}" in str(caught.value)
    with pytest.raises(StateError, match="shards: saved None, now 4") as caught:
        other.load_state_dict(saved, allow=("seed", "batch_size", "length", "shuffle", "drop_last", "fingerprint"))
    assert "batch_size" not in str(caught.value)
    with pytest.raises(RangeError, match="allow"):
        other.load_state_dict(saved, allow=("batchsize",))
    with pytest.raises(StateError, match="epoch, position"):
        other.load_state_dict({key: value for key, value in saved.items() if key not in ("epoch", "position")})


def test_equal_data_of_another_order_is_other_data():
    data = np.arange(23.0)
    saved = DataLoader(TensorDataset(data), 5, seed=0).state_dict()
    with pytest.raises(StateError, match="fingerprint"):
        DataLoader(TensorDataset(data[::-1]), 5, seed=0).load_state_dict(saved)
    DataLoader(TensorDataset(data.copy()), 5, seed=0).load_state_dict(saved)


def test_another_batch_size_goes_on_behind_the_last_sample():
    loader = DataLoader(TensorDataset(np.arange(23)), 5, seed=0)
    for step in loader.steps():
        list(step)
        break
    state = loader.state_dict()
    loader = DataLoader(TensorDataset(np.arange(23)), 8, seed=0)
    loader.load_state_dict(state, allow=("batch_size",))
    batches = [ids(batch) for step in loader.steps() for batch in step]
    assert batches == [list(range(5, 13)), list(range(13, 21)), [21, 22]]
    assert loader.step == 4


def test_ranks_that_change_within_an_epoch_lose_no_sample(background):
    set_placement(Placement(0, 1, 4))
    seen = []
    for step in DataLoader(TensorDataset(np.arange(24)), 8).steps():
        seen += [i for batch in step for i in ids(batch)]
        set_placement(Placement(0, 2, 4))
    assert seen == [*range(8), *range(8, 12), *range(16, 20)]


# -- what is left behind ------------------------------------------------------------------------------------------


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("phalanx-prefetch")]


@pytest.mark.parametrize("how", ["break", "break plain", "raise", "dropped", "loader dropped", "ended"])
def test_no_thread_is_left(how):
    loader = DataLoader(Keyed(60), 2, num_workers=2, prefetch=4)
    if how == "break":
        for step in loader.steps():
            for _ in step:
                assert len(prefetch_threads()) == 2
            break
    elif how == "break plain":
        for _ in loader:
            break
    elif how == "raise":
        with pytest.raises(RuntimeError):
            for _ in loader:
                raise RuntimeError
    elif how == "ended":
        assert len(list(loader)) == 30
    else:
        held = iter(loader)
        next(held)
        assert len(prefetch_threads()) == 2
        if how == "loader dropped":
            del loader
        del held
        gc.collect()
    assert prefetch_threads() == []


def test_a_prefetcher_that_is_dropped_ends_its_threads():
    prefetcher = Prefetcher(abs, range(100), ahead=3, threads=2)
    assert prefetcher.take() == 0 and len(prefetch_threads()) == 2
    del prefetcher
    gc.collect()
    assert prefetch_threads() == []


def test_no_more_than_prefetch_batches_are_made_ahead():
    made = []

    class Counting(Keyed):
        def __getitem__(self, index):
            made.append(index)
            return index

    for number, _ in enumerate(DataLoader(Counting(40), 1, prefetch=3)):
        time.sleep(0.002)
        assert len(made) <= number + 1 + 3


def test_samples_are_fetched_in_parallel_by_workers():
    gate = threading.Barrier(3, timeout=20)

    class Meeting(Keyed):
        def __getitem__(self, index):
            gate.wait()
            return index

    assert [ids([batch]) for batch in DataLoader(Meeting(6), 1, num_workers=3)] == [[i] for i in range(6)]


def test_a_newer_loop_takes_the_position_and_the_older_one_says_so():
    loader = DataLoader(TensorDataset(np.arange(6)))
    older = loader.steps()
    list(next(older))
    list(loader.steps())
    with pytest.raises(DataError, match="two loaders"):
        next(older)


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Numbers, Keyed])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_sample_that_cannot_be_read_is_named_in_the_loop_when_its_turn_comes(kind, prefetch):
    seen = []
    with pytest.raises(DataError, match=r"sample 13 of .* KeyError: 'no such file'") as caught:
        for batch in DataLoader(kind(23, broken=13), 5, prefetch=prefetch):
            seen += ids(batch)
    assert seen == list(range(10))
    assert isinstance(caught.value.__cause__, KeyError)
    assert prefetch_threads() == []


def test_samples_of_unequal_shape_are_named():
    class Ragged(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return np.zeros(index)

    with pytest.raises(DataError, match=r"samples 0, 1, 2.*cannot stack samples of shapes"):
        list(DataLoader(Ragged(), 3))


def test_iterating_with_shards_shows_steps():
    set_placement(Placement(0, 1, 4))
    with pytest.raises(DataError, match=r"for step in loader.steps\(\)"):
        iter(DataLoader(TensorDataset(np.arange(4))))


@pytest.mark.parametrize("value", [0, -1, 2.0, "8", None, True])
def test_a_batch_size_that_is_none(value):
    with pytest.raises(RangeError, match=r"batch_size must be an integer of at least 1, got"):
        DataLoader(TensorDataset(np.arange(4)), value)


def test_a_generator_is_a_seed():
    from phalanx import Generator

    data = TensorDataset(np.arange(50))
    split = [part.indices.tolist() for part in random_split(data, [20, 30], Generator().manual_seed(5))]
    assert split == [part.indices.tolist() for part in random_split(data, [20, 30], seed=5)]
    loader = DataLoader(data, 10, shuffle=True, generator=Generator().manual_seed(7))
    assert [batch[0].tolist() for batch in loader] == [
        b[0].tolist() for b in DataLoader(data, 10, shuffle=True, seed=7)
    ]
    with pytest.raises(RangeError, match="sampler"):
        DataLoader(data, 2, sampler=Generator())
    with pytest.raises(RangeError, match="an integer, got '7'"):
        Generator().manual_seed("7")


def test_options_that_cannot_be_honoured_are_refused():
    data = TensorDataset(np.arange(4))
    for name in ("sampler", "batch_sampler", "generator", "worker_init_fn", "multiprocessing_context"):
        with pytest.raises(RangeError, match=name):
            DataLoader(data, num_workers=1, **{name: object()})
    with pytest.raises(RangeError, match=r"'fork'.*spawn"):
        DataLoader(data, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(RangeError, match="timeout"):
        DataLoader(data, timeout=-1)
    with pytest.raises(TypeError, match="bach_size"):
        DataLoader(data, bach_size=2)
    with pytest.raises(RangeError, match="in_order"):
        DataLoader(data, in_order=False)
    with pytest.raises(RangeError, match=r"drop_last.*4 samples"):
        DataLoader(data, 8, drop_last=True)
    with pytest.raises(RangeError, match="num_workers"):
        DataLoader(data, num_workers=-1)
    loader = DataLoader(data, 2, pin_memory=True, persistent_workers=False, prefetch_factor=4, sampler=None)
    assert loader.prefetch == 4 and loader.dataset is data and loader.batch_size == 2 and not loader.drop_last


def test_data_sets_that_cannot_be_used_are_refused():
    with pytest.raises(DataError, match="empty"):
        DataLoader(TensorDataset(np.arange(0)))

    with pytest.raises(DataError, match="stream"):
        DataLoader(i for i in range(3))
    with pytest.raises(DataError, match="__getitem__"):
        DataLoader({1, 2})
    assert [ids([batch]) for batch in DataLoader([5, 6, 7], 2)] == [[5, 6], [7]]


def test_workers_for_a_data_set_that_may_draw_are_explained():
    with pytest.warns(UserWarning, match="keyed = True"):
        list(DataLoader(Numbers(4), 2, num_workers=2))


# -- data sets ----------------------------------------------------------------------------------------------------


def test_tensor_dataset_takes_tensors_and_arrays_of_one_length():
    data = TensorDataset(Tensor(np.arange(6.0).reshape(3, 2)), np.arange(3))
    x, y = data[1]
    assert x.numpy().tolist() == [2.0, 3.0] and y.item() == 1 and len(data) == 3
    with pytest.raises(ShapeError, match=r"\[3, 4\]"):
        TensorDataset(np.arange(3), np.arange(4))
    with pytest.raises(RangeError):
        TensorDataset()
    with pytest.raises(ShapeError, match="argument 1"):
        TensorDataset(np.arange(3), np.float32(1))


def test_batches_are_copies():
    array = np.zeros((4, 2))
    for (x,) in DataLoader(TensorDataset(array), 2):
        x.numpy()[...] = 1
    assert not array.any()


def test_cutting_at_once_equals_sample_by_sample():
    arrays = np.arange(40, dtype=np.float32).reshape(20, 2), np.arange(20)
    for data in (TensorDataset(*arrays), Subset(TensorDataset(*arrays), [3, 1, 19, -1])):
        indices = np.array([2, 0, 3])
        at_once = data.take(indices)
        singly = default_collate([data[i] for i in indices])
        for a, b in zip(at_once, singly, strict=True):
            assert a.dtype == b.numpy().dtype and (a == b.numpy()).all()


def test_concat_and_subset():
    both = TensorDataset(np.arange(3)) + TensorDataset(np.arange(10, 14))
    assert [both[i][0].item() for i in range(-7, 7)] == [0, 1, 2, 10, 11, 12, 13] * 2
    assert sorted(i for b in DataLoader(both, 3, shuffle=True, seed=0) for i in ids(b)) == [0, 1, 2, 10, 11, 12, 13]
    with pytest.raises(IndexError):
        both[7]
    with pytest.raises(RangeError, match=r"\[0, 7\)"):
        Subset(both, [7])
    with pytest.raises(RangeError):
        ConcatDataset([])


def test_random_split_is_keyed_and_loses_nothing():
    data = TensorDataset(np.arange(11))
    parts = random_split(data, [0.5, 0.3, 0.2], seed=3)
    assert [len(part) for part in parts] == [6, 3, 2]
    assert sorted(int(part[i][0].item()) for part in parts for i in range(len(part))) == list(range(11))
    again = random_split(data, [6, 3, 2], seed=3)
    assert all((a.indices == b.indices).all() for a, b in zip(parts, again, strict=True))
    assert (again[0].indices != random_split(data, [6, 3, 2], seed=4)[0].indices).any()
    for wrong in ([5, 5], [0.5, 0.6], [12, -1]):
        with pytest.raises(RangeError, match="random_split"):
            random_split(data, wrong)


def test_fingerprints_tell_data_sets_apart_and_leave_the_generators_alone():
    state = random.getstate()
    assert fingerprint(Numbers(300)) == fingerprint(Numbers(300)) != fingerprint(Numbers(301))
    assert random.getstate() == state
    array = np.zeros((5, 2), np.float32)
    prints = {
        fingerprint(TensorDataset(a)) for a in (array, array.reshape(5, 1, 2), array.astype(np.float64), array + 1)
    }
    assert len(prints) == 4
    assert fingerprint(Subset(Numbers(9), [1, 2])) != fingerprint(Subset(Numbers(9), [2, 1]))
    assert len(fingerprint([("a", b"b", {"c": 1.5, "d": None})])) == 16


@pytest.mark.torch
def test_collate_is_pytorchs():
    torch_data = pytest.importorskip("torch.utils.data")
    samples = [(np.full((2, 3), i, np.float32), i, i / 2, bool(i), "s", {"k": [i, np.int32(i)]}) for i in range(3)]

    def same(ours, theirs):
        if isinstance(theirs, list | tuple):
            assert type(ours) is type(theirs) and len(ours) == len(theirs)
            for a, b in zip(ours, theirs, strict=True):
                same(a, b)
        elif isinstance(theirs, dict):
            assert ours.keys() == theirs.keys()
            for key in theirs:
                same(ours[key], theirs[key])
        elif isinstance(theirs, str):
            assert ours == theirs
        else:
            assert ours.numpy().dtype == theirs.numpy().dtype and (ours.numpy() == theirs.numpy()).all()

    same(default_collate(samples), torch_data.default_collate(samples))


@pytest.mark.torch
def test_torch_data_sets_and_tensors_are_taken():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.arange(10.0).reshape(5, 2), torch.arange(5))
    batches = list(DataLoader(data, 2))
    assert batches[1][0].numpy().tolist() == [[4.0, 5.0], [6.0, 7.0]] and batches[2][1].numpy().tolist() == [4]
    assert isinstance(batches[0][0], Tensor)


def test_placement_belongs_to_the_thread():
    set_placement(Placement(1, 2, 8))
    seen = []
    thread = threading.Thread(target=lambda: seen.append(placement()))
    thread.start()
    thread.join(10)
    assert seen == [Placement()] and placement() == Placement(1, 2, 8)
