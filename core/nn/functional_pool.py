"""Pooling as functions. Inputs are (N, C, L), (N, C, H, W) or (N, C, D, H, W), the N may be left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..errors import RangeError, ShapeError
from ..graph import apply
from ..ops.arithmetic import SIGN
from ..ops.expect import sizes
from ..ops.pool import (
    ADAPTIVE_AVG_POOLS,
    ADAPTIVE_MAX_POOLS,
    AVG_POOLS,
    MAX_POOLS,
    MAX_POOLS_WITH_INDICES,
    MAX_UNPOOL,
)
from ..tensor import Tensor
from .functional_activation import relu
from .functional_conv import batched

Size = int | tuple[int, ...]
Bins = int | Sequence[int | None] | None


def _window(op: str, count: int, kernel_size: Size, stride: Size | None, **more: Any) -> dict[str, Any]:
    kernel = sizes(op, "kernel_size", kernel_size, count, 1)
    options = {
        "kernel_size": kernel,
        "stride": kernel if stride is None or stride == () else sizes(op, "stride", stride, count, 1),
        "padding": sizes(op, "padding", more.pop("padding"), count, 0),
    }
    return options | more


# ---- maximum ---------------------------------------------------------------------------------------------------------


def _max_pool(count: int, input: Tensor, return_indices: bool, options: dict[str, Any]) -> Any:
    op = f"max_pool{count}d"
    input, lone = batched(op, input, count)
    options["dilation"] = sizes(op, "dilation", options["dilation"], count, 1)
    if not return_indices:
        y = apply(MAX_POOLS[count], input, **options)
        return y.squeeze(0) if lone else y
    both = apply(MAX_POOLS_WITH_INDICES[count], input, **options)
    return tuple(part.squeeze(0) for part in both) if lone else both


def max_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """max_pool2d along one dimension: (N, C, L) -> (N, C, P).

    >>> F.max_pool1d(phalanx.tensor([[[1.0, 4.0, 2.0, 3.0]]]), 2).tolist()
    [[[4.0, 3.0]]]
    """
    more = {"padding": padding, "dilation": dilation, "ceil_mode": bool(ceil_mode)}
    return _max_pool(1, input, return_indices, _window("max_pool1d", 1, kernel_size, stride, **more))


def max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest value of each window, padding counting as -inf: (N, C, H, W) -> (N, C, P, Q).

    ``stride`` is the window's size if not given. The gradient goes to the first of equals. With ``return_indices`` also
    where in the row-major order of (H, W) each maximum lies, for max_unpool2d. Raises RangeError for a padding of more than
    half the kernel.

    >>> F.max_pool2d(phalanx.arange(16.0).reshape(1, 1, 4, 4), 2).tolist()
    [[[[5.0, 7.0], [13.0, 15.0]]]]
    """
    more = {"padding": padding, "dilation": dilation, "ceil_mode": bool(ceil_mode)}
    return _max_pool(2, input, return_indices, _window("max_pool2d", 2, kernel_size, stride, **more))


def max_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """max_pool2d over volumes: (N, C, D, H, W) -> (N, C, O, P, Q).

    >>> F.max_pool3d(phalanx.arange(8.0).reshape(1, 1, 2, 2, 2), 2).tolist()
    [[[[[7.0]]]]]
    """
    more = {"padding": padding, "dilation": dilation, "ceil_mode": bool(ceil_mode)}
    return _max_pool(3, input, return_indices, _window("max_pool3d", 3, kernel_size, stride, **more))


