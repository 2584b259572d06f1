"""``cupy.cuda.nvrtc``: which compiler the stand-in says it has."""

from __future__ import annotations


def getVersion() -> tuple[int, int]:
    return 13, 0
