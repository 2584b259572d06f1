"""The comparisons on the device would fail if a kernel were wrong: planted faults are caught."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.gpu.conftest import REAL
from tests.gpu.mutations import FAULTS, FOLDER, QUICK, Fault, Unplanted, is_caught, passes, planted

on_the_standin = pytest.mark.skipif(REAL, reason="a fault may hang a real device; the stand-in shows it as well")


@on_the_standin
@pytest.mark.parametrize("fault", QUICK, ids=str)
def test_a_fault_is_caught(fault: Fault) -> None:
    assert is_caught(fault), f"no test noticed {fault}"


@on_the_standin
def test_without_a_fault_the_same_tests_pass(tmp_path: Path) -> None:
    for path in (*FOLDER.glob("*.cu"), *FOLDER.glob("*.cuh")):
        shutil.copy(path, tmp_path)
    assert passes(tmp_path, QUICK[0].tests, f"{QUICK[0].pick} or {QUICK[1].pick}")


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_every_fault_can_be_planted(fault: Fault, tmp_path: Path) -> None:
    planted(fault, tmp_path)
    assert (tmp_path / fault.file).read_text() != (FOLDER / fault.file).read_text()


def test_a_fault_whose_text_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Unplanted, match="the text is there 0 times"):
        planted(Fault("pool.cu", "no such text", "", "test_image_kernels.py"), tmp_path)


@pytest.mark.whole
@on_the_standin
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in QUICK], ids=str)
def test_each_fault_is_caught(fault: Fault) -> None:
    assert is_caught(fault), f"no test noticed {fault}"
