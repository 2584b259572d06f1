"""Transforms as functions, as ``torchvision.transforms.functional``."""

from ...core.data.transforms.functional import *  # noqa: F403
from ...core.data.transforms.functional import __all__ as __all__
