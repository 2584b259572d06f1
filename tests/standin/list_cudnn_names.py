"""Writes ``cudnn-1.23.txt``: the real frontend's public names with their parameters, which the stand-in is held to.

python -P tests/standin/list_cudnn_names.py > tests/standin/cudnn-1.23.txt   # where the frontend and cuDNN are installed; no GPU needed
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

CLASSES = ("pygraph", "tensor", "data_type", "heur_mode", "numerical_note", "diagonal_alignment", "build_plan_policy")
OURS = ("_prepare_variant_pack_template", "_get_variant_pack_uids_sorted", "_execute_with_ptrs")
"""Private names that cudnn.py uses where they are there."""
_PARAMETER = re.compile(r"(?:^|, )(\w+): ")


def parameters(value: Any) -> str:
    """Names of the parameters, with "self"; alternatives of one name are joined by " | "."""
    if inspect.isfunction(value):
        return ", ".join(inspect.signature(value).parameters)
    signed = [line for line in (value.__doc__ or "").split("\n") if re.match(r"^(\d+\. )?\w+\(.*\) -> ", line)]
    return " | ".join(", ".join(_PARAMETER.findall(line.partition("(")[2])) for line in signed)


def lines() -> Iterator[str]:
    """One line for each name."""
    held = importlib.import_module("cudnn")
    for name in sorted(vars(held)):
        if not name.startswith("_"):
            yield f"{name} ({parameters(getattr(held, name))})"
    for kind in CLASSES:
        of = getattr(held, kind)
        for name in sorted(dir(of)):
            if not name.startswith("_") or name in (*OURS, "__init__"):
                yield f"{kind}.{name} ({parameters(getattr(of, name))})"


if __name__ == "__main__":
    print("\n".join(lines()))
