"""SyncBatchNorm: statistics of the global batch, equal bits on any number of ranks, values of plain batch norm over all of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core import collective, rng
from phalanx.core.errors import GraphError
from phalanx.data import DataLoader, TensorDataset
from phalanx.dist.communicators.threads import run_threads
from phalanx.dist.errors import CommunicatorError
from phalanx.utils.checkpoint import checkpoint, checkpoint_sequential
from tests.jobs import ROOT, run_job
from tests.ranks.test_data_parallel import CLASSES, FEATURES, data, digest, on_ranks

V = 8
BATCH = 20
"""Shards of 3 and 2 samples; the last batch of 53 samples has 13, shards of 2 and 1."""


def net(width: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.SyncBatchNorm(width), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(width, width), nn.SyncBatchNorm(width), nn.Linear(width, CLASSES),
    )  # fmt: skip


def train(
    model: nn.Module | None = None, together: bool = True, batch_size: int = BATCH, passes: int = 1, **options: Any
) -> Any:
    wrapped = phalanx.DataParallel(net() if model is None else model, **options)
    optimizer = optim.Adam(wrapped.parameters(), lr=0.01)
    loader = DataLoader(data(), batch_size=batch_size, shuffle=True)
    criterion = nn.CrossEntropyLoss()
    losses = []

    def learn(x: Any, y: Any) -> None:
        for _ in range(passes):
            (criterion(wrapped(x), y) / passes).backward()

    for _ in range(2):
        for step in loader.steps():
            optimizer.zero_grad()
            if together:
                phalanx.run_shards(learn, step)
            else:
                for x, y in step:
                    learn(x, y)
            nn.utils.clip_grad_norm_(wrapped.parameters(), 0.5)
            optimizer.step()
            losses.append(wrapped.step_loss)
    return digest(wrapped), losses


KINDS: dict[str, Callable[[], Any]] = {
    "plain": train,
    "accumulated": lambda: train(passes=2),
    "empty shards": lambda: train(batch_size=5),
    "zero-1": lambda: train(shard="optimizer", bucket_bytes=256),
    "zero-2": lambda: train(shard="gradients", bucket_bytes=256),
    "compressed": lambda: train(compression="int8"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_equal_bits_on_any_number_of_ranks(kind: str) -> None:
    expected = on_ranks(1, V, KINDS[kind])[0]
    assert len(expected[1]) >= 6 and np.isfinite(expected[1]).all()
    for size in (3,) if kind != "plain" else (3, 5):
        for found in on_ranks(size, V, KINDS[kind]):
            assert found == expected


def test_a_shard_for_each_rank_needs_no_run_shards() -> None:
    """The plain loop gives the same bits where each rank owns one shard; a rank without samples takes part."""
    for batch_size in (6,):
        together = on_ranks(1, V, lambda b=batch_size: train(batch_size=b))[0]
        for found in on_ranks(V, V, lambda b=batch_size: train(batch_size=b, together=False)):
            assert found == together


@pytest.mark.torch
@pytest.mark.parametrize(("size", "shards"), [(1, V), (3, V), (3, None)])
def test_values_of_batch_norm_over_the_whole_batch(size: int, shards: int | None) -> None:
    torch = pytest.importorskip("torch")
    x, y = (array[:13] for array in data().arrays)
    x = np.repeat(x[:, :6, None], 2, axis=2) + np.arange(2, dtype=np.float32)

    def ours() -> Any:
        model = nn.Sequential(nn.Conv1d(6, 5, 1), nn.SyncBatchNorm(5), nn.Tanh(), nn.Flatten(), nn.Linear(10, CLASSES))
        first = {name: tensor.array.copy() for name, tensor in model.state_dict().items()}
        wrapped = phalanx.DataParallel(model)
        loader = DataLoader(TensorDataset(x, y), batch_size=13)
        for step in loader.steps():
            phalanx.run_shards(lambda x, y: nn.CrossEntropyLoss()(wrapped(x), y).backward(), step)
        wrapped.synchronize()
        gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
        return first, gradients, {name: t.numpy() for name, t in model.named_buffers()}, wrapped.step_loss

    first, gradients, buffers, loss = on_ranks(size, shards, ours)[-1]
    peer = torch.nn.Sequential(
        torch.nn.Conv1d(6, 5, 1), torch.nn.BatchNorm1d(5), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(10, CLASSES)
    )  # fmt: skip
    peer.load_state_dict({name: torch.tensor(value) for name, value in first.items()})
    expected = torch.nn.functional.cross_entropy(peer(torch.tensor(x)), torch.tensor(y))
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in peer.named_parameters():
        np.testing.assert_allclose(gradients[name], parameter.grad.numpy(), rtol=1e-4, atol=1e-6, err_msg=name)
    for name, buffer in peer.named_buffers():
        np.testing.assert_allclose(buffers[name], buffer.numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


def test_unequal_weights_of_losses() -> None:
    """Shards count by their losses' weights, so the gradient through the shared statistics does, too."""
    random = np.random.default_rng(2)
    x, y = random.standard_normal((10, 4)).astype(np.float32), random.integers(0, 3, 10)
    y[[0, 1, 2, 7]] = -100

    def gradients() -> Any:
        phalanx.manual_seed(1)
        model = phalanx.DataParallel(nn.Sequential(nn.Linear(4, 5), nn.SyncBatchNorm(5), nn.Linear(5, 3)))
        for step in DataLoader(TensorDataset(x, y), batch_size=10).steps():
            phalanx.run_shards(lambda x, y: nn.CrossEntropyLoss()(model(x), y).backward(), step)
        model.synchronize()
        return [p.grad.numpy().copy() for p in model.parameters()]

    whole = on_ranks(1, 1, gradients)[0]
    for shards, size in ((4, 1), (4, 3), (10, 2)):
        for ours, expected in zip(on_ranks(size, shards, gradients)[0], whole, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-6)


