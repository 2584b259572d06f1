"""What a process needs in its environment to find the stand-ins."""

from __future__ import annotations

import os
from pathlib import Path

from . import compiled

FOLDER = Path(__file__).resolve().parent


def variables() -> dict[str, str]:
    """``PYTHONPATH`` with the stand-ins in front, and the libraries that are compiled from C++."""
    shim = f"-I{FOLDER / 'cuda_shim'}"
    library = compiled.library((FOLDER / "cublaslt.cpp").read_text(), (shim,))
    path = os.pathsep.join(filter(None, (str(FOLDER), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "PHALANX_CUBLASLT": str(library)}
