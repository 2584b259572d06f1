"""Every schedule beside PyTorch's for more than 100 steps: alone, chained, one after the other, and resumed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from phalanx import nn, optim
from phalanx.core.errors import RangeError, StateError
from phalanx.optim import lr_scheduler

STEPS = 130
Make = Callable[[Any, Any], Any]

CASES: dict[str, Make] = {
    "step": lambda s, o: s.StepLR(o, 30, gamma=0.5),
    "multistep": lambda s, o: s.MultiStepLR(o, [50, 20, 50, 90], gamma=0.3),
    "constant": lambda s, o: s.ConstantLR(o, factor=0.25, total_iters=40),
    "linear": lambda s, o: s.LinearLR(o, start_factor=0.1, end_factor=0.7, total_iters=60),
    "linear to 0": lambda s, o: s.LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=60),
    "exponential": lambda s, o: s.ExponentialLR(o, gamma=0.97),
    "polynomial": lambda s, o: s.PolynomialLR(o, total_iters=100, power=2.0),
    "cosine": lambda s, o: s.CosineAnnealingLR(o, T_max=50, eta_min=0.01),
    "cosine to 0": lambda s, o: s.CosineAnnealingLR(o, T_max=40),
    "restarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, T_0=20, eta_min=0.01),
    "longer restarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, T_0=10, T_mult=2),
    "lambda": lambda s, o: s.LambdaLR(o, [lambda e: 0.9**e, lambda e: 1 / (1 + e)]),
    "multiplicative": lambda s, o: s.MultiplicativeLR(o, lambda e: 0.99 if e % 2 else 1.001),
    "one cycle": lambda s, o: s.OneCycleLR(o, max_lr=[0.5, 1.0], total_steps=STEPS + 1),
    "one cycle, three phases": lambda s, o: s.OneCycleLR(
        o, 0.5, epochs=4, steps_per_epoch=40, pct_start=0.2, anneal_strategy="linear", three_phase=True, base_momentum=0.7
    ),
    "cyclic": lambda s, o: s.CyclicLR(o, 0.01, [0.1, 0.2], step_size_up=12, step_size_down=20),
    "cyclic, halved": lambda s, o: s.CyclicLR(o, 0.01, 0.1, step_size_up=15, mode="triangular2", max_momentum=0.95),
    "cyclic, exponential": lambda s, o: s.CyclicLR(o, 0.01, 0.1, step_size_up=15, mode="exp_range", gamma=0.98),
    "cyclic, own scale": lambda s, o: s.CyclicLR(
        o, 0.01, 0.1, step_size_up=15, scale_fn=lambda x: 1 / x, cycle_momentum=False
    ),
    "two on one optimizer": lambda s, o: (s.ExponentialLR(o, 0.99), s.StepLR(o, 25, gamma=0.5))[1],
    "sequential": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.1, 20), s.LinearLR(o, 0.5, total_iters=30), s.CosineAnnealingLR(o, 40)], [30, 70]
    ),
    "sequential of restarts": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.01, total_iters=10), s.CosineAnnealingWarmRestarts(o, 25)], [10]
    ),
    "chained": lambda s, o: s.ChainedScheduler(
        [s.ConstantLR(o, 0.1, 20), s.ExponentialLR(o, 0.99), s.CosineAnnealingLR(o, 60, eta_min=0.001)]
    ),
    "chained lines": lambda s, o: s.ChainedScheduler([s.LinearLR(o, 0.2, total_iters=30), s.MultiStepLR(o, [40, 80])]),
    "sequential of chained": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.5, 3), s.StepLR(o, 7)], [40]
    ),
}  # fmt: skip


def two_groups(optimizers: Any, parameter: Callable[[], Any], kind: str) -> Any:
    options = {"momentum": 0.9} if kind == "SGD" else {}
    return getattr(optimizers, kind)(
        [{"params": [parameter()]}, {"params": [parameter()], "lr": 0.3}], lr=0.1, **options
    )


def ours(kind: str = "SGD") -> Any:
    return two_groups(optim, lambda: nn.Parameter(np.zeros(2)), kind)


def rows(optimizer: Any, scheduler: Any, steps: int = STEPS, others: tuple[Any, ...] = ()) -> list[list[float]]:
    """Rates and momenta of both groups, at the start and after each step."""
    found = []
    for step in range(steps + 1):
        if step:
            optimizer.step()
            for each in (*others, scheduler):
                each.step()
        found.append([g["lr"] for g in optimizer.param_groups])
        found[-1] += [g["betas"][0] if "betas" in g else g["momentum"] for g in optimizer.param_groups]
        assert scheduler.get_last_lr() == found[-1][:2]
    return found


@pytest.mark.torch
@pytest.mark.parametrize(
    ("case", "kind"), [(c, k) for c in CASES for k in ("SGD", "Adam") if k == "SGD" or "cycl" in c]
)
def test_rates_are_pytorchs(case: str, kind: str) -> None:
    torch = pytest.importorskip("torch")
    peer = two_groups(torch.optim, lambda: torch.nn.Parameter(torch.zeros(2)), kind)
    optimizer = ours(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of its own use of its interface
        expected = rows(peer, CASES[case](torch.optim.lr_scheduler, peer))
        found = rows(optimizer, CASES[case](lr_scheduler, optimizer))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert len({tuple(row[:2]) for row in found}) > 1


@pytest.mark.parametrize("case", [name for name in CASES if name != "two on one optimizer"])
def test_resumed_goes_on_to_the_bit(case: str) -> None:
    """Through JSON, into objects made anew, at the start, within and behind a phase."""
    optimizer = ours()
    scheduler = CASES[case](lr_scheduler, optimizer)
    whole = rows(optimizer, scheduler)
    if not isinstance(scheduler, lr_scheduler.MultiplicativeLR) and not hasattr(scheduler, "_schedulers"):
        formula = [[scheduler.rate(index, step) for index in range(2)] for step in range(STEPS + 1)]
        assert [row[:2] for row in whole] == formula, "alone a rate is the formula's, to the bit"
    for at in (0, 25, 70):
        optimizer = ours()
        scheduler = CASES[case](lr_scheduler, optimizer)
        rows(optimizer, scheduler, at)
        saved = json.loads(json.dumps([scheduler.state_dict(), optimizer.state_dict()]))
        twin = ours()
        resumed = CASES[case](lr_scheduler, twin)
        twin.load_state_dict(saved[1])
        resumed.load_state_dict(saved[0])
        twin.updates = 1
        assert rows(twin, resumed, STEPS - at) == whole[at:]
        assert resumed.last_epoch == STEPS if hasattr(resumed, "last_epoch") else True


@pytest.mark.torch
@pytest.mark.parametrize("options", [
    {}, {"mode": "max", "factor": 0.5, "patience": 2, "cooldown": 3}, {"threshold_mode": "abs", "threshold": 0.05, "patience": 1},
    {"mode": "max", "threshold_mode": "abs", "patience": 3, "min_lr": [0.01, 0.1]}, {"patience": 0, "min_lr": 0.02, "eps": 0.01},
])  # fmt: skip
def test_plateau_is_pytorchs(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    numbers = np.random.default_rng(2)
    metrics = np.exp(-np.arange(STEPS) / 40) + 0.1 * numbers.standard_normal(STEPS)
    metrics[[0, 60]] = np.nan
    peer = two_groups(torch.optim, lambda: torch.nn.Parameter(torch.zeros(2)), "SGD")
    optimizer = ours()
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(peer, **options)
    mine = lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    for step, metric in enumerate(metrics):
        if step == 50:
            state = json.loads(json.dumps(mine.state_dict()))
            mine = lr_scheduler.ReduceLROnPlateau(optimizer, **options)
            mine.load_state_dict(state)
        theirs.step(metric)
        mine.step(metric)
        assert mine.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-12), step
        assert (mine.num_bad_epochs, mine.in_cooldown) == (theirs.num_bad_epochs, theirs.in_cooldown)
    assert len({*mine.get_last_lr(), 0.1, 0.3}) > 2


@pytest.mark.torch
def test_fractions_and_jumps_are_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    peer, optimizer = two_groups(torch.optim, lambda: torch.nn.Parameter(torch.zeros(2)), "SGD"), ours()
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(peer, 5, 2)
    mine = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 5, 2)
    optimizer.step()
    for epoch in [i / 4 for i in range(100)]:
        theirs.step(epoch)
        mine.step(epoch)
        assert mine.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-9)
        assert (mine.T_cur, mine.T_i) == pytest.approx((theirs.T_cur, theirs.T_i))
    theirs.step()
    mine.step()
    assert mine.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-9)
    jumped = lr_scheduler.StepLR(optimizer, 10)
    jumped.step(25)
    assert jumped.get_last_lr() == pytest.approx([0.001, 0.003]) and jumped.last_epoch == 25


@pytest.mark.torch
def test_constructors_are_pytorchs() -> None:
    import inspect

    torch = pytest.importorskip("torch")
    names = set(lr_scheduler.__all__) - {"LRScheduler", "WarmupLR"}
    assert {n for n in torch.optim.lr_scheduler.__all__ if n.endswith(("LR", "Restarts", "Scheduler", "Plateau"))} <= {
        *names, "LRScheduler"
    }  # fmt: skip
    for name in names:
        theirs = inspect.signature(getattr(torch.optim.lr_scheduler, name)).parameters
        mine = inspect.signature(getattr(lr_scheduler, name)).parameters
        assert {k: v.default for k, v in mine.items()} == {k: v.default for k, v in theirs.items()}, name
        assert list(mine) == list(theirs), name


def test_warmup() -> None:
    optimizer = ours()
    scheduler = lr_scheduler.WarmupLR(optimizer, 4, lr_scheduler.CosineAnnealingLR(optimizer, 10), start_factor=0.2)
    rates = [row[0] for row in rows(optimizer, scheduler, 20)]
    np.testing.assert_allclose(rates[:4], [0.04, 0.06, 0.08, 0.1])
    np.testing.assert_allclose(rates[4:15], [0.05 * (1 + np.cos(np.pi * t / 10)) for t in range(11)], atol=1e-15)
    alone = ours()
    assert [row[1] for row in rows(alone, lr_scheduler.WarmupLR(alone, 3), 4)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.3, 0.3]
    )
    nested = ours()
    parts = [lr_scheduler.WarmupLR(nested, 3, lr_scheduler.ExponentialLR(nested, 0.5)), lr_scheduler.StepLR(nested, 2)]
    both = lr_scheduler.SequentialLR(nested, parts, [5])
    found = [row[0] for row in rows(nested, both, 8)]
    assert found == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1, 0.05, 0.1, 0.1, 0.01, 0.01])
    both.step(4)
    assert both.get_last_lr() == pytest.approx([0.05, 0.15])


def test_own_schedules_in_pytorchs_manner() -> None:
    class Halves(lr_scheduler._LRScheduler):
        def get_lr(self) -> list[float]:
            return [base * 0.5**self.last_epoch for base in self.base_lrs]

    optimizer = ours()
    assert [row[:2] for row in rows(optimizer, Halves(optimizer), 2)] == [[0.1, 0.3], [0.05, 0.15], [0.025, 0.075]]
    with pytest.raises(NotImplementedError, match="defines neither rate"):
        lr_scheduler.LRScheduler(optimizer)


def test_a_hand_on_the_rate_and_a_new_group() -> None:
    """What the user does to a rate is gone on from; a group that is added later begins at its own rate."""
    optimizer = ours()
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    scheduler.step()
    optimizer.param_groups[0]["lr"] = 8.0
    optimizer.add_param_group({"params": [nn.Parameter(np.zeros(1))], "lr": 4.0})
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([4.0, 0.075, 2.0])


def test_a_schedule_left_behind_by_a_resume_is_told() -> None:
    """Once; not when its state is loaded too, before or after the optimizer's."""
    makers: list[Callable[[Any], Any]] = [
        lambda o: lr_scheduler.StepLR(o, 3),
        lambda o: lr_scheduler.WarmupLR(o, 3),
        lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.StepLR(o, 3), lr_scheduler.StepLR(o, 2)], [5]),
        lr_scheduler.ReduceLROnPlateau,
    ]
    for make in makers:
        optimizer = ours()
        scheduler = make(optimizer)
        act = (
            scheduler.step
            if not isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
            else lambda s=scheduler: s.step(1)
        )
        optimizer.step()
        act()
        saved = optimizer.state_dict(), scheduler.state_dict()
        optimizer.load_state_dict(saved[0])
        with pytest.warns(
            UserWarning, match="state was loaded, that of its .* was not: it goes on from its own count of 1"
        ):
            act()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            act()
            scheduler.load_state_dict(saved[1])
            optimizer.load_state_dict(saved[0])
            act()
            optimizer.load_state_dict(saved[0])
            scheduler.load_state_dict(saved[1])
            act()
            act()


