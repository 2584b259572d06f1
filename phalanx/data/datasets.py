"""Data sets that are fetched, checked and cached, as ``torchvision.datasets``."""

from ..core.data.datasets import FashionMNIST as FashionMNIST

__all__ = ["FashionMNIST"]
