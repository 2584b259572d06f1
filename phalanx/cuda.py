"""Devices, streams, events and memory of GPUs, as ``torch.cuda``."""

from .core.cuda import *  # noqa: F403
from .core.cuda import __all__ as __all__
