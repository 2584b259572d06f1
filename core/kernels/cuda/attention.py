"""Scaled dot-product attention by cuDNN: float16 and bfloat16, heads up to 256 wide; scores are never kept, statistics of rows are.

cuDNN is told how each array lies, so that queries, keys and values cut out of one product are read where they are, and their gradients
are written side by side: nothing is copied. Backward makes the scores again (Dao et al., FlashAttention, 2022, arXiv 2205.14135). Its
workspace grows with the batch: 102 MB for GPT-2's 12 heads of 64 over 32 x 1024 tokens, and 807 MB where equal runs must give equal
bits (``phalanx.use_deterministic_algorithms``).

All else goes to ``attention_products.py``: float32, widths that are no multiple of 8, what cuDNN refuses.

Dimensions as in ``reference_attention.py``; H heads and B what stands in front of them; T places where L and S are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...amp import precision
from ...backend import array_module
from ...bfloat16 import is_half
from ...op import Array
from .. import reference_attention
from ..window import Size
from . import attention_products, cudnn
from .conv import aligned

WIDEST = 256


class Kept(NamedTuple):
    """What forward keeps for backward."""

    statistics: Array
    """log of the sum of exponents of each row (B, H, L), float32."""
    y: Array
    """The output (..., L, V)."""


class _Laid(NamedTuple):
    """An operand (B, H, M, E): its shape, and its strides in elements."""

    shape: Size
    strides: Size


class Attention(NamedTuple):
    """One attention or its gradients."""

    backward: bool
    dtype: str
    query: _Laid
    key: _Laid
    value: _Laid
    output: _Laid
    gradients: tuple[_Laid, ...]
    """In backward: of the output, of query, key and value."""
    scale: float
    causal: bool
    deterministic: bool = False

    @property
    def limit(self) -> int | None:
        return None

    def __str__(self) -> str:
        shapes = ", ".join(str(operand.shape) for operand in (self.query, self.key, self.value))
        kind = f"the {'deterministic ' * self.deterministic}gradient of " if self.backward else ""
        return f"{kind}{'causal ' * self.causal}attention of {self.dtype} query, key, value {shapes}"

    def forbidden(self, library: Any) -> list[Any]:
        return []

    def describe(self, graph: Any, library: Any) -> list[Any]:
        """query, key, value, output, statistics; in backward gradient and output before the statistics, then the three gradients."""

        def given(operand: _Laid) -> Any:
            return graph.tensor(dim=list(operand.shape), stride=list(operand.strides))

        def result(tensor: Any, operand: _Laid) -> Any:
            return tensor.set_output(True).set_dim(list(operand.shape)).set_stride(list(operand.strides))

        inputs = [given(operand) for operand in (self.query, self.key, self.value)]
        named = dict(zip("qkv", inputs, strict=True))
        options: dict[str, Any] = {"attn_scale": self.scale}
        if self.causal:  # place i sees places up to i
            options |= {"diagonal_alignment": library.diagonal_alignment.TOP_LEFT, "diagonal_band_right_bound": 0}
        rows = (*self.query.shape[:3], 1)
        by_row = _Laid(rows, (rows[1] * rows[2], rows[2], 1, 1))
        if not self.backward:
            y, statistics = graph.sdpa(**named, generate_stats=True, **options)
            result(y, self.output)
            result(statistics, by_row).set_data_type(library.data_type.FLOAT)
            return [*inputs, y, statistics]
        y, loss = given(self.output), given(self.gradients[0])
        statistics = graph.tensor(
            dim=list(by_row.shape), stride=list(by_row.strides), data_type=library.data_type.FLOAT
        )
        made = graph.sdpa_backward(
            **named, o=y, dO=loss, stats=statistics, use_deterministic_algorithm=self.deterministic, **options
        )
        outputs = [result(tensor, operand) for tensor, operand in zip(made, self.gradients[1:], strict=True)]
        return [*inputs, y, loss, statistics, *outputs]


# ---- how arrays lie --------------------------------------------------------------------------------------------------


def _laid(x: Array) -> _Laid:
    """``x`` (..., M, E) as (B, H, M, E)."""
    missing = 4 - x.ndim
    strides = tuple(step // x.itemsize for step in x.strides)
    outer = x.shape[0] * strides[0] if x.ndim else 1
    return _Laid((1,) * missing + x.shape, (outer,) * missing + strides)


def suits(query: Array, key: Array, value: Array) -> bool:
    """Whether cuDNN serves these: equal batches of matrices, heads of a width that it has kernels for."""
    wide = (query.shape[-1], value.shape[-1])
    return (
        is_half(query.dtype)
        and query.dtype == key.dtype == value.dtype
        and 4 >= query.ndim == key.ndim == value.ndim >= 2
        and query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
        and min(*query.shape, *key.shape, *value.shape) > 0
        and max(wide) <= WIDEST
        and not any(width % 8 for width in wide)
    )


def _in_rows(x: Array) -> Array:
    """``x`` itself if a plan can take it as it lies (rows whole and not overlapping, aligned), else a copy."""
    step = cudnn.ALIGNMENT
    whole = x.strides[-1] == x.itemsize and all(s and s % step == 0 for s, n in zip(x.strides[:-1], x.shape, strict=False) if n > 1)  # fmt: skip
    return x if whole and aligned(x) else x.copy(order="C")


def _like(x: Array, width: int) -> Array:
    """A new array like ``x`` (..., M, E) with rows of ``width``, and the same order of dimensions in memory."""
    shape = (*x.shape[:-1], width)
    order = sorted(range(x.ndim), key=lambda axis: (-x.strides[axis], axis))
    made = array_module(x).empty([shape[axis] for axis in order], x.dtype)
    return made.transpose([order.index(axis) for axis in range(x.ndim)])


def _beside(arrays: Sequence[Array]) -> list[Array]:
    """New arrays like these three; parts of one array if these are (cut out of one product), and then in the same places."""
    first = arrays[0]
    if first.base is not None and all(
        x.base is first.base and x.shape == first.shape and x.strides == first.strides for x in arrays
    ):
        starts = [x.data.ptr for x in arrays]
        step = starts[1] - starts[0]
        if step == starts[2] - starts[1] > 0:
            shape, strides = (3, *first.shape), (step, *first.strides)
            order = sorted(range(len(shape)), key=lambda axis: (-strides[axis], axis))
            whole = array_module(first).empty([shape[axis] for axis in order], first.dtype)
            parts = list(whole.transpose([order.index(axis) for axis in range(len(order))]))
            if all(_in_rows(x) is x for x in parts):
                return parts
    return [_like(x, x.shape[-1]) for x in arrays]


# ---- kernels ---------------------------------------------------------------------------------------------------------


def attention_forward(query: Array, key: Array, value: Array, scale: float, causal: bool) -> tuple[Array, Any]:
    """As ``reference_attention.attention_forward``; keeps :class:`Kept` where cuDNN serves."""
    if not suits(query, key, value):
        return attention_products.attention_forward(query, key, value, scale, causal)
    query, key, value = _in_rows(query), _in_rows(key), _in_rows(value)
    y = _like(query, value.shape[-1])
    found = _forward(query, key, value, y, scale, causal)
    return (y, found) if found is not None else attention_products.attention_forward(query, key, value, scale, causal)


def request_forward(query: Array, key: Array, value: Array, y: Array, scale: float, causal: bool) -> Attention:
    """What to plan for attention into ``y``; nothing but dtypes, shapes and strides is looked at."""
    return Attention(False, query.dtype.name, _laid(query), _laid(key), _laid(value), _laid(y), (), scale, causal)


def request_backward(
    query: Array, key: Array, value: Array, y: Array, gradients: Sequence[Array], scale: float, causal: bool
) -> Attention:
    """The same for ``gradients``: that of the output, and of query, key and value, which are made."""
    laid = tuple(_laid(x) for x in gradients)
    return Attention(
        True, query.dtype.name, _laid(query), _laid(key), _laid(value), _laid(y), laid, scale, causal,
        precision.deterministic(),
    )  # fmt: skip


def _forward(query: Array, key: Array, value: Array, y: Array, scale: float, causal: bool) -> Kept | None:
    """Attention into ``y``; None where cuDNN has no plan."""
    made = cudnn.plan(request_forward(query, key, value, y, scale, causal))
    if made is None:
        return None
    statistics = array_module(y).empty(query.shape[:-1], np.float32)
    cudnn.run(made, query, key, value, y, statistics)
    return Kept(statistics, y)


def attention_backward(
    gradient: Array,
    query: Array,
    key: Array,
    value: Array,
    saved: Any,
    scale: float,
    causal: bool,
    needs: Sequence[bool] = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """As ``reference_attention.attention_backward``; cuDNN makes all three gradients whatever is needed."""
    if isinstance(saved, Kept) and gradient.dtype == query.dtype:
        made = _beside((query, key, value))
        if _backward(gradient, query, key, value, saved, made, scale, causal):
            dquery, dkey, dvalue = (x if needed else None for x, needed in zip(made, needs, strict=True))
            return dquery, dkey, dvalue
    return attention_products.attention_backward(gradient, query, key, value, saved, scale, causal, needs)


def _backward(
    gradient: Array, query: Array, key: Array, value: Array, kept: Kept, made: list[Array], scale: float, causal: bool
) -> bool:
    """The three gradients into ``made``; False where cuDNN has no plan."""
    query, key, value, gradient = (_in_rows(x) for x in (query, key, value, gradient))
    plan = cudnn.plan(request_backward(query, key, value, kept.y, (gradient, *made), scale, causal))
    if plan is None:
        return False
    cudnn.run(plan, query, key, value, kept.y, gradient, kept.statistics, *made)
    return True


# ---- attention whose operands lie side by side -----------------------------------------------------------------------


def packed_attention_forward(packed: Array, scale: float, causal: bool) -> tuple[Array, Any]:
    """As ``reference_attention.packed_attention_forward``, without a copy."""
    query, key, value = reference_attention.parts(packed)
    if suits(query, key, value) and packed.flags.c_contiguous and aligned(packed):
        y = array_module(packed).empty((*packed.shape[:2], *packed.shape[3:]), packed.dtype)
        found = _forward(query, key, value, y.swapaxes(1, 2), scale, causal)
        if found is not None:
            return y, found
    return reference_attention.packed_attention_forward(packed, scale, causal, attention_forward)


def packed_attention_backward(gradient: Array, packed: Array, saved: Any, scale: float, causal: bool) -> Array:
    """As ``reference_attention.packed_attention_backward``, without a copy."""
    query, key, value = reference_attention.parts(packed)
    if isinstance(saved, Kept) and gradient.dtype == packed.dtype:
        whole = array_module(packed).empty(packed.shape, packed.dtype)
        made = list(reference_attention.parts(whole))
        if _backward(gradient.swapaxes(1, 2), query, key, value, saved, made, scale, causal):
            return whole
    return reference_attention.packed_attention_backward(gradient, packed, saved, scale, causal, attention_backward)


KERNELS: dict[str, Callable[..., Any]] = {
    "attention_forward": attention_forward,
    "attention_backward": attention_backward,
    "packed_attention_forward": packed_attention_forward,
    "packed_attention_backward": packed_attention_backward,
}
