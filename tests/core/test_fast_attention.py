"""Attention in blocks, products by sgemm, and gradients of pieces: against the references, float64, and the way it was."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import phalanx
from phalanx import Tensor
from phalanx.core.graph import apply
from phalanx.core.kernels import reference, reference_attention
from phalanx.core.ops import indexing
from phalanx.core.ops.arithmetic import WHERE
from phalanx.core.part import Part
from phalanx.nn import functional as F

pytest.importorskip("numba")
pytest.importorskip("cffi")
from phalanx.core.kernels.cpu import compiled, loops_attention, loops_products, onednn_matmul, threads
from tests.core.onednn_cases import needs_onednn

pytestmark = needs_onednn

QUICK = settings(max_examples=20, deadline=None, derandomize=True)
sizes = st.integers(1, 150)
widths = st.integers(1, 40)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Kernels, threads and the smallest share as they were."""
    chosen, count, share = phalanx.kernels.chosen(), threads.threads(), compiled.SMALLEST_SHARE
    yield
    compiled.SMALLEST_SHARE = share
    threads.set_threads(count)
    phalanx.kernels.choose(chosen)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(found: Any, exact: Any, bound: float = 3e-6) -> None:
    assert found.shape == exact.shape
    if exact.size:
        assert np.abs(found - exact).max() <= bound * max(1.0, np.abs(exact).max())


# ---- attention -------------------------------------------------------------------------------------------------------


def both(arrays: list[np.ndarray], gradient: np.ndarray, causal: bool, kernels: Any) -> tuple[Any, ...]:
    y, saved = kernels.attention_forward(*arrays, 0.3, causal)
    return (y, *kernels.attention_backward(gradient, *arrays, saved, 0.3, causal))


@QUICK
@given(st.tuples(sizes, sizes, widths, widths), st.lists(st.integers(1, 3), max_size=2), st.booleans(), st.booleans())
def test_attention_is_the_references(shape: Any, front: list[int], causal: bool, heads_inside: bool) -> None:
    length, asked, width, depth = shape
    arrays = [normal(n, *front, *each) for n, each in enumerate([(length, width), (asked, width), (asked, depth)])]
    gradient = normal(3, *front, length, depth)
    if heads_inside and len(front) == 2:  # (N, H, L, E) that lies as (N, L, H, E)
        arrays = [np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2) for x in arrays]
    exact = both([x.astype(np.float64) for x in arrays], gradient.astype(np.float64), causal, reference_attention)
    for found, right in zip(both(arrays, gradient, causal, loops_attention), exact, strict=True):
        close(found, right)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [7, 64, 130, 300])
def test_attention_has_the_same_bits_with_any_number_of_threads(causal: bool, length: int) -> None:
    arrays = [normal(n, 2, 3, length, 16) for n in range(4)]
    threads.set_threads(1)
    one = both(arrays[:3], arrays[3], causal, loops_attention)
    threads.set_threads(2)
    compiled.SMALLEST_SHARE = 1
    for _ in range(2):
        two = both(arrays[:3], arrays[3], causal, loops_attention)
        assert [x.tobytes() for x in one] == [x.tobytes() for x in two]


