"""Modules, layers, losses and initial values, as ``torch.nn``."""

from ..core.nn import *  # noqa: F403
from ..core.nn import __all__ as _own
from ..model_summary import summary as summary
from . import functional as functional  # type: ignore[no-redef]
from . import init as init  # type: ignore[no-redef]
from . import utils as utils

__all__ = [*_own, "summary"]  # pyright: ignore[reportUnsupportedDunderAll]
