"""Plain Keras scripts run after a change of their import lines alone, on any number of ranks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.test_plain_script import DOORS, KERAS_NAMES, with_keras_imports
from tests.jobs import run_job

LEAST = {"mlp": 0.97, "cnn": 0.93, "functional": 0.90}
"""Accuracy on the test data; other seeds reach a little more."""


def check_learned(name: str, folder: Path, how: str) -> str:
    """Run the script to its end: the loss falls, the accuracy is reached. Returns its output."""
    script = folder / "script.py"
    script.write_text(with_keras_imports((DOORS / f"plain_keras_{name}.py").read_text()))
    code, output = run_job(how, script=str(script), timeout_s=120)
    assert code == 0, f"{how} ended with {code}:\n{output[-3000:]}"
    first, last = map(float, re.findall(r"first loss ([\d.]+), last loss ([\d.]+)", output)[0])
    accuracies = set(re.findall(r"test accuracy ([\d.]+)", output))
    assert last < 0.5 * first and len(accuracies) == 1, output[-3000:]
    assert float(accuracies.pop()) >= LEAST[name], output[-3000:]
    return output


@pytest.mark.parametrize("name", KERAS_NAMES)
def test_plain_script(name: str, tmp_path: Path) -> None:
    output = check_learned(name, tmp_path, "alone")
    assert ("Total params" in output) == (name != "cnn")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("mlp", "run 2"),
        *(pytest.param(name, "run 3", marks=pytest.mark.whole) for name in ("cnn", "functional")),
        *(pytest.param(name, "mpirun 2", marks=pytest.mark.whole) for name in KERAS_NAMES),
        pytest.param("mlp", "threads 2", marks=pytest.mark.whole),
    ],
)
def test_the_same_script_on_ranks(name: str, how: str, tmp_path: Path) -> None:
    """Nothing in it speaks of ranks. What a job prints once is printed once, and all ranks have the same accuracy."""
    output = check_learned(name, tmp_path, how)
    if name != "functional":
        assert len(re.findall(r"Epoch 1/\d+", output)) == 1
