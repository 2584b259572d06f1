"""Writes ``cupy-14.2.txt``: the public names of the real CuPy with their parameters, which the stand-in and our code are held to.

python tests/standin/list_names.py > tests/standin/cupy-14.2.txt      # where CuPy is installed; no GPU needed
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODULES = (
    "cupy", "cupy.cuda", "cupy.cuda.runtime", "cupy.cuda.nvrtc", "cupy.cuda.nccl", "cupy.cuda.nvtx", "cupy.cuda.nvrtc", "cupy.cuda.stream",
    "cupy.cuda.memory", "cupy.cuda.pinned_memory", "cupy.cuda.device", "cupy.cuda.graph", "cupy.linalg", "cupy.random", "cupy.lib.stride_tricks", "cupyx",
    "cupyx.profiler",
)  # fmt: skip
CLASSES = (
    "cupy.ndarray", "cupy.ufunc", "cupy.RawKernel", "cupy.RawModule", "cupy.cuda.Device", "cupy.cuda.Stream",
    "cupy.cuda.ExternalStream", "cupy.cuda.Event", "cupy.cuda.Graph", "cupy.cuda.MemoryPool", "cupy.cuda.MemoryPointer",
    "cupy.cuda.PinnedMemoryPool", "cupy.cuda.PinnedMemoryPointer", "cupy.cuda.UnownedMemory", "cupy.cuda.nccl.NcclCommunicator",
)  # fmt: skip
SIGNED = frozenset({"cupy", "cupy.linalg", "cupy.lib.stride_tricks", "cupyx", "cupy.ndarray"})
_TYPED = re.compile(r"^(?:[\w.]+ )+(?=\w+(=|$))")


def parameters(value: Any) -> str:
    """The parameters without types and default values ("=" stands for one), "" where CuPy does not tell them."""
    try:
        names = []
        star = False
        for p in inspect.signature(value).parameters.values():
            if p.kind is p.KEYWORD_ONLY and not star:
                names.append("*")
                star = True
            star = star or p.kind is p.VAR_POSITIONAL
            names.append(
                {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
                + p.name
                + ("=" if p.default is not p.empty else "")
            )
        return f"({', '.join(names)})"
    except (TypeError, ValueError):
        pass
    told = re.match(
        r"^[\w.]+\((.*?)\)(?: ->.*)?$", (getattr(value, "__doc__", "") or "").split("\n")[0].replace("\\", "")
    )
    if told is None:
        return ""
    names = [re.sub(r"=.*", "=", _TYPED.sub("", part.strip())) for part in told[1].split(",")]
    return f"({', '.join(names)})"


def lines() -> Iterator[str]:
    """One line for each name."""
    for module in MODULES:
        parent, _, name = module.rpartition(".")
        held = getattr(importlib.import_module(parent), name) if name == "nvrtc" else importlib.import_module(module)
        names = set(dir(held))
        if module == "cupy.cuda":
            names |= {"nccl", "cublas"}
        for name in sorted(names):
            if not name.startswith("_") and name != "annotations":
                yield f"{module}.{name} {parameters(getattr(held, name, None)) if module in SIGNED else ''}".strip()
    for path in CLASSES:
        module, _, name = path.rpartition(".")
        held = getattr(importlib.import_module(module), name)
        for attribute in sorted(dir(held)):
            if not attribute.startswith("_"):
                yield f"{path}.{attribute} {parameters(getattr(held, attribute)) if path in SIGNED else ''}".strip()


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))  # beside this file lies the stand-in
    print("\n".join(lines()))
