"""Data sets that are fetched, checked and cached, as ``torchvision.datasets``, and those in files of one's own."""

from ..core.data.datasets import *  # noqa: F403
from ..core.data.datasets import __all__ as __all__
