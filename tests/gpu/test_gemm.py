"""Matrix products on the device against float64: every transposition, type, layout and batch, odd and empty sizes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from phalanx.core import backend
from phalanx.core.amp import precision
from phalanx.core.kernels.cuda import cublaslt, gemm, products

ml_dtypes = pytest.importorskip("ml_dtypes")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
TYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16]
EPS = {"float32": 2e-6, "float64": 1e-14, "float16": 1e-3, "bfloat16": 8e-3}
RANDOM = np.random.default_rng(8)


@pytest.fixture(autouse=True)
def on_the_device(device: str) -> Iterator[None]:
    """Each test begins without plans."""
    cublaslt.load()
    products.context().plans.clear()
    yield


def names(dtype: Any) -> str:
    return str(dtype.name)


def draw(*shape: int, dtype: Any = np.float32) -> Any:
    """Normal numbers on the device."""
    return backend.to_device(RANDOM.normal(size=shape).astype(dtype), "cuda")


def blank(*shape: int, dtype: Any = np.float32) -> Any:
    """Memory on the device, full of NaN."""
    return backend.to_device(np.full(shape, np.nan, dtype), "cuda")


def host(array: Any) -> np.ndarray:
    return np.asarray(backend.to_host(array), np.float64)


def close(found: Any, expected: np.ndarray, dtype: Any, terms: int = 1) -> None:
    """Within the rounding of ``dtype`` for sums of so many terms."""
    assert found.shape == expected.shape
    bound = 4 * EPS[np.dtype(dtype).name]
    np.testing.assert_allclose(host(found), expected, rtol=bound, atol=bound * max(1, terms) ** 0.5)


def used() -> list[products.Plan]:
    """The plans that this test's products have."""
    return [plan for plan in products.context().plans.values() if plan is not None]


