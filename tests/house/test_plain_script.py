"""Plain PyTorch scripts run after a change of their import lines alone; two more lines, and they run on any number of ranks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.jobs import run_job

DOORS = Path(__file__).resolve().parents[1] / "doors"
NAMES = ("mlp", "cnn", "vae", "lstm", "transformer", "resnet")
LEAST = {"mlp": 0.95, "cnn": 0.90, "vae": 0.91, "lstm": 0.88, "transformer": 0.80, "resnet": 0.93}
"""Final accuracy that PyTorch reaches with every seed tried, less a little."""
KERAS_NAMES = ("mlp", "cnn", "functional")
_IMPORT = re.compile(r"^(import|from) (torch|tensorflow)\b")


class Curve(NamedTuple):
    """What a script printed after each epoch, on average over the ranks that printed."""

    losses: list[float]
    accuracies: list[float]


def source(name: str) -> str:
    return (DOORS / f"plain_torch_{name}.py").read_text()


def with_other_imports(text: str) -> str:
    """The script with phalanx for torch; nothing but lines that import torch is touched.

    >>> print(with_other_imports("import torch\\nfrom torch.utils.data import Dataset\\nx = torch.ones(2)"))
    import phalanx as torch
    from phalanx.data import Dataset
    x = torch.ones(2)
    """
    lines = []
    for line in text.splitlines():
        if line == "import torch":
            line = "import phalanx as torch"
        elif _IMPORT.match(line):
            line = _IMPORT.sub(r"\1 phalanx", line.replace("torch.utils.data", "torch.data", 1))
        lines.append(line)
    return "\n".join(lines)


def with_keras_imports(text: str) -> str:
    """The Keras script with phalanx for tensorflow.

    >>> print(with_keras_imports("from tensorflow import keras\\nfrom tensorflow.keras import layers\\nx = 1"))
    from phalanx import keras
    from phalanx.keras import layers
    x = 1
    """
    return "\n".join(_IMPORT.sub(r"\1 phalanx", line) for line in text.splitlines())


def with_ranks(text: str) -> str:
    """And the two lines for several ranks."""
    text = with_other_imports(text)
    for line, behind in (
        ("phalanx.init()", "from phalanx.data import DataLoader, Dataset, random_split"),
        ("model = phalanx.DataParallel(model)", "model = Net().to(device)"),
    ):
        assert text.count(f"\n{behind}\n") == 1, f"the script has no line {behind!r}"
        text = text.replace(f"\n{behind}\n", f"\n{behind}\n{line}\n")
    return text.replace("\nimport phalanx as torch\n", "\nimport phalanx\nimport phalanx as torch\n")


def curve_of(output: str) -> Curve:
    """One entry for each epoch: a mean over the ranks' lines."""
    epochs: dict[int, list[tuple[float, float]]] = {}
    for line in output.splitlines():
        if found := re.search(r"epoch (\d+): loss ([\d.]+).*\baccuracy ([\d.]+)", line):
            ranks = re.match(r"\[(\d+)(?:-(\d+))?\]", line)
            times = int(ranks[2]) - int(ranks[1]) + 1 if ranks and ranks[2] else 1
            epochs.setdefault(int(found[1]), []).extend([(float(found[2]), float(found[3]))] * times)
    assert epochs and sorted(epochs) == list(range(1, len(epochs) + 1)), output[-3000:]
    mean = [[sum(part) / len(rows) for part in zip(*rows, strict=True)] for _, rows in sorted(epochs.items())]
    return Curve([row[0] for row in mean], [row[1] for row in mean])


def run_text(text: str, folder: Path, how: str = "alone") -> tuple[Curve, str]:
    script = folder / "script.py"
    script.write_text(text)
    code, output = run_job(how, script=str(script), timeout_s=120)
    assert code == 0, f"{how} ended with {code}:\n{output[-3000:]}"
    return curve_of(output), output


def _torch_run(name: str) -> tuple[Curve, str]:
    code, output = run_job("alone", script=str(DOORS / f"plain_torch_{name}.py"), timeout_s=120)
    assert code == 0, output[-3000:]
    return curve_of(output), output


def check_learned(curve: Curve, name: str) -> None:
    """The loss falls, epoch by epoch but for small steps back, and the accuracy is reached."""
    first, *_, last = curve.losses
    assert last < 0.6 * first, curve.losses
    assert all(
        later < 1.15 * before + 0.02 * first for before, later in zip(curve.losses, curve.losses[1:], strict=False)
    )
    assert curve.accuracies[-1] >= LEAST[name], curve.accuracies


