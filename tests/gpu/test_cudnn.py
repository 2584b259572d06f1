"""What stands around cuDNN's plans: loading it, keeping plans and workspaces, streams, captures, and what happens without it."""

from __future__ import annotations

import sys
import threading
import types
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx.core import backend, gpu_memory
from phalanx.core.kernels import reference_attention, reference_conv, table
from phalanx.core.kernels.cuda import (
    attention,
    attention_products,
    conv,
    cublaslt,
    cudnn,
    im2col,
    provide_cudnn,
    scalars,
)
from phalanx.core.kernels.window import Window

WINDOW = Window((3, 3), (1, 1), (1, 1))


@pytest.fixture(autouse=True)
def fresh(device: str) -> Iterator[None]:
    """No plan and no workspace of another test."""
    cudnn.reset()
    yield
    cudnn.reset()


def images(count: int = 2, dtype: str = "float32") -> tuple[Any, Any]:
    xp, rng = backend.cupy(), np.random.default_rng(count)
    kind = backend.as_dtype(dtype)
    return (xp.asarray(rng.normal(size=s).astype(kind)) for s in ((count, 8, 6, 6), (8, 8, 3, 3)))  # type: ignore[return-value]


def expected(x: Any, w: Any) -> np.ndarray:
    a, b = (backend.to_host(v).astype(np.float64) for v in (x, w))
    return reference_conv.conv_forward(a, b, None, WINDOW)


def right(y: Any, x: Any, w: Any) -> bool:
    return bool(np.allclose(backend.to_host(y), expected(x, w), rtol=1e-5, atol=1e-5))


# ---- plans and workspaces --------------------------------------------------------------------------------------------


def test_a_plan_is_made_once_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    made, build = [], cudnn.build
    monkeypatch.setattr(cudnn, "build", lambda request, **place: made.append(request) or build(request, **place))
    for count in (2, 2, 3, 2):
        x, w = images(count)
        assert right(conv.conv_forward(x, w, None, WINDOW), x, w)
    assert [request.shape[0] for request in made] == [2, 3]
    assert "(2, 8, 6, 6) with (8, 8, 3, 3) to (2, 8, 6, 6)" in str(made[0])


def test_threads_share_plans_and_the_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    made, build = [], cudnn.build
    monkeypatch.setattr(cudnn, "build", lambda request, **place: made.append(place) or build(request, **place))
    stream = backend.cupy().cuda.Stream(non_blocking=True)
    with stream:
        x, w = images()
    found: list[Any] = []

    def work() -> None:
        with stream:
            for _ in range(5):
                found.append(conv.conv_forward(x, w, None, WINDOW))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(made) == 1 and len(found) == 20
    with stream:
        assert all(right(y, x, w) for y in found)


def test_each_stream_has_a_workspace_that_grows_and_is_not_kept_twice() -> None:
    xp = backend.cupy()
    here = cudnn._here()
    assert here.held() == []
    small, other = here.workspace(1, 1 << 10), here.workspace(2, 1 << 10)
    assert small.data.ptr != other.data.ptr
    assert here.held() == [("workspaces", 0, 1 << 10)] * 2 and here.held()[0][0] in gpu_memory.KINDS
    assert here.workspace(1, 512).data.ptr == small.data.ptr
    grown = here.workspace(1, 1 << 12)
    assert grown.nbytes == 1 << 12 and here.workspace(1, 1 << 10).data.ptr == grown.data.ptr
    assert here.workspace(1, 0) is None
    before = xp.get_default_memory_pool().used_bytes()
    del small, grown, other
    here.workspaces.clear()
    assert xp.get_default_memory_pool().used_bytes() < before


def test_work_goes_to_the_current_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    xp, told, set_stream = backend.cupy(), [], cudnn.library().set_stream
    monkeypatch.setattr(
        cudnn.library(), "set_stream", lambda handle, stream: told.append(stream) or set_stream(handle, stream)
    )
    x, w = images()
    stream = xp.cuda.Stream(non_blocking=True)
    xp.cuda.Stream.null.synchronize()
    for where in (stream, stream, xp.cuda.Stream.null):
        with where:
            y = conv.conv_forward(x, w, None, WINDOW)
        where.synchronize()
        assert right(y, x, w)
    assert told == [stream.ptr, xp.cuda.Stream.null.ptr]  # only where it changes