def test_the_weight_of_a_pass_ends_with_it() -> None:
    """Also where a hook cleared all gradients within it, or it failed."""

    def main() -> Any:
        model = phalanx.DataParallel(nn.Linear(2, 1))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        seen: list[float] = []

        def look(_: Any, how: str) -> None:
            seen.append(collective.pass_weight())
            if how == "clears":
                optimizer.zero_grad()
            elif how == "fails":
                raise RuntimeError("on purpose")

        for weight, how in ((4.0, "goes on"), (2.0, "goes on"), (4.0, "goes on"), (2.0, "clears"), (2.0, "fails")):
            x = phalanx.ones(3, 2, requires_grad=True)
            loss = model(x).sum()
            x.register_hook(lambda gradient, how=how: look(gradient, how))
            loss.weight = weight
            with contextlib.suppress(RuntimeError):
                loss.backward()
            seen.append(collective.pass_weight())
            model.synchronize()
        return seen

    # in units of what a step brought before
    for seen in on_ranks(2, None, main):
        assert seen == [4.0, 1.0, 0.5, 1.0, 2.0, 1.0, 0.5, 1.0, 0.5, 1.0]


def test_fast_mode() -> None:
    """Without shards each rank is one; ranks with an empty batch in the plain loop bring nothing."""

    def main() -> Any:
        model = phalanx.DataParallel(nn.Sequential(nn.SyncBatchNorm(FEATURES), nn.Linear(FEATURES, CLASSES)))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for x, y in DataLoader(data(), batch_size=13):  # the last one has a single sample
            optimizer.zero_grad()
            nn.CrossEntropyLoss()(model(x), y).backward()
            optimizer.step()
        return model.module[0].running_mean.tolist(), model.module[0].num_batches_tracked.item()

    found = on_ranks(3, None, main)
    assert found[0][1] == 5 and found[1] == found[0] == found[2]
    alone = on_ranks(1, 1, lambda: None)
    assert alone == [None]
    x = data().arrays[0]
    mean = np.zeros(FEATURES)
    for start in range(0, 53, 13):
        mean = 0.9 * mean + 0.1 * x[start : start + 13].mean(axis=0)
    np.testing.assert_allclose(found[0][0], mean, rtol=1e-5, atol=1e-6)


def test_without_data_parallel() -> None:
    """A model of one's own loop: outputs and running statistics are those of all ranks' rows together."""
    x = data().arrays[0][:12]

    def main() -> Any:
        layer = nn.SyncBatchNorm(FEATURES)
        lo, hi = ((0, 5), (5, 12))[phalanx.rank()]
        return layer(phalanx.tensor(x[lo:hi])).detach().numpy(), layer.running_var.numpy()

    (first, variance), (second, same) = on_ranks(2, None, main)
    plain = nn.BatchNorm1d(FEATURES)
    expected = plain(phalanx.tensor(x)).detach().numpy()
    np.testing.assert_allclose(np.concatenate([first, second]), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, plain.running_var.numpy(), rtol=1e-5)
    np.testing.assert_array_equal(variance, same)


