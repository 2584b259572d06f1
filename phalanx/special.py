"""Special functions, as ``torch.special``."""

from __future__ import annotations

from .core.special import *  # noqa: F403
from .core.special import __all__ as __all__
