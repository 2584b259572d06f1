"""What a Checkpointer refuses: another model, another run, arguments that make no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phalanx.core.checkpoint.manifest import Manifest
from phalanx.core.checkpoint.parts import verify
from phalanx.core.errors import CheckpointError, RangeError, StateError
from phalanx.dist.checkpoint import Checkpointer
from tests.ranks.small_run import Group, Loader, Model, Momentum, Run, Value, on_ranks, resumed, trained


def test_another_model_is_refused_with_all_names_and_nothing_changes(tmp_path: Path) -> None:
    trained(tmp_path, 2, every=2)

    def resume_other() -> str:
        model = Model(5, {"fc.weight": (40, 31), "fc.scale": (40,), "out.weight": (3, 40)})
        model.parameters["out.weight"] = Value(np.zeros((3, 40), np.float64))
        before = {name: value.array.tobytes() for name, value in model.state_dict().items()}
        loader = Loader()
        try:
            Checkpointer(tmp_path, model=model, optimizer=Momentum(model), loader=loader, group=Group()).resume()
        except StateError as error:
            assert before == {name: value.array.tobytes() for name, value in model.state_dict().items()}
            assert loader.step == 0
            return str(error)
        raise AssertionError("resumed another model")

    for words in on_ranks(2, resume_other):
        assert isinstance(words, str), words
        assert "missing in the checkpoint (1): model/fc.scale" in words
        assert "extra in the checkpoint (1): model/fc.bias" in words
        assert "model/fc.weight is float32[40, 30] in the checkpoint, float32[40, 31] here" in words
        assert "model/out.weight is float32[3, 40] in the checkpoint, float64[3, 40] here" in words


def test_another_optimizer_is_refused(tmp_path: Path) -> None:
    model = Model()
    Checkpointer(tmp_path, model=model, group=Group()).save()
    with pytest.raises(StateError, match="no state of optimizer"):
        resumed_with = Checkpointer(tmp_path, model=model, optimizer=Momentum(model), group=Group())
        resumed_with.resume()


@pytest.mark.parametrize(
    ("changes", "words", "allow"),
    [
        ({"seed": 2}, "seed=1 there, seed=2 here", ("seed",)),
        ({"shards": 4}, "shards=8 there, shards=4 here", ("shards",)),
        (
            {"shards": None, "seed": 3},
            "seed=1 there, seed=3 here; shards=8 there, shards=None here",
            ("seed", "shards"),
        ),
    ],
)
def test_another_run_is_refused_unless_named(
    tmp_path: Path, changes: dict[str, Any], words: str, allow: tuple[str, ...]
) -> None:
    trained(tmp_path, 2, every=2)
    with pytest.raises(StateError, match=words):
        resumed(tmp_path, group=Group(**changes))
    run = Run(tmp_path, group=Group(**changes))
    assert run.checkpointer.resume(allow=allow) == 2


def test_the_loader_refuses_another_batch_size(tmp_path: Path) -> None:
    trained(tmp_path, 2, every=2)
    run = Run(tmp_path)
    run.loader.batch_size = 64
    with pytest.raises(StateError, match="batch_size: saved 32, now 64"):
        run.checkpointer.resume()
    assert run.checkpointer.resume(allow=("batch_size",)) == 2


def test_another_machine_is_told_but_not_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    group = Group()
    group.fingerprint = {"cpu": "A", "numpy": "2"}  # type: ignore[attr-defined]
    trained(tmp_path, 2, every=2, group=group)
    other = Group()
    other.fingerprint = {"cpu": "B", "numpy": "2"}  # type: ignore[attr-defined]
    assert resumed(tmp_path, group=other)[0] == 2
    assert "comes from another machine (cpu): bits may differ from here on" in capsys.readouterr().err


# -- wrong arguments -----------------------------------------------------------------------------------------------------


def test_wrong_arguments(tmp_path: Path) -> None:
    model = Model()
    for every in (0, -1, 2.5, True):
        with pytest.raises(RangeError, match="every"):
            Checkpointer(tmp_path, model=model, every=every, group=Group())  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="keep"):
        Checkpointer(tmp_path, model=model, keep=0, group=Group())
    with pytest.raises(CheckpointError, match=r"config\.loss"):
        Checkpointer(tmp_path, model=model, config={"loss": float("nan")}, group=Group())
    with pytest.raises(RangeError, match="identifiers"):
        Checkpointer(tmp_path, model={"a.b": model}, group=Group())
    with pytest.raises(StateError, match="Momentum updates 3 parameters that are in none of the models"):
        Checkpointer(tmp_path, model=Model(), optimizer=Momentum(model), group=Group())


def test_the_manifest_says_what_the_run_was(tmp_path: Path) -> None:
    run = trained(tmp_path, 2, every=2, config={"model": "mlp", "sizes": (784, 10)})
    manifest = verify(tmp_path / "step-00000002")
    assert isinstance(manifest, Manifest)
    assert (manifest.step, manifest.seed, manifest.shards) == (2, 1, 8)
    assert manifest.config == {"model": "mlp", "sizes": [784, 10]}
    assert manifest.cursor == run.loader.state_dict()
    assert manifest.scalars == {"optimizer": {"type": "Momentum", "lr": 0.1, "steps": 2}}