@pytest.mark.parametrize("name", NAMES)
def test_only_import_lines_change(name: str) -> None:
    before, after = source(name).splitlines(), with_other_imports(source(name)).splitlines()
    changed = [line for line, new in zip(before, after, strict=True) if line != new]
    assert changed and all(line.startswith(("import torch", "from torch")) for line in changed)
    assert not re.search(r"^(import|from) torch", "\n".join(after), re.MULTILINE)


def test_what_changes_is_told(record_property) -> None:
    """Every PyTorch and Keras file in the folder, and how many of its lines had to change."""
    scripts = {
        **{f"plain_torch_{name}": with_other_imports for name in NAMES},
        **{f"plain_keras_{name}": with_keras_imports for name in KERAS_NAMES},
    }
    assert {path.stem for path in DOORS.glob("*.py")} == set(scripts)
    record_property("told", f"{'script':<28}{'lines':>6}{'imports changed':>17}{'others changed':>16}")
    for name, changes in scripts.items():
        text = (DOORS / f"{name}.py").read_text()
        before, after = text.splitlines(), changes(text).splitlines()
        changed = [line for line, new in zip(before, after, strict=True) if line != new]
        others = sum(not _IMPORT.match(line) for line in changed)
        record_property("told", f"{name + '.py':<28}{len(before):>6}{len(changed) - others:>17}{others:>16}")
        assert others == 0 and 2 <= len(changed) <= 6


def test_two_lines_are_added() -> None:
    added = set(with_ranks(source("mlp")).splitlines()) - set(with_other_imports(source("mlp")).splitlines())
    assert added == {"import phalanx", "phalanx.init()", "model = phalanx.DataParallel(model)"}


@pytest.mark.parametrize("name", NAMES)
def test_plain_script(name: str, tmp_path: Path) -> None:
    curve, _ = run_text(with_other_imports(source(name)), tmp_path)
    check_learned(curve, name)


@pytest.mark.torch
@pytest.mark.parametrize("name", NAMES)
def test_plain_script_learns_as_in_pytorch(name: str, tmp_path: Path) -> None:
    """Other random numbers, the same script: losses of the second half of training and the accuracies are alike."""
    pytest.importorskip("torch")
    theirs, their_output = _torch_run(name)
    ours, our_output = run_text(with_other_imports(source(name)), tmp_path)
    check_learned(theirs, name)
    assert len(ours.losses) == len(theirs.losses)
    assert ours.losses[0] == pytest.approx(theirs.losses[0], rel=0.35)
    half = len(ours.losses) // 2
    mean_ours, mean_theirs = (sum(curve.losses[half:]) / half for curve in (ours, theirs))
    assert mean_ours == pytest.approx(mean_theirs, rel=0.35, abs=0.02 * theirs.losses[0])
    assert ours.accuracies[-1] == pytest.approx(theirs.accuracies[-1], abs=0.05)
    # all that does not depend on random numbers is equal
    numbers = re.compile(r"\d+\.\d+")
    assert numbers.sub("#", our_output).strip() == numbers.sub("#", their_output).strip()


@pytest.mark.parametrize("how", ["alone", "run 2", "mpirun 2", pytest.param("threads 2", marks=pytest.mark.whole)])
def test_plain_script_on_ranks(how: str, tmp_path: Path) -> None:
    """The loop is as it was: each rank sees its part of each batch, and all take the same steps."""
    curve, output = run_text(with_ranks(source("mlp")), tmp_path, how)
    check_learned(curve, "mlp")
    said = {
        "alone": "4547 parameters",
        "run 2": "2 ranks from phalanx run, over zmq",
        "mpirun 2": "2 ranks from mpirun (Open MPI), over mpi",
        "threads 2": "2 ranks from threads",
    }
    assert said[how] in output


def test_ranks_make_the_steps_of_one_process(tmp_path: Path) -> None:
    """Without dropout the mean of the ranks' losses is the loss of one process, but for rounding."""
    text = with_ranks(source("mlp")).replace("nn.Dropout(0.1)", "nn.Dropout(0.0)")
    text = text.replace("range(1, 13)", "range(1, 4)").replace("return correct", "print('seen', total); return correct")
    alone, _ = run_text(text, tmp_path)
    two, output = run_text(text, tmp_path, "run 2")
    assert "seen 150" in output and "seen 300" not in output  # of 300 test samples
    assert two.losses == pytest.approx(alone.losses, rel=0.002)
    assert two.accuracies == pytest.approx(alone.accuracies, abs=0.004)
