"""Products of small batches by tiles have the bits of sgemm, whose sums they make in the same order, with any number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("numba", reason="the extra cpu")
pytest.importorskip("cffi", reason="the extra cpu")

from phalanx.core.kernels.cpu import compiled, loops_products, loops_tiles, threads
from phalanx.core.kernels.cpu.loops_embedding import bias_gradient
from phalanx.core.kernels.cpu.onednn import describe

normal = np.random.default_rng(0).standard_normal
AVX512 = 0x27
ALIKE = compiled.WIDE and int(describe().rpartition(" ")[2], 16) & AVX512 == AVX512
"""Whether sgemm must add up as the tiles do: it works with AVX-512, too."""


@pytest.fixture(autouse=True, params=[1, 2, 5])
def count(request: pytest.FixtureRequest) -> Iterator[int]:
    before = threads.threads()
    threads.set_threads(request.param)
    yield request.param
    threads.set_threads(before)


@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [(16, 384, 48), (16, 767, 57), (32, 784, 256), (32, 768, 40), (32, 385, 16), (32, 1153, 31), (32, 2000, 17)],
)
def test_a_layer_of_few_rows_is_sgemms(rows: int, depth: int, columns: int) -> None:
    x, weight, bias = normal((rows, depth), "f4"), normal((columns, depth), "f4"), normal(columns, "f4")
    turned = loops_products.product(weight, x.T)
    assert turned is not None
    for relu in (False, True):
        y = np.full((rows, columns), np.nan, np.float32)
        assert loops_tiles.forward(x, weight, bias, relu, y) is compiled.WIDE
        expected = turned.T + bias
        if ALIKE:
            np.testing.assert_array_equal(y, np.maximum(expected, 0) if relu else expected)


@pytest.mark.parametrize(
    ("rows", "height", "width"),
    [(32, 256, 784), (1, 1024, 1000), (5, 500, 400), (17, 250, 225), (32, 129, 273), (8, 300, 512), (31, 2000, 130)],
)
@pytest.mark.parametrize("relu", [False, True])
def test_gradients_of_few_rows_are_sgemms(rows: int, height: int, width: int, relu: bool) -> None:
    x, gradient, y = normal((rows, width), "f4"), normal((rows, height), "f4"), normal((rows, height), "f4")
    dw, db = np.full((height, width), np.nan, np.float32), np.full(height, np.nan, np.float32)
    assert loops_tiles.gradients(gradient, y if relu else None, x, dw, db) is compiled.WIDE
    behind = gradient * (y > 0) if relu else gradient
    expected = loops_products.product(behind.T, x)
    if ALIKE:
        np.testing.assert_array_equal(dw, expected)
        assert db.tobytes() == bias_gradient(behind).tobytes()


def test_what_would_be_slower_is_left_to_sgemm(count: int) -> None:
    def taken(rows: int, height: int, width: int) -> bool:
        arrays = (np.empty(shape, np.float32) for shape in ((rows, height), (rows, width), (height, width), height))
        gradient, x, dw, db = arrays
        return loops_tiles.gradients(gradient, None, x, dw, db)

    most = loops_tiles.MOST * min(2, count)
    assert not taken(most + 1, 256, 784)
    assert not taken(32, 256, loops_tiles.NARROWEST - 1) and not taken(32, 7, 784)
    assert not taken(loops_tiles.APART_MOST + 1, 256, loops_tiles.APART) and not taken(0, 256, 784)
    assert taken(most, 256, 784) is compiled.WIDE


def test_a_nan_stays_in_its_row() -> None:
    x, weight = normal((32, 784), "f4"), normal((64, 784), "f4")
    x[3, 7] = np.nan
    y, _ = loops_products.linear_activation(x, weight, np.zeros(64, np.float32), "relu")
    assert np.isnan(y).any(1).nonzero()[0].tolist() == [3]


def test_tiles_are_used_where_sgemm_adds_up_alike() -> None:
    assert loops_products._sums_agree() is ALIKE


def test_where_sgemm_adds_up_otherwise_it_makes_all_products(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = normal((32, 784), "f4"), normal((64, 784), "f4"), np.zeros(64, np.float32)
    expected = loops_products.product(weight, x.T)
    assert expected is not None
    forward, tries = loops_tiles.forward, []

    def other(*arguments: object) -> bool:
        done = forward(*arguments)  # type: ignore[arg-type]
        y = arguments[-1]
        assert isinstance(y, np.ndarray)
        y[0, 0] = np.nextafter(y[0, 0], np.float32(9))
        tries.append(done)
        return done

    monkeypatch.setattr(loops_tiles, "forward", other)
    agree = loops_products._sums_agree.__wrapped__
    assert not agree() and tries == [compiled.WIDE]
    monkeypatch.setattr(loops_products, "_sums_agree", agree)
    np.testing.assert_array_equal(loops_products.linear_forward(x, weight, bias), expected.T)
