"""Samplers and splits: which samples, how often, in an order that no rank count changes."""

import random

import numpy as np
import pytest

from phalanx.core import rng
from phalanx.core.data import (
    BalancedSampler,
    BatchSampler,
    ChainDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    MapDataset,
    Placement,
    RandomSampler,
    Sampler,
    SequentialSampler,
    StackDataset,
    SubsetRandomSampler,
    TensorDataset,
    TransformDataset,
    WeightedRandomSampler,
    set_placement,
    split,
    transforms,
)
from phalanx.core.data.samplers import labels_of
from phalanx.core.errors import DataError, RangeError, ShapeError, StateError
from phalanx.core.generator import Generator

LENGTH = 23
DATA = TensorDataset(np.arange(LENGTH))
LABELS = np.arange(LENGTH) % 5 // 2  # 0, 0, 1, 1, 2


@pytest.fixture(autouse=True)
def alone():
    before = set_placement(Placement())
    yield
    set_placement(before)


class Theirs:
    """A sampler as PyTorch's users write them."""

    def __len__(self):
        return 9

    def __iter__(self):
        return iter([random.randrange(LENGTH) for _ in range(5)] + np.random.randint(0, LENGTH, 4).tolist())


SAMPLERS = {
    "sequential": lambda: SequentialSampler(DATA),
    "random": lambda: RandomSampler(DATA),
    "random with replacement": lambda: RandomSampler(DATA, True, 31),
    "random, more than there are": lambda: RandomSampler(DATA, num_samples=50),
    "subset": lambda: SubsetRandomSampler(range(4, 17)),
    "weighted": lambda: WeightedRandomSampler(np.arange(LENGTH), 40),
    "weighted without replacement": lambda: WeightedRandomSampler(np.arange(LENGTH), 20, replacement=False),
    "balanced": lambda: BalancedSampler(LABELS),
    "one's own": Theirs,
    "a list": lambda: [3, 1, 4, 1, 5, 9, 2, 6],
    "batches": lambda: BatchSampler(RandomSampler(DATA), 4, drop_last=True),
    "batches of unequal size": lambda: [[1, 2, 3], [4], [], [5, 6, 7, 8, 9, 10, 11], [0, 0]],
}


def loader_of(name, seed=3, batch_size=6, **options):
    sampler = SAMPLERS[name]()
    if "batches" in name:
        return DataLoader(DATA, batch_sampler=sampler, seed=seed, **options)
    return DataLoader(DATA, batch_size, sampler=sampler, seed=seed, **options)


def run(name, size, epochs=2, state=None, stop=None):
    found, ends = [], []
    for rank in range(size):
        set_placement(Placement(rank, size, 3))
        random.seed(rank)
        loader = loader_of(name)
        if state is not None:
            loader.load_state_dict(state)
        while loader.epoch < epochs and loader.step != stop:
            for step in loader.steps():
                found += [(step.index, step.epoch, step.shard, x.tolist()) for (x,) in step]
                if loader.step == stop:
                    break
        ends.append(loader.state_dict())
    assert all(end == ends[0] for end in ends)
    return sorted(found), ends[0]


@pytest.mark.parametrize("name", SAMPLERS)
def test_equal_at_any_number_of_ranks_and_resumed(name):
    whole, end = run(name, 1)
    assert run(name, 2)[0] == run(name, 5)[0] == whole
    for stop in (1, 2, 4):
        head, state = run(name, 2, stop=stop)
        tail, resumed_end = run(name, 3, state=state)
        assert head + tail == whole and resumed_end == end


@pytest.mark.parametrize("name", SAMPLERS)
def test_order_follows_from_seed_and_epoch(name):
    def epochs(seed):
        loader = loader_of(name, seed)
        return [[i for (x,) in loader for i in x.tolist()] for _ in range(2)]

    first, second = epochs(3)
    assert [first, second] == epochs(3)
    fixed = name in ("sequential", "a list", "batches of unequal size")
    assert (first == second) == fixed and ([first, second] == epochs(4)) == fixed


@pytest.mark.parametrize("name", SAMPLERS)
def test_another_sampler_is_another_run(name):
    saved = loader_of(name).state_dict()
    with pytest.raises(StateError, match="sampler"):
        DataLoader(DATA, saved["batch_size"], seed=3).load_state_dict(saved)
    with pytest.raises(StateError, match="sampler: saved None"):
        loader_of(name).load_state_dict(DataLoader(DATA, saved["batch_size"], seed=3).state_dict())
    loader_of(name).load_state_dict(saved)


