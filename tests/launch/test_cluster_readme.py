"""Every `phalanx slurm` and `phalanx k8s` line of the clusters' README renders something that is right."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from phalanx import cli
from tests.launch.schema_check import faults

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "cluster" / "README.md"
LINES = re.findall(r"^phalanx (?:slurm submit|k8s render) .*$", README.read_text(), re.MULTILINE)


def test_there_are_lines_of_each_kind():
    assert sum("slurm" in line for line in LINES) >= 4
    assert {re.search(r"--kind (\w+)|$", line)[1] for line in LINES if "k8s" in line} == {None, "jobset", "mpijob"}


@pytest.mark.parametrize("line", LINES)
def test_the_readmes_lines_render(line, capsys):
    words = shlex.split(line.partition(">")[0], comments=True)[1:]
    words[2:2] = ["--print"] if words[0] == "slurm" and "--print" not in words else []
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    if words[0] == "k8s":
        assert [fault for part in yaml.safe_load_all(text) if part for fault in faults(part)] == []
    else:
        assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


@pytest.mark.parametrize("name", ["Dockerfile", "phalanx.def"])
def test_container_recipes_name_extras_that_exist(name):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"extras=([\w,]+)", (ROOT / "containers" / name).read_text(), re.IGNORECASE)
    assert len(named) >= 2 and {extra for words in named for extra in words.split(",")} <= set(extras)