def _max_unpool(
    count: int, input: Tensor, indices: Tensor, options: dict[str, Any], output_size: Sequence[int] | None
) -> Tensor:
    op = f"max_unpool{count}d"
    input, lone = batched(op, input, count)
    kernel, stride, padding = options["kernel_size"], options["stride"], options["padding"]
    size = tuple((input.shape[2 + a] - 1) * stride[a] + kernel[a] - 2 * padding[a] for a in range(count))
    if output_size is not None:
        wanted = tuple(output_size)[-count:]
        if len(wanted) != count or any(abs(w - s) >= stride[a] for a, (w, s) in enumerate(zip(wanted, size))):  # noqa: B905
            raise ShapeError(
                f"{op}: output_size must be within a stride {stride} of {size}, what this input was pooled from, got "
                f"{tuple(output_size)}"
            )
        size = wanted
    y = apply(MAX_UNPOOL, input, indices.unsqueeze(0) if lone else indices, output_size=size)
    return y.squeeze(0) if lone else y


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """max_unpool2d along one dimension.

    >>> y, places = F.max_pool1d(phalanx.tensor([[[1.0, 4.0, 3.0, 2.0]]]), 2, return_indices=True)
    >>> F.max_unpool1d(y, places, 2).tolist()
    [[[0.0, 4.0, 3.0, 0.0]]]
    """
    options = _window("max_unpool1d", 1, kernel_size, stride, padding=padding)
    return _max_unpool(1, input, indices, options, output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Zeros with the values put where ``max_pool2d(return_indices=True)`` found them: (N, C, P, Q) -> (N, C, H, W).

    ``output_size`` chooses among the sizes that would have been pooled to the input's.

    >>> y, places = F.max_pool2d(phalanx.arange(4.0).reshape(1, 1, 2, 2), 2, return_indices=True)
    >>> F.max_unpool2d(y, places, 2).tolist()
    [[[[0.0, 0.0], [0.0, 3.0]]]]
    """
    options = _window("max_unpool2d", 2, kernel_size, stride, padding=padding)
    return _max_unpool(2, input, indices, options, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """max_unpool2d over volumes.

    >>> y, places = F.max_pool3d(phalanx.arange(8.0).reshape(1, 1, 2, 2, 2), 2, return_indices=True)
    >>> F.max_unpool3d(y, places, 2).sum().item()
    7.0
    """
    options = _window("max_unpool3d", 3, kernel_size, stride, padding=padding)
    return _max_unpool(3, input, indices, options, output_size)


# ---- average and power -----------------------------------------------------------------------------------------------


def _avg_pool(count: int, input: Tensor, options: dict[str, Any]) -> Tensor:
    op = f"avg_pool{count}d"
    if options.get("divisor_override") == 0:
        raise RangeError(f"{op}: divisor_override must not be 0")
    input, lone = batched(op, input, count)
    y = apply(AVG_POOLS[count], input, **options)
    return y.squeeze(0) if lone else y


def avg_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """avg_pool2d along one dimension: (N, C, L) -> (N, C, P).

    >>> F.avg_pool1d(phalanx.tensor([[[1.0, 3.0, 2.0, 4.0]]]), 2).tolist()
    [[[2.0, 3.0]]]
    """
    more = {"padding": padding, "ceil_mode": bool(ceil_mode), "count_include_pad": bool(count_include_pad)}
    return _avg_pool(1, input, _window("avg_pool1d", 1, kernel_size, stride, **more))


def avg_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window, padding counting as zeros or not at all: (N, C, H, W) -> (N, C, P, Q).

    >>> F.avg_pool2d(phalanx.arange(4.0).reshape(1, 1, 2, 2), 2).tolist()
    [[[[1.5]]]]
    """
    more = {"padding": padding, "ceil_mode": bool(ceil_mode), "count_include_pad": bool(count_include_pad)}
    options = _window("avg_pool2d", 2, kernel_size, stride, **more)
    return _avg_pool(2, input, options | {"divisor_override": divisor_override})


def avg_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """avg_pool2d over volumes: (N, C, D, H, W) -> (N, C, O, P, Q).

    >>> F.avg_pool3d(phalanx.arange(8.0).reshape(1, 1, 2, 2, 2), 2).tolist()
    [[[[[3.5]]]]]
    """
    more = {"padding": padding, "ceil_mode": bool(ceil_mode), "count_include_pad": bool(count_include_pad)}
    options = _window("avg_pool3d", 3, kernel_size, stride, **more)
    return _avg_pool(3, input, options | {"divisor_override": divisor_override})


def _lp_pool(
    count: int, input: Tensor, norm_type: float, kernel_size: Size, stride: Size | None, ceil_mode: bool
) -> Tensor:
    """Composed of avg_pool, as in PyTorch; without a sign where the sum of an odd power is negative."""
    options = _window(f"lp_pool{count}d", count, kernel_size, stride, padding=0, ceil_mode=bool(ceil_mode))
    mean = _avg_pool(count, input**norm_type, options)
    total = apply(SIGN, mean) * relu(mean.abs()) * float(math.prod(options["kernel_size"]))
    return total ** (1.0 / norm_type)


def lp_pool1d(
    input: Tensor, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
) -> Tensor:
    """lp_pool2d along one dimension.

    >>> F.lp_pool1d(phalanx.tensor([[[3.0, 4.0]]]), 2, 2).tolist()
    [[[5.0]]]
    """
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: Tensor, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
) -> Tensor:
    """``(sum of x^p over each window)^(1/p)``, p being ``norm_type``: (N, C, H, W) -> (N, C, P, Q).

    >>> F.lp_pool2d(phalanx.ones(1, 1, 2, 2), 2, 2).tolist()
    [[[[2.0]]]]
    """
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: Tensor, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
) -> Tensor:
    """lp_pool2d over volumes.

    >>> F.lp_pool3d(phalanx.ones(1, 1, 2, 2, 1), 2, (2, 2, 1)).tolist()
    [[[[[2.0]]]]]
    """
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


