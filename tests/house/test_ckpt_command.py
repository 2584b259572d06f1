"""``phalanx ckpt``: what it prints of whole and of damaged checkpoints, what it writes, what it removes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from phalanx.cli import main
from phalanx.core.checkpoint.format import plan, share
from phalanx.core.checkpoint.manifest import Manifest
from phalanx.core.checkpoint.parts import complete, write
from phalanx.core.checkpoint.store import Store
from tests.core.small_checkpoint import MANIFEST, MODEL, arrays_of, change_tensor, flip, saved

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """The exit code, stdout and stderr of ``phalanx ckpt`` with these words."""

    def asked(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["ckpt", *map(str, words)])
        return (code, *capsys.readouterr())

    return asked


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return saved(tmp_path / "run", 10, 20, 30).directory


def save(store: Store, step: int, arrays: dict[str, np.ndarray], **about: object) -> Path:
    layout = plan(arrays)
    folder = store.begin(step, layout)
    files, tensors = complete(layout, write(folder, layout, share(layout.files, 1)[0], arrays))
    return store.commit(folder, Manifest(step, files=files, tensors=tensors, **about))  # type: ignore[arg-type]


def test_ls_names_all_that_lies_there(run: Path, ask: Ask) -> None:
    save(Store(run), 40, arrays_of(40), scalars={"score": {"value": 0.25}})
    flip(run / "step-00000020" / MANIFEST, 50)
    (run / ".tmp-step-00000050-abcd").mkdir()
    (run / "superseded-step-00000060-abcd").mkdir()
    code, out, _ = ask("ls", run)
    assert (code, [line.split("  ")[0] for line in out.splitlines()]) == (0, [
        "step-00000010", "step-00000020", "step-00000030", "step-00000040", ".tmp-step-00000050-abcd", "superseded-step-00000060-abcd",
    ])  # fmt: skip
    lines = out.splitlines()
    assert lines[0] == "step-00000010  step 10, 6 tensors, 5.6 kB"
    assert "damaged: manifest.json" in lines[1] and lines[3].endswith(", score 0.25")
    assert lines[4].endswith("a save that is not finished") and "given up" in lines[5]


@pytest.mark.parametrize("action", ["ls", "verify"])
def test_an_empty_folder_is_said(tmp_path: Path, ask: Ask, action: str) -> None:
    assert ask(action, tmp_path) == (0, "", f"phalanx ckpt: {tmp_path} holds no checkpoint\n")


@pytest.mark.parametrize("words", [["show"], ["cat", "x"], ["export", "x"], ["diff", "."]])
def test_nothing_to_look_at_is_an_error_in_one_line(tmp_path: Path, ask: Ask, words: list[str]) -> None:
    code, out, err = ask(words[0], tmp_path, *words[1:])
    assert (code, out, err) == (2, "", f"phalanx ckpt: {tmp_path} is no checkpoint and holds none\n")


def test_verify(run: Path, ask: Ask) -> None:
    assert ask("verify", run)[:2] == (0, "step-00000010  good\nstep-00000020  good\nstep-00000030  good\n")
    change_tensor(run / "step-00000020")
    code, out, _ = ask("verify", run)
    assert (
        code == 1 and "step-00000020  damaged: model.safetensors: the checksum of tensor model/fc.bias differs" in out
    )
    assert ask("verify", run / "step-00000030")[:2] == (0, "step-00000030  good\n")


def test_show_takes_the_newest_or_the_one_named(run: Path, ask: Ask) -> None:
    code, out, _ = ask("show", run)
    assert code == 0 and f"{run}/step-00000030  step 30, 6 tensors" in out and 'cursor: {"step": 30}' in out
    assert any(line.split()[:4] == ["model/fc.weight", "float32", "[30,", "20]"] for line in out.splitlines())
    assert ask("show", run / "step-00000010", "--json")[1] == (run / "step-00000010" / MANIFEST).read_text()
    os.remove(run / "step-00000030" / MODEL)
    code, _, err = ask("show", run)
    assert (code, err) == (2, f"phalanx ckpt: {run}/step-00000030: model.safetensors is missing\n")


def test_diff(run: Path, ask: Ask, tmp_path: Path) -> None:
    arrays = arrays_of(30)
    changed = {name: array.copy() for name, array in arrays.items() if name != "model/mask"}
    changed["model/fc.weight"][3, 4] += 0.5
    changed["model/fc.bias"] = np.zeros(21, np.float16)
    changed["model/new"] = np.zeros(1, np.float32)
    other = save(Store(tmp_path / "other"), 31, changed, seed=1, cursor={"step": 30, "epoch": 2})
    code, out, _ = ask("diff", run, other)
    assert code == 1
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "step: 30 | 31",
        "cursor.epoch: (absent) | 2",
        "model/fc.weight 1 of 600 elements differ, by at most 0.5",
        "model/fc.bias float16[20] there, float16[21] in the second",
        "model/mask only in step-00000030",
        "model/new only in step-00000031",
        "3 tensors equal, 4 differ",
    ]
    shutil.copytree(run / "step-00000030", tmp_path / "copy")
    assert ask("diff", run, tmp_path / "copy") == (0, "6 tensors equal, 0 differ\n", "")
    assert "step: 30" not in ask("diff", "--tensors", run, other)[1]


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([0.0, np.nan], [-0.0, np.nan], "all 2 elements are equal in value"),
        ([1.0, np.inf], [1.0, 2.0], "1 of 2 elements differ, by at most inf"),
        ([True, False], [True, True], "1 of 2 elements differ, by at most 1"),
    ],
)
def test_diff_of_odd_values(tmp_path: Path, ask: Ask, a: list[float], b: list[float], words: str) -> None:
    first, second = (save(Store(tmp_path / n), 1, {"model/w": np.array(x)}) for n, x in (("a", a), ("b", b)))
    assert words in ask("diff", first, second)[1]


def test_cat(run: Path, ask: Ask, tmp_path: Path) -> None:
    code, out, _ = ask("cat", run, "model/bn.count")
    assert (code, out) == (0, "model/bn.count  int64[]  min 30, max 30, mean 30\n30\n")
    assert ask("cat", run, "bn.count")[1] == out, "the family may be left out"
    assert ask("cat", run, "empty")[1].startswith("model/empty  float64[0, 4]  no elements\n")
    assert ask("cat", run, "fc.weight")[1].count(",") < 700 and "..." not in ask("cat", run, "fc.weight", "--all")[1]
    assert ask("cat", run, "fc.weight", "--output", tmp_path / "w.npy")[0] == 0
    assert np.load(tmp_path / "w.npy").tobytes() == arrays_of(30)["model/fc.weight"].tobytes()
    code, _, err = ask("cat", run, "fc.wight")
    assert code == 2 and "has no tensor fc.wight; near: fc.weight" in err
    change_tensor(run / "step-00000030")
    code, out, err = ask("cat", run, "fc.bias")
    assert (code, out) == (2, "") and "the checksum of tensor model/fc.bias differs" in err


def test_export(run: Path, ask: Ask, tmp_path: Path) -> None:
    code, out, _ = ask("export", run / "step-00000020", tmp_path / "w.safetensors")
    assert (code, out) == (0, f"{tmp_path}/w.safetensors: 5 tensors of step 20\n")
    loaded = load_file(tmp_path / "w.safetensors")
    expected = {k.removeprefix("model/"): v for k, v in arrays_of(20).items() if k.startswith("model/")}
    assert {k: v.tobytes() for k, v in loaded.items()} == {k: v.tobytes() for k, v in expected.items()}
    change_tensor(run / "step-00000030")
    assert ask("export", run, tmp_path / "no")[0] == 2 and not (tmp_path / "no").exists()


def test_export_of_one_of_several_models(tmp_path: Path, ask: Ask) -> None:
    path = save(Store(tmp_path / "run"), 1, {"model/g.w": np.ones(2), "model/d.w": np.zeros(2)})
    assert ask("export", path, tmp_path / "g", "--model", "g")[0] == 0
    assert {k: list(v) for k, v in load_file(tmp_path / "g").items()} == {"w": [1, 1]}
    code, _, err = ask("export", path, tmp_path / "x", "--model", "x")
    assert code == 2 and "has no model x; names begin with: d, g" in err


def test_prune(run: Path, ask: Ask) -> None:
    assert ask("prune", run)[:2] == (0, "nothing to remove\n")
    (run / ".tmp-step-00000050-abcd").mkdir()
    words = ("prune", run, "--keep", 1, "--keep-every", 20)
    assert ask(*words, "--dry-run")[:2] == (0, "step-00000010  would be removed\n")
    assert len(os.listdir(run)) == 4
    assert ask(*words, "--leftovers")[:2] == (0, "step-00000010  removed\n.tmp-step-00000050-abcd  removed\n")
    assert sorted(os.listdir(run)) == ["step-00000020", "step-00000030"]
    assert ask("prune", run, "--keep", 0)[0] == 2


def test_prune_keeps_the_newest_valid_one(run: Path, ask: Ask) -> None:
    change_tensor(run / "step-00000030")
    code, out, err = ask("prune", run, "--keep", 1)
    assert code == 2 and "step-00000030  damaged" in out and "step-00000020 is the newest valid checkpoint" in err
    assert len(os.listdir(run)) == 3
    for path in (run / "step-00000010", run / "step-00000020"):
        change_tensor(path)
    assert "no valid checkpoint: nothing is removed" in ask("prune", run, "--keep", 1)[2]


def test_prune_keeps_the_best(tmp_path: Path, ask: Ask) -> None:
    store = Store(tmp_path)
    for step, score in ((10, 0.5), (20, 0.9), (30, 0.1), (40, 0.6)):
        save(store, step, arrays_of(step), scalars={"score": {"value": score}})
    assert ask("prune", tmp_path, "--keep", 1, "--keep-best", 1, "--mode", "max")[0] == 0
    assert sorted(os.listdir(tmp_path)) == ["step-00000020", "step-00000040"]
    assert json.loads(ask("show", tmp_path, "--json")[1])["scalars"]["score"]["value"] == 0.6
