"""ZeRO-1 and ZeRO-2 end with the bits of the unsharded run: every optimizer, every grain, on any number of ranks."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.errors import GraphError, RangeError
from phalanx.core.hashing import hash_array
from phalanx.data import DataLoader
from phalanx.dist.errors import MismatchError
from tests.ranks.zero_runs import FEATURES, OPTIMIZERS, Layerwise, Mixed, Net, data, digest, on_ranks, train

pytestmark = pytest.mark.filterwarnings("ignore:.*shards? used these parameters")
MODES = ("optimizer", "gradients")


@functools.cache
def unsharded(optimizer: str, shards: int, net: Callable[[], Any] = Net, **options: Any) -> Any:
    """One rank without ZeRO."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (expected,) = on_ranks(1, shards, lambda: train(OPTIMIZERS[optimizer], net, **options))
    return expected


@pytest.mark.parametrize("shard", MODES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_equal_bits(optimizer: str, shard: str) -> None:
    """One shard a rank, then two and three."""
    for size, shards in ((4, 4), (3, 8)):
        expected = unsharded(optimizer, shards)
        for got in on_ranks(size, shards, lambda: train(OPTIMIZERS[optimizer], shard=shard)):
            assert got == expected, f"{size} ranks"


@pytest.mark.parametrize("shard", MODES)
@pytest.mark.parametrize(
    ("size", "shards", "options"),
    [
        (4, 8, {"steps": 6}),  # overlapped from the third step on; two shards a rank
        (2, 8, {"steps": 6}),  # four: partial sums are folded twice
        (3, 4, {"steps": 6, "overlap": False}),
        (5, 3, {}),  # ranks without a shard
        (4, 4, {"net": Mixed, "steps": 5, "optimizer": "momentum"}),
        (3, 4, {"clip": "inf"}),
        (3, 4, {"clip": "3"}),
        (3, 4, {"clip": "value"}),
        (2, 4, {"passes": 2, "steps": 5}),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else str(value),
)
def test_equal_bits_of_other_runs(shard: str, size: int, shards: int, options: dict[str, Any]) -> None:
    options = dict(options)
    name = options.pop("optimizer", "adam")
    expected = unsharded(name, shards, **{key: value for key, value in options.items() if key != "overlap"})
    for got in on_ranks(size, shards, lambda: train(OPTIMIZERS[name], shard=shard, **options)):
        assert got == expected


@pytest.mark.parametrize("shard", MODES)
def test_fast_mode(shard: str) -> None:
    """Without shards each rank is one; equal to the unsharded run of as many ranks."""
    expected = on_ranks(3, None, lambda: fast(None))
    assert on_ranks(3, None, lambda: fast(shard)) == expected


def fast(shard: str | None) -> Any:
    model = phalanx.DataParallel(Net(), bucket_bytes=16384, shard=shard)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    norms = []
    for epoch in range(3):
        for x, y in DataLoader(data(), batch_size=15, shuffle=True):
            (model if epoch == 2 else optimizer).zero_grad(set_to_none=epoch == 0)
            nn.functional.cross_entropy(model(x), y).backward()
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.3)))
            optimizer.step()
    return digest(model, optimizer), norms


def test_every_optimizer_is_proved() -> None:
    public = [getattr(optim, name) for name in optim.__all__]
    kinds = {kind for kind in public if isinstance(kind, type) and issubclass(kind, optim.Optimizer)} - {
        optim.Optimizer
    }
    made = {type(make(nn.Linear(2, 2).parameters())) for make in OPTIMIZERS.values()}
    assert kinds <= made
    assert {kind.grain for kind in made} == {"element", "parameter", "matrix"}


def test_with_compression() -> None:
    """ZeRO-1 with compression ends as compression without ZeRO; ZeRO-2 is refused."""
    expected = on_ranks(3, 4, lambda: train(OPTIMIZERS["adam"], compression="int8"))
    assert on_ranks(3, 4, lambda: train(OPTIMIZERS["adam"], compression="int8", shard="optimizer")) == expected
    with pytest.raises(RangeError, match=r'compression and shard="gradients" do not go together'):
        phalanx.DataParallel(nn.Linear(2, 2), compression="int8", shard="gradients")


# -- other loops ---------------------------------------------------------------------------------------------------------


