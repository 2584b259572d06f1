"""Other sizes and other places: interpolation, sampling by a grid, pixel and channel shuffles."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any

from ..backend import array_module
from ..errors import RangeError, ShapeError
from ..graph import apply
from ..kernels.reference_resample import CUBIC
from ..op import Array
from ..ops.arithmetic import WHERE
from ..ops.conv import LAYOUT
from ..ops.indexing import GATHER
from ..ops.resample import MODES, RESAMPLE
from ..tensor import Tensor
from .functional_pool import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
Sizes = int | Sequence[int] | None
Scales = float | Sequence[float] | None


# ---- interpolation ---------------------------------------------------------------------------------------------------


def _target(
    op: str, input: Tensor, size: Sizes, scale_factor: Scales, recompute: bool | None
) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    """Output size, and for each dimension the factor that places are computed with (None: from the sizes)."""
    count = input.ndim - 2
    if (size is None) == (scale_factor is None):
        raise RangeError(f"{op}: give size or scale_factor, one of them")
    if size is not None:
        wanted = tuple(size) if isinstance(size, Sequence) else (size,) * count
        if len(wanted) != count or min(wanted) < 1:
            raise RangeError(f"{op}: size must be a positive integer or {count} of them, got {size!r}")
        return tuple(int(n) for n in wanted), (None,) * count
    factors = tuple(scale_factor) if isinstance(scale_factor, Sequence) else (scale_factor,) * count
    if len(factors) != count or not all(f > 0 for f in factors):  # type: ignore[operator]
        raise RangeError(f"{op}: scale_factor must be a positive number or {count} of them, got {scale_factor!r}")
    numbers = tuple(float(f) for f in factors)  # type: ignore[arg-type]
    sizes = tuple(math.floor(n * f) for n, f in zip(input.shape[2:], numbers, strict=True))
    if min(sizes) < 1:
        raise RangeError(f"{op}: scale_factor={scale_factor!r} leaves nothing of an input of shape {input.shape}")
    return sizes, (None,) * count if recompute else numbers


def interpolate(
    input: Tensor,
    size: Sizes = None,
    scale_factor: Scales = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Resize (N, C, L), (N, C, H, W) or (N, C, D, H, W) to ``size``, or by ``scale_factor``.

    Modes: "nearest", "nearest-exact", "linear" (3-d), "bilinear" and "bicubic" (4-d), "trilinear" (5-d), "area". With
    ``align_corners`` the corners' centres stay; without, the images' edges do. ``antialias`` ("bilinear", "bicubic") smooths what
    shrinks, as Pillow does. Raises RangeError for a mode of another number of dimensions.

    >>> F.interpolate(phalanx.tensor([[[1.0, 3.0]]]), scale_factor=2, mode="linear").tolist()
    [[[1.0, 1.5, 2.5, 3.0]]]
    """
    op = "interpolate"
    count = input.ndim - 2
    if count not in LAYOUT:
        raise ShapeError(f"{op}: input must have 3, 4 or 5 dimensions (batch, channels, ...), got shape {input.shape}")
    fit = {"nearest", "nearest-exact", "area", _LINEAR[count]} | ({"bicubic"} if count == 2 else set())
    if mode not in fit:
        known = ", ".join(sorted(fit))
        raise RangeError(f"{op}: an input of shape {input.shape} takes one of the modes {known}, got {mode!r}")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise RangeError(f"{op}: antialias=True belongs to the modes 'bilinear' and 'bicubic', not to {mode!r}")
    plain = mode in ("nearest", "nearest-exact", "area")
    if align_corners is not None and plain:
        raise RangeError(f"{op}: align_corners belongs to the linear and cubic modes, not to {mode!r}")
    sizes, factors = _target(op, input, size, scale_factor, recompute_scale_factor)
    if mode == "area":
        pool: Any = (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)[count - 1]
        return pool(input, sizes)
    kind = {"nearest": "nearest", "nearest-exact": "nearest-exact", "bicubic": "cubic"}.get(mode, "linear")
    kind = f"smooth {kind}" if antialias else kind
    assert kind in MODES
    return apply(RESAMPLE, input, size=sizes, factors=factors, mode=kind, align_corners=bool(align_corners))


