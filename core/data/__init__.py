"""Data sets, keyed sample order, shards of a global batch, prefetch."""

from . import datasets, transforms
from .collate import default_collate
from .dataset import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset, random_split
from .fingerprint import fingerprint
from .loader import DataLoader
from .placement import Placement, placement, set_placement
from .sampling import sample_random
from .scope import observers
from .step import Step

__all__ = [
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "IterableDataset",
    "Placement",
    "Step",
    "Subset",
    "TensorDataset",
    "datasets",
    "default_collate",
    "fingerprint",
    "observers",
    "placement",
    "random_split",
    "sample_random",
    "set_placement",
    "transforms",
]
