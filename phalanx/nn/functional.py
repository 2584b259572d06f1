"""Layers and losses as functions, as ``torch.nn.functional``."""

from ..core.nn.functional import *  # noqa: F403
from ..core.nn.functional import __all__ as __all__
