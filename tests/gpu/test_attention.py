"""Attention on a device against float64 on the host: by cuDNN where that serves, by products and softmax elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx.core import backend
from phalanx.core.amp import precision
from phalanx.core.kernels import reference_attention
from phalanx.core.kernels.cuda import attention, cudnn
from phalanx.core.kernels.table import kernel
from phalanx.core.part import Part

F = phalanx.nn.functional
DTYPES = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}
SHAPES = {
    "heads": ((2, 3, 10, 16), (2, 3, 10, 16), (2, 3, 10, 16)),
    "more asked than ask": ((2, 3, 5, 8), (2, 3, 9, 8), (2, 3, 9, 8)),
    "fewer asked than ask": ((2, 3, 9, 8), (2, 3, 5, 8), (2, 3, 5, 16)),
    "one head": ((4, 7, 24), (4, 7, 24), (4, 7, 24)),
    "matrices": ((7, 8), (7, 8), (7, 8)),
    "widest": ((1, 1, 3, 256), (1, 1, 3, 256), (1, 1, 3, 256)),
    "too wide": ((1, 1, 3, 264), (1, 1, 3, 264), (1, 1, 3, 264)),
    "no multiple of 8": ((2, 2, 6, 12), (2, 2, 6, 12), (2, 2, 6, 12)),
    "one place": ((2, 2, 1, 8), (2, 2, 1, 8), (2, 2, 1, 8)),
}
REFUSED = {"one place"}
"""Forward is planned, backward is not."""


@pytest.fixture(autouse=True)
def fast(device: str) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="cuDNN has no plan")
        yield


def on_device(x: np.ndarray, dtype: str) -> Any:
    return backend.cupy().asarray(x.astype(backend.as_dtype(dtype)))


def host(x: Any) -> np.ndarray:
    return backend.to_host(x).astype(np.float64)


def close(got: Any, expected: np.ndarray, dtype: str) -> None:
    assert got.dtype == backend.as_dtype(dtype) and got.shape == expected.shape
    assert np.abs(host(got) - expected).max() <= DTYPES[dtype] * max(1.0, np.abs(expected).max())


def draw(dtype: str, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Normal numbers in float64 that ``dtype`` can say."""
    rng = np.random.default_rng(11)
    return [rng.normal(size=shape).astype(backend.as_dtype(dtype)).astype(np.float64) for shape in shapes]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_attention(name: str, dtype: str, causal: bool) -> None:
    q, k, v = draw(dtype, *SHAPES[name])
    (g,) = draw(dtype, (*q.shape[:-1], v.shape[-1]))
    expected, weights = reference_attention.attention_forward(q, k, v, 0.3, causal)
    gradients = reference_attention.attention_backward(g, q, k, v, weights, 0.3, causal)
    arrays = [on_device(x, dtype) for x in (q, k, v)]
    y, saved = kernel("attention_forward", "cuda")(*arrays, 0.3, causal)
    close(y, expected, dtype)
    with warnings.catch_warnings():
        if name in REFUSED:
            warnings.simplefilter("ignore")
        got = kernel("attention_backward", "cuda")(on_device(g, dtype), *arrays, saved, 0.3, causal)
    for mine, theirs in zip(got, gradients, strict=True):
        close(mine, theirs, dtype)
    some = kernel("attention_backward", "cuda")(on_device(g, dtype), *arrays, saved, 0.3, causal, (False, True, False))
    assert some[0] is None and some[2] is None
    close(some[1], gradients[1], dtype)


def test_half_precision_keeps_statistics_and_float32_weights() -> None:
    for dtype, count in (("bfloat16", 2 * 3 * 10), ("float32", 2 * 3 * 10 * 10)):
        arrays = [on_device(x, dtype) for x in draw(dtype, *SHAPES["heads"])]
        _, saved = kernel("attention_forward", "cuda")(*arrays, 0.3, True)
        kept = saved[0] if isinstance(saved, tuple) else saved
        assert kept.size == count and kept.dtype == np.float32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("deterministic", [False, True])
def test_packed(dtype: str, deterministic: bool) -> None:
    (packed,) = draw(dtype, (2, 9, 3, 2, 16))
    (g,) = draw(dtype, (2, 9, 2, 16))
    expected, saved = reference_attention.packed_attention_forward(packed, 0.25, True)
    gradient = reference_attention.packed_attention_backward(g, packed, saved, 0.25, True)
    on, loss = on_device(packed, dtype), on_device(g, dtype)
    precision.use_deterministic_algorithms(deterministic)
    try:
        y, kept = kernel("packed_attention_forward", "cuda")(on, 0.25, True)
        dpacked = kernel("packed_attention_backward", "cuda")(loss, on, kept, 0.25, True)
    finally:
        precision.use_deterministic_algorithms(False)
    close(y, expected, dtype)
    close(dpacked, gradient, dtype)
    assert y.flags.c_contiguous and dpacked.flags.c_contiguous
    assert (host(on) == packed).all()


