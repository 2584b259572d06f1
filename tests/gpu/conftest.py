"""Tests of the device "cuda": on a GPU where CuPy finds one, elsewhere on stand-ins that compute on the host.

The stand-ins are there while a test of this folder runs, and for the processes that it starts, and for nobody else.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.standin import compiled

STANDIN = Path(__file__).resolve().parents[1] / "standin"
_PARTS = ("cupy", "cupyx", "cudnn")
_modules: dict[str, ModuleType] = {}


def _real() -> bool:
    if importlib.util.find_spec("cupy") is None:
        return False
    found = importlib.import_module("cupy")
    return not hasattr(found, "_standin") and bool(found.is_available())


REAL = _real()
"""Whether there is a GPU to run on."""
if not REAL:
    for _name in [name for name in sys.modules if name.partition(".")[0] in _PARTS]:
        del sys.modules[_name]


def _library(name: str) -> str | None:
    """A library's stand-in, compiled from ``name.cpp``; None while there is none."""
    source = STANDIN / f"{name}.cpp"
    if not source.exists():
        return None
    return str(compiled.library(source.read_text(), (f"-I{STANDIN / 'cuda_shim'}",)))


def _ours() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in _PARTS}


@pytest.fixture(autouse=True)
def standins() -> Iterator[None]:
    """Where there is no GPU, ``import cupy`` finds the stand-in, here and in processes that the test starts."""
    if REAL:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:  # not the test's own: that is undone before this, whatever it has kept
        patch.syspath_prepend(str(STANDIN))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(STANDIN), os.environ.get("PYTHONPATH")))))
        library = _library("cublaslt")
        if library is not None:
            patch.setenv("PHALANX_CUBLASLT", library)
        sys.modules.update(_modules)
        importlib.import_module("cupyx")
        try:
            yield
        finally:
            _modules.update(_ours())
            for name in _modules:
                sys.modules.pop(name, None)


@pytest.fixture
def device(standins: None) -> str:
    """The device that tests run on."""
    return "cuda"


@pytest.fixture(params=["reference", "fast"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, standins: None) -> str:
    """Both choices of kernels, one after the other."""
    table = importlib.import_module("phalanx.core.kernels.table")
    monkeypatch.setattr(table, "_chosen", table.chosen())
    monkeypatch.setattr(table, "_kernels", {})
    table.choose(request.param)
    return str(request.param)
