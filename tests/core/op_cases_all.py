"""All cases of all ops: whatever ``op_cases*.py`` in this folder hold, in the order of their names."""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.core.op_cases import Case


def _collected() -> list[Case]:
    found: list[Case] = []
    for path in sorted(Path(__file__).parent.glob("op_cases*.py")):
        if path.stem != Path(__file__).stem:
            found += importlib.import_module(f"tests.core.{path.stem}").CASES
    return list(dict.fromkeys(found))  # a file may hold what another has gathered


CASES = _collected()
