"""Plans of products: made once, per thread, never while a graph is captured; tuned tables; words of errors."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phalanx import cli
from phalanx.core import backend
from phalanx.core.errors import GraphError
from phalanx.core.kernels.cuda import algorithms, cublaslt, gemm, products, provide_gemm, scalars, tune
from phalanx.core.ops.linear_fused import FEED_FORWARD

RANDOM = np.random.default_rng(10)


@pytest.fixture(autouse=True)
def own_tables(device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Each test begins without plans and tables, in a folder of its own."""
    monkeypatch.setenv(algorithms.VARIABLE, str(tmp_path))
    _forget()
    yield tmp_path
    monkeypatch.delenv(algorithms.VARIABLE)
    _forget()


def _forget() -> None:
    algorithms.table.cache_clear()
    algorithms.digest.cache_clear()
    products._here.contexts = None


def draw(*shape: int) -> Any:
    return backend.to_device(RANDOM.normal(size=shape).astype(np.float32), "cuda")


def plans() -> list[Any]:
    return list(products.context().plans.values())


def test_a_plan_is_made_once_for_equal_products() -> None:
    a, b = draw(8, 16), draw(16, 8)
    first = gemm.matmul(a, b)
    assert np.array_equal(backend.to_host(gemm.matmul(a.copy(), b.copy())), backend.to_host(first))
    assert len(plans()) == 1
    gemm.matmul(a[:4], b)
    gemm.matmul(a.astype(np.float64), b.astype(np.float64))
    assert len(plans()) == 3


def test_threads_have_plans_of_their_own_and_equal_results() -> None:
    weight, bias = draw(12, 16), draw(12)
    inputs = [draw(6, 16) for _ in range(4)]
    expected = [backend.to_host(gemm.linear_forward(x, weight, bias)) for x in inputs]
    mine = plans()
    faults: list[int | str] = []

    def work(number: int) -> None:
        for _ in range(20):
            found = backend.to_host(gemm.linear_forward(inputs[number], weight, draw_zero + bias))
            if not np.array_equal(found, expected[number]):
                faults.append(number)
        if any(plan in mine for plan in plans()):
            faults.append("shared")

    draw_zero = backend.to_device(np.zeros(12, np.float32), "cuda")
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not faults


def test_each_stream_has_one_workspace_and_memory_reports_know_it() -> None:
    api = backend.cupy()
    streams = [api.cuda.Stream(non_blocking=True) for _ in range(2)]
    places = [products.workspaces.of(0, stream.ptr).data.ptr for stream in (*streams, *streams)]
    assert places[:2] == places[2:] and len(set(places)) == 2
    held = [each for each in products.workspaces.held() if each[1] == 0]
    assert len(held) >= 2 and set(held) == {("workspaces", 0, cublaslt.WORKSPACE_BYTES)}


# ---- captures --------------------------------------------------------------------------------------------------------


def test_a_captured_product_runs_again_at_each_launch() -> None:
    api = backend.cupy()
    stream = api.cuda.Stream(non_blocking=True)
    a, b, bias, out = draw(6, 8), draw(8, 5), draw(5), draw(6, 5)
    with stream:
        gemm.product(a, b, out, epilogue=cublaslt.BIAS, side=bias)
        stream.begin_capture()
        gemm.product(a, b, out, epilogue=cublaslt.BIAS, side=bias)
        graph = stream.end_capture()
        for _ in range(2):
            a += 1
            out[...] = np.nan
            graph.launch()
            expected = backend.to_host(a).astype(np.float64) @ backend.to_host(b) + backend.to_host(bias)
            np.testing.assert_allclose(backend.to_host(out), expected, rtol=1e-5, atol=1e-5)


def test_a_new_product_in_a_capture_is_an_error_that_says_what_to_do() -> None:
    api = backend.cupy()
    stream = api.cuda.Stream(non_blocking=True)
    a, b = draw(6, 8), draw(8, 5)
    with stream:
        stream.begin_capture()
        try:
            with pytest.raises(
                GraphError, match=r"met for the first time while a step is captured .*rows=5, columns=6, inner=8"
            ):
                gemm.matmul(a, b)
        finally:
            stream.end_capture()
        gemm.matmul(a, b)


def test_a_pass_that_only_gives_numbers_multiplies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, out = draw(4, 4), draw(4, 4), draw(4, 4)
    gemm.matmul(a, b, out)
    out[...] = 7
    monkeypatch.setattr(scalars.now, "feeding", True)
    gemm.matmul(a, b, out)
    assert (backend.to_host(out) == 7).all()


# ---- tuned tables ----------------------------------------------------------------------------------------------------


