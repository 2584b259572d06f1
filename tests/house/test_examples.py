"""Each example runs alone and on several ranks, with equal bits, and reaches the result that it states."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from phalanx.data.utils import read_image
from tests.jobs import ROOT, run_job

EXAMPLES = ROOT / "examples"
TEXT = "".join(
    f"{number} and the {'lamp' if number % 3 else 'lion'} said unto the {number * 7} others,\n" for number in range(400)
)
SMALL = {
    "keras_mnist_mlp.py": "--epochs 1 --limit 128 --batch-size 64",
    "keras_cifar_cnn.py": "--epochs 1 --limit 48 --batch-size 16",
    "cifar_resnet.py": "--epochs 1 --limit 48 --batch-size 16 --width 4",
    "lstm_text.py": "--epochs 1 --limit 64 --batch-size 16",
    "vae.py": "--epochs 1 --limit 256 --samples {folder}/vae.png",
    "char_gpt.py": "--steps 3 --limit 8 --layers 1 --width 32 --block-size 32 --batch-size 8 --text {folder}/text --folder {folder}/gpt",
    "tabular.py": "--epochs 2",
    "gpt2.py": "--steps 3 --layers 1 --dim 16 --heads 2 --context 16 --vocab 64 --batch-size 8 --limit 8 --folder {folder}/gpt2",
    "resnet50.py": "--epochs 1 --layers 1 1 1 1 --width 4 --size 32 --classes 4 --count 64 --batch-size 16",
}
"""A form of each that takes seconds; fashion_mnist.py is what tests/ranks/ run."""
PROCESSES = ("char_gpt.py", "cifar_resnet.py", "keras_mnist_mlp.py")
"""A loop, a Trainer and a fit of Keras whose quick proof is on processes; all are in the long one."""
RESULT = r"(?:held-out|test) (?:loss|accuracy) [\d.]+"


def run(name: str, how: str, folder: Path, *arguments: str, timeout_s: float = 120.0) -> str:
    """The output of an example, which must succeed."""
    (folder / "text").write_text(TEXT)
    code, output = run_job(how, *arguments, script=str(EXAMPLES / name), timeout_s=timeout_s)
    assert code == 0, f"{name}, {how}:\n{output[-4000:]}"
    return output


def small_words(name: str, folder: Path) -> list[str]:
    """The options of the small form."""
    return [word.format(folder=folder) for word in SMALL[name].split()]


def small(name: str, how: str, folder: Path) -> tuple[list[str], list[str]]:
    """(lines of the ledger, lines with results) of the small form with four shards."""
    path = folder / f"ledger {how}"
    output = run(name, how, folder, *small_words(name, folder), "--shards", "4", "--ledger", str(path))
    results = re.findall(RESULT, output)
    assert results, output
    lines = path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1)) and len(lines) > 1
    return lines, results


def test_every_example_is_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SMALL, "fashion_mnist.py"}


def test_every_example_is_short_and_says_how_to_run_it() -> None:
    for path in EXAMPLES.glob("*.py"):
        text = path.read_text()
        head = text.split('"""')[1]
        assert len(text.splitlines()) <= 190, path.name
        for way in ("python examples/", "phalanx run -n 2 examples/", "mpirun -n 2 python examples/"):
            assert f"\n{way}{path.name}" in head, (path.name, way)
        own = re.sub(r"phalanx run .* examples/", "examples/", head)  # without the launcher's options
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", own))
        assert options <= set(re.findall(r"\"(--[a-z-]+)\"", text)), path.name
        assert {"--shards", "--seed", "--ledger"} <= set(re.findall(r"\"(--[a-z-]+)\"", text)), path.name


@pytest.mark.parametrize("name", SMALL)
def test_equal_ledgers_alone_and_on_two_ranks(name: str, tmp_path: Path) -> None:
    two = "run 2" if name in PROCESSES else "threads 2"
    assert small(name, "alone", tmp_path) == small(name, two, tmp_path)


@pytest.mark.whole
@pytest.mark.parametrize("name", SMALL)
def test_equal_ledgers_on_four_ranks_and_under_mpirun(name: str, tmp_path: Path) -> None:
    alone = small(name, "alone", tmp_path)
    for how in ("run 2", "run 4", "mpirun 2"):
        assert small(name, how, tmp_path) == alone, how


@pytest.mark.whole
@pytest.mark.parametrize("name", SMALL)
def test_runs_without_shards(name: str, tmp_path: Path) -> None:
    for how in ("alone", "run 2"):
        assert re.search(RESULT, run(name, how, tmp_path, *small_words(name, tmp_path)))


def test_the_gpt_writes_again(tmp_path: Path) -> None:
    words = small_words("char_gpt.py", tmp_path)
    first = run("char_gpt.py", "alone", tmp_path, *words, "--sample", "20", "--prompt", "the")
    again = run("char_gpt.py", "alone", tmp_path, *words, "--steps", "0", "--sample", "20", "--prompt", "the")
    assert first.partition("bits)")[2].startswith("\nthe") and again.endswith(first.partition("held-out")[2])


@pytest.mark.parametrize("name", ["gpt2.py", "resnet50.py"])
def test_captured_steps_have_the_same_bits(name: str, tmp_path: Path) -> None:
    ledgers = []
    for further in ([], ["--capture"]):
        path = tmp_path / f"ledger{further}"
        words = [*small_words(name, tmp_path), "--shards", "4", "--ledger", str(path)]
        run(name, "alone", tmp_path, *words, *further)
        ledgers.append(path.read_bytes())
    assert ledgers[0] == ledgers[1]


@pytest.mark.whole
def test_the_autoencoder_draws(tmp_path: Path) -> None:
    run("vae.py", "alone", tmp_path, *small_words("vae.py", tmp_path))
    assert read_image(tmp_path / "vae.png").shape == (3, 10 * 29 + 1, 12 * 29 + 1)


@pytest.mark.whole
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("how", ["alone", "run 2"])
@pytest.mark.parametrize("name", SMALL)
def test_the_stated_result(name: str, how: str, tmp_path: Path) -> None:
    """Of the first command in the docstring; without shards it is another on two ranks, by a little."""
    head = (EXAMPLES / name).read_text().split('"""')[1]
    ((what, value),) = re.findall(r"^Result.*?: (.+) ([\d.]+)$", head, re.MULTILINE)
    (command,) = re.findall(rf"^python examples/{name}(.*?)(?:  #.*)?$", head, re.MULTILINE)[:1]
    folder = ["--folder", str(tmp_path / "gpt")] if name in ("char_gpt.py", "gpt2.py") else []
    output = run(name, how, tmp_path, *command.replace("runs/", f"{tmp_path}/").split(), *folder, timeout_s=1100)
    reached = float(re.findall(rf"{what} ([\d.]+)", output)[-1])
    least = {"F1": 0.06, "test accuracy": 0.02}.get(what, 0.03 * float(value))
    assert abs(reached - float(value)) <= least, output
