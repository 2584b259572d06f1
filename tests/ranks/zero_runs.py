"""Training runs for the proofs of ZeRO: what each rank ends with, in a form that compares every bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import phalanx
from phalanx import nn, optim
from phalanx.core.hashing import hash_array
from phalanx.data import DataLoader, TensorDataset
from phalanx.dist.communicators.threads import run_threads
from phalanx.ledger import hashes

SAMPLES, FEATURES, CLASSES = 45, 12, 5


class Layerwise(optim.Optimizer):
    """A toy of grain "parameter": each parameter moves by ``lr`` times its own norm along its gradient (You et al., LARS)."""

    grain = "parameter"

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    def state_names(self, group: Any) -> tuple[str, ...]:
        return ("velocity",)

    def update(self, data: Any, gradient: Any, state: Any, group: Any, step: int) -> None:
        assert data.ndim == 1
        trust = np.linalg.norm(data) / (np.linalg.norm(gradient) + 1e-6)
        state["velocity"] *= data.dtype.type(0.9)
        state["velocity"] += gradient * data.dtype.type(group["lr"] * trust)
        data -= state["velocity"]


class Rows(Layerwise):
    """A toy of grain "matrix": rows of a matrix move by their own norms."""

    grain = "matrix"

    def update(self, data: Any, gradient: Any, state: Any, group: Any, step: int) -> None:
        assert data.ndim == len(data.shape) and data.shape == gradient.shape == state["velocity"].shape
        norms = np.linalg.norm(gradient.reshape(len(data), -1), axis=1).reshape(-1, *[1] * (data.ndim - 1))
        data -= gradient * (group["lr"] / (norms + 1)).astype(data.dtype)


def two_kinds(parameters: Any) -> list[dict[str, Any]]:
    """Groups for Muon: matrices, and the rest."""
    given = list(parameters)
    other = {"params": [p for p in given if p.ndim < 2], "use_muon": False, "lr": 0.01}
    return [{"params": [p for p in given if p.ndim > 1]}, other]


OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "sgd": lambda p: optim.SGD(p, lr=0.05),
    "momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01, maximize=True),
    "nesterov": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.01),
    "amsgrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
    "adamax": lambda p: optim.Adamax(p, lr=0.01, weight_decay=0.01),
    "nadam": lambda p: optim.NAdam(p, lr=0.01, weight_decay=0.01),
    "radam": lambda p: optim.RAdam(p, lr=0.01, betas=(0.9, 0.5), weight_decay=0.01),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "adadelta": lambda p: optim.Adadelta(p, lr=0.5),
    "rprop": lambda p: optim.Rprop(p, lr=0.01),
    "asgd": lambda p: optim.ASGD(p, lr=0.05, t0=1),
    "lion": lambda p: optim.Lion(p, lr=0.001, weight_decay=0.1),
    "lamb": lambda p: optim.LAMB(p, lr=0.01),
    "lars": lambda p: optim.LARS(p, lr=1.0, momentum=0.9, weight_decay=0.01, trust_coefficient=0.02),
    "muon": lambda p: optim.Muon(two_kinds(p), lr=0.02),
    "layerwise": Layerwise,
    "rows": Rows,
}


class Net(nn.Module):
    """A parameter that is cut at the chunk grid, a tied one, one that no shard uses, and one that only some do."""

    def __init__(self, width: int = 150) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(FEATURES, width), nn.BatchNorm1d(width)
        self.wide, self.twin = nn.Linear(width, width), nn.Linear(width, width)
        self.twin.weight = self.wide.weight
        self.never, self.sometimes = nn.Linear(3, 3), nn.Linear(width, CLASSES)
        self.drop, self.last = nn.Dropout(0.2), nn.Linear(width, CLASSES)

    def forward(self, x: Any) -> Any:
        h = phalanx.relu(self.norm(self.first(x)))
        h = self.drop(phalanx.relu(self.twin(phalanx.relu(self.wide(h)))))
        return self.last(h) + self.sometimes(h) if float(x.array[0, 0]) > 0 else self.last(h)


class Mixed(nn.Module):
    """Three stores: float32, float64 and float16."""

    def __init__(self) -> None:
        super().__init__()
        self.single, self.double_, self.half_ = (
            nn.Linear(FEATURES, 140),
            nn.Linear(140, 130).double(),
            nn.Linear(130, 20).half(),
        )
        self.last = nn.Linear(20, CLASSES)

    def forward(self, x: Any) -> Any:
        h = phalanx.relu(self.double_(phalanx.relu(self.single(x)).double()))
        return self.last(phalanx.relu(self.half_(h.half())).float())


def data() -> TensorDataset:
    numbers = np.random.default_rng(3)
    x = numbers.standard_normal((SAMPLES, FEATURES)).astype(np.float32)
    return TensorDataset(phalanx.tensor(x), phalanx.tensor(numbers.integers(0, CLASSES, SAMPLES)))


def digest(model: Any, optimizer: Any, ledger: bool = True) -> dict[str, Any]:
    """Bits of parameters, buffers and the whole optimizer state, the loss, and what the ledger says."""
    found: dict[str, Any] = {name: hash_array(tensor.array) for name, tensor in model.state_dict().items()}
    for index, entry in optimizer.state_dict()["state"].items():
        found |= {f"{index}.{key}": hash_array(v) if hasattr(v, "dtype") else v for key, v in entry.items()}
    return found | {"loss": model.step_loss} | (hashes(model, optimizer) if ledger else {})


def train(
    optimizer: Callable[[Any], optim.Optimizer],
    net: Callable[[], Any] = Net,
    *,
    clip: str | None = "norm",
    steps: int = 4,
    passes: int = 1,
    then: Callable[[Any, Any], Any] = digest,
    **options: Any,
) -> Any:
    """An ordinary loop; what ``then`` makes of model and optimizer, and the norms that clipping gave."""
    model = phalanx.DataParallel(net(), bucket_bytes=16384, **options)
    made = optimizer(model.parameters())
    loader = DataLoader(data(), batch_size=16, shuffle=True)
    norms = []
    while loader.step < steps:
        for step in loader.steps():
            made.zero_grad()
            for x, y in step:
                for _ in range(passes):
                    (nn.functional.cross_entropy(model(x), y) / passes).backward()
            if clip == "value":
                nn.utils.clip_grad_value_(model.parameters(), 0.01)
            elif clip is not None:
                norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.3, float(clip.replace("norm", "2")))))
            made.step()
            if loader.step == steps:
                break
    return then(model, made), norms


def on_ranks(size: int, shards: int | None, function: Callable[[], Any], seed: int = 1) -> list[Any]:
    """``function`` in each of ``size`` threads, after ``init``."""

    def main() -> Any:
        phalanx.init(shards=shards, seed=seed)
        try:
            return function()
        finally:
            phalanx.shutdown()

    return run_threads(main, size, timeout_s=30)
