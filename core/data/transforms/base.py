"""What all transforms share: their base, and those that combine others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from ...errors import RangeError
from ..sampling import sample_random


class Transform:
    """Base of transforms: ``transform(image)`` is a new image; random ones draw from ``sample_random()`` only.

    ``keyed`` promises just that: such samples may be fetched by background threads, in parallel.

    >>> from phalanx.data import transforms
    >>> class Negative(transforms.Transform):
    ...     def __call__(self, image): return 255 - image
    >>> Negative()(np.full((1, 1), 5, np.uint8)).item(), Negative().keyed
    (250, True)
    """

    keyed: bool = True

    def __call__(self, image: Any) -> Any:
        raise TypeError(f"{type(self).__name__} must define __call__(image)")

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({options})"


class _Several(Transform):
    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)
        for transform in self.transforms:
            if not callable(transform):
                raise RangeError(f"{type(self).__name__}: a transform is called with an image, got {transform!r}")

    @property
    def keyed(self) -> bool:  # type: ignore[override]
        """Whether fetching samples leaves `random` and `numpy.random` alone."""
        return all(getattr(transform, "keyed", False) for transform in self.transforms)


class Compose(_Several):
    """One transform after another.

    >>> from phalanx.data import transforms
    >>> chain = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    >>> chain(np.zeros((2, 2), np.uint8)).numpy().tolist()
    [[[-1.0, -1.0], [-1.0, -1.0]]]
    """

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image

    def __repr__(self) -> str:
        return f"Compose({self.transforms!r})"


class RandomApply(_Several):
    """All of ``transforms`` in order with probability ``p``, else none.

    >>> from phalanx.data import transforms
    >>> transforms.RandomApply([transforms.Grayscale()], p=0.0)(np.zeros((2, 2, 3), np.uint8)).shape
    (2, 2, 3)
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]], p: float = 0.5) -> None:
        super().__init__(transforms)
        self.p = probability(self, p)

    def __call__(self, image: Any) -> Any:
        if chance(self.p):
            for transform in self.transforms:
                image = transform(image)
        return image


class RandomChoice(_Several):
    """One of ``transforms``, drawn with the weights ``p`` (equal ones by default).

    >>> from phalanx.data import transforms
    >>> transforms.RandomChoice([transforms.CenterCrop(1), transforms.CenterCrop(2)], p=[0, 1])(np.zeros((4, 4))).shape
    (2, 2)
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]], p: Sequence[float] | None = None) -> None:
        super().__init__(transforms)
        self.p = [1.0] * len(self.transforms) if p is None else [float(weight) for weight in p]
        if not self.p or len(self.p) != len(self.transforms) or min(self.p) < 0 or sum(self.p) == 0:
            raise RangeError(
                f"RandomChoice needs a weight of at least 0 for each of {len(self.transforms)}, got p={p!r}"
            )

    def __call__(self, image: Any) -> Any:
        bounds = list(accumulate(self.p))
        drawn = sample_random().random() * bounds[-1]
        return next(each for each, bound in zip(self.transforms, bounds, strict=True) if drawn < bound)(image)


class RandomOrder(_Several):
    """All of ``transforms``, in a drawn order.

    >>> from phalanx.data import transforms
    >>> transforms.RandomOrder([transforms.CenterCrop(2), transforms.Pad(1)])(np.zeros((4, 4))).shape in ((4, 4), (2, 2))
    True
    """

    def __call__(self, image: Any) -> Any:
        order = list(range(len(self.transforms)))
        sample_random().shuffle(order)
        for number in order:
            image = self.transforms[number](image)
        return image


class Lambda(Transform):
    """A function of one's own. ``keyed=True`` promises that it draws no random numbers, or from ``sample_random()`` only.

    >>> from phalanx.data import transforms
    >>> transforms.Lambda(lambda image: image * 2)(3)
    6
    """

    def __init__(self, lambd: Callable[[Any], Any], *, keyed: bool = False) -> None:
        if not callable(lambd):
            raise RangeError(f"Lambda expects a function of one image, got {lambd!r}")
        self.lambd = lambd
        self.keyed = keyed

    def __call__(self, image: Any) -> Any:
        return self.lambd(image)

    def __repr__(self) -> str:
        return f"Lambda({getattr(self.lambd, '__name__', self.lambd)!s})"


def chance(p: float) -> bool:
    """True with probability ``p``: one number of the sample's stream."""
    return sample_random().random() < p


def probability(owner: object, p: float) -> float:
    """``p`` if it is a probability."""
    if not 0 <= p <= 1:
        raise RangeError(f"{type(owner).__name__}: p must lie in [0, 1], got {p}")
    return p