def test_a_step_too_early_is_told() -> None:
    optimizer = ours()
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    with pytest.warns(UserWarning, match=r"StepLR.step\(\) came before the first optimizer.step\(\)"):
        scheduler.step()


class Rule:
    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    def __call__(self, epoch: int) -> float:
        return self.gamma**epoch


def test_callable_objects_are_saved() -> None:
    optimizer = ours()
    scheduler = lr_scheduler.LambdaLR(optimizer, [Rule(0.5), lambda epoch: 1.0])
    state = json.loads(json.dumps(scheduler.state_dict()))
    assert state["lr_lambdas"] == [{"gamma": 0.5}, None]
    other = lr_scheduler.LambdaLR(ours(), [Rule(0.1), lambda epoch: 2.0])
    other.load_state_dict(state)
    assert [other.rate(index, 1) for index in range(2)] == [0.05, 0.6]


@pytest.mark.parametrize(("make", "kind", "words"), [
    (lambda o: lr_scheduler.StepLR(nn.Linear(1, 1), 3), TypeError, "StepLR expects an Optimizer, got Linear"),
    (lambda o: lr_scheduler.StepLR(o, 0), RangeError, "step_size of at least 1, got 0"),
    (lambda o: lr_scheduler.StepLR(o, 3, last_epoch=4), StateError, "parameter group 0 has no 'initial_lr'"),
    (lambda o: lr_scheduler.LinearLR(o, 0.0), RangeError, r"start_factor in \(0, 1\], got 0.0"),
    (lambda o: lr_scheduler.LinearLR(o, end_factor=2), RangeError, r"end_factor in \[0, 1\], got 2"),
    (lambda o: lr_scheduler.ConstantLR(o, 2), RangeError, r"factor in \[0, 1\], got 2"),
    (lambda o: lr_scheduler.CosineAnnealingLR(o, 0), RangeError, "T_max above 0"),
    (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2.5), RangeError, "integers of at least 1, got 2.5 and 1"),
    (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2).step(-1), RangeError, "epoch of at least 0, got -1"),
    (lambda o: lr_scheduler.LambdaLR(o, [lambda e: 1]), RangeError, "2 functions, one a parameter group, got 1"),
    (lambda o: lr_scheduler.LambdaLR(o, 0.5), TypeError, "functions of the epoch, got float"),
    (lambda o: lr_scheduler.OneCycleLR(o, 0.1), RangeError, "expects total_steps, or epochs and steps_per_epoch"),
    (lambda o: lr_scheduler.OneCycleLR(o, 0.1, 10, pct_start=2), RangeError, r"pct_start in \[0, 1\], got 2"),
    (lambda o: lr_scheduler.OneCycleLR(o, 0.1, 10, anneal_strategy="x"), RangeError, "'cos' or 'linear', got 'x'"),
    (lambda o: lr_scheduler.OneCycleLR(o, [0.1], 10), RangeError, "2 values of max_lr, one a parameter group, got 1"),
    (lambda o: lr_scheduler.OneCycleLR(o, 0.1, 10).step(12), RangeError, "made for 10 steps, this is step 12"),
    (lambda o: lr_scheduler.CyclicLR(o, 0.1, 1, mode="x"), RangeError, "got 'x'"),
    (lambda o: lr_scheduler.CyclicLR(optim.Adagrad([nn.Parameter(np.zeros(1))]), 0.1, 1), RangeError, "cycle_momentum=False"),
    (lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=1), RangeError, "factor below 1, got 1"),
    (lambda o: lr_scheduler.ReduceLROnPlateau(o, "least"), RangeError, "mode 'min' or 'max', got 'least'"),
    (lambda o: lr_scheduler.ReduceLROnPlateau(o, threshold_mode="x"), RangeError, "threshold_mode 'rel' or 'abs', got 'x'"),
    (lambda o: lr_scheduler.SequentialLR(o, [], []), RangeError, "at least one schedule, got none"),
    (lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.StepLR(o, 1)], [3]), RangeError, "one milestone less"),
    (lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ReduceLROnPlateau(o)]), RangeError, "its step.* needs a metric"),
    (lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.StepLR(ours(), 1)], []), RangeError, "of another optimizer"),
    (lambda o: lr_scheduler.ChainedScheduler([o]), TypeError, "expects schedules, got SGD at place 0"),
    (lambda o: lr_scheduler.WarmupLR(o, 0), RangeError, "warmup_steps of at least 1, got 0"),
    (lambda o: lr_scheduler.WarmupLR(o, 2, start_factor=2), RangeError, r"start_factor in \[0, 1\], got 2"),
    (lambda o: lr_scheduler.StepLR(o, 2).load_state_dict({}), StateError, "the state lacks .*step_size"),
    (lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.StepLR(o, 2)]).load_state_dict({}), RangeError, "of 0 schedules"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*came before the first optimizer.step")
def test_wrong_use(make: Callable[[Any], Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        make(ours())
