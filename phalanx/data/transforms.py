"""Transforms of samples, as ``torchvision.transforms``."""

from ..core.data.transforms import Compose as Compose
from ..core.data.transforms import Normalize as Normalize
from ..core.data.transforms import RandomCrop as RandomCrop
from ..core.data.transforms import RandomHorizontalFlip as RandomHorizontalFlip
from ..core.data.transforms import ToTensor as ToTensor

__all__ = ["Compose", "Normalize", "RandomCrop", "RandomHorizontalFlip", "ToTensor"]
