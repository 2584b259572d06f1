"""``phalanx predict``: files in, files out, in sample order, with equal bits on any number of ranks."""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import cli, nn
from phalanx.core.errors import DataError
from phalanx.prediction import read_inputs
from tests.jobs import Job

ROWS = 601
"""Divides into chunks of 256 and by 2 and 3 with a rest."""


@pytest.fixture(autouse=True)
def alone() -> Any:
    yield
    phalanx.shutdown()


@pytest.fixture
def saved(tmp_path: Path) -> tuple[str, Any]:
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2))
    phalanx.save_model(model, tmp_path / "model")
    return str(tmp_path / "model"), model.eval()


def expected(model: Any, x: np.ndarray) -> np.ndarray:
    with phalanx.no_grad():
        return model(phalanx.Tensor(x)).numpy()


def x_of(rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(rows, 3)).astype(np.float32)


def told(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["predict", *arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv", "tsv"])
def test_inputs(saved: Any, suffix: str, tmp_path: Path, capsys: Any) -> None:
    folder, model = saved
    x, path = x_of(7), tmp_path / f"x.{suffix}"
    if suffix == "npy":
        np.save(path, x.astype(np.float64))
    elif suffix == "npz":
        np.savez(path, y=np.zeros(7), input=x)
    else:
        between = "," if suffix == "csv" else "\t"
        lines = [between.join(["a", "b", "c"]), *(between.join(map(repr, map(float, row))) for row in x)]
        path.write_text("\n".join(lines) + "\n")
    code, out, _ = told(capsys, folder, str(path))
    assert code == 0
    np.testing.assert_allclose(np.loadtxt(io.StringIO(out), delimiter=","), expected(model, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv"])
def test_outputs(saved: Any, suffix: str, tmp_path: Path, capsys: Any) -> None:
    folder, model = saved
    np.save(tmp_path / "x.npy", x_of())
    path = tmp_path / f"y.{suffix}"
    assert told(capsys, folder, str(tmp_path / "x.npy"), "--output", str(path), "--batch-size", "100")[:2] == (0, "")
    found = np.loadtxt(path, delimiter=",") if suffix == "csv" else np.load(path)
    found = found["output"] if suffix == "npz" else found
    np.testing.assert_allclose(found, expected(model, x_of()), rtol=1e-5, atol=1e-6)
    told(capsys, folder, str(tmp_path / "x.npy"), "--output", str(tmp_path / "c.npy"), "--argmax")
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), expected(model, x_of()).argmax(-1))


def test_several_inputs_and_outputs(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    (tmp_path / "mine.py").write_text(
        "from phalanx import nn\n"
        "class Two(nn.Module):\n"
        "    def __init__(self, width=2):\n        super().__init__()\n        self.fc = nn.Linear(width, width)\n"
        "    def forward(self, a, b):\n        return {'sum': self.fc(a + b), 'pair': (a, b)}\n"
    )
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        phalanx.save_model(importlib.import_module("mine").Two(), tmp_path / "m")
        patch.delitem(sys.modules, "mine")
    sys.modules.pop("mine", None)
    a, b = np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32)
    np.savez(tmp_path / "x.npz", b=b, a=a, c=b)
    code, _, err = told(capsys, str(tmp_path / "m"), str(tmp_path / "x.npz"))
    assert code == 2 and "--code FILE" in err
    options = ["--code", str(tmp_path / "mine.py"), "--output"]
    code, _, err = told(capsys, str(tmp_path / "m"), str(tmp_path / "x.npz"), *options, str(tmp_path / "y.npy"))
    assert code == 2 and "3 outputs (sum, pair.0, pair.1)" in err
    assert told(capsys, str(tmp_path / "m"), str(tmp_path / "x.npz"), *options, str(tmp_path / "y.npz"))[0] == 0
    found = np.load(tmp_path / "y.npz")
    np.testing.assert_array_equal(found["pair.0"], a)
    assert found["sum"].shape == (3, 2)


def test_images(tmp_path: Path, capsys: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 2 * 3, 4))
    phalanx.save_model(model, tmp_path / "m")
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    for number in (2, 0, 1):
        image.fromarray(pixels[number]).save(tmp_path / "images" / f"{number}.png")
    code, out, _ = told(capsys, str(tmp_path / "m"), str(tmp_path / "images"))
    assert code == 0
    wanted = expected(model, pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    np.testing.assert_allclose(np.loadtxt(io.StringIO(out), delimiter=","), wanted, rtol=1e-5, atol=1e-6)
    code, out, _ = told(capsys, str(tmp_path / "m"), str(tmp_path / "images" / "1.png"))
    np.testing.assert_allclose(np.loadtxt(io.StringIO(out), delimiter=","), wanted[1], rtol=1e-5, atol=1e-6)
    image.fromarray(pixels[0, :, :, 0]).save(tmp_path / "images" / "3.png")
    code, _, err = told(capsys, str(tmp_path / "m"), str(tmp_path / "images"))
    assert code == 2 and "3.png has shape (1, 4, 5)" in err


def test_weights_of_a_checkpoint(saved: Any, tmp_path: Path, capsys: Any) -> None:
    folder, model = saved
    np.save(tmp_path / "x.npy", x_of(5))
    twin = phalanx.load_model(folder)
    twin[0].weight.data = twin[0].weight.data * 2
    step = phalanx.Checkpointer(tmp_path / "run", model=twin).save()
    phalanx.shutdown()
    for place in (tmp_path / "run", step):
        code, out, err = told(capsys, folder, str(tmp_path / "x.npy"), "--checkpoint", str(place))
        assert code == 0, err
        found = np.loadtxt(io.StringIO(out), delimiter=",")
        np.testing.assert_allclose(found, expected(twin.eval(), x_of(5)), rtol=1e-5, atol=1e-6)
        assert abs(found - expected(model, x_of(5))).max() > 1e-3
    code, _, err = told(capsys, folder, str(tmp_path / "x.npy"), "--checkpoint", str(tmp_path))
    assert code == 2 and "no valid checkpoint" in err


@pytest.mark.parametrize("how", ["run 2", "run 3"])
def test_ranks_share_the_samples(saved: Any, how: str, tmp_path: Path, capsys: Any) -> None:
    folder, _ = saved
    np.save(tmp_path / "x.npy", x_of())
    assert told(capsys, folder, str(tmp_path / "x.npy"), "--output", str(tmp_path / "one.npy"))[0] == 0
    count = how.partition(" ")[2]
    command = [
        sys.executable,
        "-m",
        "phalanx",
        "run",
        "-n",
        count,
        "-m",
        "phalanx",
        "predict",
        folder,
        str(tmp_path / "x.npy"),
    ]
    code, output = Job([*command, "--output", str(tmp_path / "all.npy")]).start().finish(60)
    assert code == 0, output
    assert (tmp_path / "all.npy").read_bytes() == (tmp_path / "one.npy").read_bytes()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda d: d / "nothing.npy", "no such file"),
        (lambda d: write(d / "x.dat", ""), "an input is .npy"),
        (lambda d: write(d / "x.npy", "nonsense"), "cannot be read"),
        (lambda d: write(d / "x.csv", "a,b\n1,2\n3,x\n"), "line 3: could not convert"),
        (lambda d: write(d / "x.csv", "1,2\n3\n"), "line 2: 2 columns expected, got 1"),
        (lambda d: write(d / "x.csv", "a,b\n"), "no row of numbers"),
        (lambda d: d, "no image"),
        (lambda d: write(d / "x.png", "nonsense"), "is no image"),
    ],
)
def test_wrong_inputs(make: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        read_inputs(make(tmp_path), nn.Linear(2, 1))


def test_wrong_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(2), b=np.zeros(2))
    with pytest.raises(DataError, match=r"holds a, b; forward takes input: say which array it is with --array"):
        read_inputs(tmp_path / "x.npz", nn.Linear(2, 1))
    assert len(read_inputs(tmp_path / "x.npz", nn.Linear(2, 1), "b")) == 1
    np.savez(tmp_path / "o.npz", input=np.array([object()]))
    with pytest.raises(DataError, match="cannot be read: Object arrays"):
        read_inputs(tmp_path / "o.npz", nn.Linear(2, 1))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nothing", "x.npy"], "cannot read"),
        (["{model}", "x.npy", "--batch-size", "0"], "at least 1"),
        (["{model}", "x.npy", "--output", "y.json"], "--output ends in"),
        (["{model}", "x.npy"], "no such file"),
        (["{model}", "{wide}"], "in layer '0'"),
        (["{model}", "{wide}", "--code", "nothing.py"], "a file of Python is expected"),
    ],
)
def test_wrong_words(saved: Any, arguments: list[str], words: str, tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((2, 9), np.float32))
    places = {"model": saved[0], "wide": str(tmp_path / "wide.npy")}
    code, out, err = told(capsys, *(word.format(**places) for word in arguments))
    assert (code, out) == (2, "") and words in err and err.startswith("phalanx predict: ") and err.count("\n") == 1
