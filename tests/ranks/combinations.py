"""One training run in miniature under every choice that must not change a bit; for :mod:`.test_combinations`."""

from __future__ import annotations

import dataclasses
from typing import Any

from phalanx import DataParallel, nn, optim
from phalanx.core import rng
from phalanx.core.data.placement import Placement, set_placement
from phalanx.core.hashing import hash_array
from phalanx.data import DataLoader
from phalanx.dist import group as groups
from phalanx.dist.communicators.base import Communicator
from phalanx.dist.group import Group
from tests.ranks.test_data_parallel import CLASSES, data

STEPS = 6


@dataclasses.dataclass(frozen=True)
class Choice:
    """What must not change a bit but ``shards``, ``passes`` and ``model``, which say what is trained."""

    shards: int
    passes: str = "one"
    """Backward passes of a shard: ``one``, ``three``, or ``surprising``: two in every third step."""
    model: str = "small"
    bucket_bytes: int = 4 << 20
    overlap: bool = True
    zero: str | None = None

    def trained(self) -> Choice:
        """What decides the bits."""
        return Choice(self.shards, self.passes, self.model)


def net(model: str) -> nn.Module:
    width = {"small": 16, "cut": 150}[model]  # "cut": a parameter of more elements than a chunk of the grid
    return nn.Sequential(
        nn.Linear(12, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, width), nn.Linear(width, CLASSES)
    )  # fmt: skip


def train(choice: Choice) -> dict[str, Any]:
    """Bits of everything, and the losses."""
    model = DataParallel(net(choice.model), bucket_bytes=choice.bucket_bytes, overlap=choice.overlap, shard=choice.zero)
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    loader = DataLoader(data(), batch_size=14, shuffle=True)  # the last batch has 11 samples
    criterion = nn.CrossEntropyLoss()
    losses = []
    while loader.step < STEPS:
        for step in loader.steps():
            optimizer.zero_grad()
            count = {"one": 1, "three": 3, "surprising": 2 if step.index % 3 == 2 else 1}[choice.passes]
            for x, y in step:
                for _ in range(count):
                    (criterion(model(x), y) / count).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            losses.append(model.step_loss)
            if loader.step == STEPS:
                break
    bits = {name: hash_array(tensor.array) for name, tensor in model.state_dict().items()}
    for index, entry in optimizer.state_dict()["state"].items():
        bits |= {f"{index}.{key}": value if key == "step" else hash_array(value) for key, value in entry.items()}
    return bits | {"losses": [float(loss).hex() for loss in losses]}


def run(comm: Communicator, choices: list[dict[str, Any]], shared: bool = False) -> list[dict[str, Any]]:
    """Each of ``choices`` on the ranks of ``comm``; what rank 0 ends with, after all ranks were found to be equal."""
    control = comm.split(0)
    if shared:
        assert comm.share_memory() and control.share_memory()
    found = []
    for given in choices:
        choice = Choice(**given)
        group = Group(comm, control, shards=choice.shards, seed=5)
        groups._local.group = group
        rng.manual_seed(5)
        set_placement(Placement(comm.rank, comm.size, choice.shards))
        mine = train(choice)
        everybody = control.all_gather_object(mine, name="ends").wait()
        assert all(row == mine for row in everybody), f"ranks end differently with {choice}"
        found.append(mine)
    groups._local.group = None
    return found
