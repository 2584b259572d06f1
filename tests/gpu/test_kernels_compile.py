"""All our CUDA kernels compile for an H100 without a spill; nvcc needs no GPU. `make kernels-cuda` adds the architecture before."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu.compile_kernels import CompileError, compile_all, compile_one, find_nvcc, report_of, sources

NVCC = find_nvcc()
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc on the path; `make kernels-cuda` brings one")


@needs_nvcc
@pytest.mark.parametrize("path", sources(), ids=lambda path: path.stem)
def test_a_text_compiles_without_a_spill(path: Path) -> None:
    assert NVCC is not None
    functions, faults = compile_all(NVCC, [path], ["sm_90"], jobs=1)
    assert not faults, "\n".join(faults)
    assert functions and all(function.registers > 0 for function in functions)


@needs_nvcc
def test_a_text_with_an_error_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.cu"
    broken.write_text('extern "C" __global__ void f(float* x) { y[0] = 1.0f; }')
    assert NVCC is not None
    with pytest.raises(CompileError, match='identifier "y" is undefined'):
        compile_one(NVCC, broken, "sm_90")


def test_a_spill_is_seen() -> None:
    said = """ptxas info    : Compiling entry function 'f' for 'sm_90'
ptxas info    : Function properties for f
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 16 bytes cumulative stack size, 1024 bytes smem
"""
    (function,) = report_of("a", said)
    assert (function.name, function.registers, function.shared_bytes) == ("f", 255, 1024)
    assert (function.stack_bytes, function.spilled_bytes) == (16, 20)
