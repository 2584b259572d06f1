"""DataParallel on ranks that are threads: equal bits on any number of ranks, true means, and clear refusals."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.errors import GraphError, NonFiniteError
from phalanx.core.hashing import hash_array
from phalanx.core.void import set_void
from phalanx.data import DataLoader, TensorDataset
from phalanx.dist.communicators.threads import run_threads
from phalanx.dist.errors import MismatchError

SAMPLES, FEATURES, CLASSES = 53, 12, 4


def data():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((SAMPLES, FEATURES)).astype(np.float32)
    return TensorDataset(phalanx.tensor(x), phalanx.tensor(rng.integers(0, CLASSES, SAMPLES)))


def net(width=16, inputs=FEATURES, outputs=CLASSES):
    return nn.Sequential(
        nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, outputs)
    )


def digest(*models):
    """Bits of all parameters and buffers, and the loss."""
    return [(name, hash_array(tensor.array)) for model in models for name, tensor in model.state_dict().items()] + [
        model.step_loss for model in models
    ]


def classify(overlap=True, passes=lambda step: 1, bucket_bytes=256):
    """An ordinary loop; ``passes(step)``: micro-batches in each shard."""
    model = phalanx.DataParallel(net(), overlap=overlap, bucket_bytes=bucket_bytes)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    loader = DataLoader(data(), batch_size=12, shuffle=True)
    criterion = nn.CrossEntropyLoss()
    overlapped = 0
    for _ in range(3):
        for step in loader.steps():
            optimizer.zero_grad()
            for x, y in step:
                count = passes(step.index)
                for _ in range(count):
                    (criterion(model(x), y) / count).backward()
                overlapped += model.reducer.fold.in_flight
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    return digest(model), overlapped


def gan():
    """Two wrappers, two optimizers, gradients through one into the other, a loop over the shards for each."""
    generator, critic = phalanx.DataParallel(net(8, 3, FEATURES)), phalanx.DataParallel(net(8, FEATURES, 1))
    opt_g, opt_c = optim.Adam(generator.parameters(), lr=0.01), optim.Adam(critic.parameters(), lr=0.01)
    criterion = nn.BCEWithLogitsLoss()
    loader = DataLoader(data(), batch_size=12, shuffle=True)
    for _ in range(2):
        for step in loader.steps():
            opt_c.zero_grad()
            for real, _ in step:
                n = len(real)
                criterion(critic(real), phalanx.ones(n, 1)).backward()
                criterion(critic(generator(phalanx.randn(n, 3)).detach()), phalanx.zeros(n, 1)).backward()
            opt_c.step()
            opt_g.zero_grad()
            for real, _ in step:
                n = len(real)
                criterion(critic(generator(phalanx.randn(n, 3))), phalanx.ones(n, 1)).backward()
            opt_g.step()
    return digest(generator, critic), 0


def two_losses():
    model = phalanx.DataParallel(net())
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    loader = DataLoader(data(), batch_size=12, shuffle=True)
    for step in loader.steps():
        optimizer.zero_grad()
        for x, y in step:
            nn.CrossEntropyLoss()(model(x), y).backward()
            nn.MSELoss()(model(x), phalanx.zeros(len(x), CLASSES)).backward()
        optimizer.step()
    return digest(model), 0


def surprising():
    """One pass in most steps, two in some: what overlap foresaw is sometimes wrong."""
    return classify(passes=lambda step: 2 if step % 4 == 3 else 1)


LOOPS = {
    "plain": classify,
    "accumulated": lambda: classify(passes=lambda step: 3),
    "surprising": surprising,
    "gan": gan,
    "two_losses": two_losses,
}


def on_ranks(size, shards, function, seed=5):
    def main():
        phalanx.init(shards=shards, seed=seed)
        try:
            return function()
        finally:
            phalanx.shutdown()

    return run_threads(main, size, timeout_s=20)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("shards", [1, 3, 8])
def test_equal_bits(loop, shards):
    ((expected, _),) = on_ranks(1, shards, LOOPS[loop])
    for size in (2, 3, 5):
        for got, _ in on_ranks(size, shards, LOOPS[loop]):
            assert got == expected, f"{size} ranks"


def test_overlap_happens_and_changes_nothing():
    with_overlap = on_ranks(2, 8, classify)
    without = on_ranks(2, 8, lambda: classify(overlap=False))
    assert all(count > 0 for _, count in with_overlap)
    assert all(count == 0 for _, count in without)
    assert [bits for bits, _ in with_overlap] == [bits for bits, _ in without]
    wrong = on_ranks(2, 8, surprising)
    assert wrong[0][0] == on_ranks(1, 8, surprising)[0][0]
    assert wrong[0][1] > 0


def test_overlap_goes_on_after_void_steps():
    def main():
        lost = phalanx.DataParallel(net(), overlap=True)
        set_void(True)
        for _ in range(2):
            lost(phalanx.randn(3, FEATURES)).sum().backward()
        set_void(False)
        return classify()[1]

    assert min(on_ranks(2, 8, main)) > 0


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_fast_mode_is_the_true_mean(size):
    """Batches of 10 and a last one of 3 over up to 4 ranks: the gradient is the mean over samples, whoever has them."""

    def main():
        model = phalanx.DataParallel(nn.Linear(FEATURES, CLASSES))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for x, y in DataLoader(data(), batch_size=10):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        return [p.array.copy() for p in model.parameters()], model.step_loss

    (expected, loss) = on_ranks(1, None, main)[0]
    for got, other in on_ranks(size, None, main):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert other == pytest.approx(loss, rel=1e-5)


def test_token_weights_count():
    """A mean over unpadded tokens: shards with few tokens weigh little."""
    labels = np.random.default_rng(0).integers(0, CLASSES, SAMPLES)
    labels[: SAMPLES * 2 // 3] = -100
    labels[0] = 1
    x = data().tensors[0]
    dataset = TensorDataset(x, phalanx.tensor(labels))

    def main():
        model = phalanx.DataParallel(nn.Linear(FEATURES, CLASSES))
        optimizer = optim.SGD(model.parameters(), lr=0.0)
        for step in DataLoader(dataset, batch_size=SAMPLES).steps():
            for x, y in step:
                nn.functional.cross_entropy(model(x), y, ignore_index=-100).backward()
            optimizer.step()
        return [p.grad.array.copy() for p in model.parameters()]

    plain = on_ranks(1, 1, main)[0]
    for size, shards in ((1, 8), (3, 8), (2, None)):
        for got in on_ranks(size, shards, main):
            for a, b in zip(got, plain, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_no_sync_accumulates():
    def main(pause):
        model = phalanx.DataParallel(nn.Linear(FEATURES, CLASSES))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        batches = list(DataLoader(data(), batch_size=26, drop_last=True))
        for _ in range(3):
            optimizer.zero_grad()
            if pause:
                with model.no_sync():
                    (nn.functional.cross_entropy(model(batches[0][0]), batches[0][1]) / 2).backward()
            else:
                (nn.functional.cross_entropy(model(batches[0][0]), batches[0][1]) / 2).backward()
            (nn.functional.cross_entropy(model(batches[1][0]), batches[1][1]) / 2).backward()
            optimizer.step()
        return digest(model)

    assert on_ranks(2, None, lambda: main(True)) == on_ranks(2, None, lambda: main(False))


def test_unused_parameters_are_named_once():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.never, self.sometimes = (nn.Linear(FEATURES, CLASSES) for _ in range(3))

        def forward(self, x, both):
            return self.used(x) + self.sometimes(x) if both else self.used(x)

    def main():
        model = phalanx.DataParallel(Branches())
        before = model.never.weight.array.copy()
        optimizer = optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for step in DataLoader(data(), batch_size=24).steps():
                optimizer.zero_grad()
                for x, y in step:
                    nn.functional.cross_entropy(model(x, step.shard == 0), y).backward()
                optimizer.step()
        assert model.never.weight.grad is None
        assert (model.never.weight.array == before).all(), "weight decay touches no parameter without gradient"
        assert model.sometimes.weight.grad is not None
        return [str(w.message) for w in seen if "shard" in str(w.message)], digest(model)

    ((messages, expected),) = on_ranks(1, 4, main)
    assert len(messages) == 2
    assert "never.weight" in messages[0] and "sometimes.weight" in messages[1]
    assert on_ranks(3, 4, lambda: main()[1])[2] == expected


def one_step(body):
    def main():
        model = phalanx.DataParallel(nn.Linear(FEATURES, CLASSES))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for step in DataLoader(data(), batch_size=24).steps():
            body(model, optimizer, step)

    return main


def backward(model, x, y):
    nn.functional.cross_entropy(model(x), y).backward()


def step_inside(model, optimizer, step):
    for x, y in step:
        backward(model, x, y)
        optimizer.step()


def clear_inside(model, optimizer, step):
    for x, y in step:
        backward(model, x, y)
        optimizer.zero_grad()


def read_early(model, optimizer, step):
    for x, y in step:
        backward(model, x, y)
        model.weight.grad  # noqa: B018


def outside_of_a_shard(model, optimizer, step):
    backward(model, phalanx.zeros(2, FEATURES), phalanx.tensor([0, 1]))


def second_loop(model, optimizer, step):
    for x, y in step:
        backward(model, x, y)
    for x, y in step:
        backward(model, x, y)


def pause_with_shards(model, optimizer, step):
    with model.no_sync():
        pass


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (step_inside, "shard 1 of 4 is open"),
        (clear_inside, "before `for batch in step:`"),
        (read_early, "shard 1 of 4 open"),
        (outside_of_a_shard, "must run inside"),
        (second_loop, "second loop over the shards"),
        (pause_with_shards, "fast mode"),
    ],
)
def test_refusals(body, words):
    with pytest.raises(GraphError, match="(?s)" + words.replace("(", r"\(")):
        on_ranks(1, 4, one_step(body))


def test_evaluation_in_the_middle_of_a_step():
    def main(evaluate):
        model = phalanx.DataParallel(net())
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for step in DataLoader(data(), batch_size=24).steps():
            optimizer.zero_grad()
            for x, y in step:
                backward(model, x, y)
            if evaluate:
                model.eval()
                with phalanx.no_grad():
                    for other in DataLoader(data(), batch_size=20).steps():
                        for x, _ in other:
                            model(x)
                model.train()
            optimizer.step()
        return digest(model)

    assert on_ranks(2, 4, lambda: main(True)) == on_ranks(2, 4, lambda: main(False))


def test_nan_loss_names_the_layer():
    def main():
        model = phalanx.DataParallel(net())
        with phalanx.no_grad():
            model.module[4].weight.array[0, 0] = np.inf
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for x, y in DataLoader(data(), batch_size=24):
            backward(model, x, y)
            optimizer.step()

    with pytest.raises(NonFiniteError, match=r"loss is (nan|inf).*4"):
        on_ranks(1, None, main)


def test_models_must_be_equal():
    def main():
        phalanx.DataParallel(nn.Linear(3, 2 + phalanx.rank()))

    with pytest.raises(MismatchError, match="differs from rank 0"):
        on_ranks(2, None, main)


def test_different_seeds_start_equal():
    def main():
        phalanx.manual_seed(phalanx.rank())
        return digest(phalanx.DataParallel(net()))

    first, second = on_ranks(2, None, main)
    assert first == second


def test_structural_change_under_the_wrapper():
    """A replaced head is packed, reduced and updated from the next step on, on any number of ranks."""

    def main():
        model = phalanx.DataParallel(net())
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        for step in DataLoader(data(), batch_size=12).steps():
            if step.index == 2:
                model.module[4] = nn.Linear(16, CLASSES)
                optimizer.add_param_group({"params": model.module[4].parameters()})
            optimizer.zero_grad()
            for x, y in step:
                backward(model, x, y)
            optimizer.step()
        return digest(model)

    (expected,) = on_ranks(1, 4, main)
    for size in (3, 5):  # with five ranks and four shards one rank has no samples
        assert on_ranks(size, 4, main) == [expected] * size


def test_two_optimizer_steps_in_one_step():
    """A second loop over a step's shards, after optimizer.step(): ranks without samples take part in both."""

    def main():
        model = phalanx.DataParallel(net())
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for step in DataLoader(data(), batch_size=25).steps():
            for _ in range(2):
                optimizer.zero_grad()
                for x, y in step:
                    backward(model, x, y)
                optimizer.step()
        return digest(model)

    (expected,) = on_ranks(1, 8, main)
    assert on_ranks(5, 8, main) == [expected] * 5