def test_ranks_without_samples_are_not_waited_for_in_vain() -> None:
    """A model that does not say that it meets, in a step with fewer samples than ranks."""
    x, y = (array[:2] for array in data().arrays)

    def main() -> str:
        model = phalanx.DataParallel(nn.Linear(FEATURES, 2))
        for step in DataLoader(TensorDataset(x, y), batch_size=2).steps():
            for x_, _ in step:
                with pytest.raises(GraphError) as caught:
                    phalanx.gather_over_shards(model(x_))
                return str(caught.value)
        return ""

    for told in on_ranks(3, None, main)[:2]:
        assert "step 0 has no samples for some of them (2 in all): use phalanx.run_shards" in told


def test_without_shards_of_one_rank_it_is_an_error_at_once() -> None:
    def main() -> str:
        with pytest.raises(GraphError) as caught:
            train(together=False)
        return str(caught.value)

    for size, words in ((1, "its 8 shards"), (3, "one after another")):
        told = on_ranks(size, V, main)
        assert all(words in text for text in told)
        assert "SyncBatchNorm '1' needs all shards" in told[0] and "phalanx.run_shards(train, step)" in told[0]


def test_evaluation_and_lone_forwards_do_not_meet() -> None:
    def main() -> Any:
        model = phalanx.DataParallel(nn.SyncBatchNorm(3))
        x = phalanx.randn(4, 3)
        if phalanx.rank() == 1:  # one rank alone
            model(x)
            model.eval()(x)
        return model.module.num_batches_tracked.item()

    assert on_ranks(3, V, main) == [0, 0, 0]


@pytest.mark.parametrize("size", [1, 3])
def test_an_error_in_one_shard_ends_all_and_the_job_can_go_on(size: int) -> None:
    def main() -> Any:
        model = phalanx.DataParallel(net())
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(data(), batch_size=BATCH)
        seen = []

        def learn(x: Any, y: Any) -> None:
            loss = nn.CrossEntropyLoss()(model(x), y)
            if step.index == 1 and current_shard() == 3:
                raise OSError("shard 3 fails")
            loss.backward()

        for step in loader.steps():
            optimizer.zero_grad()
            try:
                phalanx.run_shards(learn, step)
            except (OSError, CommunicatorError) as error:
                seen.append((type(error).__name__, str(error)))
                continue
            optimizer.step()
        return seen, digest(model)

    found = on_ranks(size, V, main)
    if size == 1:
        assert found[0][0] == [("OSError", "shard 3 fails")]
    else:
        assert found[1][0] == [("OSError", "shard 3 fails")]
        told = ("CommunicatorError", "rank 1 of 3 failed in this step: OSError: shard 3 fails")
        assert found[0][0] == found[2][0] == [told]
        assert found[0][1] == found[1][1] == found[2][1] == on_ranks(1, V, main)[0][1]


@pytest.mark.parametrize("size", [1, 3])
def test_shards_that_go_different_ways_are_an_error_on_all_ranks(size: int) -> None:
    def main() -> list[str]:
        model = phalanx.DataParallel(nn.ModuleDict({"a": nn.SyncBatchNorm(FEATURES), "b": nn.SyncBatchNorm(FEATURES)}))
        texts, ways = list[str](), list[str]()

        def learn(x: Any, y: Any) -> None:
            shard = current_shard()
            if ways[-1] == "another layer":
                model.module["a" if shard < 6 else "b"](x).sum().backward()
            elif shard != 7:
                model.module["a"](x).sum().backward()

        for step in DataLoader(data(), batch_size=BATCH).steps():
            for way in ("another layer", "none"):
                ways.append(way)
                with pytest.raises((GraphError, CommunicatorError)) as caught:
                    phalanx.run_shards(learn, step)
                model.zero_grad()
                texts.append(str(caught.value))
            break
        return texts

    for texts in on_ranks(size, V, main):
        assert "shards of a step do not meet" in texts[0] and "'b', forward" in texts[0]
        assert "shards 6, 7 at SyncBatchNorm 'b'" in texts[0]
        assert "shard 7 through" in texts[1]


def current_shard() -> int:
    return rng.scope()[1]


