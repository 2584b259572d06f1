"""Transforms of samples and batches, as ``torchvision.transforms`` and its ``v2``."""

from ...core.data.transforms import *  # noqa: F403
from ...core.data.transforms import __all__ as __all__
from . import functional as functional  # type: ignore[no-redef]
from . import v2 as v2
