"""Schedules of the learning rate, as ``torch.optim.lr_scheduler``."""

from ..core.optim.schedules import *  # noqa: F403
from ..core.optim.schedules import LRScheduler as _LRScheduler  # noqa: F401 - the name that old scripts subclass
from ..core.optim.schedules import __all__ as __all__
