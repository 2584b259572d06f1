"""Elements of images at given places, on the device: taken, put, and added in the order in which they come."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ...backend import Array, array_module
from .. import reference_pool as reference
from .dense import INT64, THREADS, blocks_for, contiguous, filled, plain
from .embedding import embedding_backward, sorted_places
from .launch import launch, suffix

MOST_PLACES = 2**31 - 1


def _sizes(index: Array, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Planes, places of each, elements of each."""
    planes = shape[0] * shape[1]
    return planes, index.size // max(1, planes), math.prod(shape[2:])


def take_places(x: Array, index: Array) -> Array:
    """As ``reference_pool.take_places``."""
    if not filled(x) or not index.size:
        return reference.take_places(x, index)
    y = array_module(x).empty(index.shape, x.dtype)
    launch(
        "embedding", f"take_places_{suffix(x.dtype)}", blocks_for(index.size), THREADS, contiguous(x), plain(index, INT64), y,
        *_sizes(index, x.shape),
    )  # fmt: skip
    return y


def _whole(index: Array, shape: tuple[int, ...]) -> Array:
    """Places in all planes, one dimension."""
    whole = array_module(index).empty(index.size, INT64)
    launch(
        "embedding", "whole_places", blocks_for(index.size), THREADS, plain(index, INT64), whole, *_sizes(index, shape)
    )
    return whole


def put_places(values: Array, index: Array, shape: tuple[int, ...]) -> Array:
    """As ``reference_pool.put_places``."""
    count = math.prod(shape)
    if not filled(values) or count > MOST_PLACES or not count:
        return reference.put_places(values, index, shape)
    y = array_module(values).zeros(shape, values.dtype)
    keys, places = sorted_places(_whole(index, shape), count, None)
    launch(
        "embedding", f"put_last_{suffix(values.dtype)}", blocks_for(values.size), THREADS, contiguous(values), keys, places,
        values.size, count, y,
    )  # fmt: skip
    return y


def add_places(values: Array, index: Array, shape: tuple[int, ...]) -> Array:
    """As ``reference_pool.add_places``."""
    count = math.prod(shape)
    if not filled(values) or count > MOST_PLACES or not count:
        return reference.add_places(values, index, shape)
    return embedding_backward(contiguous(values).reshape(-1, 1), _whole(index, shape), count).reshape(shape)


KERNELS: dict[str, Callable[..., Any]] = {
    "take_places": take_places,
    "put_places": put_places,
    "add_places": add_places,
}
