"""Pictures held in memory with a label each: what the public image data sets share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import DataError, RangeError
from .. import sources
from ..dataset import Dataset, TensorDataset
from ..fetch import Content, FileSet, Source, cache_root
from ..transforms import ToTensor

Transform = Callable[[Any], Any]


class Pictures(Dataset):
    """``data`` uint8 (N, H, W) or (N, H, W, C), ``targets`` int64 (N,), ``classes`` the labels' names.

    ``dataset[i]`` is (image, label): a float32 Tensor of (C, H, W) in [0, 1] and an int. With ``transform`` the image is
    what it makes of the uint8 array of H×W or H×W×C, with ``target_transform`` the label what that makes of it.
    """

    classes: Sequence[str] = ()
    data: np.ndarray
    targets: np.ndarray

    def __init__(self, train: bool, transform: Transform | None, target_transform: Transform | None) -> None:
        self.train, self.transform, self.target_transform = bool(train), transform, target_transform

    @property
    def keyed(self) -> bool:  # type: ignore[override]
        """Whether fetching samples leaves `random` and `numpy.random` alone."""
        return all(each is None or getattr(each, "keyed", False) for each in (self.transform, self.target_transform))

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Name of a class -> its label."""
        return {name: number for number, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image = (self.transform or _TO_TENSOR)(self.data[index])
        label = int(self.targets[index])
        return image, label if self.target_transform is None else self.target_transform(label)

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        if self.transform is not None or self.target_transform is not None:
            return None
        return _planes(self.data[indices]).astype(np.float32) / np.float32(255), self.targets[indices]

    def tensors(self, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0) -> TensorDataset:
        """All samples at once: images float32 (N, C, H, W) as ``(pixel / 255 - mean) / std``, labels int64 (N,).

        ``mean`` and ``std``: one number or one for each channel. The fastest to load from; four bytes for each pixel.
        """
        planes = _planes(self.data)
        centre, spread = (np.asarray(value, np.float32).reshape(-1) for value in (mean, std))
        if not {len(centre), len(spread)} <= {1, planes.shape[1]} or not spread.all():
            raise RangeError(
                f"{type(self).__name__}.tensors: mean and std have 1 or {planes.shape[1]} numbers, std none of them 0; "
                f"got mean={mean!r}, std={std!r}"
            )
        images = planes.astype(np.float32)
        images /= np.float32(255)
        if centre.any():
            images -= centre.reshape(-1, 1, 1)
        if (spread != 1).any():
            images /= spread.reshape(-1, 1, 1)
        return TensorDataset(images, self.targets)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'train' if self.train else 'test'}, {len(self)} images)"


_TO_TENSOR = ToTensor()


def _planes(images: np.ndarray) -> np.ndarray:
    """(N, C, H, W)."""
    return images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def file_set(
    title: str,
    folder: Sequence[str],
    digests: dict[str, str],
    root: str | os.PathLike[str] | None,
    download: bool,
    *,
    local: Sequence[Source] = (),
    remote: Sequence[Source],
) -> FileSet:
    """The files of a public data set: from ``local`` sources, then, unless ``download`` is False, from ``remote`` ones."""
    kept = cache_root(root).joinpath(*folder)
    return FileSet(
        title, digests, kept, [*local, *([*sources.mirror(folder[0]), *remote] if download else [_NOT_ASKED])]
    )


def _not_asked(names: Sequence[str]) -> Content:
    raise DataError("not tried, because download=False")


_NOT_ASKED = Source("web and packages", _not_asked)