def test_packed_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward makes the output and the statistics, backward one array of gradients, and neither anything else."""
    xp = backend.cupy()
    (packed,) = draw("bfloat16", (2, 64, 3, 4, 64))
    on, loss = on_device(packed, "bfloat16"), on_device(packed[:, :, 0], "bfloat16")
    forward, backward = (kernel(f"packed_attention_{name}", "cuda") for name in ("forward", "backward"))
    backward(loss, on, forward(on, 0.1, True)[1], 0.1, True)  # plans and workspace are there
    pool = xp.get_default_memory_pool()

    def made(run: Any) -> tuple[int, Any]:
        before = pool.used_bytes()
        found = run()
        return pool.used_bytes() - before, found

    nbytes, (y, kept) = made(lambda: forward(on, 0.1, True))
    assert nbytes == y.nbytes + kept[0].nbytes
    nbytes, gradient = made(lambda: backward(loss, on, kept, 0.1, True))
    assert nbytes == gradient.nbytes == on.nbytes


def test_operands_cut_out_of_a_product_are_not_copied() -> None:
    (product,) = draw("bfloat16", (2, 9, 3 * 32))
    on = on_device(product, "bfloat16")
    q, k, v = (on[..., i * 32 : (i + 1) * 32].reshape(2, 9, 2, 16).swapaxes(1, 2) for i in range(3))
    y, saved = kernel("attention_forward", "cuda")(q, k, v, 0.2, True)
    parts = [np.swapaxes(product[..., i * 32 : (i + 1) * 32].reshape(2, 9, 2, 16), 1, 2) for i in range(3)]
    expected, weights = reference_attention.attention_forward(*parts, 0.2, True)
    close(y, expected, "bfloat16")
    assert y.swapaxes(1, 2).flags.c_contiguous  # as the query lies: the next product takes it as it is
    (g,) = draw("bfloat16", expected.shape)
    got = kernel("attention_backward", "cuda")(on_device(g, "bfloat16"), q, k, v, saved, 0.2, True)
    for mine, theirs in zip(got, reference_attention.attention_backward(g, *parts, weights, 0.2, True), strict=True):
        close(mine, theirs, "bfloat16")
        assert mine.strides == q.strides


@pytest.mark.parametrize("cut", ["split", "index"])
def test_gradients_of_one_product_lie_where_the_product_does(cut: str) -> None:
    """As scripts for PyTorch cut it: the graph finds the three gradients side by side and copies nothing."""
    (product,) = draw("float16", (2, 9, 3 * 32))
    x = phalanx.tensor(product.astype(np.float16), device="cuda", requires_grad=True)
    joined = x * 1.0
    if cut == "split":
        q, k, v = (part.view(2, 9, 2, 16).transpose(1, 2) for part in joined.split(32, dim=2))
    else:
        q, k, v = joined.reshape(2, 9, 3, 2, 16).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    (g,) = draw("float16", (2, 2, 9, 16))
    y.backward(phalanx.tensor(g.astype(np.float16), device="cuda"))
    packed = product.reshape(2, 9, 3, 2, 16)
    _, saved = reference_attention.packed_attention_forward(packed, 0.25, True)
    expected = reference_attention.packed_attention_backward(g.swapaxes(1, 2), packed, saved, 0.25, True)
    assert x.grad is not None
    close(x.grad.array, expected.reshape(product.shape), "float16")
    arrays = [part.array for part in (q, k, v)]
    _, kept = kernel("attention_forward", "cuda")(*arrays, 0.25, True)
    made = kernel("attention_backward", "cuda")(on_device(g, "float16"), *arrays, kept, 0.25, True)
    if cut == "index":
        part = Part((3, 2, 2, 9, 16), [(i, made[i]) for i in (1, 0, 2)])
        whole = part.whole()
        assert backend.address(whole) == backend.address(made[0]) and whole.shape == part.shape
        assert (host(whole) == np.stack([host(one) for one in made])).all()
    else:
        flat = [one.swapaxes(1, 2).reshape(2, 9, 32) for one in made]
        part = Part((2, 9, 96), [((Ellipsis, slice(32 * i, 32 * i + 32)), flat[i]) for i in range(3)])
        assert backend.address(part.whole()) == backend.address(made[0])
        assert (host(part.whole()) == np.concatenate([host(one) for one in flat], -1)).all()


def test_what_does_not_lie_in_rows_is_copied() -> None:
    """Rows that are not whole, rows of another's memory, and an address that no plan takes."""
    xp = backend.cupy()
    q, k, v = draw("float16", *SHAPES["heads"])
    turned = xp.ascontiguousarray(on_device(q, "float16").swapaxes(-1, -2)).swapaxes(-1, -2)
    shared = xp.broadcast_to(on_device(k[:, :1], "float16"), k.shape)
    flat = xp.zeros(v.size + 1, np.float16)
    flat[1:] = on_device(v, "float16").reshape(-1)
    arrays = [turned, shared, flat[1:].reshape(v.shape)]
    same = np.broadcast_to(k[:, :1], k.shape)
    expected, weights = reference_attention.attention_forward(q, same, v, 0.3, True)
    y, saved = kernel("attention_forward", "cuda")(*arrays, 0.3, True)
    close(y, expected, "float16")
    (g,) = draw("float16", q.shape)
    got = kernel("attention_backward", "cuda")(on_device(g, "float16"), *arrays, saved, 0.3, True)
    for mine, theirs in zip(
        got, reference_attention.attention_backward(g, q, same, v, weights, 0.3, True), strict=True
    ):
        close(mine, theirs, "float16")


