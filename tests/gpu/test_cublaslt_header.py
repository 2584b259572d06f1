"""The numbers and layouts that our binding of cuBLASLt uses, against the library's own header. No device needed, but the header."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from phalanx.core.kernels.cuda import cublaslt, products

NAMES = {
    "COMPUTE_32F": "CUBLAS_COMPUTE_32F",
    "COMPUTE_64F": "CUBLAS_COMPUTE_64F",
    "COMPUTE_TF32": "CUBLAS_COMPUTE_32F_FAST_TF32",
    "PLAIN": "CUBLASLT_EPILOGUE_DEFAULT",
    "RELU": "CUBLASLT_EPILOGUE_RELU",
    "BIAS": "CUBLASLT_EPILOGUE_BIAS",
    "DRELU": "CUBLASLT_EPILOGUE_DRELU",
    "BGRAD": "CUBLASLT_EPILOGUE_DGELU_BGRAD & ~CUBLASLT_EPILOGUE_DGELU",
    "GELU": "CUBLASLT_EPILOGUE_GELU",
    "DGELU": "CUBLASLT_EPILOGUE_DGELU",
    "AUX": "CUBLASLT_EPILOGUE_GELU_AUX & ~CUBLASLT_EPILOGUE_GELU",
    "BGRAD_A": "CUBLASLT_EPILOGUE_BGRADA",
    "BGRAD_B": "CUBLASLT_EPILOGUE_BGRADB",
    "TURN_A": "CUBLASLT_MATMUL_DESC_TRANSA",
    "TURN_B": "CUBLASLT_MATMUL_DESC_TRANSB",
    "EPILOGUE": "CUBLASLT_MATMUL_DESC_EPILOGUE",
    "SIDE_POINTER": "CUBLASLT_MATMUL_DESC_BIAS_POINTER",
    "AUX_POINTER": "CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER",
    "AUX_LD": "CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD",
    "SIDE_TYPE": "CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE",
    "BATCH": "CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT",
    "STEP": "CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET",
    "MAX_WORKSPACE": "CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES",
    "ALIGN_A": "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES",
    "ALIGN_B": "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES",
    "ALIGN_C": "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES",
    "ALIGN_D": "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES",
    "NOT_SUPPORTED": "CUBLAS_STATUS_NOT_SUPPORTED",
    "INVALID_VALUE": "CUBLAS_STATUS_INVALID_VALUE",
}
SIZES = {
    "Algorithm": "sizeof(cublasLtMatmulAlgo_t)",
    "Heuristic": "sizeof(cublasLtMatmulHeuristicResult_t)",
    "Heuristic.workspace": "offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize)",
    "Heuristic.state": "offsetof(cublasLtMatmulHeuristicResult_t, state)",
    "Heuristic.waves": "offsetof(cublasLtMatmulHeuristicResult_t, wavesCount)",
}
TYPES = {"float32": "CUDA_R_32F", "float64": "CUDA_R_64F", "float16": "CUDA_R_16F", "bfloat16": "CUDA_R_16BF"}
TYPE_CHECKS = [
    "decltype(&cublasLtMatmul), cublasStatus_t (*)(cublasLtHandle_t, cublasLtMatmulDesc_t, const void*, const void*, "
    "cublasLtMatrixLayout_t, const void*, cublasLtMatrixLayout_t, const void*, const void*, cublasLtMatrixLayout_t, void*, "
    "cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t*, void*, size_t, cudaStream_t)",
    "decltype(&cublasLtMatrixLayoutCreate), cublasStatus_t (*)(cublasLtMatrixLayout_t*, cudaDataType, uint64_t, uint64_t, int64_t)",
    "decltype(&cublasLtMatmulDescCreate), cublasStatus_t (*)(cublasLtMatmulDesc_t*, cublasComputeType_t, cudaDataType_t)",
    "decltype(&cublasLtMatmulDescSetAttribute), "
    "cublasStatus_t (*)(cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void*, size_t)",
]


def include_folders() -> list[Path]:
    """Where the header may lie: the toolkit that a variable names, the usual place, pip's wheels."""
    found = [Path(os.environ[name]) / "include" for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    found.append(Path("/usr/local/cuda/include"))
    nvidia = importlib.util.find_spec("nvidia")
    for place in (nvidia.submodule_search_locations or ()) if nvidia else ():
        found += [
            Path(place) / "cu13" / "include",
            Path(place) / "cublas" / "include",
            Path(place) / "cuda_runtime" / "include",
        ]
    return [folder for folder in found if folder.is_dir()]


def test_numbers_and_layouts_are_those_of_the_header(tmp_path: Path) -> None:
    folders = include_folders()
    if not any((folder / "cublasLt.h").is_file() for folder in folders) or shutil.which("g++") is None:
        pytest.skip("no cublasLt.h or no g++ here: CUDA_HOME names a toolkit; pip install nvidia-cublas has the header")
    asked = NAMES | SIZES | TYPES
    lines = [f'printf("%s %lld\\n", "{name}", (long long)({text}));' for name, text in asked.items()]
    lines += [f'static_assert(std::is_same<{text}>::value, "");' for text in TYPE_CHECKS]
    lines += [f'printf("status:%d %s\\n", {code}, cublas_name({code}));' for code in cublaslt.STATUS]
    statuses = "\n".join(
        f"case CUBLAS_STATUS_{name}: return {name!r};".replace("'", '"') for name in cublaslt.STATUS.values()
    )
    program = tmp_path / "ask.cpp"
    program.write_text(
        "#include <cublasLt.h>\n#include <cstddef>\n#include <cstdio>\n#include <type_traits>\n"
        f'const char* cublas_name(int code) {{ switch (code) {{ {statuses} }} return "?"; }}\n'
        "int main() {\n" + "\n".join(lines) + "\n}\n"
    )
    includes = [f"-I{folder}" for folder in folders]
    subprocess.run(["g++", "-std=c++17", "-w", *includes, str(program), "-o", str(tmp_path / "ask")], check=True)
    said = subprocess.run([tmp_path / "ask"], check=True, capture_output=True, text=True).stdout
    header = dict(line.split(" ", 1) for line in said.splitlines())
    for name in NAMES:
        assert int(header[name]) == getattr(cublaslt, name), name
    assert {name: int(header[name]) for name in TYPES} == cublaslt.TYPES
    assert int(header["Algorithm"]) == ctypes.sizeof(cublaslt.Algorithm)
    assert int(header["Heuristic"]) == ctypes.sizeof(cublaslt.Heuristic)
    for field in ("workspace", "state", "waves"):
        assert int(header[f"Heuristic.{field}"]) == getattr(cublaslt.Heuristic, field).offset
    assert {code: header[f"status:{code}"] for code in cublaslt.STATUS} == cublaslt.STATUS


def real_library() -> str | None:
    """A cuBLASLt of NVIDIA's beside one of the headers."""
    for folder in include_folders():
        for name in cublaslt.FILES:
            for lib in ("lib", "lib64"):
                if (folder.parent / lib / name).is_file():
                    return str(folder.parent / lib / name)
    return None


def test_the_real_library_takes_our_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes them, and reads back what was set, without a device; only a handle needs one."""
    name = real_library()
    if name is None:
        pytest.skip("no libcublasLt here: CUDA_HOME names a toolkit; pip install nvidia-cublas has it")
    monkeypatch.setenv(cublaslt.VARIABLE, name)
    cublaslt.load.cache_clear()
    try:
        library = cublaslt.load()
        context: Any = type("Context", (), {"handle": None, "device": 0})()
        for epilogue in (
            cublaslt.PLAIN,
            cublaslt.BIAS,
            cublaslt.GELU | cublaslt.AUX | cublaslt.BIAS,
            cublaslt.DGELU | cublaslt.BGRAD,
            cublaslt.RELU | cublaslt.AUX,
            cublaslt.BGRAD_B,
        ):
            problem = products.Problem(
                8, 16, 32, True, False, 32, 32, 8, 14, 0, cublaslt.COMPUTE_32F, epilogue, 3, 256, 512, 128, 128
            )
            plan = products.Plan(problem, context)
            assert _read(library, "MatmulDesc", plan._desc, cublaslt.TURN_A, ctypes.c_int32) == 1
            assert _read(library, "MatmulDesc", plan._desc, cublaslt.TURN_B, ctypes.c_int32) == 0
            assert _read(library, "MatmulDesc", plan._desc, cublaslt.EPILOGUE, ctypes.c_uint32) == epilogue
            if epilogue != cublaslt.PLAIN:
                side = epilogue & (cublaslt.BIAS | cublaslt.BGRAD | cublaslt.BGRAD_B)
                assert (_read(library, "MatmulDesc", plan._desc, cublaslt.SIDE_TYPE, ctypes.c_int32) == 0) == bool(side)
                assert _read(library, "MatmulDesc", plan._desc, cublaslt.SIDE_POINTER, ctypes.c_void_p) == (
                    16 if side else None
                )
            if epilogue & cublaslt.AUX:
                assert _read(library, "MatmulDesc", plan._desc, cublaslt.AUX_LD, ctypes.c_int64) == 128
            assert _read(library, "MatrixLayout", plan._a, cublaslt.BATCH, ctypes.c_int32) == 3
            assert _read(library, "MatrixLayout", plan._b, cublaslt.STEP, ctypes.c_int64) == 512
            with pytest.raises(RuntimeError, match="cuBLASLt: MatmulAlgoGetHeuristic returned"):  # the handle is none
                plan.candidates(1)
    finally:
        cublaslt.load.cache_clear()


def _read(library: Any, kind: str, made: Any, attribute: int, number: Any) -> Any:
    value, written = number(), ctypes.c_size_t()
    get = getattr(library, f"cublasLt{kind}GetAttribute")
    get.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    assert get(made, attribute, ctypes.byref(value), ctypes.sizeof(value), ctypes.byref(written)) == 0
    assert written.value == ctypes.sizeof(value)
    return value.value
