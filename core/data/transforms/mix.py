"""Changes of a whole batch: images mixed in pairs, with soft labels. Keyed by (step, shard), so equal at any rank count."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np

from ...backend import array_module
from ...errors import DTypeError, RangeError, ShapeError
from ...tensor import Tensor
from ..sampling import sample_random
from .base import Transform


class _Mix(Transform):
    def __init__(self, alpha: float = 1.0, num_classes: int | None = None) -> None:
        if not alpha > 0:
            raise RangeError(f"{type(self).__name__}: alpha must be above 0, got {alpha}")
        self.alpha, self.num_classes = float(alpha), num_classes

    def __call__(self, images: Any, labels: Any = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        if labels is None:  # as part of a Compose: one batch of two
            images, labels = images
        images, labels = (each if isinstance(each, Tensor) else Tensor(np.asarray(each)) for each in (images, labels))
        if images.ndim < 2 or labels.ndim not in (1, 2) or images.shape[0] != labels.shape[0]:
            raise ShapeError(
                f"{type(self).__name__} expects images (N, ...) and labels (N,) or (N, classes), "
                f"got {tuple(images.shape)} and {tuple(labels.shape)}"
            )
        if images.array.dtype.kind != "f":
            raise DTypeError(f"{type(self).__name__} expects floating-point images, got {images.array.dtype}")
        targets = self._soft(labels.array, images.array.dtype)
        if not images.shape[0]:
            return images, Tensor(targets)
        draw = sample_random()
        share = draw.betavariate(self.alpha, self.alpha)
        mixed, share = self._mix(images.array, share, draw)
        return Tensor(mixed), Tensor(_between(targets, share))

    def _mix(self, images: Any, share: float, draw: random.Random) -> tuple[Any, float]:
        raise NotImplementedError

    def _soft(self, labels: Any, dtype: Any) -> Any:
        if labels.ndim == 2:
            return labels.astype(dtype, copy=False)
        if self.num_classes is None:
            raise RangeError(f"{type(self).__name__}: labels of shape (N,) need num_classes")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise RangeError(
                f"{type(self).__name__}: labels lie in [0, {self.num_classes}), got {labels.min()} to {labels.max()}"
            )
        xp = array_module(labels)
        return (labels[:, None] == xp.arange(self.num_classes)).astype(dtype)


class MixUp(_Mix):
    """``share * x[i] + (1 - share) * x[i - 1]`` for images and labels alike, share drawn from Beta(alpha, alpha).

    A transform of batches: ``images, labels = mixup(images, labels)`` in the loop over a step's shards, or in a
    ``collate_fn``. Labels (N,) become probabilities (N, num_classes), as ``F.cross_entropy`` takes them.
    Paper: Zhang et al. 2017, arXiv 1710.09412.

    >>> from phalanx.data import transforms
    >>> images, labels = transforms.MixUp(num_classes=3)(phalanx.rand(4, 1, 2, 2), phalanx.tensor([0, 1, 2, 0]))
    >>> images.shape, labels.shape, labels.sum(1).tolist()
    ((4, 1, 2, 2), (4, 3), [1.0, 1.0, 1.0, 1.0])
    """

    def _mix(self, images: Any, share: float, draw: random.Random) -> tuple[Any, float]:
        return _between(images, share), share


class CutMix(_Mix):
    """A window of each image comes from the one before it; labels count by area, drawn from Beta(alpha, alpha).

    Used as :class:`MixUp`. Paper: Yun et al. 2019, arXiv 1905.04899.

    >>> from phalanx.data import transforms
    >>> images, labels = transforms.CutMix(num_classes=3)(phalanx.rand(4, 1, 8, 8), phalanx.tensor([0, 1, 2, 0]))
    >>> images.shape, labels.shape
    ((4, 1, 8, 8), (4, 3))
    """

    def _mix(self, images: Any, share: float, draw: random.Random) -> tuple[Any, float]:
        if images.ndim < 3:
            raise ShapeError(f"CutMix expects images (N, ..., H, W), got {images.shape}")
        height, width = images.shape[-2:]
        x, y = draw.randrange(width), draw.randrange(height)
        half = 0.5 * math.sqrt(1.0 - share)
        left, right = max(0, int(x - half * width)), min(width, int(x + half * width))
        top, bottom = max(0, int(y - half * height)), min(height, int(y + half * height))
        mixed = images.copy()
        before = array_module(images).roll(images, 1, 0)
        mixed[..., top:bottom, left:right] = before[..., top:bottom, left:right]
        return mixed, 1.0 - (right - left) * (bottom - top) / (height * width)


def _between(values: Any, share: float) -> Any:
    kind = values.dtype.type
    return values * kind(share) + array_module(values).roll(values, 1, 0) * kind(1.0 - share)