def upsample(
    input: Tensor,
    size: Sizes = None,
    scale_factor: Scales = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """interpolate by its old name.

    >>> F.upsample(phalanx.tensor([[[1.0, 3.0]]]), scale_factor=2).tolist()
    [[[1.0, 1.0, 3.0, 3.0]]]
    """
    return interpolate(input, size, scale_factor, mode, align_corners)


# ---- sampling by a grid ----------------------------------------------------------------------------------------------


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """Places of an affine map for grid_sample: theta (N, 2, 3) and size (N, C, H, W) -> (N, H, W, 2), or one dimension more.

    Coordinates run from -1 to 1, x before y; with ``align_corners`` these are the centres of the corner pixels, else their edges.

    >>> F.affine_grid(phalanx.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]), (1, 1, 1, 2), False).tolist()
    [[[[-0.5, 0.0], [0.5, 0.0]]]]
    """
    count = len(size) - 2
    if count not in (2, 3) or theta.shape != (size[0], count, count + 1):
        raise ShapeError(
            f"affine_grid: expected theta (N, 2, 3) with size (N, C, H, W), or (N, 3, 4) with (N, C, D, H, W), got {theta.shape} and "
            f"{tuple(size)}"
        )
    _tell_corners("affine_grid", align_corners)
    xp = array_module(theta.array)
    axes = []
    for length in size[2:]:
        line = xp.linspace(-1.0, 1.0, length) if length > 1 else xp.zeros(1)
        axes.append(line if align_corners else line * ((length - 1) / length))
    grid = xp.meshgrid(*axes, indexing="ij")
    base = xp.stack([*reversed(grid), xp.ones_like(grid[0])], axis=-1).astype(theta.dtype)  # (*size, count + 1)
    places = Tensor(base.reshape(1, -1, count + 1)) @ theta.transpose(1, 2)
    return places.reshape(size[0], *size[2:], count)


def _tell_corners(op: str, align_corners: bool | None) -> None:
    if align_corners is None:
        warnings.warn(f"{op}: align_corners is False if not given; say which", stacklevel=3)


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """Values at the places of ``grid``: input (N, C, H, W), grid (N, P, Q, 2) -> (N, C, P, Q), or with one dimension more.

    Places are (x, y) or (x, y, z) from -1 to 1. ``mode`` is "bilinear", "nearest" or (of images) "bicubic"; ``padding_mode`` says what
    lies outside: "zeros", "border" or "reflection". Jaderberg et al., "Spatial Transformer Networks", 2015.

    >>> x = phalanx.tensor([[[[1.0, 3.0]]]])
    >>> F.grid_sample(x, phalanx.zeros(1, 1, 1, 2), align_corners=True).tolist()
    [[[[2.0]]]]
    """
    op = "grid_sample"
    count = input.ndim - 2
    if (
        count not in (2, 3)
        or grid.ndim != input.ndim
        or grid.shape[-1:] != (count,)
        or grid.shape[:1] != input.shape[:1]
    ):
        raise ShapeError(
            f"{op}: expected input (N, C, H, W) with grid (N, P, Q, 2), or (N, C, D, H, W) with (N, O, P, Q, 3), got {input.shape} "
            f"and {grid.shape}"
        )
    if mode not in ("bilinear", "nearest") and (mode != "bicubic" or count != 2):
        raise RangeError(f"{op}: mode must be 'bilinear', 'nearest' or, of images, 'bicubic', got {mode!r}")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise RangeError(f"{op}: padding_mode must be 'zeros', 'border' or 'reflection', got {padding_mode!r}")
    _tell_corners(op, align_corners)
    size, samples = input.shape[2:], grid.shape[0]
    flat = input.reshape(samples, input.shape[1], math.prod(size))
    places = grid.reshape(samples, -1, count)
    corners = bool(align_corners)
    pixels = [_pixel(places[..., count - 1 - axis], length, corners) for axis, length in enumerate(size)]
    if mode == "bicubic":
        taken = _cubic(flat, pixels, size, padding_mode, corners)
        return taken.reshape(samples, input.shape[1], *grid.shape[1:-1])
    along = [_inside(p, length, padding_mode, corners) for p, length in zip(pixels, size, strict=True)]
    if mode == "nearest":
        taken = _taken(flat, [array_module(p.array).rint(p.array) for p in along], size)
    else:
        taken = _blended(flat, along, size)
    return taken.reshape(samples, input.shape[1], *grid.shape[1:-1])


def _pixel(x: Tensor, length: int, align_corners: bool) -> Tensor:
    """Coordinates from -1 to 1 as positions of pixels along a dimension of ``length``."""
    return (x + 1.0) * ((length - 1) / 2) if align_corners else ((x + 1.0) * float(length) - 1.0) * 0.5


def _inside(x: Tensor, length: int, padding_mode: str, align_corners: bool) -> Tensor:
    """Positions moved into the image, as ``padding_mode`` says; "zeros" leaves them where they are."""
    if padding_mode == "border":
        return x.clamp(0.0, float(length - 1))
    if padding_mode == "reflection":
        low, span = (0.0, float(length - 1)) if align_corners else (-0.5, float(length))
        if span == 0:
            return x * 0.0
        x = (x - low).abs()
        xp = array_module(x.array)
        turns = xp.floor(x.array / span)
        rest = x - Tensor((turns * span).astype(x.dtype, copy=False))
        flipped = (turns.astype(int) % 2).astype(bool)
        x = apply(WHERE, flipped, span - rest, rest) + low
        return x.clamp(0.0, float(length - 1))
    return x


def _taken(flat: Tensor, places: list[Array], size: tuple[int, ...]) -> Tensor:
    """Elements of flat (N, C, S) at whole places (N, M) along each dimension; 0 outside."""
    xp = array_module(flat.array)
    inside = xp.ones(places[0].shape, bool)
    number = xp.zeros(places[0].shape, int)
    for place, length in zip(places, size, strict=True):
        inside = inside & (place >= 0) & (place <= length - 1)
        number = number * length + xp.clip(place, 0, length - 1).astype(int)
    index = xp.broadcast_to(number[:, None, :], (number.shape[0], flat.shape[1], number.shape[1]))
    return apply(WHERE, inside[:, None, :], apply(GATHER, flat, axis=2, index=index), flat.dtype.type(0))


def _blended(flat: Tensor, along: list[Tensor], size: tuple[int, ...]) -> Tensor:
    """The corners around each place, weighted by their nearness."""
    lower = [array_module(p.array).floor(p.array) for p in along]
    nearness = [(1.0 - (p - Tensor(low)), p - Tensor(low)) for p, low in zip(along, lower, strict=True)]
    total = None
    for corner in itertools.product((0, 1), repeat=len(size)):
        weight = nearness[0][corner[0]]
        for axis in range(1, len(size)):
            weight = weight * nearness[axis][corner[axis]]
        part = _taken(flat, [low + c for low, c in zip(lower, corner, strict=True)], size) * weight.unsqueeze(1)
        total = part if total is None else total + part
    assert total is not None
    return total


def _cubic(flat: Tensor, pixels: list[Tensor], size: tuple[int, ...], padding_mode: str, align_corners: bool) -> Tensor:
    """Four by four neighbours, each of them moved into the image by itself."""
    xp = array_module(flat.array)
    lower = [xp.floor(p.array) for p in pixels]
    weights, lines = [], []
    for p, low, length in zip(pixels, lower, size, strict=True):
        t = p - Tensor(low)
        weights.append([_far(t + 1.0), _near(t), _near(1.0 - t), _far(2.0 - t)])
        moved = [_inside(Tensor(low + k), length, padding_mode, align_corners).array for k in (-1, 0, 1, 2)]
        lines.append([xp.rint(m) for m in moved])
    total = None
    for row, column in itertools.product(range(4), repeat=2):
        weight = weights[0][row] * weights[1][column]
        part = _taken(flat, [lines[0][row], lines[1][column]], size) * weight.unsqueeze(1)
        total = part if total is None else total + part
    assert total is not None
    return total


def _near(d: Tensor) -> Tensor:
    """Keys' kernel within a distance of 1."""
    return ((CUBIC + 2.0) * d - (CUBIC + 3.0)) * d * d + 1.0


def _far(d: Tensor) -> Tensor:
    """Keys' kernel between the distances 1 and 2."""
    return ((CUBIC * d - 5.0 * CUBIC) * d + 8.0 * CUBIC) * d - 4.0 * CUBIC


# ---- shuffles --------------------------------------------------------------------------------------------------------


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(..., C * r * r, H, W) -> (..., C, H * r, W * r), r being ``upscale_factor``. Shi et al., 2016.

    >>> F.pixel_shuffle(phalanx.arange(4.0).reshape(1, 4, 1, 1), 2).tolist()
    [[[[0.0, 1.0], [2.0, 3.0]]]]
    """
    r = upscale_factor
    if input.ndim < 3 or r < 1 or input.shape[-3] % (r * r):
        raise ShapeError(
            f"pixel_shuffle: expected (..., C * {r} * {r}, H, W) for upscale_factor={r}, got shape {input.shape}"
        )
    *lead, channels, height, width = input.shape
    n = len(lead)
    split = input.reshape(*lead, channels // (r * r), r, r, height, width)
    moved = split.permute(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return moved.reshape(*lead, channels // (r * r), height * r, width * r)


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """The way back of pixel_shuffle: (..., C, H * r, W * r) -> (..., C * r * r, H, W).

    >>> F.pixel_unshuffle(phalanx.arange(4.0).reshape(1, 1, 2, 2), 2).flatten().tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    r = downscale_factor
    if input.ndim < 3 or r < 1 or input.shape[-1] % r or input.shape[-2] % r:
        raise ShapeError(
            f"pixel_unshuffle: expected (..., C, H * {r}, W * {r}) for downscale_factor={r}, got shape {input.shape}"
        )
    *lead, channels, height, width = input.shape
    n = len(lead)
    split = input.reshape(*lead, channels, height // r, r, width // r, r)
    moved = split.permute(*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return moved.reshape(*lead, channels * r * r, height // r, width // r)


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Deals the channels of (N, C, ...) out to ``groups`` in turn. Zhang et al., "ShuffleNet", 2017.

    >>> F.channel_shuffle(phalanx.arange(4.0).reshape(1, 4, 1), 2).flatten().tolist()
    [0.0, 2.0, 1.0, 3.0]
    """
    if input.ndim < 3 or groups < 1 or input.shape[1] % groups:
        raise ShapeError(
            f"channel_shuffle: groups={groups} must divide the channels of (N, C, ...), got shape {input.shape}"
        )
    rest = input.shape[2:]
    split = input.reshape(input.shape[0], groups, input.shape[1] // groups, *rest)
    return split.transpose(1, 2).reshape(*input.shape)
