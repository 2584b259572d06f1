"""The stand-in for CuPy: what it must notice. A test of kernels or streams is worth no more than this."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gpu.conftest import REAL

pytestmark = pytest.mark.skipif(REAL, reason="there is a GPU, and no stand-in")


@pytest.fixture
def cupy(standins: None) -> Iterator[Any]:
    found = importlib.import_module("cupy")
    order = importlib.import_module("cupy._order")
    with (
        found.cuda.Device(0),
        found.cuda.Stream.null,
        found.cuda.using_allocator(found.get_default_memory_pool().malloc),
    ):
        yield found
    gc.collect()
    order.host_waits_for_all()
    order._faults.clear()


def kernel(cupy: Any, body: str, parameters: str = "float* y, const float* x, int n") -> Any:
    text = f'#include <cuda_bf16.h>\nextern "C" __global__ void f({parameters}) {{ {body} }}'
    return cupy.RawModule(code=text, options=("-std=c++17",)).get_function("f")


# ---- kernels -----------------------------------------------------------------------------------------------------------


def test_a_kernel_runs(cupy: Any) -> None:
    f = kernel(cupy, "int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) y[i] = 2 * x[i];")
    x, y = cupy.arange(100, dtype=np.float32), cupy.empty(100, np.float32)
    f((4,), (32,), (y, x, np.int32(100)))
    np.testing.assert_array_equal(y.get(), np.arange(100) * 2)


def test_arguments_have_the_widths_of_parameters(cupy: Any) -> None:
    f = kernel(cupy, "")
    x = cupy.zeros(4, np.float32)
    for wrong in (4, np.int64(4), 4.0, np.float32(4), x):
        with pytest.raises(TypeError, match="parameter 2 is 'i'"):
            f((1,), (1,), (x, x, wrong))
    with pytest.raises(TypeError, match="3 parameters, 2 arguments"):
        f((1,), (1,), (x, x))
    with pytest.raises(TypeError, match="Unsupported type"):
        f((1,), (1,), (np.zeros(4, np.float32), x, np.int32(4)))
    f((1,), (1,), (np.uint64(0), x, np.int32(4)))  # a null pointer


def test_what_no_device_launches(cupy: Any) -> None:
    f, x = kernel(cupy, ""), cupy.zeros(4, np.float32)
    for grid, block, shared in (((1,), (2048,), 0), ((0,), (32,), 0), ((1, 70000), (32,), 0), ((1,), (32,), 50 << 10)):
        with pytest.raises(RuntimeError, match="INVALID_VALUE"):
            f(grid, block, (x, x, np.int32(4)), shared_mem=shared)
    f.max_dynamic_shared_size_bytes = 60 << 10
    f((1,), (32,), (x, x, np.int32(4)), shared_mem=50 << 10)


def test_a_write_behind_the_end_is_seen(cupy: Any) -> None:
    f = kernel(cupy, "y[threadIdx.x] = 1;")
    x, y = cupy.zeros(200, np.float32), cupy.empty(126, np.float32)
    f((1,), (126,), (y, x, np.int32(0)))
    with pytest.raises(RuntimeError, match="wrote behind the end"):
        f((1,), (128,), (y, x, np.int32(0)))


def test_shared_memory_that_nobody_wrote_is_nan(cupy: Any) -> None:
    f = kernel(
        cupy,
        "__shared__ float s[64]; if (threadIdx.x < n) s[threadIdx.x] = x[threadIdx.x]; __syncthreads(); y[threadIdx.x] = s[63 - threadIdx.x];",
    )
    x, y = cupy.ones(64, np.float32), cupy.empty(64, np.float32)
    f((3,), (64,), (y, x, np.int32(64)))
    assert (y.get() == 1).all()
    f((3,), (64,), (y, x, np.int32(63)))
    assert np.isnan(y.get()[0])


def test_a_missing_barrier_gives_a_wrong_result(cupy: Any) -> None:
    body = "__shared__ float s[64]; s[threadIdx.x] = x[threadIdx.x]; {} y[threadIdx.x] = s[63 - threadIdx.x];"
    x, y = cupy.arange(64, dtype=np.float32), cupy.empty(64, np.float32)
    kernel(cupy, body.format("__syncthreads();"))((1,), (64,), (y, x, np.int32(0)))
    np.testing.assert_array_equal(y.get(), np.arange(64)[::-1])
    kernel(cupy, body.format(""))((1,), (64,), (y, x, np.int32(0)))
    assert np.isnan(y.get()).any()


@pytest.mark.parametrize(
    "body",
    [
        "if (threadIdx.x < 16) __syncthreads(); else __syncwarp();",
        "y[0] = __shfl_xor_sync(0x1u, x[0], 1);",
        "if (threadIdx.x != 3) y[threadIdx.x] = __shfl_sync(0xfffffff7u, x[0], 3);",
    ],
)
def test_threads_that_wait_for_nobody(cupy: Any, body: str) -> None:
    x = cupy.zeros(64, np.float32)
    with pytest.raises(RuntimeError, match=r"different barriers|own mask|does not take part"):
        kernel(cupy, body)((1,), (32,), (x, x, np.int32(0)))


def test_dynamic_shared_memory_and_types(cupy: Any) -> None:
    body = "extern __shared__ float s[]; s[threadIdx.x] = __bfloat162float(x[threadIdx.x]); __syncthreads(); y[threadIdx.x] = __float2bfloat16(s[threadIdx.x] * 3);"
    f = kernel(cupy, body, "__nv_bfloat16* y, const __nv_bfloat16* x")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = cupy.asarray(np.array([1.0, 0.3, -2.5, np.inf], ml_dtypes.bfloat16))
    y = cupy.empty_like(x)
    f((1,), (4,), (y, x), shared_mem=16)
    expected = (np.array(x.get(), np.float32) * 3).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(y.get().astype(np.float32), expected.astype(np.float32))


def test_a_text_that_does_not_compile_says_why(cupy: Any) -> None:
    with pytest.raises(RuntimeError, match="nonsense"):
        kernel(cupy, "nonsense;")


# ---- memory ------------------------------------------------------------------------------------------------------------


def test_what_is_not_written_is_nan_and_pools_count(cupy: Any) -> None:
    pool = cupy.get_default_memory_pool()
    gc.collect()
    before = pool.used_bytes()
    x = cupy.empty(1000, np.float32)
    assert np.isnan(x.get()).all()
    assert pool.used_bytes() - before == 4096
    view = x[10:]
    del x
    assert pool.used_bytes() - before == 4096
    del view
    assert pool.used_bytes() == before
    assert pool.free_bytes() >= 4096
    pool.free_all_blocks()
    assert pool.total_bytes() == before


def test_a_limit_is_kept(cupy: Any) -> None:
    pool = cupy.cuda.MemoryPool()
    pool.set_limit(size=8192)
    with cupy.cuda.using_allocator(pool.malloc):
        held = cupy.empty(1024, np.float32)
        with pytest.raises(
            cupy.cuda.memory.OutOfMemoryError, match=r"Out of memory allocating 8,192 bytes.*limit set to"
        ):
            cupy.empty(2048, np.float32)
        del held
        gc.collect()
        cupy.empty(2048, np.float32)


def test_pools_of_ones_own(cupy: Any) -> None:
    pool, whole = cupy.cuda.MemoryPool(), cupy.get_default_memory_pool()
    before = whole.used_bytes()
    with cupy.cuda.using_allocator(pool.malloc):
        x = cupy.zeros(100, np.float32) + 1
    assert pool.used_bytes() == 512
    assert whole.used_bytes() == before
    assert x.data.ptr % 512 == 0


def test_pinned_memory(cupy: Any) -> None:
    cupyx = importlib.import_module("cupyx")
    host = cupyx.empty_pinned((3, 4), np.float32)
    host[...] = 7
    x = cupy.empty((3, 4), np.float32)
    x.set(host)
    out = cupyx.zeros_pinned((3, 4), np.float32)
    assert x.get(out=out) is out
    assert (out == 7).all()


# ---- devices -----------------------------------------------------------------------------------------------------------


def test_two_devices_do_not_mix(cupy: Any) -> None:
    x = cupy.ones(4, np.float32)
    with cupy.cuda.Device(1):
        y = cupy.ones(4, np.float32)
        assert y.device.id == 1
        with pytest.raises(ValueError, match="array device = 0 while current = 1"):
            x + y
        z = cupy.asarray(x) + y
        assert z.device.id == 1
    with pytest.raises(ValueError, match="array device = 1 while current = 0"):
        cupy.exp(y)
    with pytest.raises(RuntimeError, match="InvalidDevice"), cupy.cuda.Device(2):
        pass
    assert cupy.cuda.runtime.getDeviceCount() == 2


def test_visible_devices(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert cupy.cuda.runtime.getDeviceCount() == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not cupy.is_available()


# ---- streams -----------------------------------------------------------------------------------------------------------


def test_a_race_is_seen(cupy: Any) -> None:
    side, x = cupy.cuda.Stream(non_blocking=True), cupy.ones(100, np.float32)
    with pytest.raises(RuntimeError, match="waits for no event"), side:
        x += 1
    done = cupy.cuda.get_current_stream().record(cupy.cuda.Event(disable_timing=True))
    side.wait_event(done)
    with side:
        x += 1
        finished = side.record(cupy.cuda.Event(disable_timing=True))
    with pytest.raises(RuntimeError, match="race"):
        x * 2
    cupy.cuda.get_current_stream().wait_event(finished)
    assert (x * 2).get()[0] == 4


def test_reading_at_once_is_no_race_nor_are_other_bytes(cupy: Any) -> None:
    x = cupy.ones(100, np.float32)
    cupy.cuda.get_current_stream().synchronize()
    side = cupy.cuda.Stream(non_blocking=True)
    with side:
        doubled = x[:50] * 2
    x * 3
    x[50:] = 0
    with pytest.raises(RuntimeError, match="race"):
        x[49:] = 0
    side.synchronize()
    x[49:] = 0
    assert doubled.get()[0] == 2


def test_a_blocking_stream_is_ordered_with_the_null_stream(cupy: Any) -> None:
    side, x = cupy.cuda.Stream(), cupy.ones(10, np.float32)
    with side:
        x += 1
    assert (x * 2).get()[0] == 4


def test_kernels_tell_what_they_write(cupy: Any) -> None:
    f = kernel(cupy, "if (threadIdx.x < n) y[threadIdx.x] = x[threadIdx.x];")
    x, y, z = cupy.ones(8, np.float32), cupy.ones(8, np.float32), cupy.ones(8, np.float32)
    cupy.cuda.Device().synchronize()
    side = cupy.cuda.Stream(non_blocking=True)
    with side:
        f((1,), (8,), (y, x, np.int32(8)))
    f((1,), (8,), (z, x, np.int32(8)))  # both read x
    with pytest.raises(RuntimeError, match="race"):
        f((1,), (8,), (x, z, np.int32(8)))
    with pytest.raises(RuntimeError, match="race"):
        f((1,), (8,), (z, y, np.int32(8)))
    cupy.cuda.Device().synchronize()


def test_memory_freed_under_another_stream(cupy: Any) -> None:
    side = cupy.cuda.Stream(non_blocking=True)
    x = cupy.ones(10, np.float32)
    side.wait_event(cupy.cuda.get_current_stream().record())
    with side:
        y = x * 2
    del x
    with pytest.raises(RuntimeError, match="were freed while stream"):
        cupy.ones(3, np.float32) + 1
    side.synchronize()
    assert y.get()[0] == 2


@pytest.mark.parametrize(
    "leaning", ["test_nccl.py::test_contract[nccl-2]", "test_prefetch.py::test_the_same_batches_on_the_gpu[arrays]"]
)
def test_work_that_leans_on_events_fails_without_them(leaning: str) -> None:
    """Sums over ranks and the feed of batches are really watched."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.gpu.without_events",
        "-p",
        "no:cacheprovider",
        str(Path(__file__).with_name(leaning)),
    ]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1, done.stdout
    # of two ranks that race the other may be heard first
    assert "waits for no event of it" in done.stdout or "phalanx.dist.errors" in done.stdout