def test_what_samplers_give():
    assert sorted(RandomSampler(DATA).order(1, 0)) == list(range(LENGTH))
    rounds = RandomSampler(DATA, num_samples=50).order(1, 0)
    assert sorted(rounds[:LENGTH]) == sorted(rounds[LENGTH : 2 * LENGTH]) == list(range(LENGTH)) and len(rounds) == 50
    assert (rounds[:LENGTH] != rounds[LENGTH : 2 * LENGTH]).any()
    assert sorted(SubsetRandomSampler([9, 4, 7]).order(0, 0)) == [4, 7, 9]
    weights = np.array([0, 1, 2, 7.0])
    counts = np.bincount(WeightedRandomSampler(weights, 20000).order(0, 0), minlength=4) / 20000
    np.testing.assert_allclose(counts, weights / 10, atol=0.015)
    firsts = [WeightedRandomSampler(weights, 3, replacement=False).order(0, epoch) for epoch in range(3000)]
    assert all(sorted(drawn) == [1, 2, 3] for drawn in firsts)
    np.testing.assert_allclose(np.bincount([drawn[0] for drawn in firsts], minlength=4) / 3000, weights / 10, atol=0.03)
    labels = np.array(["cat"] * 97 + ["dog"] * 3)
    assert 0.45 < (labels[BalancedSampler(labels, 4000).order(0, 0)] == "dog").mean() < 0.55
    generator = Generator().manual_seed(8)
    assert (RandomSampler(DATA, generator=generator).order(1, 0) == RandomSampler(DATA).order(8, 0)).all()
    assert [len(x) for (x,) in loader_of("batches of unequal size")] == [3, 1, 7, 2]
    assert len(loader_of("batches")) == 5 and len(loader_of("weighted")) == 7
    rng.manual_seed(8)
    assert list(RandomSampler(DATA)) == RandomSampler(DATA).order(8, 0).tolist()


class DistributedSampler:
    num_replicas = 2


@pytest.mark.parametrize(
    "options, words",
    [
        ({"sampler": DistributedSampler()}, "every rank gets its own part"),
        ({"sampler": 3}, "__len__"),
        ({"sampler": [1], "shuffle": True}, "leave shuffle out"),
        ({"batch_sampler": [[1]], "batch_size": 4}, "leave sampler and batch_size out"),
        ({"batch_sampler": [[1]], "drop_last": True}, "leave drop_last out"),
        ({"batch_sampler": [[1]], "sampler": [1]}, "leave sampler and batch_size out"),
    ],
)
def test_refused(options, words):
    with pytest.raises(RangeError, match=words):
        DataLoader(DATA, **options)


def test_wrong_samplers_say_so():
    with pytest.raises(RangeError, match=r"indices must lie in \[0, 23\), got 2 to 23"):
        list(DataLoader(DATA, sampler=[2, 23]))
    with pytest.raises(DataError, match="expected integers"):
        list(DataLoader(DATA, sampler=[0.5, 1.0]))
    with pytest.raises(RangeError, match=r"weight 1 is -1\.0"):
        WeightedRandomSampler([1, -1], 3)
    with pytest.raises(RangeError, match="not all 0"):
        WeightedRandomSampler([0, 0], 3)
    with pytest.raises(RangeError, match="3 draws without replacement from 2"):
        WeightedRandomSampler([1, 0, 1], 3, replacement=False)
    with pytest.raises(RangeError, match="at least 1"):
        RandomSampler(DATA, num_samples=0)
    with pytest.raises(TypeError, match="__len__"):
        len(Sampler())


@pytest.mark.torch
def test_samplers_of_pytorch_are_refused_with_the_way_out():
    torch_data = pytest.importorskip("torch.utils.data")
    with pytest.raises(RangeError, match=r"phalanx\.data"):
        DataLoader(DATA, sampler=torch_data.WeightedRandomSampler([1.0] * LENGTH, 5))
    sequential = torch_data.SequentialSampler(range(LENGTH))
    assert [i for (x,) in DataLoader(DATA, 5, sampler=sequential) for i in x.tolist()] == list(range(LENGTH))


