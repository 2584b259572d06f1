"""CIFAR-10 and CIFAR-100, from the authors' binary archives (their other form is Python pickles)."""

from __future__ import annotations

import io
import os
import tarfile

import numpy as np

from ...errors import DataError
from .. import sources
from .pictures import Pictures, Transform, file_set

WEB = ("https://www.cs.toronto.edu/~kriz", "https://cave.cs.toronto.edu/kriz")
PIXELS = 3 * 32 * 32
DIGESTS_10 = {"cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530"}
DIGESTS_100 = {"cifar-100-binary.tar.gz": "md5:03b5dce01913d631647c71ecec9e9cb8"}
"""The MD5 sums on the authors' page, https://www.cs.toronto.edu/~kriz/cifar.html."""
FINE_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""


class _Cifar(Pictures):
    _title: str
    _digests: dict[str, str]
    _members: dict[bool, tuple[str, ...]]
    _label_bytes: int

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        train: bool = True,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        download: bool = True,
    ) -> None:
        super().__init__(train, transform, target_transform)
        remote = [sources.address(base, packed=False) for base in WEB]
        files = file_set(self._title, (type(self).__name__,), self._digests, root, download, remote=remote)
        (archive,) = self._digests
        content = files.derived(
            f"{'train' if train else 'test'}.bin",
            lambda: b"".join(members(files.load([archive])[archive], self._members[self.train])),
        )
        self.data, self.targets = read_records(content, self._label_bytes)


class CIFAR10(_Cifar):
    """60,000 colour images, 32×32, in ten classes, 50,000 of them for training (Krizhevsky 2009).

    ``root`` is the folder to keep files in (default: $PHALANX_DATA or the user's cache folder). Sources, in order: the
    cache, $PHALANX_DATA_MIRROR, the authors' addresses. One process of a host fetches, the others wait.

    ``dataset[i]`` is (image, label): a float32 Tensor of (3, 32, 32) in [0, 1] and an int. With ``transform`` the image is
    what it makes of the uint8 array of 32×32×3. ``data`` uint8 (N, 32, 32, 3), ``targets`` int64 (N,), ``classes`` names.

    Raises DataError that lists each source and why it failed, and how to place the file by hand.

    >>> train = phalanx.data.datasets.CIFAR10()  # doctest: +SKIP
    >>> train.data.shape  # doctest: +SKIP
    (50000, 32, 32, 3)
    """

    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    _title, _digests, _label_bytes = "CIFAR-10", DIGESTS_10, 1
    _members = {
        True: tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)),
        False: ("cifar-10-batches-bin/test_batch.bin",),
    }


class CIFAR100(_Cifar):
    """60,000 colour images, 32×32, in 100 classes, 50,000 of them for training (Krizhevsky 2009). Else as :class:`CIFAR10`.

    >>> phalanx.data.datasets.CIFAR100(train=False)  # doctest: +SKIP
    CIFAR100(test, 10000 images)
    """

    classes = tuple(FINE_CLASSES.split())
    _title, _digests, _label_bytes = "CIFAR-100", DIGESTS_100, 2
    _members = {True: ("cifar-100-binary/train.bin",), False: ("cifar-100-binary/test.bin",)}


def members(archive: bytes, names: tuple[str, ...]) -> list[bytes]:
    """The content of ``names`` in a tar archive."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.name in names else None
                if file is not None:
                    found[member.name] = file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"not a whole tar archive: {error}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"the archive lacks {', '.join(missing)}")
    return [found[name] for name in names]


def read_records(content: bytes, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 32, 32, 3) and labels int64 (N,); of two labels (coarse, fine) the last.

    >>> images, labels = read_records(bytes([7]) + bytes(3072), 1)
    >>> images.shape, labels.tolist()
    ((1, 32, 32, 3), [7])
    """
    if not content or len(content) % (label_bytes + PIXELS):
        raise DataError(f"{len(content)} bytes are no whole number of records of {label_bytes + PIXELS}")
    records = np.frombuffer(content, np.uint8).reshape(-1, label_bytes + PIXELS)
    planes = records[:, label_bytes:].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, label_bytes - 1].astype(np.int64)
