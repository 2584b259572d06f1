"""IMDB: film reviews that praise or damn."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import DataError
from .. import sources
from ..dataset import Dataset
from .pictures import file_set

DIGESTS = {"aclImdb_v1.tar.gz": "md5:7c2ac02c03563afcf9b574c7e56c153a"}
WEB = ("https://ai.stanford.edu/~amaas/data/sentiment", "https://bj.bcebos.com/dataset/imdb%2F")
"""The authors' address, and Baidu's copy (whose path ends in the name)."""


class IMDB(Dataset):
    """50,000 reviews of films, half for training, half of each positive (Maas et al. 2011).

    ``root`` is the folder to keep files in (default: $PHALANX_DATA or the user's cache folder). Sources, in order: the
    cache, $PHALANX_DATA_MIRROR, the authors' address, a copy of it. One process of a host fetches and unpacks.

    ``dataset[i]`` is (text, label), 0 negative, 1 positive; ``transform`` makes numbers of the text (:class:`Vocabulary`).
    ``texts``: list of str, ``targets`` int64 (N,), ``classes``. Reviews come by class and number, so shuffle.

    Raises DataError that lists each source and why it failed, and how to place the file by hand.

    >>> train = phalanx.data.datasets.IMDB()  # doctest: +SKIP
    >>> len(train), train.classes[train[0][1]]  # doctest: +SKIP
    (25000, 'neg')
    """

    classes = ("neg", "pos")

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        train: bool = True,
        transform: Callable[[str], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
        download: bool = True,
    ) -> None:
        self.train, self.transform, self.target_transform = bool(train), transform, target_transform
        remote = [sources.address(base, packed=False) for base in WEB]
        files = file_set("IMDB", ("IMDB",), DIGESTS, root, download, remote=remote)
        part = "train" if train else "test"
        (archive,) = DIGESTS
        content = files.derived(f"{part}.jsonl", lambda: _lines(files.load([archive])[archive], part))
        rows = [json.loads(line) for line in content.splitlines()]
        self.targets = np.array([label for label, _ in rows], np.int64)
        self.texts: list[str] = [text for _, text in rows]

    @property
    def keyed(self) -> bool:  # type: ignore[override]
        """Whether fetching samples leaves `random` and `numpy.random` alone."""
        return all(each is None or getattr(each, "keyed", False) for each in (self.transform, self.target_transform))

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        text, label = self.texts[index], int(self.targets[index])
        return (
            text if self.transform is None else self.transform(text),
            label if self.target_transform is None else self.target_transform(label),
        )

    def __repr__(self) -> str:
        return f"IMDB({'train' if self.train else 'test'}, {len(self)} reviews)"


def _lines(archive: bytes, part: str) -> bytes:
    """[label, text] in JSON, a line each, in the order of class and number."""
    rows = []
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                place = member.name.split("/")
                if len(place) == 4 and place[1] == part and place[2] in IMDB.classes and place[3].endswith(".txt"):
                    file = tar.extractfile(member)
                    assert file is not None, member.name
                    label = IMDB.classes.index(place[2])
                    rows.append((label, int(place[3].partition("_")[0]), file.read().decode("utf-8")))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"not a whole tar archive: {error}") from error
    if not rows:
        raise DataError(f"the archive has no reviews under aclImdb/{part}")
    return "".join(json.dumps([label, text]) + "\n" for label, _, text in sorted(rows)).encode()
