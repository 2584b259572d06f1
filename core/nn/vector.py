"""All parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import ShapeError
from ..functions import cat
from ..tensor import Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """The elements of all ``parameters`` in order, as one vector; gradients pass through.

    >>> nn.utils.parameters_to_vector(nn.Linear(2, 3).parameters()).shape
    (9,)
    """
    return cat([parameter.reshape(-1) for parameter in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy the elements of ``vec`` into ``parameters``, in order. Raises ShapeError if their numbers differ.

    >>> layer = nn.Linear(1, 1)
    >>> nn.utils.vector_to_parameters(phalanx.tensor([2.0, 3.0]), layer.parameters())
    >>> layer(phalanx.ones(1)).item()
    5.0
    """
    targets = list(parameters)
    expected = sum(parameter.array.size for parameter in targets)
    if vec.ndim != 1 or vec.array.size != expected:
        raise ShapeError(f"vector_to_parameters: expected a vector of {expected} elements, got shape {vec.shape}")
    start = 0
    for parameter in targets:
        size = parameter.array.size
        parameter.array[...] = vec.array[start : start + size].reshape(parameter.shape)
        start += size
