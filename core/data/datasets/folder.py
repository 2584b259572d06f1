"""Pictures and other files in folders named after their classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..dataset import Dataset
from ..image_files import EXTENSIONS, read_picture
from ..transforms import ToTensor

_TO_TENSOR = ToTensor()


class DatasetFolder(Dataset):
    """``root/class/.../file``: sample i is (``loader(path)``, number of its class), classes and files sorted by name.

    ``extensions`` or ``is_valid_file(path)`` say which files count. ``samples``: list of (path, label); ``targets`` int64.
    Raises DataError for a folder without classes, or a class without files unless ``allow_empty``.

    >>> import pathlib, tempfile
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("cat/1.txt", "dog/2.txt"):
    ...     (root / name).parent.mkdir(); _ = (root / name).write_text(name)
    >>> data = phalanx.data.datasets.DatasetFolder(root, lambda path: path.read_text(), (".txt",))
    >>> data.classes, data[1]
    (['cat', 'dog'], ('dog/2.txt', 1))
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        loader: Callable[[Path], Any],
        extensions: Sequence[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ) -> None:
        self.root, self.loader = Path(root), loader
        self.transform, self.target_transform = transform, target_transform
        if (extensions is None) == (is_valid_file is None):
            raise DataError(f"{type(self).__name__}: give either extensions or is_valid_file")
        self.classes, self.class_to_idx = self.find_classes(self.root)
        endings = tuple(ending.lower() for ending in extensions or ())
        valid = is_valid_file or (lambda path: path.lower().endswith(endings))
        self.samples: list[tuple[str, int]] = []
        for name, label in self.class_to_idx.items():
            found = sorted(str(path) for path in (self.root / name).rglob("*") if path.is_file() and valid(str(path)))
            if not found and not allow_empty:
                raise DataError(f"{self.root / name} holds no file that ends in one of {', '.join(endings) or 'yours'}")
            self.samples += [(path, label) for path in found]
        self.targets = np.array([label for _, label in self.samples], np.int64)

    def find_classes(self, directory: Path) -> tuple[list[str], dict[str, int]]:
        """The names of the folders in ``directory``, sorted, and their labels."""
        if not directory.is_dir():
            raise DataError(f"no such folder: {directory}")
        classes = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir())
        if not classes:
            raise DataError(f"{directory} holds no folders: expected one for each class, with its files inside")
        return classes, {name: label for label, name in enumerate(classes)}

    @property
    def keyed(self) -> bool:  # type: ignore[override]
        """Whether fetching samples leaves `random` and `numpy.random` alone."""
        parts = [each for each in (self.transform, self.target_transform) if each is not None]
        own_loader = self.loader is not read_picture and not getattr(self.loader, "keyed", False)
        return not own_loader and all(getattr(each, "keyed", False) for each in parts)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, label = self.samples[index]
        sample = self.loader(Path(path))
        return (
            sample if self.transform is None else self.transform(sample),
            label if self.target_transform is None else self.target_transform(label),
        )

    def identity(self) -> str:
        """Names and sizes of all files."""
        sizes = (f"{os.path.relpath(path, self.root)} {os.path.getsize(path)} {label}" for path, label in self.samples)
        return f"{'; '.join(sizes)}; {self.transform!r}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r}, {len(self)} files, {len(self.classes)} classes)"


class ImageFolder(DatasetFolder):
    """Pictures under ``root/class/``: sample i is (image, label), the image a float32 Tensor of (3, H, W) in [0, 1].

    With ``transform`` the image is what it makes of the uint8 array of H×W×3; pictures of different sizes need one that
    makes them equal (Resize, crops). Formats: Pillow's, where installed (``pip install "phalanx[images]"``), and without
    it .png, .ppm, .pgm and .npy. ``loader`` reads a file in another way, ``is_valid_file`` says which ones count;
    ``allow_empty``: a class may have none.

    >>> import pathlib, tempfile
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (root / name).mkdir(); np.save(root / name / "1.npy", np.zeros((4, 5, 3), np.uint8))
    >>> data = phalanx.data.datasets.ImageFolder(root)
    >>> data[1][0].shape, data[1][1], data.class_to_idx
    ((3, 4, 5), 1, {'cat': 0, 'dog': 1})
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        loader: Callable[[Path], Any] | None = None,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ) -> None:
        super().__init__(
            root,
            read_picture if loader is None else loader,
            EXTENSIONS if is_valid_file is None else None,
            _TO_TENSOR if transform is None else transform,
            target_transform,
            is_valid_file,
            allow_empty,
        )

    @property
    def imgs(self) -> list[tuple[str, int]]:
        """torchvision's other name for ``samples``."""
        return self.samples
