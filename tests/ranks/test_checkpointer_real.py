"""Save and resume of real training: model, optimizer, loader and DataParallel, exactly, at any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import nn, optim
from phalanx.core.checkpoint.parts import verify
from phalanx.core.errors import StateError
from phalanx.data import DataLoader, TensorDataset
from phalanx.dist.communicators.threads import run_threads

OPTIMIZERS = {
    "sgd": lambda parameters: optim.SGD(parameters, lr=0.05),
    "momentum": lambda parameters: optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda parameters: optim.Adam(parameters, lr=0.01),
    "adamw": lambda parameters: optim.AdamW(parameters, lr=0.01),
}


def build(optimizer: str, width: int = 16) -> tuple[Any, Any, Any]:
    """A model with dropout, batch norm and a tied parameter, its optimizer, and a loader whose last batch is short."""
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(50, 8)).astype(np.float32)
    y = numbers.integers(0, 3, 50)
    loader = DataLoader(TensorDataset(phalanx.tensor(x), phalanx.tensor(y)), batch_size=12, shuffle=True)
    first, second = nn.Linear(8, width), nn.Linear(8, width)
    second.weight = first.weight
    model = nn.ModuleDict({"a": first, "b": second, "bn": nn.BatchNorm1d(width), "out": nn.Linear(width, 3)})
    return model, OPTIMIZERS[optimizer](model.parameters()), loader


class Net(nn.Module):
    """Two branches that share a weight."""

    def __init__(self, parts: Any) -> None:
        super().__init__()
        self.parts = parts
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Any) -> Any:
        hidden = phalanx.relu(self.parts["a"](x)) + self.parts["b"](x)
        return self.parts["out"](self.drop(self.parts["bn"](hidden)))


def train(
    directory: Path | None,
    steps: int,
    *,
    optimizer: str = "adam",
    which: str = "none",
    every: int = 3,
    behind: bool = False,
) -> dict[str, bytes]:
    """This rank's state after ``steps`` steps in all."""
    phalanx.init(shards=4, seed=5)
    try:
        parts, optimizer_, loader = build(optimizer)
        model = phalanx.DataParallel(Net(parts))
        checkpointer = phalanx.Checkpointer(
            directory, model=model, optimizer=optimizer_, loader=loader, every=every, background=behind
        )
        came_from = checkpointer.resume(which)
        assert loader.step == (came_from or 0)
        while loader.step < steps:
            for step in loader.steps():
                optimizer_.zero_grad()
                for x, y in step:
                    nn.functional.cross_entropy(model(x), y).backward()
                optimizer_.step()
                checkpointer.after_step()
                if loader.step == steps:
                    break
        checkpointer.wait()
        names = {parameter: name for name, parameter in model.named_parameters()}
        arrays = {name: tensor.array for name, tensor in model.state_dict().items()} | optimizer_.state_arrays(names)
        return {name: array.tobytes() for name, array in arrays.items()} | {"from": str(came_from).encode()}
    finally:
        phalanx.shutdown()


def on_ranks(size: int, *args: Any, **options: Any) -> list[dict[str, bytes]]:
    if size == 1:
        return [train(*args, **options)]
    return run_threads(lambda: train(*args, **options), size, timeout_s=30.0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resumed_in_the_middle_of_an_epoch_equals_uninterrupted(tmp_path: Path, optimizer: str) -> None:
    (whole,) = on_ranks(1, None, 13, optimizer=optimizer)
    on_ranks(2, tmp_path, 7, optimizer=optimizer)
    for outcome in on_ranks(3, tmp_path, 13, optimizer=optimizer, which="auto"):
        assert outcome.pop("from") == b"6"
        assert outcome == {name: data for name, data in whole.items() if name != "from"}


def test_files_are_equal_however_it_was_trained_and_interrupted(tmp_path: Path) -> None:
    on_ranks(1, tmp_path / "1", 9)
    on_ranks(3, tmp_path / "3", 9)
    on_ranks(2, tmp_path / "cut", 4)
    on_ranks(4, tmp_path / "cut", 9, which="auto")
    reference = {path.name: path.read_bytes() for path in (tmp_path / "1" / "step-00000009").iterdir()}
    assert set(reference) == {"manifest.json", "model.safetensors", "optimizer.safetensors"}
    for other in ("3", "cut"):
        assert {path.name: path.read_bytes() for path in (tmp_path / other / "step-00000009").iterdir()} == reference


def test_saved_behind_it_is_the_same_to_the_bit(tmp_path: Path) -> None:
    """The trained bits, the files, and what goes on from them."""
    (whole,) = on_ranks(1, tmp_path / "front", 8, every=5)
    for outcome in on_ranks(3, tmp_path / "behind", 8, every=5, behind=True):
        assert outcome == whole
    for path in (tmp_path / "front" / "step-00000005").iterdir():
        assert path.read_bytes() == (tmp_path / "behind" / path.parent.name / path.name).read_bytes()
    for outcome in on_ranks(2, tmp_path / "behind", 8, every=5, behind=True, which="auto"):
        assert outcome == whole | {"from": b"5"}


def test_what_is_saved(tmp_path: Path) -> None:
    on_ranks(1, tmp_path, 3)
    manifest = verify(tmp_path / "step-00000003")
    names = {tensor.name for tensor in manifest.tensors}
    assert {"model/parts.a.weight", "model/parts.b.weight", "model/parts.bn.running_mean"} <= names
    assert "optimizer/exp_avg/parts.a.weight" in names and "optimizer/exp_avg/parts.b.weight" not in names
    assert (manifest.seed, manifest.shards, manifest.cursor["step"]) == (5, 4, 3)  # type: ignore[index]


def test_without_any_state_yet(tmp_path: Path) -> None:
    """Saved before the first step: an optimizer without state."""
    phalanx.init(shards=4, seed=5)
    parts, optimizer, loader = build("adam")
    phalanx.Checkpointer(tmp_path, model=Net(parts), optimizer=optimizer, loader=loader).save()
    (whole,) = on_ranks(1, None, 5)
    (outcome,) = on_ranks(1, tmp_path, 5, which="auto")
    assert outcome.pop("from") == b"0"
    assert outcome == {name: data for name, data in whole.items() if name != "from"}


def test_another_optimizer_or_width_is_refused(tmp_path: Path) -> None:
    on_ranks(1, tmp_path, 3)
    with pytest.raises(StateError, match="Adam"):
        on_ranks(1, tmp_path, 6, optimizer="momentum", which="auto")
    phalanx.init(shards=4, seed=5)
    parts, optimizer, loader = build("adam", width=17)
    checkpointer = phalanx.Checkpointer(tmp_path, model=Net(parts), optimizer=optimizer, loader=loader)
    with pytest.raises(
        StateError, match=r"model/parts\.bn\.running_mean is float32\[16\] in the checkpoint, float32\[17\] here"
    ):
        checkpointer.resume()
    assert loader.step == 0
