"""A training run in miniature, one rank of it: what a Checkpointer looks at, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phalanx.core.checkpoint.store import Store, step_of
from phalanx.core.errors import StateError
from phalanx.dist.checkpoint import Checkpointer
from phalanx.dist.communicators.alone import AloneCommunicator
from phalanx.dist.communicators.threads import current_communicator, run_threads

SHAPES: dict[str, tuple[int, ...]] = {"fc.weight": (40, 30), "fc.bias": (40,), "out.weight": (3, 40)}


class Value:
    """A parameter or buffer, as far as a checkpoint looks at it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


class Model:
    """Parameters of ``shapes`` and one buffer."""

    def __init__(self, seed: int = 0, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> None:
        numbers = np.random.default_rng(seed)
        self.parameters = {n: Value(numbers.normal(size=shape).astype(np.float32)) for n, shape in shapes.items()}
        self.buffers = {"bn.count": Value(np.array(seed, np.int64))}

    def state_dict(self) -> dict[str, Value]:
        return self.parameters | self.buffers

    def named_parameters(self) -> Iterable[tuple[str, Value]]:
        return self.parameters.items()


class Momentum:
    """An optimizer with one buffer, by the optimizers' checkpoint interface."""

    def __init__(self, model: Model) -> None:
        self.param_groups = [{"params": list(model.parameters.values()), "lr": 0.1}]
        self.state: dict[Value, np.ndarray] = {}
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        for number, parameter in enumerate(self.param_groups[0]["params"]):
            state = self.state.setdefault(parameter, np.zeros_like(parameter.array))
            state *= 0.9
            state += np.float32(0.01 * (number + self.steps))
            parameter.array -= self.param_groups[0]["lr"] * state

    def state_arrays(self, names: Mapping[Any, str]) -> dict[str, np.ndarray]:
        return {f"momentum/{names[p]}": array for p, array in self.state.items()}

    def state_scalars(self, names: Mapping[Any, str]) -> dict[str, Any]:
        return {"type": "Momentum", "lr": self.param_groups[0]["lr"], "steps": self.steps}

    def prepare_state(self, scalars: Mapping[str, Any], keys: Iterable[str], names: Mapping[Any, str]) -> None:
        if scalars["type"] != "Momentum":
            raise StateError(f"the checkpoint holds the state of {scalars['type']}, this optimizer is Momentum")
        self.param_groups[0]["lr"], self.steps = scalars["lr"], scalars["steps"]
        wanted = set(keys)
        self.state = {
            p: np.full_like(p.array, np.nan) for p in self.param_groups[0]["params"] if f"momentum/{names[p]}" in wanted
        }


class Loader:
    """A position and what it belongs to."""

    def __init__(self, batch_size: int = 32) -> None:
        self.step, self.batch_size = 0, batch_size

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "batch_size": self.batch_size}

    def load_state_dict(self, state: Mapping[str, Any], *, allow: Iterable[str] = ()) -> None:
        if state["batch_size"] != self.batch_size and "batch_size" not in allow:
            raise StateError(f"batch_size: saved {state['batch_size']}, now {self.batch_size}")
        self.step = state["step"]


class Group:
    """One rank's view of the job."""

    def __init__(self, communicator: Any = None, *, seed: int = 1, shards: int | None = 8) -> None:
        self.communicator = communicator or current_communicator() or AloneCommunicator()
        self.rank, self.size = self.communicator.rank, self.communicator.size
        self.seed, self.shards = seed, shards
        self.stop_requested: str | None = None


class Run:
    """One rank of a training run: model, optimizer, loader, checkpointer."""

    def __init__(
        self, directory: Path | None, *, model_seed: int = 0, group: Group | None = None, **options: Any
    ) -> None:
        self.model = Model(model_seed)
        self.optimizer = Momentum(self.model)
        self.loader = Loader()
        self.group = group or Group()
        self.checkpointer = Checkpointer(
            directory, model=self.model, optimizer=self.optimizer, loader=self.loader, group=self.group, **options
        )
        self.checkpointer.block_nbytes = 1024  # small enough that every rank has something to write

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.step()
            self.model.buffers["bn.count"].array += 1
            self.loader.step += 1
            self.checkpointer.after_step()

    def state(self) -> dict[str, bytes]:
        arrays = {name: value.array for name, value in self.model.state_dict().items()}
        names = {p: name for name, p in self.model.named_parameters()}
        return {name: a.tobytes() for name, a in (arrays | self.optimizer.state_arrays(names)).items()}


def on_ranks(size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What each rank's ``function`` returns, or the error that it raised."""

    def caught() -> Any:
        try:
            return function(*args)
        except (Exception, SystemExit) as error:
            return error

    return [caught()] if size == 1 else run_threads(caught, size, timeout_s=20.0)


def trained(directory: Path | None, steps: int, **options: Any) -> Run:
    run = Run(directory, **options)
    run.train(steps)
    return run


def resumed(directory: Path, which: Any = "auto", **options: Any) -> tuple[int | None, Run]:
    run = Run(directory, model_seed=99, **options)
    return run.checkpointer.resume(which), run


def steps_in(directory: Path) -> list[int | None]:
    return [step_of(path) for path in Store(directory).list()]


def tensor_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
