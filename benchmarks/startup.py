"""How long it takes to begin: importing, and from ``phalanx run -n 2`` to the end of the first step, warm and cold.

    python benchmarks/startup.py [--repeat 5] [--ranks 2]

Cold: compiled loops have a new folder (NUMBA_CACHE_DIR), as on a machine where phalanx has never run; once, since each repeat would
compile again. The processor's and the disk's caches are warm in both, and so is Python's bytecode: PYTHONDONTWRITEBYTECODE is taken out.
Imports are those of a fresh process less an empty one's time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from crew import describe_machine, environment

DEADLINE_S = 300.0
IMPORTS = {
    "import phalanx": "import phalanx",
    "phalanx with nn, optim, data": "from phalanx import nn, optim, data",
    "the same, fast kernels loaded": "from phalanx import nn, optim, data; import phalanx; phalanx.kernels.choose('fast')",
    "import torch": "import torch",
}
STEP = """
import sys, time
import numpy as np
import phalanx
from phalanx import nn, optim

phalanx.init()
model = phalanx.DataParallel(nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)))
optimizer = optim.Adam(model.parameters())
x, y = phalanx.tensor(np.ones((32, 784), np.float32)), phalanx.tensor(np.zeros(32, np.int64))
nn.functional.cross_entropy(model(x), y).backward()
optimizer.step()
if phalanx.rank() == 0:
    print(time.time(), flush=True)
"""


def seconds_of(command: list[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=env, check=True, timeout=DEADLINE_S, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def to_first_step_s(script: str, ranks: int, env: dict[str, str]) -> float:
    """From the launch of ``phalanx run`` to the end of the first step on rank 0."""
    command = [sys.executable, "-m", "phalanx", "run", "--no-prefix", "-n", str(ranks), script]
    began = time.time()
    done = subprocess.run(command, env=env, check=True, timeout=DEADLINE_S, capture_output=True, text=True)
    return float(done.stdout.split()[-1]) - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--output", metavar="FILE", help="write everything as JSON")
    options = parser.parse_args()
    machine, env, found = describe_machine(), environment(), {}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    print(f"{machine['processor']}, {machine['cores']} cores, load {machine['load']:.1f}; medians of {options.repeat}")
    empty = statistics.median(seconds_of([sys.executable, "-c", "pass"], env) for _ in range(options.repeat))
    for name, code in IMPORTS.items():
        if name == "import torch" and importlib.util.find_spec("torch") is None:
            continue
        seconds_of([sys.executable, "-c", code], env)  # writes bytecode that is not there yet
        seconds = [seconds_of([sys.executable, "-c", code], env) - empty for _ in range(options.repeat)]
        found[name] = statistics.median(seconds)
        print(f"{name:<48}{found[name]:>8.3f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="phalanx-startup-") as folder:
        script = Path(folder) / "step.py"
        script.write_text(STEP)
        for kernels in ("reference", "fast"):
            chosen = env | {"PHALANX_KERNELS": kernels}
            to_first_step_s(str(script), options.ranks, chosen)  # compiles what is not there yet
            seconds = [to_first_step_s(str(script), options.ranks, chosen) for _ in range(options.repeat)]
            found[f"warm, {kernels}"] = statistics.median(seconds)
            print(
                f"run -n {options.ranks} to the first step, {kernels} kernels{'':<10}{found[f'warm, {kernels}']:>8.3f} s"
            )
        cold = env | {"PHALANX_KERNELS": "fast", "NUMBA_CACHE_DIR": os.path.join(folder, "cache")}
        found["cold, fast"] = to_first_step_s(str(script), options.ranks, cold)
        print(f"the same, cold: all its loops are compiled{'':<6}{found['cold, fast']:>8.3f} s")
    if options.output:
        Path(options.output).write_text(json.dumps({"machine": machine, "seconds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