def gan(shard: str | None) -> Any:
    """Two wrappers, two optimizers, gradients through one into the other."""
    generator = phalanx.DataParallel(nn.Sequential(nn.Linear(3, 130), nn.ReLU(), nn.Linear(130, FEATURES)), shard=shard)
    critic = phalanx.DataParallel(nn.Sequential(nn.Linear(FEATURES, 140), nn.ReLU(), nn.Linear(140, 1)), shard=shard)
    opt_g, opt_c = optim.Adam(generator.parameters(), lr=0.01), optim.AdamW(critic.parameters(), lr=0.01)
    criterion = nn.BCEWithLogitsLoss()
    for step in DataLoader(data(), batch_size=12, shuffle=True).steps():
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
    return digest(generator, opt_g), digest(critic, opt_c)


def two_optimizers(shard: str | None) -> Any:
    """On one store, of different grains, the coarser one made after a step: the store is cut anew and state moves."""
    model = phalanx.DataParallel(Net(), shard=shard, bucket_bytes=16384)
    inner = model.module
    first = optim.Adam([*inner.first.parameters(), *inner.wide.parameters(), *inner.norm.parameters()], lr=0.01)
    second = None
    for step in DataLoader(data(), batch_size=12, shuffle=True).steps():
        model.zero_grad()
        for x, y in step:
            nn.functional.cross_entropy(model(x), y).backward()
        first.step()
        if step.index == 1:
            second = Layerwise([*inner.last.parameters(), inner.twin.bias])
        elif second is not None:
            second.step()
    return digest(model, first), digest(model, second)


def groups_and_frozen(shard: str | None) -> Any:
    """Two groups; a layer frozen for two steps, then trained: its state has other step counts."""
    model = phalanx.DataParallel(Net(), shard=shard, bucket_bytes=16384)
    inner = model.module
    for p in inner.wide.parameters():
        p.requires_grad = False
    rest = [p for p in inner.parameters() if p is not inner.last.weight]
    optimizer = optim.AdamW([{"params": [inner.last.weight], "lr": 0.1}, {"params": rest}], lr=0.01)
    for step in DataLoader(data(), batch_size=12, shuffle=True).steps():
        if step.index == 2:
            for p in inner.wide.parameters():
                p.requires_grad = True
        optimizer.zero_grad()
        for x, y in step:
            nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return digest(model, optimizer)


def structural_change(shard: str | None) -> Any:
    """A replaced head: parameters, state and gradients that nobody cleared move to a new store."""
    model = phalanx.DataParallel(Net(), shard=shard, bucket_bytes=16384)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    for step in DataLoader(data(), batch_size=12, shuffle=True).steps():
        if step.index == 2:
            model.module.last = nn.Linear(150, 5)
            optimizer.add_param_group({"params": model.module.last.parameters(), "lr": 0.02})
        for x, y in step:
            nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return digest(model, optimizer, ledger=False)  # the old head is the optimizer's still, but not the model's


def state_moves_through_dicts(shard: str | None) -> Any:
    """``state_dict()`` is whole on every rank, and what is loaded is cut."""
    model = phalanx.DataParallel(Net(), shard=shard, bucket_bytes=16384)
    loader = DataLoader(data(), batch_size=12, shuffle=True)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    for step in loader.steps():
        optimizer.zero_grad()
        for x, y in step:
            nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        saved, optimizer = optimizer.state_dict(), optim.Adam(model.parameters(), lr=0.5)
        optimizer.load_state_dict(saved)
    return digest(model, optimizer)


def wrapped_anew(shard: str | None) -> Any:
    """Sharded, not sharded, sharded otherwise, with one optimizer all along; gradients that nobody cleared stay."""
    net = Net()
    model = phalanx.DataParallel(net, shard=shard, bucket_bytes=16384)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    for step in DataLoader(data(), batch_size=12, shuffle=True).steps():
        if step.index == 1:
            model = phalanx.DataParallel(net, bucket_bytes=16384)
        elif step.index == 2:
            model = phalanx.DataParallel(net, bucket_bytes=8192, shard=shard and "gradients")
        for x, y in step:
            nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return digest(model, optimizer)


def assigned_gradients(shard: str | None) -> Any:
    """Gradients that the script makes itself are cut, too."""
    model = phalanx.DataParallel(Net(), shard=shard, bucket_bytes=16384)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for number in range(3):
        for p in model.parameters():
            p.grad = phalanx.tensor(np.full(p.shape, 0.1 * (number + 1), np.float32))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return digest(model, optimizer)


LOOPS = (
    gan, two_optimizers, groups_and_frozen, structural_change, state_moves_through_dicts, wrapped_anew, assigned_gradients,
)  # fmt: skip


@pytest.mark.parametrize("shard", MODES)
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_equal_bits_of_other_loops(loop: Callable[[str | None], Any], shard: str) -> None:
    (expected,) = on_ranks(1, 4, lambda: loop(None))
    assert on_ranks(3, 4, lambda: loop(shard)) == [expected] * 3


