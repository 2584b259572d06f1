"""Streams: the files' own order whatever the ranks, an exact cursor, uneven ends, and what goes wrong."""

import gzip
import json
import random
import threading

import numpy as np
import pytest

from phalanx.core.data import (
    DataLoader,
    IterableDataset,
    Placement,
    StreamingDataset,
    fingerprint,
    sample_random,
    set_placement,
)
from phalanx.core.data import loader as loader_module
from phalanx.core.errors import DataError, RangeError, StateError


@pytest.fixture(autouse=True)
def alone():
    before = set_placement(Placement())
    yield
    set_placement(before)


SIZES = (7, 0, 11, 1, 4)
TOTAL = sum(SIZES)


@pytest.fixture
def files(tmp_path):
    """Lines 0 ... 22 in five files, one of them empty, one packed, one without an end of line."""
    number = 0
    for place, size in enumerate(SIZES):
        lines = b"".join(f"{i}\n".encode() for i in range(number, number + size))
        number += size
        if place == 2:
            (tmp_path / f"{place}.txt.gz").write_bytes(gzip.compress(lines))
        else:
            (tmp_path / f"{place}.txt").write_bytes(lines[:-1] if place == 3 else lines)
    return str(tmp_path / "*.txt*")


class Plain(IterableDataset):
    """Draws as PyTorch's users do."""

    def __iter__(self):
        for index in range(TOTAL):
            yield index, random.random(), np.random.rand()


class Keyed(Plain):
    keyed = True

    def __iter__(self):
        for index in range(TOTAL):
            yield index, sample_random().random()


def draw(text):
    return int(text), sample_random().random()


def draw_globally(text):
    return int(text), random.random()


MAKERS = {
    "files": lambda files: StreamingDataset(files, draw),
    "files, globally drawn": lambda files: StreamingDataset(files, draw_globally, keyed=False),
    "files shuffled": lambda files: StreamingDataset(files, draw, shuffle_files=True),
    "windows": lambda files: StreamingDataset(files, draw, shuffle_files=True, window=5),
    "iterable": lambda files: Plain(),
    "keyed iterable": lambda files: Keyed(),
}


def rows(batch):
    return list(zip(*(part.numpy().tolist() for part in batch), strict=True))


def run(make, size, state=None, stop=None, **options):
    found, ends = [], []
    for rank in range(size):
        set_placement(Placement(rank, size, 3))
        random.seed(rank)
        loader = DataLoader(make(), 5, seed=4, **options)
        if state is not None:
            loader.load_state_dict(json.loads(json.dumps(state)))
        while loader.epoch < 2 and loader.step != stop:
            for step in loader.steps():
                found += [(step.index, step.epoch, step.shard, rows(batch)) for batch in step]
                if loader.step == stop:
                    break
        ends.append(loader.state_dict())
    assert all(end == ends[0] for end in ends)
    return sorted(found), ends[0]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("drop_last", [False, True])
def test_equal_at_any_number_of_ranks_and_resumed_exactly(name, drop_last, files):
    def make():
        return MAKERS[name](files)

    whole, end = run(make, 1, drop_last=drop_last)
    per_epoch = 4 if drop_last else 5
    assert end["step"] == 2 * per_epoch and end["epoch"] == 2 and end["position"] == 0
    first = [row[0] for index, epoch, _, batch in whole if epoch == 0 for row in batch]
    assert len(set(first)) == len(first) == (20 if drop_last else TOTAL)
    assert len({row[1] for *_, batch in whole for row in batch}) == sum(len(batch) for *_, batch in whole)
    second = [row[0] for index, epoch, _, batch in whole if epoch == 1 for row in batch]
    assert (first == second) == (name not in ("files shuffled", "windows"))
    if first == second:
        assert first == list(range(len(first)))
    assert run(make, 2, drop_last=drop_last)[0] == run(make, 5, drop_last=drop_last)[0] == whole
    for stop in (1, 3, per_epoch, per_epoch + 2):
        head, state = run(make, 3, stop=stop, drop_last=drop_last)
        tail, resumed_end = run(make, 2, state, drop_last=drop_last)
        assert head + tail == whole and resumed_end == end


@pytest.mark.parametrize("options", [{"prefetch": 0}, {"prefetch": 1}, {"prefetch": 6}, {"num_workers": 3}])
def test_threads_change_nothing(options, files):
    def make():
        return MAKERS["windows"](files)

    assert run(make, 2, **options) == run(make, 1, prefetch=0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("phalanx-prefetch")]


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_the_plain_loop_keeps_all_ranks_in_step(size, files):
    """23 samples, 6 a batch: the last batch has fewer samples than the ranks are many."""
    seen, counts = [], set()
    for rank in range(size):
        set_placement(Placement(rank, size))
        batches = [rows(batch) for batch in DataLoader(StreamingDataset(files, draw), 6)]
        counts.add(len(batches))
        seen += [row[0] for batch in batches for row in batch]
    assert counts == {4} and sorted(seen) == list(range(TOTAL))


def test_a_step_may_be_gone_over_twice(files):
    set_placement(Placement(0, 1, 2))
    for step in DataLoader(StreamingDataset(files, draw), 6).steps():
        assert [rows(batch) for batch in step] == [rows(batch) for batch in step]


def test_ranks_that_change_within_an_epoch_lose_no_sample(files):
    set_placement(Placement(0, 1, 4))
    seen = []
    for step in DataLoader(StreamingDataset(files, draw, window=7), 8, seed=1).steps():
        seen += [row[0] for batch in step for row in rows(batch)]
        set_placement(Placement(0, 2, 4))
    alone = [int(record.data) for record, _ in StreamingDataset(files, window=7).records(1, 0, None)]
    assert seen == [*alone[:8], *alone[8:12], *alone[16:20]]