def test_backward_is_deterministic_where_it_must_be() -> None:
    """cuDNN is asked for its deterministic form, under a plan of its own."""
    asked: list[bool] = []

    class Told(Exception):
        pass

    class Graph:
        def tensor(self, **_: Any) -> None:
            pass

        def sdpa_backward(self, use_deterministic_algorithm: bool, **_: Any) -> None:
            asked.append(use_deterministic_algorithm)
            raise Told

    x, requests = np.zeros((1, 2, 3, 8), np.float16), []
    for mode in (False, True):
        precision.use_deterministic_algorithms(mode)
        try:
            requests.append(attention.request_backward(x, x, x, x, (x, x, x, x), 1.0, True))
        finally:
            precision.use_deterministic_algorithms(False)
        with pytest.raises(Told):
            requests[-1].describe(Graph(), cudnn.library())
    assert asked == [False, True] and requests[0] != requests[1]


def test_a_forward_of_one_provider_fits_the_backward_of_another() -> None:
    q, k, v = draw("float16", *SHAPES["heads"])
    (g,) = draw("float16", q.shape)
    arrays, loss = [on_device(x, "float16") for x in (q, k, v)], on_device(g, "float16")
    expected = reference_attention.attention_backward(
        g, q, k, v, reference_attention.attention_forward(q, k, v, 0.3, True)[1], 0.3, True
    )
    _, kept = kernel("attention_forward", "cuda")(*arrays, 0.3, True)
    _, weights = reference_attention.attention_forward(*arrays, 0.3, True)
    for backward, saved in (
        (reference_attention.attention_backward, kept),
        (kernel("attention_backward", "cuda"), weights),
        (kernel("attention_backward", "cuda"), None),
    ):
        for mine, theirs in zip(backward(loss, *arrays, saved, 0.3, True), expected, strict=True):
            close(mine, theirs, "float16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layer(dtype: str) -> None:
    """Multi-head attention of a layer, forward and backward, as on the host."""
    found = {}
    for place, kind in (("cpu", "float64"), ("cuda", dtype)):
        phalanx.manual_seed(5)
        layer = phalanx.nn.MultiheadAttention(32, 2, batch_first=True, dtype=np.float64)
        layer = layer.to(place, dtype=backend.as_dtype(kind))
        (x,) = draw("bfloat16", (2, 6, 32))
        x = phalanx.tensor(x.astype(backend.as_dtype(kind)), device=place, requires_grad=True)
        y, _ = layer(x, x, x, need_weights=False, is_causal=True)
        (y * y).sum().backward()
        assert x.grad is not None and layer.in_proj_weight is not None and layer.in_proj_weight.grad is not None
        found[place] = [host(t.array) for t in (y, x.grad, layer.in_proj_weight.grad)]
    for mine, theirs in zip(found["cuda"], found["cpu"], strict=True):
        assert np.abs(mine - theirs).max() <= 4 * DTYPES[dtype] * np.abs(theirs).max()
