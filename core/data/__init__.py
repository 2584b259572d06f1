"""Data sets, keyed sample order, shards of a global batch, workers; transforms, tables, public data sets."""

from . import datasets, tables, text, transforms
from .collate import default_collate
from .dataset import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    MapDataset,
    StackDataset,
    Subset,
    TensorDataset,
    TransformDataset,
    random_split,
)
from .fingerprint import fingerprint
from .loader import DataLoader
from .placement import Placement, placement, set_placement
from .samplers import (
    BalancedSampler,
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from .sampling import sample_random
from .scope import observers
from .splits import split
from .step import Step
from .streams import StreamingDataset
from .tokens import TokenDataset, tokenize_file, write_tokens
from .workers import WorkerInfo, get_worker_info

__all__ = [
    "BalancedSampler",
    "BatchSampler",
    "ChainDataset",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "IterableDataset",
    "MapDataset",
    "Placement",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "StackDataset",
    "Step",
    "StreamingDataset",
    "Subset",
    "SubsetRandomSampler",
    "TensorDataset",
    "TokenDataset",
    "TransformDataset",
    "WeightedRandomSampler",
    "WorkerInfo",
    "datasets",
    "default_collate",
    "fingerprint",
    "get_worker_info",
    "observers",
    "placement",
    "random_split",
    "sample_random",
    "set_placement",
    "split",
    "tables",
    "text",
    "tokenize_file",
    "transforms",
    "write_tokens",
]