def test_a_captured_call_runs_when_the_graph_does_and_has_a_workspace_of_its_own() -> None:
    xp = backend.cupy()
    pool, stream = xp.cuda.MemoryPool(), xp.cuda.Stream(non_blocking=True)
    with stream:
        x, w = images(2, "bfloat16")
        packed = xp.asarray(np.random.default_rng(1).normal(size=(1, 5, 3, 2, 8)).astype(phalanx.bfloat16))

        def run() -> tuple[Any, Any]:
            return conv.conv_forward(x, w, None, WINDOW), attention.packed_attention_forward(packed, 0.3, True)[0]

        run()  # plans are made before a capture
        workspaces = cudnn._here().workspaces
        workspaces.clear()
        scalars.now.slots = scalars.Slots()
        try:
            with xp.cuda.using_allocator(pool.malloc):
                stream.begin_capture()
                made = run()
                graph = stream.end_capture()
        finally:
            scalars.now.slots = None
        assert not workspaces
        conv.conv_forward(*images(5, "bfloat16"), None, WINDOW)  # the workspace of eager calls moves on
        for seed in (1, 2):
            rng = np.random.default_rng(seed)
            x[...] = xp.asarray(rng.normal(size=x.shape).astype(phalanx.bfloat16))
            packed[...] = xp.asarray(rng.normal(size=packed.shape).astype(phalanx.bfloat16))
            graph.launch(stream)
            for got, eager in zip(made, run(), strict=True):
                assert (backend.to_host(got) == backend.to_host(eager)).all()


def test_a_new_plan_in_a_capture_is_an_error() -> None:
    x, w = images()
    scalars.now.slots = scalars.Slots()
    try:
        with pytest.raises(
            phalanx.PhalanxError, match=r"cuDNN has not planned the forward .*\(2, 8, 6, 6\).* run a step"
        ):
            conv.conv_forward(x, w, None, WINDOW)
    finally:
        scalars.now.slots = None
    assert right(conv.conv_forward(x, w, None, WINDOW), x, w)


def test_nothing_runs_while_a_graph_is_fed() -> None:
    x, w = images()
    y = conv.conv_forward(x, w, None, WINDOW)
    kept = backend.to_host(y).copy()
    plan = cudnn.plan(conv.request("forward", "float32", x.shape, w.shape, y.shape, WINDOW, input_last=False))
    x[...] = 0
    scalars.now.feeding = True
    try:
        assert plan is not None
        cudnn.run(plan, x, w, y)
    finally:
        scalars.now.feeding = False
    assert (backend.to_host(y) == kept).all()


def test_a_refused_plan_is_said_once_and_something_else_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: Any, **place: Any) -> Any:
        raise cudnn.library().cudnnGraphNotSupportedError("no engine\n for this")

    monkeypatch.setattr(cudnn, "build", refuse)
    x, w = images()
    with pytest.warns(
        UserWarning,
        match=r"cuDNN has no plan for the forward of a convolution of float32 \(2, 8, 6, 6\).*no engine for this",
    ):
        y = conv.conv_forward(x, w, None, WINDOW)
    assert right(y, x, w)
    packed = backend.cupy().asarray(np.random.default_rng(0).normal(size=(1, 4, 3, 2, 8)).astype(np.float16))
    with pytest.warns(UserWarning, match="cuDNN has no plan for causal attention of float16"):
        z, saved = attention.packed_attention_forward(packed, 0.3, True)
    assert not isinstance(saved, tuple)
    truth = reference_attention.packed_attention_forward(backend.to_host(packed).astype(np.float64), 0.3, True)[0]
    assert np.abs(backend.to_host(z) - truth).max() < 2e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert right(conv.conv_forward(x, w, None, WINDOW), x, w)
        attention.packed_attention_forward(packed, 0.3, True)


def test_a_plan_stays_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn, "WORKSPACE_LIMIT", 0)
    shape = (64, 8, 32, 32)
    request = conv.request("weight gradient", "bfloat16", shape, (8, 8, 3, 3), shape, WINDOW, input_last=False)
    handle = cudnn.library().create_handle()
    try:
        assert cudnn.build(request, handle=handle).nbytes == 0
    except cudnn.library().cudnnGraphNotSupportedError:
        pass  # none that needs nothing
    finally:
        cudnn.library().destroy_handle(handle)


def test_a_plan_without_the_short_way_runs_by_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn.Plan, "_short_way", lambda plan: None)
    x, w = images()
    assert right(conv.conv_forward(x, w, None, WINDOW), x, w)


