"""Linear and bilinear maps and tables of vectors as functions."""

from __future__ import annotations

import numpy as np

from ..backend import array_module
from ..errors import DTypeError, RangeError, ShapeError
from ..graph import apply
from ..op import Array
from ..ops import expect
from ..ops.arithmetic import WHERE
from ..ops.embedding import EMBEDDING
from ..ops.linear import LINEAR
from ..ops.linear_fused import FEED_FORWARD, LINEAR_GELU, LINEAR_RELU
from ..tensor import Tensor


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``: input (..., I), weight (O, I), bias (O,) -> (..., O).

    Raises ShapeError if the last dimension is not I.

    >>> F.linear(phalanx.ones(1, 2), phalanx.tensor([[1.0, 2.0]])).tolist()
    [[3.0]]
    """
    return apply(LINEAR, input, weight, bias)


def linear_gelu(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``gelu(x @ weight.T + bias, approximate="tanh")``: input (..., I), weight (O, I), bias (O,) -> (..., O).

    On a GPU in one kernel. Raises ShapeError if the last dimension is not I.

    >>> F.linear_gelu(phalanx.ones(1, 2), phalanx.tensor([[1.0, 2.0], [0.0, 0.0]])).tolist()[0][1]
    0.0
    """
    return apply(LINEAR_GELU, input, weight, bias)