def contrast() -> Any:
    """An in-batch loss: each sample against all of the global batch."""
    model = phalanx.DataParallel(nn.Linear(FEATURES, 5))
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def learn(x: Any, y: Any) -> None:
        mine = nn.functional.normalize(model(x))
        everybody = phalanx.gather_over_shards(mine)
        labels = phalanx.gather_over_shards(y)
        same = (y.unsqueeze(1) == labels.unsqueeze(0)).float()
        nn.functional.mse_loss(mine @ everybody.T, same).backward()

    for step in DataLoader(data(), batch_size=BATCH, shuffle=True).steps():
        optimizer.zero_grad()
        phalanx.run_shards(learn, step)
        optimizer.step()
    return digest(model)


def test_in_batch_losses() -> None:
    expected = on_ranks(1, V, contrast)[0]
    for size in (3, 8):
        for found in on_ranks(size, V, contrast):
            assert found == expected
    whole = on_ranks(1, 1, contrast)[0]
    assert whole[-1] == pytest.approx(expected[-1], rel=1e-5)
    assert whole != expected


def test_run_shards_without_meetings_is_the_loop() -> None:
    def plain(together: bool) -> Any:
        layers = nn.Sequential(
            nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, CLASSES)
        )
        return train(layers, together)

    for size in (1, 3):
        assert on_ranks(size, V, lambda: plain(True)) == on_ranks(size, V, lambda: plain(False))


def test_conversion() -> None:
    model = nn.Sequential(
        nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4, eps=1e-3), nn.ReLU()), nn.BatchNorm1d(4, affine=False)
    )
    model[2].eval()
    before = dict(model.named_parameters())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert converted is model and dict(model.named_parameters()) == before
    assert isinstance(model[1][0], nn.SyncBatchNorm) and model[1][0].eps == 1e-3
    assert model[2].weight is None and not model[2].training and model[1][0].training
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm2d(3)), nn.SyncBatchNorm)
    again = model[1][0]
    assert nn.SyncBatchNorm.convert_sync_batchnorm(model)[1][0] is again


def test_refusals() -> None:
    with pytest.raises(TypeError, match="run_shards expects a step"):
        phalanx.run_shards(lambda x: x, [1, 2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="process_group must be None"):
        nn.SyncBatchNorm(3, process_group=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 channels in dimension 1, got shape"):
        nn.SyncBatchNorm(3)(phalanx.zeros(2, 4))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.SyncBatchNorm(3)(phalanx.zeros(1, 3))

    def main() -> None:
        for step in DataLoader(data(), batch_size=BATCH).steps():
            phalanx.run_shards(lambda x, y, step=step: phalanx.run_shards(lambda x, y: None, step), step)

    with pytest.raises(GraphError, match="run_shards inside of run_shards"):
        on_ranks(1, V, main)


class Recomputed(nn.Module):
    """The layers in parts whose activations are computed again in backward, one part inside of the other."""

    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Any) -> Any:
        return checkpoint(lambda t: checkpoint_sequential(self.layers, 3, t), x)


@pytest.mark.parametrize("size", [1, 3])
def test_recomputation_asks_nobody_again(size: int) -> None:
    assert on_ranks(size, V, lambda: train(Recomputed(net())))[0][1] == on_ranks(size, V, train)[0][1]


SCRIPT = str(ROOT / "tests" / "ranks" / "meeting_script.py")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single process."""
    folder = tmp_path_factory.mktemp("alone")
    code, output = run_job("alone", str(folder), script=SCRIPT, limits=False)
    assert code == 0, output
    return folder


@pytest.mark.parametrize("how", ["run 3", "mpirun 3", "threads 3"])
def test_equal_ledgers_and_results_over_every_wire(how: str, alone: Path, tmp_path: Path) -> None:
    code, output = run_job(how, str(tmp_path), script=SCRIPT)
    assert code == 0, output
    assert len((tmp_path / "ledger").read_text().splitlines()) == 6
    for name in ("ledger", "results"):
        assert (tmp_path / name).read_text() == (alone / name).read_text()


def test_who_waits_says_at_which_layer(capfd: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        phalanx.init(shards=4, stall_s=0.4)
        model = phalanx.DataParallel(nn.Sequential(nn.Linear(FEATURES, 3), nn.SyncBatchNorm(3)))
        for step in DataLoader(data(), batch_size=BATCH).steps():
            if phalanx.rank() == 1:
                time.sleep(1.2)
            phalanx.run_shards(lambda x, y: model(x).mean().backward(), step)
            break
        phalanx.shutdown()

    run_threads(main, 2, timeout_s=20)
    line = next(line for line in capfd.readouterr().err.splitlines() if "waits for" in line)
    assert "rank 0 waits for rank 1 in SyncBatchNorm '1', forward: begun" in line
    assert "test_sync_batch_norm.py" in line
