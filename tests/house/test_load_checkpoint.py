"""Weights out of a run's checkpoints by ``phalanx.load`` and ``load_into``: by other names, in part, for another model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import phalanx
from phalanx import nn
from phalanx.core.errors import CheckpointError, StateError
from tests.core.small_checkpoint import flip


def backbone(classes: int) -> nn.Module:
    return nn.ModuleDict({"body": nn.Linear(4, 3), "head": nn.Linear(3, classes)})


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, nn.Module]:
    """Two checkpoints of a run, steps 1 and 2, and the model of the second."""
    model = backbone(10)
    checkpointer = phalanx.Checkpointer(tmp_path / "run", model=model, every=1)
    for step in (1, 2):
        with phalanx.no_grad():
            model["body"].weight.fill_(float(step))
        checkpointer.after_step()
    return tmp_path / "run", model


def values(model: nn.Module, name: str) -> bytes:
    return np.asarray(model.state_dict()[name].detach().numpy()).tobytes()


def test_the_newest_or_the_one_named(run: tuple[Path, nn.Module]) -> None:
    path, model = run
    other = backbone(10)
    assert not phalanx.load_into(other, path).missing_keys
    assert all(values(other, name) == values(model, name) for name in model.state_dict())
    phalanx.load_into(other, path / "step-00000001")
    assert set(phalanx.load(path)) == set(model.state_dict())
    assert float(other["body"].weight.detach().numpy().max()) == 1.0


def test_a_new_head_on_the_old_body_under_other_names(run: tuple[Path, nn.Module]) -> None:
    path, model = run
    new = nn.ModuleDict({"encoder": nn.Linear(4, 3), "head": nn.Linear(3, 2)})
    before = values(new, "head.weight")
    with pytest.raises(StateError, match=r"head\.weight: shape \(2, 3\) expected, the file has \(10, 3\)"):
        phalanx.load_into(new, path, rename={r"^body\.": "encoder."}, strict=False)

    def body_alone(name: str) -> str | None:
        return name.replace("body.", "encoder.") if name.startswith("body.") else None

    missing, unexpected = phalanx.load_into(new, path, rename=body_alone, strict=False)
    assert (sorted(missing), unexpected) == (["head.bias", "head.weight"], [])
    assert values(new, "encoder.weight") == values(model, "body.weight") and values(new, "head.weight") == before


def test_damage_is_passed_over_or_named(run: tuple[Path, nn.Module]) -> None:
    path, _ = run
    flip(path / "step-00000002" / "model.safetensors", 300)
    other = backbone(10)
    phalanx.load_into(other, path)
    assert float(other["body"].weight.detach().numpy().max()) == 1.0
    with pytest.raises(CheckpointError, match=r"step-00000002: model.safetensors: the .*checksum"):
        phalanx.load_into(other, path / "step-00000002")
    flip(path / "step-00000001" / "model.safetensors", 300)
    with pytest.raises(CheckpointError, match="holds no valid checkpoint"):
        phalanx.load_into(other, path)


def test_frozen_weights_come_along(tmp_path: Path) -> None:
    """They lie in a file of their own."""
    model = backbone(10)
    model["body"].requires_grad_(False)
    optimizer = phalanx.optim.SGD(model["head"].parameters(), lr=0.1)
    phalanx.Checkpointer(tmp_path, model=model, optimizer=optimizer).save()
    assert (tmp_path / "step-00000000" / "model.frozen.safetensors").is_file()
    assert set(phalanx.load(tmp_path)) == set(model.state_dict())
    other = backbone(10)
    assert not phalanx.load_into(other, tmp_path).missing_keys
    assert all(values(other, name) == values(model, name) for name in model.state_dict())
