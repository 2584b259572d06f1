"""Time of single kernels: the reference (NumPy), the fast ones (oneDNN) and PyTorch, one thread each, in turn in one run.

    python benchmarks/kernels.py [--rounds 7] [--only conv]

Each side runs in a process of its own; the sides take turns. Printed: the median of each in ms and PyTorch / ours of the medians
(above 1 means that ours is faster). Images are channels last for the fast kernels, as they come out of one another; PyTorch
gets them both ways, and the better time counts. Needs PyTorch and phalanx[cpu].
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PHALANX_KERNELS")
SIDES = ("reference", "fast", "torch")
ROUND_S = 0.06
"""Seconds that one round of one kernel takes about."""

LINEAR = {"linear 64x784x256": (64, 784, 256), "linear 256x1024x1024": (256, 1024, 1024)}
ATTENTION = {"attention 16x4x128x32": (16, 4, 128, 32)}
CONVOLUTION = {
    "conv 64x1x28 ->32": (64, 1, 28, 32), "conv 64x32x14 ->64": (64, 32, 14, 64), "conv 64x64x16 ->64": (64, 64, 16, 64),
}  # fmt: skip
IMAGES = {"64x32x28": (64, 32, 28)}
ROWS = {"layer_norm 2048x128": (2048, 128), "layer_norm 2048x512": (2048, 512)}
CASES = [
    *(f"{name} {part}" for name in LINEAR for part in ("y", "dx", "dw")),
    *(f"{name} {part}" for name in ATTENTION for part in ("scores", "values")),
    *(f"{name} {part}" for name in CONVOLUTION for part in ("y", "dx", "dw")),
    *(
        f"{op} {name} {part}"
        for op in ("batch_norm", "max_pool", "avg_pool")
        for name in IMAGES
        for part in ("y", "dx")
    ),
    *(f"{name} {part}" for name in ROWS for part in ("y", "dx")),
]
Run = Callable[[], Any]


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


# ---- ours ------------------------------------------------------------------------------------------------------------


def ours(case: str, choice: str) -> list[Run]:
    """The kernel behind a case, ready to run."""
    from phalanx.core.kernels import table
    from phalanx.core.kernels.window import Window

    table.choose(choice)
    name, _, part = case.rpartition(" ")
    k = table.kernel

    def image(*shape: int) -> np.ndarray:
        x = draw(*shape)
        return x if choice == "reference" else np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)

    if name in LINEAR:
        n, i, o = LINEAR[name]
        x, w, b, g, slot = draw(n, i), draw(o, i), draw(o), draw(n, o), draw(o, i)
        return [{
            "y": lambda: k("linear_forward")(x, w, b),
            "dx": lambda: k("linear_input_gradient")(g, w),
            "dw": lambda: k("linear_weight_gradient")(g, x, slot),
        }[part]]  # fmt: skip
    if name in ATTENTION:
        n, h, t, d = ATTENTION[name]
        q, key, v = (draw(n, t, 3, h, d)[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
        scores = draw(n, h, t, t)
        return [(lambda: k("matmul")(q, key.swapaxes(-1, -2))) if part == "scores" else lambda: k("matmul")(scores, v)]
    if name in CONVOLUTION:
        n, c, s, o = CONVOLUTION[name]
        window, slot = Window((3, 3), (1, 1), (1, 1)), draw(o, c, 3, 3)
        x, w, b, g = image(n, c, s, s), draw(o, c, 3, 3), draw(o), image(n, o, s, s)
        return [{
            "y": lambda: k("conv_forward")(x, w, b, window),
            "dx": lambda: k("conv_input_gradient")(g, w, x.shape, window),
            "dw": lambda: (k("conv_weight_gradient")(g, x, w.shape, window, out=slot), k("channel_sum")(g)),
        }[part]]  # fmt: skip
    if name in ROWS:
        n, d = ROWS[name]
        x, w, b, g = draw(n, d), draw(d), draw(d), draw(n, d)
        _, mean, inverse = k("layer_norm_forward")(x, w, b, d, 1e-5)
        if part == "y":
            return [lambda: k("layer_norm_forward")(x, w, b, d, 1e-5)]
        return [lambda: k("layer_norm_backward")(g, x, mean, inverse, w, (d,), [True] * 3, [None] * 3)]
    op, _, size = name.partition(" ")
    n, c, s = IMAGES[size]
    x, g, window = image(n, c, s, s), image(n, c, s // 2, s // 2), Window((2, 2), (2, 2), (0, 0))
    if op == "batch_norm":
        w, b, g = draw(c), draw(c), image(n, c, s, s)
        _, mean, _, inverse = k("batch_norm_train")(x, w, b, 1e-5)
        if part == "y":
            return [lambda: k("batch_norm_train")(x, w, b, 1e-5)]
        return [lambda: k("batch_norm_backward")(g, x, mean, inverse, w, True)]
    if op == "avg_pool":
        if part == "y":
            return [lambda: k("avg_pool_forward")(x, window)]
        return [lambda: k("avg_pool_backward")(g, x.shape, window)]
    _, index = k("max_pool_forward")(x, window)
    if part == "y":
        return [lambda: k("max_pool_forward")(x, window)]
    return [lambda: k("max_pool_backward")(g, index, x.shape, window)]


# ---- PyTorch's -------------------------------------------------------------------------------------------------------


def theirs(case: str) -> list[Run]:
    """The same by PyTorch; for images twice, contiguous and channels last."""
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    name, _, part = case.rpartition(" ")
    aten, made = torch.ops.aten, []

    def array(*shape: int) -> Any:
        return torch.from_numpy(draw(*shape))

    if name in LINEAR:
        n, i, o = LINEAR[name]
        x, w, b, g, slot = array(n, i), array(o, i), array(o), array(n, o), array(o, i)
        return [{
            "y": lambda: F.linear(x, w, b), "dx": lambda: g @ w, "dw": lambda: torch.mm(g.t(), x, out=slot),
        }[part]]  # fmt: skip
    if name in ATTENTION:
        n, h, t, d = ATTENTION[name]
        q, key, v = (array(n, t, 3, h, d)[:, :, i].transpose(1, 2) for i in range(3))
        scores = array(n, h, t, t)
        return [(lambda: q @ key.transpose(-2, -1)) if part == "scores" else lambda: scores @ v]
    if name in ROWS:
        n, d = ROWS[name]
        x, w, b, g = array(n, d), array(d), array(d), array(n, d)
        _, mean, inverse = torch.native_layer_norm(x, [d], w, b, 1e-5)
        if part == "y":
            return [lambda: F.layer_norm(x, [d], w, b)]
        return [lambda: aten.native_layer_norm_backward(g, x, [d], mean, inverse, w, b, [True] * 3)]
    for form in (torch.contiguous_format, torch.channels_last):
        made.append(
            _image_case(torch, name, part, lambda *shape, form=form: array(*shape).contiguous(memory_format=form))
        )
    return made


def _image_case(torch: Any, name: str, part: str, image: Callable[..., Any]) -> Run:
    aten, F = torch.ops.aten, torch.nn.functional
    if name in CONVOLUTION:
        n, c, s, o = CONVOLUTION[name]
        x, w, b, g = image(n, c, s, s), image(o, c, 3, 3), torch.from_numpy(draw(o)), image(n, o, s, s)
        if part == "y":
            return lambda: F.conv2d(x, w, b, padding=1)
        mask = [part == "dx", part == "dw", part == "dw"]
        return lambda: aten.convolution_backward(g, x, w, [o], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask)
    op, _, size = name.partition(" ")
    n, c, s = IMAGES[size]
    x, g = image(n, c, s, s), image(n, c, s // 2, s // 2)
    if op == "batch_norm":
        w, b, g = torch.from_numpy(draw(c)), torch.from_numpy(draw(c)), image(n, c, s, s)
        _, mean, inverse = torch.native_batch_norm(x, w, b, None, None, True, 0.1, 1e-5)
        if part == "y":
            return lambda: torch.native_batch_norm(x, w, b, None, None, True, 0.1, 1e-5)
        return lambda: aten.native_batch_norm_backward(g, x, w, None, None, mean, inverse, True, 1e-5, [True] * 3)
    if op == "avg_pool":
        if part == "y":
            return lambda: F.avg_pool2d(x, 2)
        return lambda: aten.avg_pool2d_backward(g, x, [2, 2], [2, 2], [0, 0], False, True, None)
    _, index = F.max_pool2d(x, 2, return_indices=True)
    if part == "y":
        return lambda: F.max_pool2d(x, 2)
    return lambda: aten.max_pool2d_with_indices_backward(g, x, [2, 2], [2, 2], [0, 0], [1, 1], False, index)


# ---- turns -----------------------------------------------------------------------------------------------------------


def serve(side: str) -> None:
    """Worker: read a case, run one round of each of its forms, print the least seconds a run."""
    runs: dict[str, list[tuple[Run, int]]] = {}
    for line in sys.stdin:
        case = line.strip()
        if case not in runs:
            runs[case] = []
            for run in theirs(case) if side == "torch" else ours(case, side):
                run()
                began = time.perf_counter()
                run()
                runs[case].append((run, max(1, int(ROUND_S / (time.perf_counter() - began)))))
        least = float("inf")
        for run, count in runs[case]:
            began = time.perf_counter()
            for _ in range(count):
                run()
            least = min(least, (time.perf_counter() - began) / count)
        print(json.dumps(least), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    env = {k: v for k, v in os.environ.items() if k not in UNSET} | SETTINGS
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    print(f"processor {model}, {platform.platform()}, Python {platform.python_version()}, NumPy {np.__version__}")
    print(f"environment {SETTINGS}, unset {', '.join(UNSET)}; medians of {options.rounds} rounds in turn")
    command = [sys.executable, __file__, "--serve"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = {side: subprocess.Popen([*command, side], env=env, **pipes) for side in SIDES}
    print(f"{'kernel':<34}{'NumPy ms':>10}{'fast ms':>10}{'PyTorch ms':>12}{'ratio':>8}   spread; NumPy's ratio")
    try:
        for case in (each for each in CASES if options.only in each):
            times: dict[str, list[float]] = {side: [] for side in SIDES}
            for _ in range(options.rounds):
                for side, worker in workers.items():
                    print(case, file=worker.stdin, flush=True)
                    times[side].append(json.loads(worker.stdout.readline()))
            a, b, c = (1e3 * statistics.median(times[side]) for side in SIDES)
            ratios = sorted(t / p for p, t in zip(times["fast"], times["torch"], strict=True))
            print(
                f"{case:<34}{a:>10.3f}{b:>10.3f}{c:>12.3f}{c / b:>8.2f}   {ratios[0]:.2f} to {ratios[-1]:.2f}; {c / a:.2f}"
            )
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.wait(timeout=30)


if __name__ == "__main__":
    main()
