"""Linear algebra, as ``torch.linalg``."""

from __future__ import annotations

from .core.linalg import *  # noqa: F403
from .core.linalg import __all__ as __all__