def test_going_on_reads_no_file_again(files, tmp_path):
    loader = DataLoader(StreamingDataset(files, int), 8)
    for step in loader.steps():
        list(step)
        if step.index == 1:
            break
    state = loader.state_dict()
    assert state["cursor"] == {"file": 2, "record": 9, "byte": 24, "window": 0, "used": 0}
    resumed = DataLoader(StreamingDataset(files, int), 8)
    (tmp_path / "0.txt").write_text("never read\n" * 3)
    resumed.load_state_dict(state, allow=("fingerprint",))
    assert [step_rows for step in resumed.steps() for batch in step for step_rows in batch.tolist()] == [*range(16, 23)]


def test_fixed_records_and_shapes(tmp_path):
    np.arange(12, dtype="<i2").tofile(tmp_path / "a.bin")
    np.arange(12, 20, dtype="<i2").tofile(tmp_path / "b.bin")

    def parse(data):
        return np.frombuffer(data, "<i2")

    stream = StreamingDataset([tmp_path / "a.bin", tmp_path / "b.bin"], parse, record_nbytes=8)
    assert [batch.shape for batch in DataLoader(stream, 2)] == [(2, 4), (2, 4), (1, 4)]
    assert [sample.tolist() for sample in stream][-1] == [16, 17, 18, 19]
    (tmp_path / "b.bin").write_bytes(b"12345678abc")
    with pytest.raises(DataError, match=r"b\.bin ends within a record: 3 of 8 bytes"):
        list(DataLoader(stream, 2))


def test_iterables_of_pytorchs_kind_are_streams():
    class Counting:
        epoch = 0

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter(range(10 * self.epoch, 10 * self.epoch + 5))

    loader = DataLoader(Counting(), 2)
    assert [x.tolist() for _ in range(2) for x in loader] == [[0, 1], [2, 3], [4], [10, 11], [12, 13], [14]]
    with pytest.raises(TypeError):
        len(loader)

    class Sized(Keyed):
        def __len__(self):
            return TOTAL

    assert len(DataLoader(Sized(), 5)) == 5 and len(DataLoader(Sized(), 5, drop_last=True)) == 4


@pytest.mark.parametrize("background", [False, True])
def test_what_goes_wrong_is_named_at_its_turn(files, tmp_path, background):
    def parse(text):
        if text == "9":
            raise KeyError("nine")
        return int(text)

    seen = []
    with pytest.raises(DataError, match=r"record 2 of .*2\.txt\.gz cannot be made a sample: KeyError: 'nine'"):
        for batch in DataLoader(StreamingDataset(files, parse), 3, prefetch=3 * background):
            seen += batch.tolist()
    assert seen == list(range(9))

    class Broken(Keyed):
        def __iter__(self):
            yield from range(4)
            raise OSError("the line is dead")

    seen = []
    with pytest.raises(DataError, match=r"sample 4 of the stream Broken .* the line is dead"):
        for batch in DataLoader(Broken(), 2, prefetch=3 * background):
            seen += batch.tolist()
    assert seen == [0, 1, 2, 3]
    (tmp_path / "2.txt.gz").write_bytes((tmp_path / "2.txt.gz").read_bytes()[:-9])
    with pytest.raises(DataError, match=r"2\.txt\.gz: record \d+ cannot be read"):
        list(DataLoader(StreamingDataset(files), 3, prefetch=3 * background))


def test_refused(files, tmp_path):
    stream = StreamingDataset(files)
    for options in ({"shuffle": True}, {"sampler": [1]}, {"batch_sampler": [[1]]}):
        with pytest.raises(RangeError, match="its order is its own"):
            DataLoader(stream, **options)
    with pytest.raises(RangeError, match="read by threads"):
        DataLoader(stream, num_workers=2, multiprocessing_context="spawn")
    with pytest.raises(DataError, match="used up"):
        DataLoader(iter([1]))
    with pytest.raises(DataError, match="no such file"):
        StreamingDataset([tmp_path / "none"])
    with pytest.raises(DataError, match="no file"):
        StreamingDataset(str(tmp_path / "*.none"))
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="gave no batch"):
        list(DataLoader(StreamingDataset(tmp_path / "empty"), 2))
    with pytest.raises(RangeError, match="window"):
        StreamingDataset(files, window=-1)
    loader = DataLoader(stream, 2)
    state = loader.state_dict()
    for wrong in ({"file": 9}, {"file": 9, "record": 0, "byte": 0, "window": 0, "used": 0}):
        loader.load_state_dict({**state, "cursor": wrong})
        with pytest.raises(StateError, match="not a place"):
            list(loader.steps())
    with pytest.raises(StateError, match="fingerprint"):
        DataLoader(StreamingDataset(files, window=3), 2).load_state_dict(state)
    assert fingerprint(stream) == fingerprint(StreamingDataset(files)) != fingerprint(StreamingDataset(files, window=1))


def test_all_ranks_wait_for_nobody(files, monkeypatch):
    """A rank that owns no shard of a step still takes part in it: steps and their sizes are equal everywhere."""
    monkeypatch.setattr(loader_module, "BACKGROUND_NBYTES", 0)
    steps = set()
    for rank in range(5):
        set_placement(Placement(rank, 5, 3))
        loader = DataLoader(StreamingDataset(files), 9)
        steps.add(tuple((step.index, step.sizes, step.weight) for step in loader.steps()))
    assert len(steps) == 1 and [sizes for _, sizes, _ in steps.pop()] == [(3, 3, 3), (3, 3, 3), (2, 2, 1)]