# -- splits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lengths", [[0.6, 0.2, 0.2], [0.5, 0.5], [0.9, 0.05, 0.05], [100, 60, 40], [1.0], [0.34, 0.33, 0.33]]
)
def test_stratified_parts_have_every_class_in_its_share(lengths):
    labels = np.random.default_rng(1).choice(7, 200, p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05])
    parts = split(TensorDataset(np.arange(200), labels), lengths, stratify=True, seed=2)
    plain = split(range(200), lengths, seed=2)
    assert [len(part) for part in parts] == [len(part) for part in plain]
    assert sorted(i for part in parts for i in part.indices) == list(range(200))
    for part in parts:
        assert np.abs(np.bincount(labels[part.indices], minlength=7) - np.bincount(labels) * len(part) / 200).max() <= 1
    again = split(range(200), lengths, stratify=labels, seed=2)
    assert all((a.indices == b.indices).all() for a, b in zip(parts, again, strict=True))
    if len(lengths) > 1:
        assert (parts[0].indices != split(range(200), lengths, stratify=labels, seed=3)[0].indices).any()


def test_splits_in_order_and_what_cannot_be_split():
    assert [part.indices.tolist() for part in split(range(5), [3, 2], shuffle=False)] == [[0, 1, 2], [3, 4]]
    for call, words in (
        (lambda: split(range(5), [3, 3]), "must sum"),
        (lambda: split(range(5), [3, 2], stratify=[0] * 4), "4 labels, the data set 5"),
        (lambda: split(range(5), [3, 2], stratify=[0, 0, 0, 0, 1]), "class .*1.* has 1 samples"),
        (lambda: split(range(5), [3, 2], stratify=[0] * 5, shuffle=False), "cannot stratify"),
        (lambda: split(Squares(), [2, 2], stratify=True), "no `targets`"),
    ):
        with pytest.raises((RangeError, ShapeError, DataError), match=words):
            call()


class Squares(Dataset):
    keyed = True

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return index, index**2


def test_labels_are_found():
    data = TensorDataset(np.zeros((6, 2)), np.arange(6))
    parts = split(data, [4, 2], seed=0)
    assert labels_of(parts[0]).tolist() == parts[0].indices.tolist()
    assert labels_of(parts[0] + parts[1]).tolist() == [*parts[0].indices, *parts[1].indices]
    with pytest.raises(DataError, match="shape"):
        labels_of(np.zeros((3, 2)))


def test_mapped_and_transformed():
    mapped = MapDataset(Squares(), lambda x, y: (x + 100, y), keyed=True)
    assert [mapped[3], len(mapped), mapped.keyed, MapDataset(Squares(), abs).keyed] == [(103, 9), 4, True, False]
    assert MapDataset([1, 2], lambda x: -x)[1] == -2
    images = TensorDataset(np.zeros((3, 1, 8, 8), np.float32), np.arange(3))
    changed = TransformDataset(images, transforms.RandomCrop(4), lambda y: y + 1)
    assert changed[2][0].shape == (1, 4, 4) and changed[2][1].item() == 3 and not changed.keyed
    assert TransformDataset(images, transforms.RandomCrop(4)).keyed
    assert labels_of(TransformDataset(images, transforms.RandomCrop(4))).tolist() == [0, 1, 2]


def test_stacked_and_chained():
    stacked = StackDataset(Squares(), [4, 5, 6, 7])
    assert stacked[2] == ((2, 4), 6) and len(stacked) == 4 and stacked.keyed
    assert StackDataset(a=Squares(), b="abcd")[1] == {"a": (1, 1), "b": "b"} and not StackDataset("ab").keyed
    with pytest.raises(ShapeError, match=r"\[4, 2\]"):
        StackDataset(Squares(), [1, 2])
    with pytest.raises(RangeError, match="by position or by name"):
        StackDataset()

    class Stream(IterableDataset):
        keyed = True
        epoch = 0

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter([self.epoch, 7])

    chained = Stream() + Stream()
    assert type(chained) is ChainDataset and chained.keyed
    loader = DataLoader(chained, 3)
    assert [[x.tolist() for x in loader] for _ in range(2)] == [[[0, 7, 0], [7]], [[1, 7, 1], [7]]]
