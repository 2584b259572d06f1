"""Replicas that drift apart: a single flipped bit anywhere is found, named by tensor and rank, and healed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.errors import RangeError
from phalanx.dist.communicators.threads import run_threads
from phalanx.dist.diagnosis.replicas import Difference, ReplicaCheck
from phalanx.dist.errors import ReplicaError
from phalanx.dist.group import current

EVERY = 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.norm, self.out = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)

    def forward(self, x: Any) -> Any:
        return self.out(self.norm(self.hidden(x)).relu())


def trained() -> tuple[Net, Any]:
    """A model and its optimizer after two steps, equal on all ranks."""
    phalanx.init(seed=5)
    model = Net()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    for step in range(2):
        x = phalanx.tensor(np.random.default_rng(step).standard_normal((8, 6)).astype(np.float32))
        optimizer.zero_grad()
        model(x).pow(2).sum().backward()
        optimizer.step()
    return model, optimizer


def flip(array: np.ndarray) -> None:
    """One bit of one element, the lowest of its mantissa."""
    array.reshape(-1).view(np.uint32)[array.size // 2] ^= 1


PLACES = {
    "hidden.weight": lambda model, optimizer: model.hidden.weight.array,
    "out.bias": lambda model, optimizer: model.out.bias.array,
    "norm.running_var": lambda model, optimizer: model.norm.running_var.array,
    "optimizer/exp_avg_sq/out.weight": lambda model, optimizer: optimizer.state_arrays(
        {p: name for name, p in model.named_parameters()}
    )["exp_avg_sq/out.weight"],
}
"""Name of a tensor -> where it lies."""


def damaged_run(place: str, size: int, odd: int, heal: bool) -> list[Any]:
    """Flip a bit of ``place`` on rank ``odd``, then check; by rank what was found, and all bytes afterwards."""

    def rank_main() -> Any:
        model, optimizer = trained()
        group = current()
        check = ReplicaCheck(group, model, EVERY, heal=heal)
        assert check.after_step(EVERY, [optimizer]) == []
        array = PLACES[place](model, optimizer)
        if group.rank == odd:
            flip(array)
        assert check.after_step(EVERY + 1, [optimizer]) == []  # not due
        found = check.after_step(2 * EVERY, [optimizer])
        assert check.after_step(3 * EVERY, [optimizer]) == []
        return [one.name for one in found], [one.odd for one in found], array.tobytes()

    return run_threads(rank_main, size)


@pytest.mark.parametrize("place", PLACES)
def test_a_flipped_bit_is_named_by_tensor_and_rank(place: str) -> None:
    with pytest.raises(ReplicaError) as caught:
        damaged_run(place, 3, 1, heal=False)
    expected = rf"replicas differ after step 6: the first tensor is {re.escape(place)} on rank 1 \([0-9a-f]{{16}} against [0-9a-f]{{16}} elsewhere\); 1 of \d+ differ\."
    assert re.match(expected, str(caught.value)), caught.value


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("odd", [0, 2])
def test_the_majority_heals_it(place: str, odd: int, capfd: pytest.CaptureFixture[str]) -> None:
    results = damaged_run(place, 3, odd, heal=True)
    assert [names for names, _, _ in results] == [[place]] * 3
    assert [ranks for _, ranks, _ in results] == [[[odd]]] * 3
    assert len({data for _, _, data in results}) == 1
    said = capfd.readouterr().err
    assert said.count("Healed from the majority") == 1 and f"{place} on rank {odd}" in said


def test_a_tensor_that_is_not_contiguous_is_healed() -> None:
    def rank_main() -> Any:
        phalanx.init()
        model = nn.Linear(2, 2)
        model.register_buffer("turned", phalanx.tensor(np.arange(6, dtype=np.float32).reshape(2, 3)))
        model.turned.array = model.turned.array.T
        if current().rank == 0:
            model.turned.array[1, 1] = 9
        found = ReplicaCheck(current(), model, 1, heal=True).after_step(1)
        return [one.name for one in found], model.turned.array.tolist()

    assert run_threads(rank_main, 3) == [(["turned"], [[0, 3], [1, 4], [2, 5]])] * 3


def test_two_ranks_have_no_majority() -> None:
    for heal in (False, True):
        with pytest.raises(
            ReplicaError, match=r"hidden.weight \(\w{16} on rank 0, \w{16} on rank 1: no majority\)"
        ) as caught:
            damaged_run("hidden.weight", 2, 1, heal=heal)
        assert ("no majority to heal from" in str(caught.value)) is heal


def test_another_option_or_step_count_is_a_difference_that_cannot_be_healed() -> None:
    def rank_main() -> None:
        model, optimizer = trained()
        if current().rank == 2:
            optimizer.param_groups[0]["lr"] = 0.011
        ReplicaCheck(current(), model, 1, heal=True).after_step(1, [optimizer])

    with pytest.raises(ReplicaError, match=r"optimizer/options and step counts on rank 2 .*cannot be healed"):
        run_threads(rank_main, 3)


def test_several_optimizers_have_numbers() -> None:
    def rank_main() -> None:
        model, optimizer = trained()
        second = optim.SGD(model.out.parameters(), lr=0.1, momentum=0.9)
        if current().rank == 0:
            flip(PLACES["optimizer/exp_avg_sq/out.weight"](model, optimizer))
        ReplicaCheck(current(), model, 1).after_step(1, [optimizer, second])

    with pytest.raises(ReplicaError, match=r"optimizer 1/exp_avg_sq/out.weight on rank 0"):
        run_threads(rank_main, 3)


def test_a_difference_of_many_tensors_names_the_first_and_counts_the_rest() -> None:
    def rank_main() -> None:
        model, optimizer = trained()
        if current().rank == 1:
            for parameter in model.parameters():
                flip(parameter.array)
        ReplicaCheck(current(), model, 1).after_step(1, [optimizer])

    with pytest.raises(
        ReplicaError,
        match=r"the first tensor is hidden.weight on rank 1 .*; 6 of \d+ differ: also hidden.bias on rank 1",
    ):
        run_threads(rank_main, 4)


def test_equal_replicas_cost_one_small_message_a_check() -> None:
    def rank_main() -> list[str]:
        model, optimizer = trained()
        before = current().control.flight.begun
        ReplicaCheck(current(), model, 2).after_step(4, [optimizer])
        ReplicaCheck(current(), model, 2).after_step(5, [optimizer])
        return [op.name for op in current().control.flight.operations()][before:]

    assert run_threads(rank_main, 2) == [["all_gather_object 'replicas after step 4'"]] * 2


def test_majorities() -> None:
    assert Difference("w", (1, 1, 2)).odd == [2]
    assert Difference("w", (3, 1, 1, 2, 1)).odd == [0, 3]
    assert Difference("w", (1, 1, 2, 2)).odd == [0, 1, 2, 3]
    assert Difference("w", (1, None, 1)).odd == [1]


@pytest.mark.parametrize("every", [0, -1, True, 1.5, "100"])
def test_a_wrong_number_of_steps_is_refused(every: Any) -> None:
    with pytest.raises(RangeError, match="check_replicas expects a number of steps"):
        ReplicaCheck(current(), nn.Linear(1, 1), every)