# ---- loading ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def loading(device: str) -> Iterator[Any]:
    """``library()`` finds what ``sys.modules`` holds, for this test alone."""
    cudnn.library.cache_clear()
    with pytest.MonkeyPatch.context() as patch:  # its own: undone before the stand-ins go
        yield patch
    cudnn.library.cache_clear()


def module(version: str = "1.23.0", backend_version: Any = lambda: 91900) -> Any:
    made = types.ModuleType("cudnn")
    made.__version__, made.backend_version = version, backend_version  # type: ignore[attr-defined]
    return made


def lost() -> int:
    raise RuntimeError("libcudnn.so.9: cannot open")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "frontend cannot be imported"),
        (module("1.32.0"), r"1\.23\.\* expected, got 1\.32\.0"),
        (module(backend_version=lost), r"finds no libcudnn\.so\.9 .*cannot open"),
        (module(backend_version=lambda: 8907), "91000 or later expected, got 8907"),
    ],
)
def test_what_is_missing_is_said_with_what_it_costs(loading: Any, given: Any, said: str) -> None:
    loading.setitem(sys.modules, "cudnn", given)
    with pytest.raises(cudnn.Unavailable, match=said) as caught:
        cudnn.library()
    assert "phalanx[cuda13]" in str(caught.value) and "slower" in str(caught.value)


def test_torch_is_not_imported_on_the_way(loading: Any, tmp_path: Any) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "cudnn.py").write_text(
        "try:\n    import torch\nexcept ImportError:\n    torch = None\n__version__ = '1.23.0'\ndef backend_version(): return 91900\n"
    )
    loading.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("cudnn", "torch")]:
        loading.delitem(sys.modules, name)
    loading.setitem(sys.modules, "cudnn", None)  # so that what is there now comes back
    del sys.modules["cudnn"]
    assert cudnn.library().torch is None
    assert "torch" not in sys.modules


def test_without_it_the_table_has_other_kernels(loading: Any) -> None:
    loading.setitem(sys.modules, "cudnn", None)
    loading.setattr(table, "_kernels", {})
    with pytest.warns(UserWarning, match="fast kernels: cuDNN's frontend cannot be imported"):
        found = table.table("cuda")
    assert found["conv_forward"] is im2col.conv_forward
    assert found["packed_attention_backward"] is attention_products.packed_attention_backward
    assert "no cudnn" in table.describe("cuda")
    packed = np.random.default_rng(0).normal(size=(2, 4, 3, 2, 8))
    g = np.random.default_rng(1).normal(size=(2, 4, 2, 8))
    _, saved = reference_attention.packed_attention_forward(packed, 0.3, True)
    dpacked = reference_attention.packed_attention_backward(g, packed, saved, 0.3, True)
    for dtype, error in ((np.float32, 1e-5), (np.float16, 2e-3), (phalanx.bfloat16, 2e-2)):
        xp = backend.cupy()
        on, loss = xp.asarray(packed.astype(dtype)), xp.asarray(g.astype(dtype))
        truth = backend.to_host(on).astype(np.float64)
        mine, kept = found["packed_attention_forward"](on, 0.3, True)
        assert mine.dtype == dtype
        assert (
            np.abs(backend.to_host(mine) - reference_attention.packed_attention_forward(truth, 0.3, True)[0]).max()
            < error
        )
        got = found["packed_attention_backward"](loss, on, kept, 0.3, True)
        assert got.dtype == dtype
        assert np.abs(backend.to_host(got).astype(np.float64) - dpacked).max() < 4 * error


def test_without_cublaslt_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN would end the process: "Invalid handle. Cannot load symbol cublasLtGetVersion"."""

    def missing() -> Any:
        raise cublaslt.Unavailable("no such file")

    monkeypatch.setattr(cublaslt, "load", missing)
    with pytest.warns(
        UserWarning, match=r"left alone: it ends the process where it finds no cuBLASLt \(no such file\)"
    ):
        assert provide_cudnn.load() is attention_products.KERNELS
    with pytest.raises(ImportError):
        provide_cudnn.describe()


def test_versions_are_told() -> None:
    found = provide_cudnn.describe()
    assert found == f"cuDNN {cudnn.library().backend_version()} (frontend {cudnn.library().__version__})"
    assert found in table.describe("cuda")
