"""Data sets and loaders where PyTorch keeps them: ``torch.utils.data``. The whole of it is ``phalanx.data``."""

from __future__ import annotations

from ..data import *  # noqa: F403
from ..data import __all__ as __all__
