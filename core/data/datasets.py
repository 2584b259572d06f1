"""Public data sets under torchvision's names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import DataError, RangeError
from . import sources
from .dataset import Dataset, TensorDataset
from .fetch import Content, FileSet, Source, cache_root
from .transforms import ToTensor

DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
WEB = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
)
"""The authors' repository and the address that they publish."""

DIGESTS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""SHA-256 of the uncompressed files. Repacked with the authors' gzip headers (time stamps 1504176606 and 1504176627)
they have the MD5 sums that the authors publish: 8d4fb7e6..., 25c81989..., bef4ecab..., bb300cfd..."""


class FashionMNIST(Dataset):
    """70,000 grey images of clothes, 28×28, in ten classes (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747).

    ``root`` is the folder to keep files in (default: $PHALANX_DATA or the user's cache folder). Sources, in order: the
    cache, Debian's installed files, the authors' web addresses, Debian's package fetched without root. Any process may
    construct it; one process of a host fetches, the others wait. ``download=False`` reads local files only.

    ``dataset[i]`` is (image, label): a float32 Tensor of (1, 28, 28) in [0, 1] and an int. With ``transform`` the image is
    what it makes of the uint8 array of 28×28. ``data`` uint8 (N, 28, 28), ``targets`` int64 (N,), ``classes`` names.

    Raises DataError that lists each source and why it failed.
    """

    classes = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        train: bool = True,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        download: bool = True,
    ) -> None:
        self.train, self.transform, self.target_transform = train, transform, target_transform
        prefix = "train" if train else "t10k"
        images, labels = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
        content = _files(root, download).load([images, labels])
        self.data = read_idx(content[images])
        self.targets = read_idx(content[labels]).astype(np.int64)

    @property
    def keyed(self) -> bool:  # type: ignore[override]
        return all(each is None or getattr(each, "keyed", False) for each in (self.transform, self.target_transform))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image = (self.transform or _TO_TENSOR)(self.data[index])
        label = int(self.targets[index])
        return image, label if self.target_transform is None else self.target_transform(label)

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        if self.transform is not None or self.target_transform is not None:
            return None
        return self.data[indices][:, None].astype(np.float32) / np.float32(255), self.targets[indices]

    def tensors(self, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0) -> TensorDataset:
        """All samples at once: images float32 (N, 1, 28, 28) as ``(pixel / 255 - mean) / std``, labels int64 (N,).

        The fastest to load from; 188 MB for the 60,000 training images.
        """
        centre, spread = (np.asarray(value, np.float32).reshape(-1) for value in (mean, std))
        if len(centre) != 1 or len(spread) != 1 or spread[0] == 0:
            raise RangeError(f"FashionMNIST.tensors: one mean and one std other than 0, got mean={mean!r}, std={std!r}")
        images = self.data[:, None].astype(np.float32)
        images /= np.float32(255)
        if centre[0] != 0:
            images -= centre[0]
        if spread[0] != 1:
            images /= spread[0]
        return TensorDataset(images, self.targets)

    def __repr__(self) -> str:
        return f"FashionMNIST({'train' if self.train else 'test'}, {len(self)} images)"


_TO_TENSOR = ToTensor()


def _files(root: str | os.PathLike[str] | None, download: bool) -> FileSet:
    """The cache is laid out as torchvision's, so that either finds the other's files."""
    local: list[Source] = [sources.folder(DEBIAN_FOLDER)]
    remote = [*(sources.address(base) for base in WEB), sources.debian_package(DEBIAN_PACKAGE, DEBIAN_FOLDER)]
    return FileSet(
        "Fashion-MNIST",
        DIGESTS,
        cache_root(root) / "FashionMNIST" / "raw",
        local + (remote if download else [_NOT_ASKED]),
    )


def _not_asked(names: Sequence[str]) -> Content:
    raise DataError("not tried, because download=False")


_NOT_ASKED = Source("web and Debian package", _not_asked)


def read_idx(content: bytes) -> np.ndarray:
    """An IDX file of uint8 as an array: magic (0, 0, 8, rank), the sizes as big-endian int32, then the bytes.

    >>> read_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9])).tolist()
    [7, 9]
    """
    if content[:3] != b"\0\0\x08":
        raise DataError(f"not an IDX file of bytes: it begins with {content[:4].hex()}, expected 000008..")
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, 4).tolist()
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape).copy()
