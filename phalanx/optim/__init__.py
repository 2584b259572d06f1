"""Optimizers, schedules and averages, as ``torch.optim``."""

from ..core.optim import *  # noqa: F403
from ..core.optim import __all__ as __all__
from . import lr_scheduler as lr_scheduler
from . import swa_utils as swa_utils
