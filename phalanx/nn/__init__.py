"""Modules, layers, losses and initial values, as ``torch.nn``."""

from ..core.nn import *  # noqa: F403
from ..core.nn import __all__ as __all__
from . import functional as functional
from . import init as init
from . import utils as utils
