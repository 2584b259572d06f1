"""``RawModule``: CUDA text compiled by g++ with ``cuda_shim`` and run on host memory, with more checks than a device makes."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
import threading
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from . import _order, _state
from ._array import ndarray

_one_at_a_time = threading.Lock()  # threads of a rank each: the shim has one set of fibers
_STANDIN = Path(__file__).parents[1]
_SHIM = _STANDIN / "cuda_shim"
_KERNEL = re.compile(r'extern\s*"C"\s*__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(')
_DYNAMIC = re.compile(
    r"extern\s+__shared__\s+(?:__align__\s*\(\s*\d+\s*\)\s*|alignas\s*\(\s*\d+\s*\)\s*)?([\w:\s]+?)\s+(\w+)\s*\[\s*\]\s*;"
)
_KINDS = {np.dtype(np.float32): "f", np.dtype(np.float64): "d"}
_OWN = ("-fvisibility=hidden", "-fno-gnu-unique")
"""Texts share nothing, not even the statics of templates."""
_SHARED_BYTES, _MOST_SHARED_BYTES = 48 << 10, 227 << 10
_lock = Lock()


def _compiled() -> Any:
    """``compiled.py`` beside this package."""
    found = sys.modules.get("phalanx_standin_compiled")
    if found is None:
        spec = importlib.util.spec_from_file_location("phalanx_standin_compiled", _STANDIN / "compiled.py")
        assert spec is not None and spec.loader is not None
        found = sys.modules["phalanx_standin_compiled"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    return found


class RawModule:
    """A text with kernels."""

    def __init__(
        self,
        *,
        code: str | None = None,
        path: str | None = None,
        options: tuple[str, ...] = (),
        backend: str = "nvrtc",
        **more: Any,
    ) -> None:
        if code is None:
            raise TypeError("the stand-in compiles texts only")
        if not isinstance(options, tuple):
            raise TypeError(f"Argument 'options' has incorrect type (expected tuple, got {type(options).__name__})")
        self.code, self.options, self.backend = code, options, backend
        self._library: ctypes.CDLL | None = None
        self._names: frozenset[str] = frozenset()

    def compile(self, log_stream: Any = None) -> None:
        with _lock:
            if self._library is not None:
                return
            compiled = _compiled()
            text = _DYNAMIC.sub(r"\1* \2 = (\1*)sim::dynamic_shared;", self.code)
            text = re.sub(
                r"^\s*#\s*include\s*<(cuda_runtime|cuda|vector_types|math_constants)\.h>.*$",
                "",
                text,
                flags=re.MULTILINE,
            )
            flags = (f"-I{_SHIM}",)
            expanded = compiled.preprocessed(text, (*flags, "-D__launch_bounds__(...)="))
            names = list(dict.fromkeys(_KERNEL.findall(expanded)))
            table = "".join(
                f"EXPORTED int sim_launch_{n}(const unsigned* g, const unsigned* b, size_t s, void** a, char* t, size_t z)"
                f" {{ return sim::start_kernel(&{n}, g, b, s, a, t, z); }}\n"
                f'EXPORTED void sim_kinds_{n}(char* t, size_t z) {{ snprintf(t, z, "%s", sim::kinds(&{n}).c_str()); }}\n'
                for n in names
            )
            whole = f'#include "device.h"\n#define __global__\n{text}\n{table}'
            headers = "".join(f"// {p.name} {p.read_text()!r}\n" for p in sorted(_SHIM.glob("*.h")))
            try:
                path = compiled.library(f"{whole}\n{headers}", (*flags, "-fsanitize=alignment", *_OWN))
            except compiled.CompileError as error:
                raise RuntimeError(f"g++ cannot compile the kernels:\n{error}") from None
            self._names = frozenset(names)
            self._library = ctypes.CDLL(str(path))

    def get_function(self, name: str) -> RawKernel:
        self.compile()
        if name not in self._names:
            raise _state.CUDARuntimeError("CUDA_ERROR_NOT_FOUND", f"named symbol not found: {name}")
        return RawKernel(self.code, name, self.options, _module=self)


class RawKernel:
    """One kernel."""

    def __init__(
        self, code: str, name: str, options: tuple[str, ...] = (), backend: str = "nvrtc", *, _module: Any = None
    ) -> None:
        self.name = self.__name__ = name
        self.code, self.options = code, options
        self._most = _SHARED_BYTES
        self._module = _module or RawModule(code=code, options=options, backend=backend)
        self._function: Any = None
        self._kinds = ""

    def compile(self, log_stream: Any = None) -> None:
        module = self._module
        module.compile()
        if self.name not in module._names:
            raise _state.CUDARuntimeError("CUDA_ERROR_NOT_FOUND", f"named symbol not found: {self.name}")
        text = ctypes.create_string_buffer(256)
        getattr(module._library, f"sim_kinds_{self.name}")(text, ctypes.c_size_t(256))
        self._kinds = text.value.decode()
        self._function = getattr(module._library, f"sim_launch_{self.name}")

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._most

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, nbytes: int) -> None:
        if nbytes > _MOST_SHARED_BYTES:
            raise _state.CUDARuntimeError("CUDA_ERROR_INVALID_VALUE", "invalid argument")
        self._most = nbytes

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Any, *, shared_mem: int = 0, stream: Any = None
    ) -> None:
        if self._function is None:
            _state.refuse_while_capturing("the first launch of a kernel, which loads it")
            self.compile()
        if not isinstance(grid, tuple) or not isinstance(block, tuple):
            raise TypeError("grid and block must be tuples")
        grid, block = (*grid, 1, 1)[:3], (*block, 1, 1)[:3]
        threads = block[0] * block[1] * block[2]
        if (
            min(*grid, *block) < 1 or threads > 1024 or block[2] > 64 or grid[0] >= 1 << 31 or max(grid[1:]) > 65535
            or shared_mem > self._most
        ):  # fmt: skip
            raise _state.CUDARuntimeError(
                "CUDA_ERROR_INVALID_VALUE", f"grid {grid}, block {block}, {shared_mem} bytes of shared memory"
            )
        held = [self._argument(i, value) for i, value in enumerate(args)]
        if len(held) != len(self._kinds):
            raise TypeError(f"{self.name} has {len(self._kinds)} parameters, {len(held)} arguments were given")
        arrays = [value for value in args if isinstance(value, ndarray)]
        recording = _state.recording_of(stream)
        for array in arrays if recording is not None else ():
            recording.touch(array._memory)
        for value, kind in zip(args, self._kinds, strict=True):
            if isinstance(value, ndarray):
                _order.of_array(value, kind == "p", stream)
        memories = [array._memory for array in arrays if recording is None]
        raws = [array._memory.raw for array in arrays]

        def run(_keep: Any = raws) -> None:
            self._run(grid, block, shared_mem, held)
            for memory in memories:
                if not memory.whole():
                    raise _state.CUDARuntimeError(
                        "cudaErrorIllegalAddress", f"{self.name} wrote behind the end of an array"
                    )

        _state.run(run, stream)

    def _argument(self, index: int, value: Any) -> ctypes.Array[Any]:
        wanted = self._kinds[index : index + 1]
        if isinstance(value, ndarray):
            if value._memory.device_id != _state.thread.device:
                raise _state.CUDARuntimeError("cudaErrorIllegalAddress", f"{self.name}: an array of another device")
            raw, kind = np.uint64(value._array.ctypes.data if value.size else 0), wanted if wanted in "pc" else "p"
        else:
            if isinstance(value, bool):
                value = np.bool_(value)
            elif isinstance(value, int):
                value = np.int64(value)
            elif isinstance(value, float):
                value = np.float64(value)
            if not isinstance(value, np.generic):
                raise TypeError(f"Unsupported type {type(value)}")
            raw = value
            kind = _KINDS.get(value.dtype) or {8: "q", 4: "i", 2: "h", 1: "b"}[value.itemsize]
        if kind != wanted and not (kind == "q" and wanted in "pc"):
            raise TypeError(
                f"{self.name}: parameter {index} is {wanted!r} and was given {kind!r} ({type(value).__name__})"
            )
        return ctypes.create_string_buffer(raw.tobytes(), raw.itemsize)

    def _run(self, grid: Any, block: Any, shared: int, held: Any) -> None:
        pointers = (ctypes.c_void_p * max(len(held), 1))(*[ctypes.addressof(h) for h in held])
        text = ctypes.create_string_buffer(512)
        with _one_at_a_time:
            failed = self._function(
                (ctypes.c_uint * 3)(*grid),
                (ctypes.c_uint * 3)(*block),
                ctypes.c_size_t(shared),
                pointers,
                text,
                ctypes.c_size_t(512),
            )
        if failed:
            raise _state.CUDARuntimeError("cudaErrorLaunchFailure", f"{self.name}: {text.value.decode()}")