def test_attention_of_what_does_not_lie_in_rows() -> None:
    q, k, v, g = (normal(n, 2, 70, 70) for n in range(4))
    odd = [q.swapaxes(1, 2), k[:, ::-1], np.broadcast_to(v[:1], v.shape)]
    gradient = np.broadcast_to(g[..., :1], g.shape)
    right = both([np.ascontiguousarray(x) for x in odd], np.ascontiguousarray(gradient), True, loops_attention)
    for found, expected in zip(both(odd, gradient, True, loops_attention), right, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "shapes", [[(2, 0, 4), (2, 3, 4), (2, 3, 4)], [(2, 3, 4), (2, 0, 4), (2, 0, 4)], [(2, 3, 4), (3, 4), (3, 5)]]
)
def test_attention_of_nothing_and_over_batches_is_the_references(shapes: list[tuple[int, ...]]) -> None:
    arrays = [normal(n, *shape) for n, shape in enumerate(shapes)]
    gradient = normal(3, *arrays[0].shape[:-1], arrays[2].shape[-1])
    right = both(arrays, gradient, False, reference_attention)
    for found, expected in zip(both(arrays, gradient, False, loops_attention), right, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_attention_lets_nan_through(bad: float) -> None:
    q, k, v = (normal(n, 1, 80, 8) for n in range(3))
    q[0, 70, 3] = bad
    for causal in (False, True):
        y, (statistics,) = loops_attention.attention_forward(q, k, v, 0.3, causal)
        with np.errstate(invalid="ignore"):
            right = reference_attention.attention_forward(q, k, v, 0.3, causal)[0]
        np.testing.assert_array_equal(np.isnan(y), np.isnan(right))
        assert np.isnan(y[0, 70]).all() and not np.isnan(y[0, :70]).any()
        dq = loops_attention.attention_backward(np.ones_like(y), q, k, v, (statistics,), 0.3, causal)[0]
        assert np.isnan(dq[0, 70]).all() and not np.isnan(dq[0, :70]).any()


def test_attention_gives_only_what_is_wanted_and_takes_what_the_reference_kept() -> None:
    arrays, gradient = [normal(n, 2, 20, 8) for n in range(3)], normal(3, 2, 20, 8)
    whole = both(arrays, gradient, True, loops_attention)[1:]
    saved = loops_attention.attention_forward(*arrays, 0.3, True)[1]
    for needs in [(True, False, False), (False, True, False), (False, False, True)]:
        found = loops_attention.attention_backward(gradient, *arrays, saved, 0.3, True, needs)
        for x, expected, needed in zip(found, whole, needs, strict=True):
            np.testing.assert_array_equal(x, expected) if needed else None
            assert (x is None) != needed
    weights = reference_attention.attention_forward(*arrays, 0.3, True)[1]
    mixed = loops_attention.attention_backward(gradient, *arrays, weights, 0.3, True)
    others = reference_attention.attention_backward(gradient, *arrays, saved, 0.3, True)
    for a, b, c in zip(mixed, others, whole, strict=True):
        np.testing.assert_array_equal(a, b)
        close(a, c)


def composed(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> Tensor:
    """Attention out of ops, as it was before it was one."""
    scores = (q * (1.0 / math.sqrt(q.shape[-1]) if scale is None else scale)) @ k.transpose(-2, -1)
    if causal:
        scores = apply(WHERE, np.tri(*scores.shape[-2:], dtype=bool), scores, float("-inf"))
    return F.softmax(scores, dim=-1) @ v


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("packed", [False, True])
def test_the_reference_has_the_bits_of_the_ops_that_it_stands_for(dtype: Any, packed: bool) -> None:
    phalanx.kernels.choose("reference")
    for shape in [(2, 3, 17, 8), (3, 9, 4), (5, 4), (2, 4, 128, 32)]:
        whole = normal(0, 3, *shape).astype(dtype)
        if packed and len(shape) == 4:
            whole = np.ascontiguousarray(whole.transpose(1, 3, 0, 2, 4)).transpose(2, 0, 3, 1, 4)
        for causal, scale in [(False, None), (True, None), (True, 0.3)]:
            results = []
            for one in (True, False):
                leaf = Tensor(whole.copy(order="K"), requires_grad=True)
                q, k, v = leaf[0], leaf[1], leaf[2]
                y = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale) if one else composed(q, k, v, causal, scale)  # fmt: skip
                y.backward(Tensor(normal(1, *y.shape).astype(dtype)))
                assert leaf.grad is not None
                results.append((y.numpy(force=True).tobytes(), leaf.grad.numpy().tobytes()))
            assert results[0] == results[1]


# ---- gradients of pieces ---------------------------------------------------------------------------------------------

PIECES = [
    lambda t: phalanx.cat([t[i].reshape(-1) * (i + 1) for i in range(3)]),
    lambda t: phalanx.cat([t[..., 2:].transpose(0, 1).reshape(-1), t[..., :2].reshape(-1) * -0.0]),
    lambda t: phalanx.stack([t[-1], t[0], t[1]]),
    lambda t: phalanx.cat([t[:2], t[1:]]),
    lambda t: phalanx.cat([t[0].reshape(-1), t.reshape(-1), t[1].reshape(-1)]),
    lambda t: t[0, 1:2] + t[1, :1],
    lambda t: phalanx.cat([t[::2].reshape(-1), t[1::2].reshape(-1)]),
    lambda t: t[1],
    lambda t: t[0] * t[0] + t[1] + t[2],
    lambda t: phalanx.cat([piece * 2 for piece in t.split(1, 1)], dim=1),
    lambda t: t.permute(0, 2, 1)[0] * t.permute(0, 2, 1)[1],
    lambda t: (t[..., 0:0].sum() + t[2, ..., 1]).sum(),
]


@pytest.mark.parametrize("number", range(len(PIECES)))
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_parts_have_the_bits_of_whole_arrays(number: int, dtype: Any) -> None:
    phalanx.kernels.choose("reference")
    parts, results = indexing.INDEX.vjp, []

    def whole(*args: Any) -> Any:
        return tuple(g.whole() if isinstance(g, Part) else g for g in parts(*args))

    try:
        for vjp in (parts, whole):
            object.__setattr__(indexing.INDEX, "vjp", vjp)
            leaf = Tensor(normal(number, 3, 4, 5).astype(dtype), requires_grad=True)
            y = PIECES[number](leaf * 1.0)
            y.backward(Tensor(normal(1, *y.shape).astype(dtype)))
            assert leaf.grad is not None
            results.append((leaf.grad.numpy().tobytes(), leaf.grad.numpy().strides))
    finally:
        object.__setattr__(indexing.INDEX, "vjp", parts)
    assert results[0] == results[1]


def test_gradients_of_one_product_lie_where_the_product_does() -> None:
    phalanx.kernels.choose("fast")
    x = Tensor(normal(0, 2, 70, 3 * 2 * 16), requires_grad=True)
    joined = (x * 1.0).reshape(2, 70, 3, 2, 16).permute(2, 0, 3, 1, 4)
    arrays = [joined.numpy(force=True)[i] for i in range(3)]
    gradient = normal(1, 2, 2, 70, 16)
    made = both(arrays, gradient, True, loops_attention)[1:]
    part = Part(joined.shape, [(i, made[i]) for i in (1, 0, 2)])
    assert part.whole().base is made[0].base and part.whole().strides == joined.array.strides
    np.testing.assert_array_equal(part.whole(), np.stack(made))
    F.scaled_dot_product_attention(joined[0], joined[1], joined[2], is_causal=True, scale=0.3).backward(
        Tensor(gradient)
    )
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), np.stack(made).transpose(1, 3, 0, 2, 4).reshape(x.shape))


