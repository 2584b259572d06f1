"""Faults planted into the texts of our kernels, each of which the comparisons with the reference must catch.

``python -m tests.gpu.mutations`` plants all of them, one after the other, and says which nobody noticed. The tests run in a process of
their own on the stand-in: on a device a fault may hang or poison the process.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.gpu import mutations_rows

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "core" / "kernels" / "cuda"
LIMIT_S = 240


@dataclass(frozen=True)
class Fault:
    """In ``file``, the text ``was`` (which is there once) becomes ``becomes``; one of ``tests`` must fail, of those that ``pick`` names."""

    file: str
    was: str
    becomes: str
    tests: str
    pick: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {' '.join(self.was.split())[:60]} -> {' '.join(self.becomes.split())[:60] or 'nothing'}"


class Unplanted(Exception):
    """A fault that says nothing about the tests: its text is not there, or it does not compile."""


OPTIM, FLAT, IMAGE = "test_optim_kernels.py", "test_flat_kernels.py", "test_image_kernels.py"
BITS = "bits_of_the_reference"
FAULTS = (
    Fault("optim.cu", "m = m + (g - m) * share1;", "m = m - (g - m) * share1;", OPTIM, BITS),
    Fault("optim.cu", "p = p - a / (root(kept.c ? c : b)", "p = p - a / (root(b)", OPTIM, BITS),
    Fault("optim.cu", "if (set(decay)) g = g + p * decay;", "", OPTIM, BITS),
    Fault("optim.cu", "a = set(first) ? g : a * momentum", "a = set(first) ? g : a + momentum", OPTIM, BITS),
    Fault("optim.cu", "if (k < count) to[k] = ", "if (k <= count) to[k] = ", OPTIM, BITS),
    Fault("optim.cu", "k < count ? to_float(from[k]) : 0.0f", "to_float(from[0])", OPTIM, BITS),
    Fault("optim.cu", "% (sizeof(T) * EACH) == 0", "% 1 == 0", OPTIM, BITS),
    Fault("optim.cu", "    of_direction = block_sum(of_direction);\n", "", OPTIM, "lamb"),
    Fault("optim.cu", "apart > 0; apart /= 2) {\n        __syncthreads();", "apart > 0; apart /= 2) {", OPTIM, "lamb"),
    Fault("optim.cu", "a = agreement < 0.0f ? Exact(0.0f) : g;", "a = g;", OPTIM, "rprop"),
    Fault("optim.cu", "numbers[1] != 0.0f && ratio > 1.0", "numbers[1] != 0.0f && ratio < 1.0", OPTIM, "lamb"),
    Fault("flat.cu", "for (int apart = 1; apart < 32; apart *= 2)", "for (int apart = 16; apart > 0; apart /= 2)", FLAT, "tree"),
    Fault("flat.cu", "for (int apart = 1; apart < 32; apart *= 2)", "for (int apart = 1; apart < 16; apart *= 2)", FLAT, "tree"),
    Fault("flat.cu", "    __syncthreads();\n    value = warp_tree(shares", "    value = warp_tree(shares", FLAT, "tree"),
    Fault("flat.cu", "if (scale >= 1.0f) return;", "", FLAT, "clipping"),
    Fault("flat.cu", "fabsf(values[k]) < INFINITE", "values[k] < INFINITE", FLAT, "finite"),
    Fault("flat.cu", "x = (x ^ (x >> 32)) * second;", "x = (x ^ (x >> 31)) * second;", FLAT, "hash"),
    Fault("flat.cu", "(start + (u64)i + 1)", "((u64)i + 1)", FLAT, "hash"),
    Fault("flat.cu", "i < bytes && i < at + 16", "i < bytes && i < at + 15", FLAT, "averages"),
    Fault("flat.cu", "packed && at + N <= count) {\n            float values[N];\n            load_floats<N>(x + at, values);\n#pragma unroll\n            for (int k = 0; k < N; ++k) total",
          "packed) {\n            float values[N];\n            load_floats<N>(x + at, values);\n#pragma unroll\n            for (int k = 0; k < N; ++k) total", FLAT, "chunk_norms"),
    Fault("batch_norm.cu", "mean[k] += apart * share;", "mean[k] += apart / 2.0f;", IMAGE, "batch_norm"),
    Fault("batch_norm.cu", "difference * difference * share * shared_count[me];", "difference * difference * share;", IMAGE, "batch_norm"),
    Fault("batch_norm.cu", "step = (i64)row_blocks * height;", "step = (i64)row_blocks * height + 1;", IMAGE, "batch_norm"),
    Fault("batch_norm.cu", "total += (double)means[(i64)b * channels + channel] * counts[b];", "total += (double)means[(i64)b * channels + channel];", IMAGE, "batch_norm"),
    Fault("batch_norm.cu", "    __syncthreads();\n    shares[threadIdx.x] = value;", "    shares[threadIdx.x] = value;", IMAGE, "batch_norm"),
    Fault("batch_norm.cu", "g[k] = y[k] > 0.0f ? g[k] : 0.0f;", "g[k] = g[k];", IMAGE, "batch_norm"),
    Fault("batch_norm.cu", "i % 2 * 2 + j % 2 ? g[k]", "i % 2 + j % 2 * 2 ? g[k]", IMAGE, "batch_norm"),
    Fault("batch_norm.cu", "if (i / 2 >= down || j / 2 >= across) return;", "", IMAGE, "halves"),
    Fault("batch_norm.cu", "if (other) v = to_float(from_float<T>(v)) + added[k];", "", IMAGE, "added or residual"),
    Fault("batch_norm.cu", "if (through) store_floats<N>(through + at, g);", "", IMAGE, "added or residual"),
    Fault("batch_norm.cu", "if (channel == 0) *batches += 1;", "*batches += 1;", IMAGE, "running"),
    Fault("batch_norm.cu", "slope[channel] = training ? ", "slope[channel] = true ? ", IMAGE, "batch_norm"),
    Fault("pool.cu", "if (!(values[k] <= best[k]) && best[k] == best[k]) best[k] = values[k], winner.at[k] = number;",
          "if (values[k] >= best[k]) best[k] = values[k], winner.at[k] = number;", IMAGE, "pooling"),
    Fault("pool.cu", "if (!(best[k] > 0.0f)) winner.at[k] += SHUT;", "", IMAGE, "relu"),
    Fault("pool.cu", "if (winner.at[k] == number) total[k] += g[k];", "if (winner.at[k] == number) total[k] = g[k];", IMAGE, "pooling"),
    Fault("pool.cu", "+ line.places - 1) / line.places);", ") / line.places);", IMAGE, "bins"),
    Fault("pool.cu", "return (int)((i64)at * line.places / line.size);", "return (int)((i64)at * line.places / line.size) + 1;", IMAGE, "bins"),
    Fault("window.cuh", "return (unsigned)at < (unsigned)size;", "return (unsigned)at <= (unsigned)size;", IMAGE, "pooling or convolution"),
    Fault("window.cuh", "from / stride < places ?", "from / stride <= places ?", IMAGE, "pooling or convolution"),
    Fault("window.cuh", "min(start + kernel, size + pad)", "min(start + kernel, size)", IMAGE, "pooling"),
    Fault("im2col.cu", "* w.elements() * step + channel % step;", "* w.elements() * step + channel;", IMAGE, "convolution"),
    Fault("im2col.cu", "x[w.input(rest, p, q, r)] : from_float<T>(0.0f);", "x[w.input(rest, p, q, r)] : from_float<T>(1.0f);", IMAGE, "unfolding"),
    Fault("im2col.cu", "if (a < 0 || b < 0 || c < 0) continue;\n                    const i64 place", "if (a < 0 || b < 0) continue;\n                    const i64 place", IMAGE, "unfolding"),
    Fault("resample.cu", "tap < starts[j + 1]; ++tap", "tap + 1 < starts[j + 1]; ++tap", IMAGE, "resizing"),
    Fault("resample.cu", "rest * length * inner + i", "rest * out * inner + i", IMAGE, "resizing"),
    Fault("layout.cu", "columns + column + x];\n        __syncthreads();", "columns + column + x];", IMAGE, "transposition"),
    Fault("layout.cu", "row + i < rows && column + x < columns", "row + i < rows && column + x < columns - 1", IMAGE, "transposition"),
)  # fmt: skip
QUICK = (FAULTS[-4], FAULTS[-2])
"""Of texts that compile in no time: what ``make test`` plants."""
FAULTS = (*FAULTS, *(Fault(*each) for each in mutations_rows.FAULTS))


def planted(fault: Fault, folder: Path) -> None:
    """Copies of all texts in ``folder``, one of them with the fault."""
    for path in (*FOLDER.glob("*.cu"), *FOLDER.glob("*.cuh")):
        shutil.copy(path, folder)
    path = folder / fault.file
    text = path.read_text()
    if text.count(fault.was) != 1:
        raise Unplanted(
            f"{fault}: the text is there {text.count(fault.was)} times; say in tests/gpu/mutations.py what it is now"
        )
    path.write_text(text.replace(fault.was, fault.becomes))


def passes(folder: Path, tests: str, pick: str) -> bool:
    """Whether the tests pass with the texts of ``folder``. Raises Unplanted where they could not be run."""
    command = [sys.executable, "-m", "tests.gpu.mutations", "--within", str(folder), tests, pick]
    environment = {**os.environ, "STANDIN_CACHE": str(folder / "compiled")}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return False
    said = done.stdout + done.stderr
    if "cannot compile" in said or done.returncode not in (0, 1, -11, -6, 134, 139):
        raise Unplanted(f"{tests} -k {pick!r} cannot be run (code {done.returncode}):\n{said[-3000:]}")
    return done.returncode == 0


def is_caught(fault: Fault) -> bool:
    """Whether a test fails with the fault."""
    with tempfile.TemporaryDirectory() as folder:
        planted(fault, Path(folder))
        return not passes(Path(folder), fault.tests, fault.pick)


def within(folder: str, tests: str, pick: str) -> int:
    """In the process of the tests: run them with other texts."""
    import pytest

    from phalanx.core.kernels.cuda import launch

    launch.FOLDER = Path(folder)
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *(["-k", pick] if pick else [])]
    return int(pytest.main([*options, str(ROOT / "tests" / "gpu" / tests)]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--within", nargs=3, metavar=("FOLDER", "TESTS", "PICK"), help=argparse.SUPPRESS)
    parser.add_argument("--file", help="only faults of this text, such as pool.cu")
    options = parser.parse_args()
    if options.within:
        return within(*options.within)
    survived = []
    chosen: Sequence[Fault] = [fault for fault in FAULTS if options.file in (None, fault.file)]
    for fault in chosen:
        caught = is_caught(fault)
        print(f"{'caught' if caught else 'NOT CAUGHT'}  {fault}", flush=True)
        survived += [] if caught else [fault]
    print(f"{len(chosen)} faults, {len(survived)} not caught")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
