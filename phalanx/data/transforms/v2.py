"""The same transforms under the name that torchvision's newer tutorials import."""

from ...core.data.transforms import *  # noqa: F403
from ...core.data.transforms import __all__ as __all__
