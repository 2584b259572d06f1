"""The face: quick to import, quiet, and every public name where it should be."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

import phalanx

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "mpi4py",
    "zmq",
    "cudnn",
    "cupy",
    "rich",
    "numba",
    "safetensors",
    "threadpoolctl",
    "torch",
    "cffi",
    "isal",
    "cryptography",
    "onnx",
    "onnxruntime",
)
PATHS = (
    "phalanx.nn",
    "phalanx.nn.functional",
    "phalanx.nn.init",
    "phalanx.nn.utils",
    "phalanx.optim",
    "phalanx.optim.lr_scheduler",
    "phalanx.optim.swa_utils",
    "phalanx.callbacks",
    "phalanx.cuda",
    "phalanx.data",
    "phalanx.kernels",
    "phalanx.data.datasets",
    "phalanx.data.transforms",
    "phalanx.autograd",
    "phalanx.linalg",
    "phalanx.special",
    "phalanx.utils",
    "phalanx.utils.checkpoint",
    "phalanx.utils.data",
    "phalanx.onnx",
)


def run(code: str) -> str:
    """What a fresh interpreter prints, started at the bare checkout."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded_by(statement: str) -> list[str]:
    return run(f"import sys; {statement}; print(*[m for m in {HEAVY!r} if m in sys.modules])").split()


def test_import_is_quick() -> None:
    """Least of five: the time of the import itself, without the interpreter's start."""
    code = "import time; t = time.perf_counter(); import phalanx; print(time.perf_counter() - t)"
    seconds = min(float(run(code)) for _ in range(5))
    assert seconds < 0.3, f"import phalanx takes {seconds:.3f} s"


def test_import_loads_nothing_heavy() -> None:
    assert loaded_by("import phalanx") == []
    assert run("import sys, phalanx; print('numpy' in sys.modules)") == "False"


def test_building_and_training_loads_no_wire() -> None:
    code = "from phalanx import nn, optim, tensor; model = nn.Linear(2, 1); opt = optim.SGD(model.parameters(), lr=0.1)"
    code += "; model(tensor([[1.0, 2.0]])).sum().backward(); opt.step()"
    assert not {"mpi4py", "zmq", "cupy", "rich", "torch"} & set(loaded_by(code))


@pytest.mark.parametrize("path", PATHS)
def test_public_paths_are_modules(path: str) -> None:
    module = importlib.import_module(path)
    for name in module.__all__:
        assert hasattr(module, name), f"{path}.{name}"
    assert run(f"import {path} as m; print(m.__name__)") == path
    parent, _, name = path.rpartition(".")
    assert getattr(importlib.import_module(parent), name) is module


@pytest.mark.parametrize("name", sorted(phalanx._HOME_OF))
def test_every_public_name_resolves(name: str) -> None:
    try:
        home = importlib.import_module(f"phalanx.{phalanx._HOME_OF[name]}")
    except ImportError as error:
        pytest.fail(f"phalanx.{name}: {error}")
    assert getattr(phalanx, name) is getattr(home, name)
    assert name in dir(phalanx) and name in phalanx.__all__


def test_classes_keep_one_identity() -> None:
    from phalanx.core.nn.linear import Linear
    from phalanx.core.nn.module import Module
    from phalanx.core.optim.adam import AdamW

    assert phalanx.nn.Linear is Linear and phalanx.nn.Module is Module and phalanx.optim.AdamW is AdamW


def test_table_equals_the_stub_for_type_checkers() -> None:
    seen, parts = {}, []
    for node in ast.parse((ROOT / "phalanx/__init__.pyi").read_text()).body:
        if not isinstance(node, ast.ImportFrom):
            continue
        assert node.level == 1
        for alias in node.names:
            assert alias.asname == alias.name, f"{alias.name}: `as {alias.name}` makes it public"
            if node.module is None:
                parts.append(alias.name)
            else:
                seen[alias.name] = node.module
    assert seen == phalanx._HOME_OF
    assert tuple(parts) == phalanx._PARTS


@pytest.mark.parametrize("path", ["core/functions.py", "core/dtypes.py"])
def test_everything_of_functions_is_at_the_top(path: str) -> None:
    """What the file defines or imports ``as`` the same name is public."""
    public: set[str] = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.ImportFrom):
            public |= {alias.name for alias in node.names if alias.asname == alias.name}
        elif isinstance(node, ast.Assign):
            public |= {part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            public.add(node.name)
    missing = sorted(name for name in public - set(phalanx.__all__) if not name.startswith("_"))
    assert not missing, f"{path} has these, the face has not: {missing}"


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'phalanx' has no attribute 'teleport'"):
        phalanx.teleport  # noqa: B018
    assert not hasattr(phalanx, "teleport")


def test_no_public_name_hides_a_module() -> None:
    """``phalanx.x`` would be the module or the function, by what was imported first."""
    files = {path.stem for path in (ROOT / "phalanx").iterdir() if path.name != "__init__.py"}
    assert not files & set(phalanx._HOME_OF), files & set(phalanx._HOME_OF)


def test_python_m_phalanx() -> None:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "phalanx", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.strip() == f"phalanx {phalanx.__version__}", done.stderr
    assert time.perf_counter() - started < 30