# -- what is there and what is not --------------------------------------------------------------------------------------


def one_step(shard: str | None, **options: Any) -> tuple[Any, Any]:
    model = phalanx.DataParallel(Net(), shard=shard, **options)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for step in DataLoader(data(), batch_size=SAMPLES).steps():
        for x, y in step:
            nn.functional.cross_entropy(model(x), y).backward()
        model.synchronize()
    return model, optimizer


SAMPLES = 45


def test_reading_gradients() -> None:
    """Whole with ZeRO-1; with ZeRO-2 where a rank owns them whole, and elsewhere an error that names who does."""

    def readings(shard: str | None) -> dict[str, Any]:
        model, _ = one_step(shard)
        found: dict[str, Any] = {}
        for name, p in model.named_parameters():
            try:
                found[name] = None if p.grad is None else hash_array(p.grad.array)
            except GraphError as error:
                found[name] = str(error)
        return found

    (expected,) = on_ranks(1, 4, lambda: readings(None))
    assert on_ranks(3, 4, lambda: readings("optimizer")) == [expected] * 3
    rows = on_ranks(3, 4, lambda: readings("gradients"))
    for name, value in expected.items():
        values = [row[name] for row in rows]
        errors = [text for text in values if isinstance(text, str)]
        assert [v for v in values if not isinstance(v, str)] in ([value], [None] * 3, []), name
        assert all("to read whole gradients use shard=" in text for text in errors)
    assert any("rank 0 owns it" in text for row in rows for text in row.values() if isinstance(text, str))
    assert any("ranks 1, 2 own parts of it" in text for row in rows for text in row.values() if isinstance(text, str))


def test_one_rank_is_not_sharded() -> None:
    for shard in MODES:
        ((model, _),) = on_ranks(1, 4, lambda shard=shard: one_step(shard))
        (other,) = on_ranks(1, None, lambda shard=shard: phalanx.DataParallel(Net(), shard=shard))
        assert all(p._store.owned is None for p in [*model.parameters(), *other.parameters()])


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(RangeError, match=r"shard to be None or one of 'optimizer', 'gradients'.*got 'parameters'"):
        phalanx.DataParallel(nn.Linear(2, 2), shard="parameters")


def test_an_unforeseen_pass_is_an_error_only_where_gradients_were_freed() -> None:
    def surprising(shard: str, overlap: bool) -> Any:
        model = phalanx.DataParallel(Net(), shard=shard, overlap=overlap, bucket_bytes=4096)
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        for step in DataLoader(data(), batch_size=9).steps():
            optimizer.zero_grad()
            for x, y in step:
                for _ in range(1 + step.index // 4):
                    nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        return digest(model, optimizer)

    (expected,) = on_ranks(1, 4, lambda: surprising("gradients", True))
    assert on_ranks(2, 4, lambda: surprising("optimizer", True)) == [expected] * 2
    assert on_ranks(2, 4, lambda: surprising("gradients", False)) == [expected] * 2
    with pytest.raises(GraphError, match=r"one more backward pass in this shard.*overlap=False"):
        on_ranks(2, 4, lambda: surprising("gradients", True))


def test_ranks_that_shard_otherwise_are_told() -> None:
    def main() -> None:
        train(OPTIMIZERS["adam"], shard="optimizer" if phalanx.rank() else None, clip=None)

    with pytest.raises(MismatchError) as caught:  # whichever rank hears first
        on_ranks(2, 4, main)
    assert all(words in str(caught.value) for words in ("DataParallel(shard=None)", "DataParallel(shard='optimizer')"))


def test_one_optimizer_for_two_sharded_models_is_refused() -> None:
    def main() -> None:
        first, second = (phalanx.DataParallel(nn.Linear(FEATURES, 5), shard="optimizer") for _ in range(2))
        optimizer = optim.SGD([*first.parameters(), *second.parameters()], lr=0.1)
        for step in DataLoader(data(), batch_size=12).steps():
            for x, y in step:
                nn.functional.cross_entropy(first(x) + second(x), y).backward()
            optimizer.step()

    with pytest.raises(GraphError, match="give each DataParallel an optimizer of its own"):
        on_ranks(2, 4, main)


def test_a_copy_is_free() -> None:
    """A copied model is in no store, and has only gradients that its rank held whole."""
    import copy

    def main() -> Any:
        model, _ = one_step("gradients")
        twin = copy.deepcopy(model.module)
        held = [p._grad is not None and p._grad.array.flags.writeable for p in model.module.parameters()]
        return [p._grad is not None for p in twin.parameters()] == held

    assert on_ranks(3, 4, main) == [True] * 3