# ---- products --------------------------------------------------------------------------------------------------------


@QUICK
@given(st.tuples(sizes, sizes, sizes), st.sampled_from(["CC", "CF", "FC", "FF", "CS"]), st.booleans(), st.booleans())
def test_products_are_numpys(shape: tuple[int, int, int], order: str, slot: bool, large: bool) -> None:
    rows, inner, columns = (3 * n for n in shape) if large else shape
    a, b = normal(0, rows, inner), normal(1, inner, columns)
    a = np.asarray(a, order=order[0])  # type: ignore[call-overload]
    b = np.repeat(b, 2, 1)[:, ::2] if order[1] == "S" else np.asarray(b, order=order[1])  # type: ignore[call-overload]
    out = np.full((rows, columns), np.nan, np.float32) if slot else None
    found = loops_products.matmul(a, b, out)
    assert out is None or found is out
    close(found, a.astype(np.float64) @ b.astype(np.float64))


@QUICK
@given(st.integers(0, 80), st.integers(1, 300), st.integers(1, 300), st.booleans(), st.booleans())
def test_linear_is_the_references(rows: int, inner: int, columns: int, biased: bool, deep: bool) -> None:
    front = (2, rows) if deep else (rows,)
    x, weight, gradient = normal(0, *front, inner), normal(1, columns, inner), normal(2, *front, columns)
    bias = normal(3, columns) if biased else None
    wide = [None if each is None else each.astype(np.float64) for each in (x, weight, bias, gradient)]
    close(loops_products.linear_forward(x, weight, bias), reference.linear_forward(*wide[:3]))
    close(loops_products.linear_input_gradient(gradient, weight), reference.linear_input_gradient(wide[3], wide[1]))
    for out in (None, np.full((columns, inner), np.nan, np.float32)):
        found = loops_products.linear_weight_gradient(gradient, x, out)
        close(found, reference.linear_weight_gradient(wide[3], wide[0]))


@pytest.mark.parametrize(("rows", "inner", "columns"), [(16, 384, 5), (32, 784, 256), (32, 391, 10), (16, 2048, 33)])
def test_few_long_rows_are_multiplied_as_the_transpose(rows: int, inner: int, columns: int) -> None:
    x, weight, bias = normal(0, rows, inner), normal(1, columns, inner), normal(2, columns)
    found = loops_products.linear_forward(x, weight, bias)
    close(found, reference.linear_forward(*(each.astype(np.float64) for each in (x, weight, bias))))
    turned = loops_products.product(weight, x.T)
    if rows * inner * columns >= loops_products.SMALLEST_TURNED:
        assert turned is not None
        np.testing.assert_array_equal(found, turned.T + bias)
    positive, _ = loops_products.linear_activation(x, weight, bias, "relu")
    np.testing.assert_array_equal(positive, np.maximum(found, 0))
    try:
        threads.set_threads(2)
        assert loops_products.linear_forward(x, weight, bias).tobytes() == found.tobytes()
    finally:
        threads.set_threads(1)
    x[3, 7] = np.nan
    assert np.isnan(loops_products.linear_forward(x, weight, bias)).any(1).nonzero()[0].tolist() == [3]


