"""Data sets in files of one's own: arrays in .npz, tables in .csv."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..dataset import TensorDataset
from ..tables import read_csv


class NpzDataset(TensorDataset):
    """The rows of the arrays ``keys`` of an .npz file (all of them, in the file's order, by default).

    Raises DataError for what is no such file, keys that it lacks (naming those it has), and arrays of Python objects.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/data.npz"
    >>> np.savez(path, x=np.zeros((5, 2), np.float32), y=np.arange(5))
    >>> data = phalanx.data.datasets.NpzDataset(path, ["x", "y"])
    >>> len(data), data[3][1].item()
    (5, 3)
    """

    def __init__(self, path: str | os.PathLike[str], keys: Sequence[str] | None = None) -> None:
        try:
            file = np.load(path, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise DataError(f"{path} holds one array (.npy), expected an .npz file")
            with file:
                self.keys = list(file.files if keys is None else keys)
                missing = [key for key in self.keys if key not in file.files]
                if missing:
                    raise DataError(f"{path} has no array {', '.join(missing)}; it has {', '.join(file.files)}")
                arrays = [file[key] for key in self.keys]
        except DataError:
            raise
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} cannot be read as arrays: {error}") from error
        super().__init__(*arrays)


class CsvDataset(TensorDataset):
    """The rows of a CSV file: all columns but ``target`` as float32 (N, D), then ``target``; for clean tables of numbers.

    A target of whole numbers is int64 (labels), else float32; words get labels in sorted order (``classes``). For missing
    values, words among the features or scaling see :mod:`phalanx.data.tables`. Options of ``read_csv`` may follow.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/data.csv"
    >>> _ = open(path, "w").write("height,weight,kind\\n1.5,50,cat\\n1.8,80,dog\\n")
    >>> data = phalanx.data.datasets.CsvDataset(path, target="kind")
    >>> [part.tolist() for part in data[1]], data.classes
    ([[1.7999999523162842, 80.0], 1], ['cat', 'dog'])
    """

    def __init__(self, path: str | os.PathLike[str], target: str | None = None, **options: Any) -> None:
        table = read_csv(Path(path), **options)
        self.features = [name for name in table.columns if name != target]
        self.classes: list[str] | None = None
        arrays = [table.numbers(self.features)]
        if target is not None:
            labels, self.classes = table.labels(target)
            arrays.append(labels)
        super().__init__(*arrays)
