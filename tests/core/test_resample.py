"""Interpolation, grids and shuffles beside PyTorch's, over their options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import phalanx.nn.functional as F
from phalanx.core.errors import RangeError, ShapeError
from phalanx.core.tensor import Tensor
from tests.core.beside_torch import draw, same

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

SHAPES = {1: (2, 3, 7), 2: (2, 3, 5, 7), 3: (1, 2, 3, 5, 4)}
TARGETS: dict[int, list[dict[str, Any]]] = {
    1: [{"size": 11}, {"size": 3}, {"scale_factor": 2.5}, {"size": 1}],
    2: [{"size": (8, 3)}, {"size": 5}, {"scale_factor": 2}, {"scale_factor": (0.6, 1.7)},
        {"scale_factor": 1.3, "recompute_scale_factor": True}, {"size": (5, 14)}],
    3: [{"size": (4, 4, 4)}, {"scale_factor": 1.5}],
}  # fmt: skip
MODES = {1: ["linear"], 2: ["bilinear", "bicubic"], 3: ["trilinear"]}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_interpolate(count: int) -> None:
    for target in TARGETS[count]:
        for mode in ("nearest", "nearest-exact", "area"):
            same("interpolate", [draw(*SHAPES[count])], mode=mode, **target)
        for mode in MODES[count]:
            for corners in (True, False):
                same("interpolate", [draw(*SHAPES[count])], mode=mode, align_corners=corners, **target)
    same(
        "interpolate", [draw(*SHAPES[count], dtype=np.float32)], scale_factor=1.9, mode=MODES[count][0], tolerance=1e-5
    )


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_antialias(mode: str) -> None:
    for target in ({"size": (3, 4)}, {"size": (9, 2)}, {"size": (1, 20)}, {"scale_factor": (0.4, 0.7)}):
        for corners in (True, False):
            same("interpolate", [draw(2, 3, 8, 11)], mode=mode, align_corners=corners, antialias=True, **target)


def test_nearest_takes_pytorchs_neighbour_at_many_sizes() -> None:
    for length in (3, 10, 49):
        x = np.arange(float(length)).reshape(1, 1, -1)
        for out in range(1, 120, 7):
            for mode in ("nearest", "nearest-exact"):
                same("interpolate", [x], size=out, mode=mode)


def test_nearest_keeps_infinities_apart() -> None:
    x = Tensor(np.array([[[np.inf, 1.0, np.nan]]]))
    y = F.interpolate(x, size=6).numpy()[0, 0]
    assert np.isinf(y[:2]).all() and (y[2:4] == 1).all() and np.isnan(y[4:]).all()


GRIDS = [(2, (3, 6, 5, 2), (3, 2, 4, 7)), (3, (2, 3, 4, 2, 3), (2, 2, 3, 4, 5)), (2, (1, 2, 2, 2), (1, 1, 1, 3))]


@pytest.mark.parametrize(("count", "grid", "size"), GRIDS)
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [True, False])
def test_grid_sample(count: int, grid: Any, size: Any, padding_mode: str, corners: bool) -> None:
    options = {"padding_mode": padding_mode, "align_corners": corners}
    same("grid_sample", [draw(*size), draw(*grid)], mode="bilinear", **options)
    same("grid_sample", [draw(*size)], constants=[draw(*grid)], mode="nearest", **options)
    if count == 2:
        same("grid_sample", [draw(*size), draw(*grid)], mode="bicubic", **options)


@pytest.mark.parametrize("corners", [True, False])
def test_affine_grid(corners: bool) -> None:
    same("affine_grid", [draw(2, 2, 3)], size=[2, 3, 4, 5], align_corners=corners)
    same("affine_grid", [draw(2, 3, 4)], size=[2, 3, 4, 1, 5], align_corners=corners)


def test_shuffles() -> None:
    same("pixel_shuffle", [draw(2, 18, 2, 3)], upscale_factor=3)
    same("pixel_shuffle", [draw(4, 2, 3)], upscale_factor=2)
    same("pixel_unshuffle", [draw(2, 2, 6, 9)], downscale_factor=3)
    same("channel_shuffle", [draw(2, 6, 3)], groups=3)
    x = draw(2, 8, 3, 4)
    np.testing.assert_array_equal(F.pixel_unshuffle(F.pixel_shuffle(Tensor(x), 2), 2).numpy(), x)


ERRORS = [
    (lambda: F.interpolate(Tensor(draw(2, 3)), 4), ShapeError, "3, 4 or 5 dimensions"),
    (lambda: F.interpolate(Tensor(draw(2, 3, 4)), 4, mode="bilinear"), RangeError, "modes area, linear"),
    (lambda: F.interpolate(Tensor(draw(2, 3, 4))), RangeError, "size or scale_factor"),
    (lambda: F.interpolate(Tensor(draw(2, 3, 4)), (2, 2)), RangeError, "size must be"),
    (lambda: F.interpolate(Tensor(draw(2, 3, 4)), scale_factor=0.1), RangeError, "leaves nothing"),
    (lambda: F.interpolate(Tensor(draw(2, 3, 4)), 2, align_corners=True), RangeError, "align_corners belongs"),
    (lambda: F.interpolate(Tensor(draw(1, 1, 4)), 2, antialias=True), RangeError, "antialias"),
    (lambda: F.grid_sample(Tensor(draw(1, 1, 4, 4)), Tensor(draw(1, 2, 2, 3))), ShapeError, "grid"),
    (lambda: F.grid_sample(Tensor(draw(1, 1, 4, 4)), Tensor(draw(1, 2, 2, 2)), mode="cubic"), RangeError, "mode"),
    (lambda: F.affine_grid(Tensor(draw(1, 2, 2)), (1, 1, 2, 2)), ShapeError, "theta"),
    (lambda: F.pixel_shuffle(Tensor(draw(1, 3, 2, 2)), 2), ShapeError, "upscale_factor=2"),
    (lambda: F.channel_shuffle(Tensor(draw(1, 3, 2)), 2), ShapeError, "groups=2"),
]


@pytest.mark.parametrize(("call", "kind", "words"), ERRORS, ids=[words for *_, words in ERRORS])
def test_errors_say_what_is_wrong(call: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        call()