def test_what_was_tuned_is_used_by_the_next_process_and_changes_the_description(own_tables: Path) -> None:
    before = provide_gemm.describe()
    lines: list[str] = []
    found = tune.tune(
        tune.layer(FEED_FORWARD, 6, (8, 16, 8), "float32"), lambda timed: lines.append(timed.line()), repeat=2
    )
    assert len(found) == len(lines) >= 5
    assert all("TFLOP/s" in line for line in lines) and any("us without the epilogue" in line for line in lines)
    name = products.device_name(0)
    path = algorithms.write(name, cublaslt.version(), found)
    assert path.parent == own_tables and json.loads(path.read_text())["device"] == name
    assert before.endswith("heuristic") and "algorithms" in provide_gemm.describe()
    _forget()
    assert products.context().tuned == found
    tune.layer(FEED_FORWARD, 6, (8, 16, 8), "float32")()
    assert plans() and all(plan.problem.key() in found for plan in plans())
    for plan in plans():
        assert bytes(plan._algorithm._obj) == found[plan.problem.key()]


def test_a_table_of_another_version_or_with_words_that_mean_nothing_is_passed_over(own_tables: Path) -> None:
    a, b = draw(8, 16), draw(16, 8)
    expected = backend.to_host(gemm.matmul(a, b))
    key = plans()[0].problem.key()
    name = products.device_name(0)
    algorithms.write(name, "1.2.3", {key: bytes(64)})
    _forget()
    assert not products.context().tuned
    algorithms.write(name, cublaslt.version(), {key: b"\x01" * 64})
    _forget()
    assert products.context().tuned
    assert np.array_equal(backend.to_host(gemm.matmul(a, b)), expected)


def test_tables_are_merged() -> None:
    algorithms.write("A Card", "1.0.0", {"1,2": b"a" * 64})
    algorithms.write("A Card", "2.0.0", {"1,2": b"b" * 64})
    path = algorithms.write("A Card", "1.0.0", {"3,4": b"c" * 64})
    assert path.name == "a-card.json"
    assert algorithms.table("A Card", "1.0.0") == {"1,2": b"a" * 64, "3,4": b"c" * 64}
    assert algorithms.table("A Card", "2.0.0") == {"1,2": b"b" * 64}
    assert algorithms.table("Another Card", "1.0.0") == {}


def test_the_command_tunes_and_says_where(own_tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "tune",
        "8x16x8",
        "gelu:8x16x8",
        "relu:4x8x8",
        "--feed-forward",
        "8x8x16x8",
        "--dtype",
        "float32",
        "--repeat",
        "1",
    ]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert "linear_gelu 8x16x8" in said and "feed_forward 8x8x16x8" in said
    (path,) = own_tables.glob("*.json")
    assert str(path) in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name layers to tune"),
        (["8x8"], "expected 3 sizes like 64x64x64, got '8x8'"),
        (["silu:8x8x8"], "a layer is one of linear, gelu, relu, got 'silu'"),
        (["8x8x8", "--repeat", "0"], "--repeat must be at least 1, got 0"),
        (["--gpt2", "8"], "expected 2 sizes like 64x64, got '8'"),
    ],
)
def test_the_command_refuses_what_it_does_not_know(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["tune", *arguments]) == 2
    assert words in capsys.readouterr().err


# ---- the library -----------------------------------------------------------------------------------------------------


def test_without_the_library_the_words_say_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cublaslt.VARIABLE, "/nowhere/libcublasLt.so")
    cublaslt.load.cache_clear()
    try:
        with pytest.raises(
            ImportError,
            match=r"cuBLASLt could not be loaded: /nowhere.*matrix products run on CuPy alone.*nvidia-cublas",
        ):
            provide_gemm.load()
    finally:
        cublaslt.load.cache_clear()


def test_a_refusal_of_the_library_has_a_name_and_the_product() -> None:
    a, b = draw(8, 16), draw(16, 8)
    gemm.matmul(a, b)
    (plan,) = plans()
    with pytest.raises(
        RuntimeError, match=r"cuBLASLt: Matmul returned INVALID_VALUE for Problem\(rows=8, columns=8, inner=16"
    ):
        plan.run(0, 0, 0)


def test_an_algorithm_that_is_found_but_does_not_run_is_passed_over() -> None:
    switch = getattr(cublaslt.load(), "standin_break", None)
    if switch is None:
        pytest.skip("a real cuBLASLt cannot be told to fail")
    a, b = draw(8, 16), draw(16, 8)
    expected = backend.to_host(gemm.matmul(a, b))
    try:
        switch(2)
        for _ in range(2):
            assert np.array_equal(backend.to_host(gemm.matmul(a, b)), expected)
        switch(3)
        with pytest.raises(RuntimeError, match="cuBLASLt: Matmul returned NOT_SUPPORTED"):
            gemm.matmul(a, b)
    finally:
        switch(0)