def linear_relu(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``max(x @ weight.T + bias, 0)``: input (..., I), weight (O, I), bias (O,) -> (..., O).

    On a GPU in one kernel. Raises ShapeError if the last dimension is not I.

    >>> F.linear_relu(phalanx.ones(1, 2), phalanx.tensor([[1.0, 2.0], [-1.0, 0.0]])).tolist()
    [[3.0, 0.0]]
    """
    return apply(LINEAR_RELU, input, weight, bias)


def feed_forward(input: Tensor, *parameters: Tensor | None, activation: str = "gelu_tanh") -> Tensor:
    """Linear layers with an activation between each two: ``activation(x @ weight1.T + bias1) @ weight2.T + bias2`` and so on.

    ``parameters``: weight and bias (or None) of one layer after the other. Shapes: input (..., I), weight1 (H, I), bias1 (H,), weight2
    (O, H), bias2 (O,) -> (..., O). ``activation``: "gelu_tanh" or "relu". On a GPU the activation and its gradient are part of the
    products. Raises ShapeError for sizes that do not fit, RangeError for another activation.

    >>> one = phalanx.ones(2, 2)
    >>> F.feed_forward(phalanx.ones(1, 2), one, None, one, None, activation="relu").tolist()
    [[4.0, 4.0]]
    """
    if len(parameters) % 2:
        raise ShapeError(
            f"feed_forward expects a weight and a bias (or None) of each layer, got {len(parameters)} arrays"
        )
    return apply(FEED_FORWARD, input, *parameters, activation=activation)


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``y[o] = x1 W[o] x2 + bias[o]``: inputs (..., I) and (..., J), weight (O, I, J), bias (O,) -> (..., O).

    >>> F.bilinear(phalanx.ones(1, 2), phalanx.ones(1, 3), phalanx.ones(1, 2, 3)).tolist()
    [[6.0]]
    """
    op = "bilinear"
    if weight.ndim != 3:
        raise ShapeError(f"{op}: weight must be (out_features, in1_features, in2_features), got shape {weight.shape}")
    outputs, rows, columns = weight.shape
    if input1.shape[:-1] != input2.shape[:-1] or input1.shape[-1:] != (rows,) or input2.shape[-1:] != (columns,):
        raise ShapeError(
            f"{op}: a weight of shape {weight.shape} expects inputs (..., {rows}) and (..., {columns}) of one batch, got shapes "
            f"{input1.shape} and {input2.shape}"
        )
    lead = input1.shape[:-1]
    half = apply(LINEAR, input1, weight.transpose(1, 2).reshape(outputs * columns, rows))  # (..., O * J)
    y = (half.reshape(*lead, outputs, columns) * input2.unsqueeze(-2)).sum(dim=-1)
    return y if bias is None else y + bias


# ---- tables of vectors -----------------------------------------------------------------------------------------------


def _refuse(op: str, max_norm: float | None, sparse: bool) -> None:
    if max_norm is not None:
        raise RangeError(
            f"{op}: max_norm would change the weight in forward, which is never done here; scale the rows after the optimizer's "
            "step, under no_grad"
        )
    if sparse:
        raise RangeError(f"{op}: sparse=True is not known; gradients are dense, leave it out")


def _padding(op: str, padding_idx: int | None, rows: int) -> int | None:
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise RangeError(f"{op}: padding_idx must be within the {rows} rows, got {padding_idx}")
    return padding_idx % rows


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """``weight[input]``: integer input (...), weight (V, D) -> (..., D). Row ``padding_idx`` gets no gradient.

    ``scale_grad_by_freq`` divides each row's gradient by how often it was taken. Raises RangeError for an index outside
    [0, V), DTypeError for an input that is not of integers, RangeError for ``max_norm`` and ``sparse``, which are not known.

    >>> F.embedding(phalanx.tensor([1, 0]), phalanx.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[3.0, 4.0], [1.0, 2.0]]
    """
    _refuse("embedding", max_norm, sparse)
    padding = _padding("embedding", padding_idx, weight.shape[0])
    return apply(EMBEDDING, weight, input, padding_idx=padding, scale_grad_by_freq=bool(scale_grad_by_freq))


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Sum, mean or maximum of the rows of each bag: input (B, N), or one row with ``offsets`` (B,) -> (B, D).

    ``per_sample_weights`` (the input's shape, for "sum") multiply the rows; index ``padding_idx`` counts for nothing. An empty bag
    gives zeros. ``scale_grad_by_freq`` as for embedding.

    >>> table = phalanx.tensor([[1.0], [3.0], [5.0]])
    >>> F.embedding_bag(phalanx.tensor([0, 1, 2]), table, phalanx.tensor([0, 2])).tolist()
    [[2.0], [5.0]]
    """
    op = "embedding_bag"
    _refuse(op, max_norm, sparse)
    if mode not in ("sum", "mean", "max"):
        raise RangeError(f"{op}: mode must be 'sum', 'mean' or 'max', got {mode!r}")
    if per_sample_weights is not None and (mode != "sum" or per_sample_weights.shape != input.shape):
        raise RangeError(
            f"{op}: per_sample_weights go with mode='sum' and have the input's shape {input.shape}, got mode={mode!r} and shape "
            f"{per_sample_weights.shape}"
        )
    padding = _padding(op, padding_idx, weight.shape[0])
    expect.integers(op, "indices", input.array)
    expect.within(op, "index", input.array, weight.shape[0], f": the table has {weight.shape[0]} rows")
    positions, counted = _bags(op, input.array, offsets, include_last_offset)
    xp = array_module(input.array)
    if not positions.shape[1]:
        return Tensor(xp.zeros((len(positions), weight.shape[1]), weight.dtype))
    indices = input.array.reshape(-1)[positions]
    counted = counted if padding is None else counted & (indices != padding)
    options = {"padding_idx": padding, "scale_grad_by_freq": bool(scale_grad_by_freq)}
    rows = apply(EMBEDDING, weight, input, **options)
    rows = rows if input.ndim == 2 else rows[Tensor(positions)]  # (B, N, D)
    if mode == "max":
        empty = ~counted.any(axis=1)[:, None]
        largest = apply(WHERE, counted[:, :, None], rows, float("-inf")).max(dim=1).values
        return apply(WHERE, empty, largest.dtype.type(0), largest)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(-1)[positions].unsqueeze(2)
    total = apply(WHERE, counted[:, :, None], rows, rows.dtype.type(0)).sum(dim=1)
    if mode == "sum":
        return total
    return total / Tensor(np.maximum(counted.sum(axis=1), 1).astype(weight.dtype)[:, None])


def _bags(op: str, indices: Array, offsets: Tensor | None, include_last_offset: bool) -> tuple[Array, Array]:
    """For each bag the positions of its indices in row-major order (B, longest), and which of these count."""
    xp = array_module(indices)
    if indices.ndim == 2:
        if offsets is not None:
            raise ShapeError(f"{op}: offsets belong to an input of 1 dimension, got one of shape {indices.shape}")
        return xp.arange(indices.size).reshape(indices.shape), xp.ones(indices.shape, bool)
    if indices.ndim != 1 or offsets is None:
        raise ShapeError(
            f"{op}: input must be (bags, indices), or indices in one row with offsets, got shape {indices.shape}"
        )
    starts = offsets.array
    if starts.dtype.kind not in "iu":
        raise DTypeError(f"{op}: offsets must be integers, got {starts.dtype}")
    ends = xp.concatenate([starts[1:], xp.asarray([len(indices)], starts.dtype)])
    if include_last_offset:
        starts, ends = starts[:-1], starts[1:]
    if len(starts) and (int(starts[0]) != 0 or bool((ends < starts).any()) or int(ends[-1]) > len(indices)):
        raise RangeError(
            f"{op}: offsets must start at 0 and not fall or pass the {len(indices)} indices, got {starts.tolist()}"
        )
    longest = int((ends - starts).max()) if len(starts) else 0
    place = xp.arange(longest)[None, :]
    counted = place < (ends - starts)[:, None]
    return xp.where(counted, starts[:, None] + place, 0), counted
