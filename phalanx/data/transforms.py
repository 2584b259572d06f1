"""Transforms of samples and batches, as ``torchvision.transforms`` (and ``v2``'s MixUp and CutMix)."""

from ..core.data.transforms import *  # noqa: F403
from ..core.data.transforms import __all__ as __all__
