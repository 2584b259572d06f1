"""Transforms of samples and batches under torchvision's names. Random ones are keyed by (seed, epoch, sample).

Before :class:`ToTensor` an image is an array of H×W or H×W×C (or a Pillow image); after it, a Tensor of C×H×W. All but
those that say otherwise take either.
"""

from . import functional
from .automatic import (
    RandAugment,
    RandomAdjustSharpness,
    RandomAutocontrast,
    RandomEqualize,
    RandomInvert,
    RandomPosterize,
    RandomSolarize,
    TrivialAugmentWide,
)
from .base import Compose, Lambda, RandomApply, RandomChoice, RandomOrder, Transform
from .colour import ColorJitter, GaussianBlur, RandomErasing
from .convert import (
    ConvertImageDtype,
    Grayscale,
    Normalize,
    PILToTensor,
    RandomGrayscale,
    ToDtype,
    ToImage,
    ToPILImage,
    ToTensor,
)
from .crop import CenterCrop, FiveCrop, Pad, RandomCrop, RandomHorizontalFlip, RandomVerticalFlip, Resize
from .geometry import RandomAffine, RandomPerspective, RandomResizedCrop, RandomRotation
from .mix import CutMix, MixUp

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "ConvertImageDtype",
    "CutMix",
    "FiveCrop",
    "GaussianBlur",
    "Grayscale",
    "Lambda",
    "MixUp",
    "Normalize",
    "PILToTensor",
    "Pad",
    "RandAugment",
    "RandomAdjustSharpness",
    "RandomAffine",
    "RandomApply",
    "RandomAutocontrast",
    "RandomChoice",
    "RandomCrop",
    "RandomEqualize",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomInvert",
    "RandomOrder",
    "RandomPerspective",
    "RandomPosterize",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomSolarize",
    "RandomVerticalFlip",
    "Resize",
    "ToDtype",
    "ToImage",
    "ToPILImage",
    "ToTensor",
    "Transform",
    "TrivialAugmentWide",
    "functional",
]
