"""The README keeps its word: its example runs, its commands and files exist."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from phalanx.cli import _parser
from tests.jobs import EXAMPLE, ROOT, run_job

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
LOOP = "for step in loader.steps():\n"
REPORT = """
with phalanx.no_grad():
    test = DataLoader(FashionMNIST(train=False).tensors(), batch_size=1000)
    correct = sum(int((model(x).argmax(1) == y).sum()) for step in test.steps() for x, y in step)
print(f"steps {loader.step}, loss {model.step_loss:.3f}, accuracy {phalanx.sum_over_ranks(correct) / 10000:.4f}")
"""


def example() -> str:
    """The first block of Python."""
    return BLOCKS[0]


def result(how: str, text: str, folder: Path) -> tuple[int, float, float]:
    """(steps, loss, accuracy) of the example and what is added to it."""
    script = folder / "train.py"
    script.write_text(text + REPORT)
    code, output = run_job(how, script=str(script), timeout_s=280)
    assert code == 0, output[-3000:]
    found = re.findall(r"steps (\d+), loss ([\d.]+), accuracy ([\d.]+)", output)
    assert found and len(set(found)) == 1, output[-3000:]
    return int(found[0][0]), float(found[0][1]), float(found[0][2])


def test_the_example_learns_in_20_steps(tmp_path: Path) -> None:
    assert example().count(LOOP) == 1
    short = example().replace(LOOP, "for _, step in zip(range(20), loader.steps()):\n")
    steps, loss, accuracy = result("alone", short, tmp_path)
    assert steps == 20 and loss < 1.2 and accuracy > 0.55


@pytest.mark.whole
@pytest.mark.parametrize("how", ["alone", "run 2"])
def test_the_example_as_it_is(how: str, tmp_path: Path) -> None:
    steps, loss, accuracy = result(how, example(), tmp_path)
    assert steps == 938 and loss < 0.7 and accuracy > 0.82


def test_the_example_is_as_short_as_it_says() -> None:
    lines = [line for line in example().splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 10


def test_the_ways_to_wrap_a_model(tmp_path: Path) -> None:
    """The block of one line for each way, on two ranks."""
    (lines,) = (block for block in BLOCKS[1:] if block.startswith("phalanx.DataParallel"))
    ways = [line.partition("#")[0].strip() for line in lines.splitlines() if line]
    assert len(ways) == 5 and all(way.startswith("phalanx.DataParallel(model") for way in ways)
    script = tmp_path / "ways.py"
    text = "import phalanx\nfrom phalanx import nn, optim\nphalanx.init()\n"
    for way in ways:
        text += f"model = nn.Linear(30, 4)\nmodel = {way}\noptimizer = optim.Adam(model.parameters())\n"
        text += "nn.functional.mse_loss(model(phalanx.ones(3, 30)), phalanx.ones(3, 4)).backward()\noptimizer.step()\n"
        text += "assert model.step_loss > 0 and model.exposed_s >= 0\n"
    script.write_text(text)
    code, output = run_job("run 2", script=str(script))
    assert code == 0, output[-3000:]


BEFORE = """
import numpy as np
import phalanx
from phalanx import nn, optim
x_train, y_train = np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32), np.arange(80) % 10
model = nn.Linear(6, 10)
optimizer = optim.Adam(model.parameters())
train = test = (x_train, y_train)
"""


@pytest.mark.parametrize("how", ["alone", "run 2"])
def test_training_without_a_loop(how: str, tmp_path: Path) -> None:
    """The blocks with the Trainer and with Keras."""
    blocks = [block for block in BLOCKS if ".fit(" in block]
    assert len(blocks) == 2
    script = tmp_path / "fit.py"
    script.write_text(BEFORE + "".join(blocks))
    code, output = run_job(how, script=str(script))
    assert code == 0 and "epoch 5/5" in output.lower(), output[-3000:]


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE))
    assert {"train", "test"} <= named <= targets, named - targets


def test_every_file_exists() -> None:
    named = set(re.findall(r"`((?:docs|examples|benchmarks|tests|core|dist|phalanx)/[\w./]+)`", README))
    assert named and all((ROOT / path).exists() for path in named), [p for p in named if not (ROOT / p).exists()]


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Its own and those of its commands."""
    known = {option for action in parser._actions for option in action.option_strings}
    commands = [action.choices.values() for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return known.union(*(options_of(command) for group in commands for command in group))


def test_every_option_exists() -> None:
    """Of ``phalanx`` and its commands, and of the examples."""
    known = options_of(_parser())
    for example in Path(EXAMPLE).parent.glob("*.py"):
        known |= set(re.findall(r"\"(--[a-z-]+)\"", example.read_text()))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README)) - {"--host"}  # mpirun's
    assert named and named <= known, named - known


def test_every_extra_exists() -> None:
    declared = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    named = {name for part in re.findall(r"`\[(\w+)\]`|phalanx\[(\w+)\]", README) for name in part if name}
    assert named and named <= declared, named - declared
