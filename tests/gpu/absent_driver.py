"""A ``libcuda.so.1`` for machines that have no GPU, so that cuDNN can make plans there that it compiles at run time.

Every function says that there is no device (100), but for the few that cuDNN calls between compiling a kernel and keeping it. Beside it
lies a ``libcublasLt.so.13`` that knows its version, which cuDNN asks for, and nothing else: the real one is 400 MB.

Usage: python tests/gpu/absent_driver.py FOLDER_OF_LIBRARIES FOLDER_FOR_THE_STUB
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

NAME = re.compile(rb"\x00(cu[A-Z][A-Za-z0-9_]{2,60})(?=\x00)")
NO_DEVICE = "return 100;"
HANDLE = "*(void **)a = (void *)0x1000; return 0;"
SAY = {
    "cuDriverGetVersion": "*(int *)a = 13000; return 0;",
    **dict.fromkeys(
        ["cuModuleLoadData", "cuModuleLoadDataEx", "cuModuleGetFunction", "cuLibraryLoadData", "cuLibraryGetKernel"], HANDLE
    ),
    **dict.fromkeys(["cuKernelGetFunction", "cuCtxGetCurrent"], HANDLE),
    **dict.fromkeys(
        ["cuFuncSetAttribute", "cuFuncSetCacheConfig", "cuKernelSetAttribute", "cuModuleUnload", "cuLibraryUnload"], "return 0;"
    ),
}  # fmt: skip
PRODUCTS = (
    "unsigned long cublasLtGetVersion(void) { return 130100; }\nint cublasLtCreate(void **h) { (void)h; return 1; }\n"
)


def source(libraries: Path) -> str:
    """C text with every function of the driver that the libraries name."""
    names = set(SAY)
    for library in libraries.rglob("libcudnn*.so.9"):
        names |= {found.decode() for found in NAME.findall(library.read_bytes())}
    return "".join(f"int {name}(void *a) {{ (void)a; {SAY.get(name, NO_DEVICE)} }}\n" for name in sorted(names))


def make(libraries: Path, folder: Path) -> Path:
    """Compile both; returns the folder that they lie in."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("libcuda.so.1", source(libraries)), ("libcublasLt.so.13", PRODUCTS)):
        text = folder / f"{name}.c"
        text.write_text(content)
        subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", str(folder / name), str(text)], check=True, timeout=60)
    return folder


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), Path(sys.argv[2])))
