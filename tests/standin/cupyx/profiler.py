"""``cupyx.profiler``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def time_range(
    message: str, color_id: int | None = None, argb_color: int | None = None, sync: bool = False
) -> Iterator[None]:
    from cupy.cuda import nvtx

    nvtx.RangePush(message)
    try:
        yield
    finally:
        nvtx.RangePop()


@contextlib.contextmanager
def profile() -> Iterator[None]:
    yield
