"""Compile all our CUDA kernels by nvcc, which needs no GPU: what does not compile, or spills registers to memory, is an error.

``python tests/gpu/compile_kernels.py`` does it for the architectures below and prints registers, shared memory and spills of each
function. nvcc comes from the path, from ``NVCC``, or from NVIDIA's wheels beside this interpreter.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "core" / "kernels" / "cuda"
ARCHITECTURES = ("sm_80", "sm_90")
LIMIT_S = 300
_FUNCTION = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass
class Function:
    """What the compiler says of one function on one architecture."""

    source: str
    name: str
    architecture: str
    registers: int = 0
    shared_bytes: int = 0
    stack_bytes: int = 0
    spilled_bytes: int = 0


class CompileError(Exception):
    """What nvcc said."""


def find_nvcc() -> str | None:
    """nvcc by ``NVCC``, on the path, or in NVIDIA's wheels; None if there is none."""
    wheels = Path(sys.prefix).glob("lib/python*/site-packages/nvidia/cu13/bin/nvcc")
    return os.environ.get("NVCC") or shutil.which("nvcc") or next((str(path) for path in wheels), None)


def sources(folder: Path = FOLDER) -> list[Path]:
    return sorted(folder.glob("*.cu"))


def report_of(source: str, text: str) -> Iterator[Function]:
    """The functions in what ``ptxas -v`` printed."""
    function: Function | None = None
    for line in text.splitlines():
        if found := _FUNCTION.search(line):
            function = Function(source, found[1], found[2])
        elif function is not None and (found := _SPILLS.search(line)):
            function.stack_bytes = int(found[1])
            function.spilled_bytes = int(found[2]) + int(found[3])
        elif function is not None and (found := _USED.search(line)):
            function.registers = int(found[1])
            function.shared_bytes = sum(int(each) for each in _SHARED.findall(line))
            yield function
            function = None


def compile_one(nvcc: str, path: Path, architecture: str) -> list[Function]:
    """Compile one text. Raises CompileError for what nvcc refuses or warns of."""
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, "-std=c++17", f"-arch={architecture}", "-cubin", "-Xptxas", "-v", "-Werror", "all-warnings"]
        done = subprocess.run(
            [*command, "-o", str(Path(folder) / "out.cubin"), str(path)],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    if done.returncode:
        raise CompileError(f"{path.name} for {architecture}:\n{done.stdout}{done.stderr}")
    functions = list(report_of(path.stem, done.stderr + done.stdout))
    if not functions:
        raise CompileError(f"{path.name} for {architecture} has no function:\n{done.stdout}{done.stderr}")
    return functions


def compile_all(
    nvcc: str, paths: Sequence[Path], architectures: Sequence[str], jobs: int = 2
) -> tuple[list[Function], list[str]]:
    """All functions of all texts, and what went wrong in words."""
    functions: list[Function] = []
    faults: list[str] = []
    with ThreadPoolExecutor(jobs) as pool:
        tasks = [pool.submit(compile_one, nvcc, path, each) for path in paths for each in architectures]
        for task in tasks:
            try:
                functions += task.result()
            except CompileError as error:
                faults.append(str(error))
    faults += [
        f"{each.source}.cu, {each.name} for {each.architecture}: {each.spilled_bytes} bytes of registers are spilled to memory"
        for each in functions
        if each.spilled_bytes
    ]
    return functions, faults


def table(functions: Sequence[Function]) -> str:
    """A line for each function and architecture."""
    head = ("file", "function", "architecture", "registers", "shared", "stack", "spilled")
    rows = [head] + [
        (f.source, f.name, f.architecture, *map(str, (f.registers, f.shared_bytes, f.stack_bytes, f.spilled_bytes)))
        for f in sorted(functions, key=lambda f: (f.source, f.name, f.architecture))
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="texts, such as pool; all if none is given")
    parser.add_argument(
        "--arch", action="append", help=f"an architecture; {' and '.join(ARCHITECTURES)} if none is given"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    nvcc = find_nvcc()
    if nvcc is None:
        print("no nvcc: put it on the path, or name it by NVCC, or `make kernels-cuda`, which installs NVIDIA's wheels")
        return 2
    paths = [path for path in sources() if not options.names or path.stem in options.names]
    functions, faults = compile_all(nvcc, paths, options.arch or ARCHITECTURES, options.jobs)
    print(table(functions))
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    print(f"{len(paths)} texts, {len(functions)} functions, {len(faults)} errors")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
