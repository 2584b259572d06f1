"""What `make test-gpu` runs on a machine with a GPU: the tests of tests/gpu without stand-ins, in parts that end by themselves.

    python tests/gpu/on_device.py [--output FOLDER] [--only PART ...] [--part-seconds 600] [--rehearse]

Each part writes a log to the folder; a table and `summary.json` come last. Needs an interpreter with CuPy, pytest, pyzmq, rich, safetensors,
threadpoolctl and ml_dtypes; PyTorch is a peer for one part. Nothing is installed. ``--rehearse`` goes the same way with one small test
of each part, on the stand-ins where there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PARTS = {
    "kernels": ["-m", "not whole", "--ignore=tests/gpu/test_device_ranks.py", "--ignore=tests/gpu/test_nccl.py"],
    "capture": ["tests/gpu/test_capture.py", "tests/gpu/test_capture_ranks.py", "tests/gpu/test_capture_refusals.py"],
    "ranks": ["tests/gpu/test_device_ranks.py", "tests/gpu/test_nccl.py"],
    "training": ["tests/gpu/test_examples_on_device.py"],
    "pytorch": ["tests/gpu/test_beside_pytorch.py"],
}
"""What each is told beside the folder: all of it unless files are named."""
SMALL = {
    "kernels": ["tests/gpu/test_thin.py"],
    "capture": ["tests/gpu/test_capture.py", "-k", "few or mlp", "-m", "not whole"],
    "ranks": ["tests/gpu/test_device_ranks.py", "-k", "fast_mode"],
    "training": ["tests/gpu/test_examples_on_device.py", "-k", "equal_ledgers and gpt2"],
    "pytorch": ["tests/gpu/test_beside_pytorch.py", "-k", "mlp"],
}
"""The same for a rehearsal."""


def command(part: str, rehearse: bool) -> list[str]:
    """How pytest is called."""
    given = (SMALL if rehearse else PARTS)[part]
    if part == "kernels" and not rehearse and importlib.util.find_spec("xdist"):
        given = ["-n", "4", "--dist", "loadgroup", *given]
    files = [] if any(word.startswith("tests/") for word in given) else ["tests/gpu"]
    return [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x" if rehearse else "--maxfail=25",
        "-p",
        "no:cacheprovider",
        *files,
        *given,
    ]


def about() -> dict[str, Any]:
    """The card and the libraries, as far as they say."""
    found: dict[str, Any] = {"python": sys.version.split()[0]}
    for name in ("numpy", "cupy", "ml_dtypes", "cudnn", "torch"):
        code = f"import {name}; print({name}.__version__)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
        found[name] = done.stdout.strip() if not done.returncode else "not there"
    code = "import phalanx; print(phalanx.cuda.get_device_name() if phalanx.cuda.is_available() else 'no GPU')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    found["device"] = done.stdout.strip() or done.stderr.strip().splitlines()[-1]
    return found


def run(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """One part; its end is that of pytest, or of its time."""
    path, began = options.output / f"{part}.log", time.monotonic()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    with path.open("w") as log:
        process = subprocess.Popen(
            command(part, options.rehearse), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code: int | str = process.wait(options.part_seconds)
        except subprocess.TimeoutExpired:
            code = f"did not end within {options.part_seconds:g} s"
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    lines = path.read_text(errors="replace").rstrip().splitlines()
    return {"code": code, "seconds": round(time.monotonic() - began, 1), "last": lines[-1] if lines else ""}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu", metavar="FOLDER")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--part-seconds", type=float, default=600.0)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"about": about(), "rehearsal": options.rehearse, "parts": {}}
    print(json.dumps(found["about"]), flush=True)
    if found["about"]["device"] == "no GPU" and not options.rehearse:
        print(
            "no GPU can be used here: see `phalanx doctor`; --rehearse goes the same way without one", file=sys.stderr
        )
        return 1
    for part in options.only:
        row = found["parts"][part] = run(part, options)
        print(
            f"{part:<10}{'passed' if row['code'] in (0, 5) else 'FAILED':<8}{row['seconds']:8.1f} s  {row['last']}",
            flush=True,
        )
        (options.output / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    failed = [part for part, row in found["parts"].items() if row["code"] not in (0, 5)]
    if failed:
        print(f"failed: {', '.join(failed)}; logs in {options.output}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
