"""Cases of convolution and pooling over one, two and three dimensions. NumPy's side is the definition, in loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.core.definitions import adaptive, adaptive_winners, columns, conv, conv_transpose, pooled, resized, winners
from tests.core.op_cases import Case

try:
    import torch.nn.functional as T
except ImportError:
    T = None

_random = np.random.default_rng(2025)
CASES: list[Case] = []


def draw(*shape: int) -> np.ndarray:
    """Normal numbers."""
    return _random.normal(size=shape)


def distinct(*shape: int) -> np.ndarray:
    """Numbers at least 0.1 apart: no ties within a difference."""
    return (_random.permutation(math.prod(shape)) * 0.1).reshape(shape)


def case(op: str, *inputs: Any, numpy: Any, torch: Any, name: str = "", **rest: Any) -> None:
    """One line of the table; what is no field of a Case is an attribute of the op."""
    fields = {key: rest.pop(key) for key in ("gradient", "rtol", "with_gradient") if key in rest}
    CASES.append(Case(op, inputs, rest, numpy, torch, name, **fields))


# ---- convolution -----------------------------------------------------------------------------------------------------

for x_shape, w_shape, options in [
    ((2, 3, 8), (4, 3, 3), {}),
    ((2, 4, 9), (6, 2, 2), {"stride": (2,), "padding": (1,), "dilation": (3,), "groups": 2}),
    ((2, 3, 5), (4, 3, 1), {}),
    ((0, 3, 8), (4, 3, 3), {"padding": (1,)}),
    ((2, 3, 6, 5), (4, 3, 3, 3), {}),
    ((2, 3, 6, 5), (4, 3, 3, 2), {"stride": (2, 1), "padding": (1, 2)}),
    ((2, 4, 7, 7), (4, 2, 3, 3), {"padding": (2, 2), "dilation": (2, 1), "groups": 2}),
    ((2, 4, 5, 5), (8, 1, 3, 3), {"padding": (1, 1), "groups": 4}),
    ((2, 4, 5, 5), (4, 1, 3, 3), {"padding": (1, 1), "groups": 4}),
    ((2, 4, 5, 4), (3, 4, 1, 1), {}),
    ((2, 4, 5, 4), (4, 2, 1, 1), {"stride": (2, 2), "groups": 2}),
    ((1, 2, 14, 14), (2, 2, 3, 3), {"padding": (1, 1)}),
    ((2, 2, 5, 5), (2, 2, 5, 5), {}),
    ((0, 3, 6, 5), (4, 3, 3, 3), {"padding": (1, 1)}),
    ((2, 2, 3, 4, 5), (3, 2, 2, 3, 3), {}),
    ((1, 4, 4, 5, 4), (4, 2, 2, 3, 1), {"stride": (1, 2, 1), "padding": (1, 0, 1), "dilation": (2, 1, 1), "groups": 2}),
    ((1, 2, 2, 2, 9), (1, 2, 1, 1, 2), {}),
    ((0, 2, 3, 4, 5), (3, 2, 2, 3, 3), {}),
]:
    for bias in (True, False):
        case(
            f"conv{len(x_shape) - 2}d",
            draw(*x_shape),
            draw(*w_shape),
            *([draw(w_shape[0])] if bias else []),
            numpy=lambda *a, o=options: conv(*a, **o),
            torch=lambda x, w, b=None, o=options: getattr(T, f"conv{x.ndim - 2}d")(x, w, b, **o),
            name=f"{x_shape} {w_shape} {options} {'bias' if bias else ''}",
            **options,
        )

for x_shape, w_shape, options in [
    ((2, 3, 5), (3, 2, 3), {}),
    ((2, 4, 4), (4, 3, 3), {"stride": (3,), "padding": (1,), "output_padding": (2,), "groups": 2}),
    ((1, 2, 4), (2, 1, 3), {"stride": (2,), "dilation": (3,), "output_padding": (2,)}),
    ((0, 3, 5), (3, 2, 3), {}),
    ((2, 3, 3, 4), (3, 2, 3, 2), {}),
    ((2, 3, 3, 4), (3, 2, 2, 2), {"stride": (2, 2)}),
    ((2, 4, 3, 4), (4, 2, 3, 3), {"stride": (2, 1), "padding": (1, 2), "output_padding": (1, 0), "groups": 2}),
    ((1, 4, 3, 3), (4, 1, 4, 4), {"stride": (2, 2), "padding": (1, 1), "groups": 4}),
    ((2, 3, 4, 3), (3, 5, 1, 1), {}),
    ((0, 3, 3, 4), (3, 2, 3, 2), {}),
    ((1, 2, 2, 3, 2), (2, 3, 2, 3, 2), {"stride": (2, 1, 2), "padding": (0, 1, 1)}),
    ((0, 2, 2, 3, 2), (2, 3, 2, 3, 2), {}),
]:
    for bias in (True, False):
        case(
            f"conv_transpose{len(x_shape) - 2}d",
            draw(*x_shape),
            draw(*w_shape),
            *([draw(w_shape[1] * options.get("groups", 1))] if bias else []),
            numpy=lambda *a, o=options: conv_transpose(*a, **o),
            torch=lambda x, w, b=None, o=options: getattr(T, f"conv_transpose{x.ndim - 2}d")(x, w, b, **o),
            name=f"{x_shape} {w_shape} {options} {'bias' if bias else ''}",
            **options,
        )

WINDOW = {"kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 1), "dilation": (2, 1)}
for samples in (2, 0):
    case(
        "im2col",
        draw(samples, 3, 5, 6),
        numpy=lambda x: columns(x, (5, 3), **WINDOW),
        torch=lambda x: T.unfold(x, (2, 3), (2, 1), (1, 1), (1, 2)),
        name=f"{samples} samples",
        **WINDOW,
    )
    case(
        "col2im",
        draw(samples, 18, 15),
        numpy=None,  # the transpose of im2col: its gradient's test says so
        torch=lambda x: T.fold(x, (5, 6), (2, 3), (2, 1), (1, 1), (1, 2)),
        name=f"{samples} samples",
        output_size=(5, 6),
        **WINDOW,
    )

# ---- pooling ---------------------------------------------------------------------------------------------------------

for size, output, options in [
    ((2, 3, 7), (3,), {"kernel_size": (2,), "stride": (2,)}),
    ((1, 2, 9), (4,), {"kernel_size": (3,), "stride": (2,), "padding": (1,), "dilation": (2,)}),
    ((0, 3, 7), (3,), {"kernel_size": (2,), "stride": (2,)}),
    ((2, 3, 6, 8), (3, 4), {"kernel_size": (2, 2), "stride": (2, 2)}),
    ((2, 3, 7, 5), (3, 2), {"kernel_size": (2, 2), "stride": (2, 2)}),
    ((2, 3, 7, 6), (4, 3), {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1)}),
    ((1, 2, 6, 6), (5, 3), {"kernel_size": (2, 1), "stride": (1, 2)}),
    ((1, 2, 7, 7), (2, 2), {"kernel_size": (2, 2), "stride": (4, 3)}),
    ((1, 2, 8, 8), (4, 4), {"kernel_size": (3, 3), "stride": (2, 2), "ceil_mode": True}),
    ((2, 2, 7, 7), (5, 4), {"kernel_size": (2, 3), "stride": (1, 2), "padding": (0, 1), "dilation": (2, 1)}),
    ((0, 2, 6, 6), (3, 3), {"kernel_size": (2, 2), "stride": (2, 2)}),
    ((1, 2, 4, 5, 4), (2, 2, 2), {"kernel_size": (2, 2, 2), "stride": (2, 2, 2)}),
    ((1, 2, 4, 5, 4), (4, 3, 3), {"kernel_size": (3, 2, 2), "stride": (1, 2, 1), "padding": (1, 1, 0)}),
    ((0, 2, 4, 5, 4), (2, 2, 2), {"kernel_size": (2, 2, 2), "stride": (2, 2, 2)}),
]:
    count = len(output)
    case(
        f"max_pool{count}d",
        distinct(*size),
        numpy=pooled(np.max, -np.inf, output, **options),
        torch=lambda x, o=options: getattr(T, f"max_pool{x.ndim - 2}d")(x, **o),
        name=f"{size} {options}",
        **options,
    )
    if count != 2 or "padding" in options or not size[0]:
        case(
            f"max_pool{count}d_with_indices",
            distinct(*size),
            numpy=lambda x, o=options, n=output: winners(x, n, **o),
            torch=lambda x, o=options: getattr(T, f"max_pool{x.ndim - 2}d")(x, return_indices=True, **o),
            name=f"{size} {options}",
            **options,
        )
    if not options.get("ceil_mode") and "dilation" not in options:
        case(
            f"avg_pool{count}d",
            draw(*size),
            numpy=pooled(np.mean, 0.0, output, **options),
            torch=lambda x, o=options: getattr(T, f"avg_pool{x.ndim - 2}d")(x, **o),
            name=f"{size} {options}",
            **options,
        )
AVERAGE = {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1)}
case(
    "avg_pool2d",
    draw(2, 2, 7, 7),
    numpy=pooled(np.nanmean, np.nan, (4, 4), **AVERAGE),
    torch=lambda x: T.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    name="without padding",
    count_include_pad=False,
    **AVERAGE,
)
case(
    "avg_pool2d",
    draw(2, 2, 8, 8),
    numpy=pooled(np.nanmean, np.nan, (5, 5), **AVERAGE),
    torch=lambda x: T.avg_pool2d(x, 3, 2, 1, True, False),
    name="ceil_mode",
    count_include_pad=False,
    ceil_mode=True,
    **AVERAGE,
)
case(
    "avg_pool2d",
    draw(2, 2, 7, 7),
    numpy=lambda x: pooled(np.sum, 0.0, (4, 4), **AVERAGE)(x) / 5,
    torch=lambda x: T.avg_pool2d(x, 3, 2, 1, divisor_override=5),
    name="divisor",
    divisor_override=5,
    **AVERAGE,
)
case(
    "avg_pool3d",
    draw(1, 2, 4, 3, 5),
    numpy=pooled(np.nanmean, np.nan, (3, 2, 3), kernel_size=(2, 2, 3), stride=(2, 2, 2), padding=(1, 1, 1)),
    torch=lambda x: T.avg_pool3d(x, (2, 2, 3), 2, 1, count_include_pad=False),
    name="without padding",
    kernel_size=(2, 2, 3),
    stride=(2, 2, 2),
    padding=(1, 1, 1),
    count_include_pad=False,
)
for samples, inside, size in [
    (2, (7,), (3,)), (0, (7,), (2,)),
    (2, (5, 7), (1, 1)), (2, (5, 7), (3, 2)), (2, (6, 4), (3, 2)), (1, (5, 7), (5, 7)), (1, (5, 7), (6, 9)), (0, (5, 7), (2, 2)),
    (1, (3, 4, 5), (2, 3, 2)), (0, (3, 4, 5), (1, 1, 1)),
]:  # fmt: skip
    count = len(size)
    case(
        f"adaptive_avg_pool{count}d",
        draw(samples, 2, *inside),
        numpy=lambda x, s=size: adaptive(x, s),
        torch=lambda x, s=size: getattr(T, f"adaptive_avg_pool{x.ndim - 2}d")(x, s),
        name=f"{samples} samples {inside} {size}",
        output_size=size,
    )
    case(
        f"adaptive_max_pool{count}d",
        distinct(samples, 2, *inside),
        numpy=lambda x, s=size: adaptive_winners(x, s),
        torch=lambda x, s=size: getattr(T, f"adaptive_max_pool{x.ndim - 2}d")(x, s, return_indices=True),
        name=f"{samples} samples {inside} {size}",
        output_size=size,
    )
for samples in (2, 0):
    case(
        "max_unpool",
        draw(samples, 2, 2, 3),
        np.argsort(_random.random((samples, 2, 24)), axis=2)[..., :6].reshape(samples, 2, 2, 3),
        numpy=None,  # put_along_axis itself; PyTorch's is the other witness
        torch=lambda x, i: T.max_unpool2d(x, i, 2, output_size=(4, 6)),
        name=f"{samples} samples",
        output_size=(4, 6),
    )

# ---- other sizes -----------------------------------------------------------------------------------------------------

for mode, corners, size, factors in [
    ("nearest", False, (7, 3), (None, None)),
    ("nearest-exact", False, (4, 9), (None, 1.8)),
    ("linear", False, (7, 3), (None, None)),
    ("linear", True, (7, 5), (None, None)),
    ("cubic", False, (6, 8), (None, 1.6)),
    ("cubic", True, (1, 8), (None, None)),
]:
    for samples in (2, 0):
        case(
            "interpolate",
            draw(samples, 2, 4, 5),
            numpy=lambda x, *rest, m=mode, c=corners, s=size, f=factors: resized(x, s, f, m, c),
            torch=None if samples == 0 or factors != (None, None) else (  # an error there; test_resample has the scales
                lambda x, m=mode, c=corners, s=size: T.interpolate(
                    x, s, mode={"linear": "bilinear", "cubic": "bicubic"}.get(m, m),
                    align_corners=None if m.startswith("nearest") else c,
                )
            ),
            name=f"{mode} {samples} samples corners {corners} {size}",
            size=size,
            factors=factors,
            mode=mode,
            align_corners=corners,
        )  # fmt: skip
for mode, corners, size in [("smooth linear", False, (2, 7)), ("smooth cubic", True, (2, 2))]:
    case(
        "interpolate",
        draw(1, 2, 5, 6),
        numpy=None,  # PyTorch is the witness of the widened kernels
        torch=lambda x, m=mode, c=corners, s=size: T.interpolate(
            x, s, mode="bi" + m.split()[1], align_corners=c, antialias=True
        ),
        name=f"{mode} {size}",
        size=size,
        factors=(None, None),
        mode=mode,
        align_corners=corners,
    )
