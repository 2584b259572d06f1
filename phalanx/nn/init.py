"""Initial values in place, as ``torch.nn.init``."""

from ..core.nn.init import *  # noqa: F403
from ..core.nn.init import __all__ as __all__
