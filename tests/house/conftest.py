"""What tests of the GPU leave in this process is not in use here."""

from __future__ import annotations

import sys

import pytest

from phalanx.core import own_gpu


@pytest.fixture(autouse=True)
def no_gpu_of_earlier_tests() -> None:
    """A stand-in's stream would be timed beside the processor's work."""
    if hasattr(sys.modules.get("cupy"), "_standin"):
        for name in [name for name in sys.modules if name.partition(".")[0] in ("cupy", "cupyx", "cudnn")]:
            del sys.modules[name]
    if "cupy" not in sys.modules:
        own_gpu._rank.streams.clear()
        own_gpu._thread.entered.clear()