# ---- over a given number of bins -------------------------------------------------------------------------------------


def _bins(op: str, count: int, input: Tensor, output_size: Bins) -> tuple[int, ...]:
    """``output_size`` with the input's size where it says None."""
    wanted = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * count
    if len(wanted) != count:
        raise RangeError(f"{op}: output_size must be an integer or {count} of them, got {output_size!r}")
    have = input.shape[2:]
    return sizes(op, "output_size", tuple(h if w is None else w for w, h in zip(wanted, have, strict=True)), count, 0)


def _adaptive_avg_pool(count: int, input: Tensor, output_size: Bins) -> Tensor:
    op = f"adaptive_avg_pool{count}d"
    input, lone = batched(op, input, count)
    y = apply(ADAPTIVE_AVG_POOLS[count], input, output_size=_bins(op, count, input, output_size))
    return y.squeeze(0) if lone else y


def adaptive_avg_pool1d(input: Tensor, output_size: Bins) -> Tensor:
    """adaptive_avg_pool2d along one dimension: (N, C, L) -> (N, C, P).

    >>> F.adaptive_avg_pool1d(phalanx.arange(4.0).reshape(1, 1, 4), 2).tolist()
    [[[0.5, 2.5]]]
    """
    return _adaptive_avg_pool(1, input, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: Bins) -> Tensor:
    """Means over ``output_size`` bins of rows and columns (None keeps that side): (N, C, H, W) -> (N, C, P, Q).

    >>> F.adaptive_avg_pool2d(phalanx.arange(4.0).reshape(1, 1, 2, 2), 1).tolist()
    [[[[1.5]]]]
    """
    return _adaptive_avg_pool(2, input, output_size)


def adaptive_avg_pool3d(input: Tensor, output_size: Bins) -> Tensor:
    """adaptive_avg_pool2d over volumes: (N, C, D, H, W) -> (N, C, O, P, Q).

    >>> F.adaptive_avg_pool3d(phalanx.arange(8.0).reshape(1, 1, 2, 2, 2), 1).tolist()
    [[[[[3.5]]]]]
    """
    return _adaptive_avg_pool(3, input, output_size)


def _adaptive_max_pool(count: int, input: Tensor, output_size: Bins, return_indices: bool) -> Any:
    op = f"adaptive_max_pool{count}d"
    input, lone = batched(op, input, count)
    both = apply(ADAPTIVE_MAX_POOLS[count], input, output_size=_bins(op, count, input, output_size))
    if lone:
        both = tuple(part.squeeze(0) for part in both)
    return both if return_indices else both[0]


def adaptive_max_pool1d(input: Tensor, output_size: Bins, return_indices: bool = False) -> Any:
    """adaptive_max_pool2d along one dimension: (N, C, L) -> (N, C, P).

    >>> F.adaptive_max_pool1d(phalanx.arange(4.0).reshape(1, 1, 4), 2).tolist()
    [[[1.0, 3.0]]]
    """
    return _adaptive_max_pool(1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Bins, return_indices: bool = False) -> Any:
    """Maxima of ``output_size`` bins of rows and columns: (N, C, H, W) -> (N, C, P, Q), with indices as max_pool2d.

    >>> F.adaptive_max_pool2d(phalanx.arange(4.0).reshape(1, 1, 2, 2), (None, 1)).tolist()
    [[[[1.0], [3.0]]]]
    """
    return _adaptive_max_pool(2, input, output_size, return_indices)


def adaptive_max_pool3d(input: Tensor, output_size: Bins, return_indices: bool = False) -> Any:
    """adaptive_max_pool2d over volumes: (N, C, D, H, W) -> (N, C, O, P, Q).

    >>> F.adaptive_max_pool3d(phalanx.arange(8.0).reshape(1, 1, 2, 2, 2), 1).tolist()
    [[[[[7.0]]]]]
    """
    return _adaptive_max_pool(3, input, output_size, return_indices)
