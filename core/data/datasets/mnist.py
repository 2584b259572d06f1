"""MNIST and what comes in its format: 70,000 grey images of 28×28 in ten classes."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence

import numpy as np

from ...errors import DataError
from .. import sources
from ..fetch import FileSet, Source
from .pictures import Pictures, Transform, file_set

DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
FASHION_WEB = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
)
"""The authors' repository and the address that they publish."""
MNIST_WEB = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
    "http://yann.lecun.com/exdb/mnist",
)
"""PyTorch's and Google's copies, and the authors' address."""
KMNIST_WEB = ("http://codh.rois.ac.jp/kmnist/dataset/kmnist",)

FASHION_DIGESTS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""SHA-256 of the uncompressed files. Repacked with the authors' gzip headers (time stamps 1504176606 and 1504176627)
they have the MD5 sums that the authors publish: 8d4fb7e6..., 25c81989..., bef4ecab..., bb300cfd..."""
MNIST_DIGESTS = {
    "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
}
KMNIST_DIGESTS = {
    "train-images-idx3-ubyte.gz": "md5:bdb82020997e1d708af4cf47b453dcf7",
    "train-labels-idx1-ubyte.gz": "md5:e144d726b3acfaa3e44228e80efcd344",
    "t10k-images-idx3-ubyte.gz": "md5:5c965bf0a639b31b8f53240b1b52f4d7",
    "t10k-labels-idx1-ubyte.gz": "md5:7320c461ea6c1c855c0b718fb2a4b134",
}
"""Published MD5 sums of the packed files, as torchvision has them too."""


class _Idx(Pictures):
    """Files named ``train-images-idx3-ubyte`` and so on, laid out in the cache as torchvision's: either finds the other's."""

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        train: bool = True,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        download: bool = True,
    ) -> None:
        super().__init__(train, transform, target_transform)
        files, prefix = self._files(root, download), "train" if train else "t10k"
        names = [next(n for n in files.digests if n.startswith(f"{prefix}-{kind}")) for kind in ("images", "labels")]
        content = files.load(names)
        self.data, labels = (read_idx(content[name]) for name in names)
        self.targets = labels.astype(np.int64)

    @classmethod
    def _files(cls, root: str | os.PathLike[str] | None, download: bool) -> FileSet:
        raise NotImplementedError


class FashionMNIST(_Idx):
    """70,000 grey images of clothes, 28×28, in ten classes (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747).

    ``root`` is the folder to keep files in (default: $PHALANX_DATA or the user's cache folder). Sources, in order: the
    cache, Debian's installed files, $PHALANX_DATA_MIRROR, the authors' web addresses, Debian's package fetched without root.
    Any process may construct it; one process of a host fetches, the others wait. ``download=False`` reads local files only.

    ``dataset[i]`` is (image, label): a float32 Tensor of (1, 28, 28) in [0, 1] and an int. With ``transform`` the image is
    what it makes of the uint8 array of 28×28. ``data`` uint8 (N, 28, 28), ``targets`` int64 (N,), ``classes`` names.

    Raises DataError that lists each source and why it failed, and how to place the files by hand.

    >>> test = phalanx.data.datasets.FashionMNIST(train=False)
    >>> len(test), test[0][0].shape, test.classes[test[0][1]]
    (10000, (1, 28, 28), 'Ankle boot')
    """

    classes = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )

    @classmethod
    def _files(cls, root: str | os.PathLike[str] | None, download: bool) -> FileSet:
        web = [sources.address(base) for base in FASHION_WEB]
        return file_set(
            "Fashion-MNIST",
            ("FashionMNIST", "raw"),
            FASHION_DIGESTS,
            root,
            download,
            local=[sources.folder(DEBIAN_FOLDER)],
            remote=[*web, sources.debian_package(DEBIAN_PACKAGE, DEBIAN_FOLDER)],
        )


class MNIST(_Idx):
    """70,000 handwritten digits, 28×28 (LeCun, Bottou, Bengio and Haffner 1998). Arguments as :class:`FashionMNIST`.

    >>> train = phalanx.data.datasets.MNIST()  # doctest: +SKIP
    >>> train.data.shape  # doctest: +SKIP
    (60000, 28, 28)
    """

    classes = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

    @classmethod
    def _files(cls, root: str | os.PathLike[str] | None, download: bool) -> FileSet:
        return file_set("MNIST", ("MNIST", "raw"), MNIST_DIGESTS, root, download, remote=_published(MNIST_WEB))


class KMNIST(_Idx):
    """70,000 cursive Japanese characters, 28×28, in ten classes (Clanuwat et al. 2018, arXiv 1812.01718).

    Arguments as :class:`FashionMNIST`.

    >>> phalanx.data.datasets.KMNIST(train=False)  # doctest: +SKIP
    KMNIST(test, 10000 images)
    """

    classes = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")

    @classmethod
    def _files(cls, root: str | os.PathLike[str] | None, download: bool) -> FileSet:
        return file_set("KMNIST", ("KMNIST", "raw"), KMNIST_DIGESTS, root, download, remote=_published(KMNIST_WEB))


def _published(bases: Sequence[str]) -> list[Source]:
    return [sources.address(base, packed=False) for base in bases]


def read_idx(content: bytes) -> np.ndarray:
    """An IDX file of uint8 as an array: magic (0, 0, 8, rank), the sizes as big-endian int32, then the bytes; or gzipped.

    >>> read_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9])).tolist()
    [7, 9]
    """
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(f"not a whole gzip file: {error}") from error
    if content[:3] != b"\0\0\x08":
        raise DataError(f"not an IDX file of bytes: it begins with {content[:4].hex()}, expected 000008..")
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, 4).tolist()
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape).copy()
