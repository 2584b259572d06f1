"""Optimizers, as ``torch.optim``."""

from ..core.optim import *  # noqa: F403
from ..core.optim import __all__ as __all__