@QUICK
@given(st.integers(1, 80), st.integers(1, 300), st.integers(1, 300), st.booleans(), st.booleans())
def test_both_gradients_at_once_have_the_bits_of_each(
    rows: int, inner: int, columns: int, slot: bool, turned: bool
) -> None:
    x, gradient = normal(0, rows, inner), normal(1, rows, columns)
    x = np.asfortranarray(x) if turned else x
    places = [np.full(shape, np.nan, np.float32) if slot else None for shape in ((columns, inner), (columns,))]
    dw, db = loops_products.linear_gradients(gradient, x, *places)
    assert not slot or (dw is places[0] and db is places[1])
    assert dw.tobytes() == loops_products.linear_weight_gradient(gradient, x).tobytes()
    assert db.tobytes() == loops_products.bias_gradient(gradient).tobytes()
    y = np.maximum(normal(2, rows, columns), 0)
    found = loops_products.linear_activation_gradients(gradient, x, y, None, "relu", *places)
    assert not slot or (found[0] is places[0] and found[1] is places[1])
    parts = loops_products.linear_gradients(gradient * (y > 0), x)
    assert [each.tobytes() for each in found] == [each.tobytes() for each in parts]


@pytest.mark.parametrize(
    ("rows", "height", "width"), [(64, 2048, 128), (1024, 1024, 17), (1024, 1024, 16), (16, 1024, 1024)]
)
def test_gradients_that_lie_a_power_of_two_apart_are_the_references(rows: int, height: int, width: int) -> None:
    gradient, x = normal(0, rows, height), normal(1, rows, width)
    expected = gradient.T.astype(np.float64) @ x
    for out in (None, np.full(expected.shape, np.nan, np.float32)):
        found = loops_products.linear_weight_gradient(gradient, x, out)
        close(found, expected)
        assert loops_products.linear_gradients(gradient, x, out)[0].tobytes() == found.tobytes()
    single = onednn_matmul.linear_weight_gradient(gradient, x)
    assert (single.tobytes() == found.tobytes()) or not loops_products._lie_apart(gradient, width)


@pytest.mark.parametrize(("long", "high", "wide"), [(0, 0, 0), (0, 0, -1), (1, 1, 3), (-1, 0, 0), (0, -1, 0)])
def test_the_gradient_of_a_high_weight_is_the_references(long: int, high: int, wide: int) -> None:
    rows, columns = loops_products.LONG + long, 17 + wide
    gradient, x = normal(0, rows, loops_products.HIGH * 17 + high), normal(1, rows, columns)
    expected = gradient.T.astype(np.float64) @ x
    for out in (None, np.full(expected.shape, np.nan, np.float32), np.full(expected.T.shape, np.nan, np.float32).T):
        found = loops_products.linear_weight_gradient(gradient, x, out)
        assert out is None or found is out
        close(found, expected)


def test_products_say_what_does_not_fit_and_leave_other_dtypes() -> None:
    with pytest.raises(ValueError, match="mismatch"):
        loops_products.matmul(normal(0, 200, 200), normal(1, 201, 200))
    a = normal(0, 200, 200).astype(np.float64)
    np.testing.assert_array_equal(loops_products.matmul(a, a), reference.matmul(a, a))
    assert loops_products.matmul(normal(0, 0, 200), normal(1, 200, 200)).shape == (0, 200)


def test_products_have_the_same_bits_each_time_and_pass_nan_on() -> None:
    a, b = normal(0, 200, 300), normal(1, 300, 100)
    for count in (1, 2):
        threads.set_threads(count)
        first = loops_products.matmul(a, b).copy()
        assert all(loops_products.matmul(a, b).tobytes() == first.tobytes() for _ in range(3))
    a[3, 4], a[5, 6] = np.nan, np.inf
    found = loops_products.matmul(a, b)
    assert np.isnan(found[3]).all() and not np.isfinite(found[5]).any() and np.isfinite(found[[0, 1, 2, 4]]).all()