def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The addresses (B, A, result) of each product from now on."""
    seen: list[tuple[int, ...]] = []
    run = products.Plan.run

    def spy(self: products.Plan, *places: int, **more: Any) -> None:
        seen.append(places)
        run(self, *places, **more)

    monkeypatch.setattr(products.Plan, "run", spy)
    return seen


# ---- two matrices ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES, ids=names)
def test_every_transposition_and_result(dtype: Any) -> None:
    for rows, columns, inner in itertools.product((1, 5, 16), (1, 7, 8), (1, 3, 33)):
        for turned in itertools.product((False, True), (False, True)):
            a = draw(inner, rows, dtype=dtype).T if turned[0] else draw(rows, inner, dtype=dtype)
            b = draw(columns, inner, dtype=dtype).T if turned[1] else draw(inner, columns, dtype=dtype)
            expected = host(a) @ host(b)
            outs = [
                None,
                blank(rows, columns, dtype=dtype),
                blank(columns, rows, dtype=dtype).T,
                blank(rows, 2 * columns + 1, dtype=dtype)[:, 1 : columns + 1],
                blank(rows, 2 * columns, dtype=dtype)[:, ::2],
            ]
            for out in outs:
                found = gemm.matmul(a, b, out)
                assert found.dtype == dtype and (out is None or found is out)
                close(found, expected, dtype, inner)
    assert used()


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=names)
def test_half_operands_give_a_float32_result_without_rounding(dtype: Any) -> None:
    a, b, out = draw(6, 40, dtype=dtype), draw(40, 8, dtype=dtype), blank(6, 8)
    assert gemm.matmul(a, b, out) is out
    close(out, host(a) @ host(b), np.float32, 40)
    assert [plan.problem.type_out for plan in used()] == [cublaslt.TYPES["float32"]]


def test_operands_cut_out_of_larger_arrays_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    whole_a, whole_b = draw(12, 40), draw(24, 30)
    a, b = whole_a[2:9, 8:24], whole_b[4:20, 2:13]
    seen = runs(monkeypatch)
    close(gemm.matmul(a, b), host(a) @ host(b), np.float32, 16)
    assert seen[0][:2] == (b.data.ptr, a.data.ptr)
    assert [(plan.problem.ld_a, plan.problem.ld_b) for plan in used()] == [(30, 40)]


def test_reversed_and_gapped_operands_are_copied() -> None:
    a, b = draw(6, 10)[::-1, ::2], draw(5, 4)[:, ::-1]
    close(gemm.matmul(a, b), host(a) @ host(b), np.float32, 5)


def test_repeated_rows_and_columns() -> None:
    xp = backend.cupy()
    row, column = draw(1, 8), draw(8, 1)
    close(gemm.matmul(xp.broadcast_to(row, (5, 8)), column), host(row).repeat(5, 0) @ host(column), np.float32, 8)
    close(gemm.matmul(row, xp.broadcast_to(column, (8, 3))), host(row) @ host(column).repeat(3, 1), np.float32, 8)


@pytest.mark.parametrize("shapes", [((0, 4), (4, 3)), ((3, 4), (4, 0)), ((3, 0), (0, 2)), ((0, 0), (0, 0))])
def test_empty_matrices(shapes: Any) -> None:
    a, b = draw(*shapes[0]), draw(*shapes[1])
    close(gemm.matmul(a, b), host(a) @ host(b), np.float32)
    out = blank(shapes[0][0], shapes[1][1])
    assert gemm.matmul(a, b, out) is out
    close(out, host(a) @ host(b), np.float32)


@pytest.mark.parametrize("dtype", TYPES, ids=names)
def test_products_on_top_of_what_is_there(dtype: Any) -> None:
    own = np.dtype(np.float32) if dtype.itemsize == 2 else dtype
    for rows, width, features in [(5, 6, 4), (1, 8, 3), (0, 4, 4), (9, 1, 1)]:
        gradient, x, total = (
            draw(rows, width + 3, dtype=dtype)[:, :width],
            draw(rows, features, dtype=dtype),
            draw(width, features, dtype=own),
        )
        before = host(total)
        gemm.add_weight_gradient(gradient, x, total)
        close(total, before + host(gradient).T @ host(x), own, rows + 1)


def test_other_types_go_to_the_reference() -> None:
    a, b = draw(3, 4), draw(4, 2)
    integers = gemm.matmul(a.astype(np.int64), b.astype(np.int64))
    assert integers.dtype == np.int64 and not used()
    mixed = gemm.matmul(a, b.astype(np.float64))
    assert mixed.dtype == np.float64 and not used()
    close(mixed, host(a) @ host(b), np.float32)


def test_inner_sizes_that_differ_are_an_error() -> None:
    with pytest.raises(ValueError, match="inner sizes"):
        gemm.matmul(draw(2, 3), draw(4, 5))
    with pytest.raises(ValueError):
        gemm.matmul(draw(2, 5, 3), draw(3, 3, 5))


def test_tf32_is_asked_for() -> None:
    a, b = draw(8, 64), draw(64, 8)
    exact = host(gemm.matmul(a, b))
    precision.set_float32_matmul_precision("high")
    try:
        found = host(gemm.matmul(a, b))
    finally:
        precision.set_float32_matmul_precision("highest")
    np.testing.assert_allclose(found, exact, rtol=1e-2, atol=2e-2)
    assert {plan.problem.compute for plan in used()} == {cublaslt.COMPUTE_32F, cublaslt.COMPUTE_TF32}
    assert not np.array_equal(found, exact)


def test_rows_cut_out_of_a_larger_batch_are_computed_as_they_are_alone() -> None:
    """What a rank computes of a batch must not depend on where in memory that begins."""
    for dtype, features in itertools.product((np.float32, BFLOAT16), (7, 8, 12)):
        products.context().plans.clear()
        whole, weight = draw(9, features, dtype=dtype), draw(5, features, dtype=dtype)
        for lo in range(5):
            part = whole[lo : lo + 4]
            found, alone = gemm.linear_forward(part, weight), gemm.linear_forward(part.copy(), weight)
            assert np.array_equal(backend.to_host(found), backend.to_host(alone))
        assert len(used()) == 1


def test_what_begins_at_an_odd_address_is_copied() -> None:
    whole = draw(4 * 8 + 1)
    a, b, bias = whole[1:].reshape(4, 8), draw(8, 4), draw(5)[1:]
    close(gemm.matmul(a, b), host(a) @ host(b), np.float32, 8)
    close(gemm.matmul(b, a), host(b) @ host(a), np.float32, 4)
    close(gemm.linear_forward(a, b.T.copy(), bias), host(a) @ host(b) + host(bias), np.float32, 8)
    out = blank(8 * 8 + 3)[3:].reshape(8, 8)
    assert gemm.matmul(b, a, out) is out
    close(out, host(b) @ host(a), np.float32, 4)
    batch = blank(2 * 4 * 4 + 1)[1:].reshape(2, 4, 4)
    assert gemm.matmul(a, b.reshape(1, 8, 4), batch) is batch
    close(batch, (host(a) @ host(b))[None].repeat(2, 0), np.float32, 8)
    assert {plan.problem[-3:] for plan in used()} == {(16, 16, 16)}


# ---- batches ---------------------------------------------------------------------------------------------------------

BATCHES = [
    ((3, 4, 5), (3, 5, 6)),
    ((2, 3, 4, 5), (2, 3, 5, 6)),
    ((2, 1, 4, 5), (1, 3, 5, 6)),
    ((4, 5), (2, 3, 5, 6)),
    ((2, 3, 4, 5), (5, 6)),
    ((2, 4, 5), (3, 1, 5, 6)),
    ((1, 4, 5), (3, 5, 6)),
    ((1, 1, 5), (1, 5, 1)),
    ((0, 4, 5), (0, 5, 6)),
    ((2, 4, 0), (2, 0, 6)),
    ((2, 0, 5), (5, 6)),
    ((5,), (2, 5, 6)),
    ((2, 4, 5), (5,)),
    ((5,), (5,)),
    ((5,), (5, 3)),
]


@pytest.mark.parametrize("dtype", TYPES, ids=names)
def test_batches_broadcast(dtype: Any) -> None:
    for left, right in BATCHES:
        a, b = draw(*left, dtype=dtype), draw(*right, dtype=dtype)
        expected = np.matmul(host(a), host(b))
        found = gemm.matmul(a, b)
        assert found.dtype == dtype
        close(found, expected, dtype, 5)
        if expected.ndim:
            out = blank(*expected.shape, dtype=dtype)
            assert gemm.matmul(a, b, out) is out
            close(out, expected, dtype, 5)
        if a.ndim > 2:
            turned = a.swapaxes(0, 1).copy().swapaxes(0, 1)
            close(gemm.matmul(turned, b), expected, dtype, 5)


def test_heads_of_packed_attention_are_multiplied_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = draw(3, 7, 3, 4, 8, dtype=BFLOAT16)  # batch, time, q k v, heads, width
    q, k = packed[:, :, 0].transpose(0, 2, 1, 3), packed[:, :, 1].transpose(0, 2, 3, 1)
    seen = runs(monkeypatch)
    close(gemm.matmul(q, k), np.matmul(host(q), host(k)), BFLOAT16, 8)
    assert [place[1] for place in seen] == [q.data.ptr + n * q.strides[0] for n in range(3)]
    assert [plan.problem.batch for plan in used()] == [4]


def test_rows_of_a_batch_times_one_matrix_are_one_product() -> None:
    a, b = draw(3, 4, 5), draw(5, 6)
    close(gemm.matmul(a, b), host(a) @ host(b), np.float32, 5)
    assert [(plan.problem.columns, plan.problem.batch) for plan in used()] == [(12, 1)]


def test_batch_dimensions_that_lie_one_in_the_other_are_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = runs(monkeypatch)
    a, b = draw(2, 3, 4, 5), draw(2, 3, 5, 6)
    close(gemm.matmul(a, b), np.matmul(host(a), host(b)), np.float32, 5)
    assert len(seen) == 1
    assert [plan.problem.batch for plan in used()] == [6]
