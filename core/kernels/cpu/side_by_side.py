"""Convolution of small images with many weights: several images of the batch side by side as one, zeros between them.

oneDNN takes one image after the other and reads all weights for each; where the weights are larger than the second-level cache and the
image is small, it waits for them most of the time. On images side by side it reads them less often and has long rows: 512 channels
to 512 on 4x4 take 7 ms instead of 10.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ...op import Array
from ..window import Size, Window
from . import channels_last

MOST_PLACES = 25
"""Places of an output that counts as small."""
FEWEST_WEIGHTS = 1 << 19
"""2 MiB."""
LONGEST = 48
"""Places of a row of images side by side, at most."""


class Side(NamedTuple):
    """How images lie side by side: ``images`` in a row, each begins ``step`` columns after the one before (``out_step`` in the output)."""

    images: int
    step: int
    out_step: int
    width: int
    out_width: int


@lru_cache(1024)
def plan(x: Size, weight: Size, output: Size, window: Window, groups: int) -> Side | None:
    """How many images of shape ``x`` (N, C, H, W) to lay side by side for an ``output`` (OH, OW); None where it does not pay."""
    if len(x) != 4 or groups != 1 or max(window.dilation) > 1 or max(window.kernel) == 1 or min(output) < 1:
        return None
    if math.prod(weight) < FEWEST_WEIGHTS or math.prod(output) > MOST_PLACES:
        return None
    stride, padding = window.stride[1], window.padding[1]
    reach = (output[1] - 1) * stride - padding + window.reach(1)
    out_step = -(-max(x[3] + padding, reach) // stride)
    images = next(n for n in range(max(1, min(x[0], LONGEST // out_step)), 0, -1) if x[0] % n == 0)
    width = images * out_step * stride
    out_width = window.output((x[2], width))[1]
    return None if images == 1 else Side(images, out_step * stride, out_step, width, out_width)


def together(x: Array, side: Side, step: int, width: int) -> Array:
    """Images (N, C, H, W) side by side: (N / images, C, H, ``width``), zeros between them."""
    last = channels_last.to_last(x)
    samples, height, columns, channels = last.shape
    rows = np.zeros((samples // side.images, height, width, channels), x.dtype)
    parts = last.reshape(samples // side.images, side.images, height, columns, channels)
    for image in range(side.images):
        rows[:, :, image * step : image * step + columns] = parts[:, image]
    return channels_last.to_first(rows)


def apart(rows: Array, side: Side, step: int, columns: int) -> Array:
    """The other way: the first ``columns`` of each image."""
    last = channels_last.to_last(rows)
    groups, height, _, channels = last.shape
    parts = np.empty((groups, side.images, height, columns, channels), rows.dtype)
    for image in range(side.images):
        parts[:, image] = last[:, :, image * step : image * step + columns]
    return channels_last.to_first(parts.reshape(groups * side.images, height, columns, channels))
