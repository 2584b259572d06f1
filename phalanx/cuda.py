"""Whether there is a GPU to train on, as ``torch.cuda``."""

from __future__ import annotations

from .core.backend import gpu_count
from .core.kernels.table import PROVIDERS
from .core.rng import manual_seed

__all__ = ["device_count", "is_available", "manual_seed", "manual_seed_all"]


def device_count() -> int:
    """How many GPUs can be trained on: those that CuPy sees, once there are kernels for them.

    >>> phalanx.cuda.device_count() >= 0
    True
    """
    return gpu_count() if "cuda" in PROVIDERS else 0


def is_available() -> bool:
    """Whether ``device("cuda")`` can be trained on.

    >>> device = phalanx.device("cuda" if phalanx.cuda.is_available() else "cpu")
    """
    return device_count() > 0


manual_seed_all = manual_seed
"""One seed serves all devices: randomness is keyed."""
