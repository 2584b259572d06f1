"""``cupy.linalg``."""

from typing import Any

import numpy as np

from . import _functions, _names


def __getattr__(name: str) -> Any:
    if not _names.known(f"cupy.linalg.{name}"):
        raise AttributeError(f"module 'cupy.linalg' has no attribute {name!r}")
    numpys = getattr(np.linalg, name)
    found = numpys if isinstance(numpys, type) else _functions.function("cupy.linalg", name, numpys)
    globals()[name] = found
    return found