def test_observers_go_with_their_model():
    import gc

    from phalanx.core.data.scope import observers

    phalanx.init()
    gc.collect()
    before = len(observers())
    model = phalanx.DataParallel(net())
    assert len(observers()) == before + 1
    del model
    gc.collect()
    assert len(observers()) == before


@pytest.mark.parametrize("shards", [1, 4])
def test_only_gradients_that_are_there_are_carried(shards):
    """Without zero_grad() gradients add up, as in PyTorch; one that was set to None begins anew, whatever its slot holds."""

    def main():
        model = phalanx.DataParallel(nn.Linear(FEATURES, CLASSES))
        optimizer = optim.SGD(model.parameters(), lr=0.0)
        seen = []
        for step in DataLoader(data(), batch_size=20).steps():
            for x, y in step:
                backward(model, x, y)
            optimizer.step()
            seen.append([p.grad.array.copy() for p in (model.weight, model.bias)])
            model.bias.grad = None
        return seen

    def alone():
        model = nn.Linear(FEATURES, CLASSES)
        seen = []
        for x, y in DataLoader(data(), batch_size=20):
            backward(model, x, y)
            seen.append([p.grad.array.copy() for p in (model.weight, model.bias)])
            model.bias.grad = None
        return seen

    (expected,) = on_ranks(1, None, alone)
    for size in (1, 2, 5):
        for got in on_ranks(size, shards, main):
            for ours, theirs in zip(got, expected, strict=True):
                for a, b in zip(ours, theirs, strict=True):
                    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_carried_gradients_survive_a_step_without_weight():
    """A step whose labels are all ignored adds nothing and takes nothing away."""

    def main():
        model = phalanx.DataParallel(nn.Linear(FEATURES, CLASSES))
        optimizer = optim.SGD(model.parameters(), lr=0.0)
        kept = []
        for step in DataLoader(data(), batch_size=20).steps():
            for x, y in step:
                labels = y if step.index == 0 else phalanx.full_like(y, -100)
                nn.functional.cross_entropy(model(x), labels, ignore_index=-100).backward()
            optimizer.step()
            kept.append(None if model.weight.grad is None else model.weight.grad.array.copy())
        return kept

    for size in (1, 2):
        for first, *later in on_ranks(size, 4, main):
            assert first is not None
            assert all(other is not None and (other == first).all() for other in later)
