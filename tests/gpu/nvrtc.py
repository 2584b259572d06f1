"""Compile all our CUDA kernels by NVRTC with the options that CuPy gives it: what will compile them on a device, which needs none.

NVRTC is stricter than nvcc: it knows no header of the host and none of the compiler's own functions. ``make kernels-cuda`` brings it.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phalanx.core.kernels.cuda import launch

BY_CUPY = ("-ftz=true", "--device-as-default-execution-space")
"""What CuPy 14 adds to the options of a RawModule (cupy/cuda/compiler.py)."""


class Nvrtc:
    """The library and the headers of NVIDIA's wheels in a folder."""

    def __init__(self, site: Path) -> None:
        root = site / "nvidia" / "cu13"
        for needed in (root / "lib").glob("libnvrtc-builtins.so.*"):  # NVRTC asks for it by name alone
            ctypes.CDLL(str(needed), ctypes.RTLD_GLOBAL)
        self.library: Any = ctypes.CDLL(str(root / "lib" / "libnvrtc.so.13"))
        self.include = root / "include"
        if not (self.include / "cuda_bf16.h").exists():
            raise FileNotFoundError(f"no cuda_bf16.h in {self.include}: nvidia-cuda-runtime is not there")

    def compile(self, source: str, text: str, architecture: str) -> str:
        """What NVRTC says against a text; nothing if it compiles."""
        program = ctypes.c_void_p()
        name = f"{source}.cu".encode()
        self._check(self.library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), name, 0, None, None))
        options = [*launch.OPTIONS, f"-I{self.include}", f"-arch={architecture}", *BY_CUPY]
        encoded = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        failed = self.library.nvrtcCompileProgram(program, len(options), encoded)
        size = ctypes.c_size_t()
        self._check(self.library.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
        log = ctypes.create_string_buffer(size.value)
        self._check(self.library.nvrtcGetProgramLog(program, log))
        self._check(self.library.nvrtcDestroyProgram(ctypes.byref(program)))
        return log.value.decode() or "NVRTC gives no reason" if failed else ""

    @staticmethod
    def _check(code: int) -> None:
        if code:
            raise RuntimeError(f"NVRTC answers {code}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="the folder that NVIDIA's wheels are in")
    parser.add_argument("--arch", default="sm_90")
    options = parser.parse_args(arguments)
    nvrtc, failed = Nvrtc(options.site), 0
    broken = nvrtc.compile("broken", 'extern "C" __global__ void f() { absent(); }', options.arch)
    assert "absent" in broken, f"NVRTC did not refuse what is wrong: {broken!r}"
    for source in launch.sources():
        began = time.monotonic()
        fault = nvrtc.compile(source, launch.source_text(source), options.arch)
        failed += bool(fault)
        print(f"{source:12} {time.monotonic() - began:5.1f} s  {fault or 'compiles'}", flush=True)
    print(f"{len(launch.sources())} texts by NVRTC for {options.arch}, {failed} errors")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