def test_events_measure_time(cupy: Any) -> None:
    began, ended = cupy.cuda.Event(), cupy.cuda.Event()
    began.record()
    ended.record()
    ended.synchronize()
    assert 0 <= cupy.cuda.get_elapsed_time(began, ended) < 1000
    with pytest.raises(RuntimeError, match="InvalidResourceHandle"):
        cupy.cuda.get_elapsed_time(began, cupy.cuda.Event(disable_timing=True))


# ---- captures ----------------------------------------------------------------------------------------------------------


def test_a_capture_records_and_does_nothing(cupy: Any) -> None:
    f = kernel(cupy, "if (threadIdx.x < n) y[threadIdx.x] = x[threadIdx.x] + 1;")
    x, y = cupy.zeros(8, np.float32), cupy.zeros(8, np.float32)
    f((1,), (8,), (y, x, np.int32(8)))
    cupy.cuda.Device().synchronize()
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    with stream, cupy.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        assert stream.is_capturing()
        f((1,), (8,), (y, x, np.int32(8)))
        twice = y * 2
        x += twice
        graph = stream.end_capture()
        assert (x.get() == 0).all()
        for _ in range(2):
            graph.launch()
        assert (x.get() == 8).all()
        assert (twice.get() == 6).all()


@pytest.mark.parametrize(
    "call",
    [
        "x.get()", "x.sum().item()", "float(x[0])", "bool(x[0] > 0)", "cupy.asarray([1.0])", "x[x > 0]", "cupy.nonzero(x)", "stream.synchronize()",
        "x.set(np.zeros(8, np.float32))", "cupy.cuda.Device().synchronize()", "x.reshape(2, 4) @ x.reshape(4, 2)", "repr(x)", "cupy.where(x > 0)",
        "stream.done", "event.synchronize()", "cupy.unique(x)",
    ],
)  # fmt: skip
def test_what_a_capture_refuses(cupy: Any, call: str) -> None:
    x, stream, event = cupy.ones(8, np.float32), cupy.cuda.Stream(non_blocking=True), cupy.cuda.Event()
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        event.record(stream)
        try:
            with pytest.raises((RuntimeError, NotImplementedError)):
                eval(call, {"x": x, "cupy": cupy, "np": np, "stream": stream, "event": event})
        finally:
            stream.end_capture()


def test_the_null_stream_cannot_capture(cupy: Any) -> None:
    with pytest.raises(RuntimeError, match="default"):
        cupy.cuda.get_current_stream().begin_capture()


def test_forks_are_joined(cupy: Any) -> None:
    x = cupy.ones(8, np.float32)
    cupy.cuda.Device().synchronize()
    main, side = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
    for joined in (True, False):
        with main:
            main.begin_capture()
            side.wait_event(main.record())
            with side:
                x += 1
            if joined:
                main.wait_event(side.record())
                main.end_capture().launch()
            else:
                with pytest.raises(RuntimeError, match="Unjoined"):
                    main.end_capture()
    assert not side.is_capturing()
    cupy.cuda.Device().synchronize()
    assert (x.get() == 2).all()


def test_a_graph_does_not_keep_its_memory(cupy: Any) -> None:
    x = cupy.ones(8, np.float32)
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        x += 1
        graph = stream.end_capture()
        graph.launch()
        stream.synchronize()
        del x
        gc.collect()
        with pytest.raises(RuntimeError, match="freed after its capture"):
            graph.launch()
