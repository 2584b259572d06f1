"""``phalanx tune``: which algorithms this GPU is fastest with, for the products of the layers that are named."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from .core.backend import as_dtype, cupy, gpu_count
from .core.errors import RangeError
from .core.kernels.cuda import algorithms, cublaslt, products, tune
from .core.ops.linear import LINEAR
from .core.ops.linear_fused import FEED_FORWARD, LINEAR_GELU, LINEAR_RELU

GPT2 = {"width": 768, "vocabulary": 50304}
"""GPT-2 of 124 million parameters, its vocabulary padded to a multiple of 128."""
KINDS = {"linear": LINEAR, "gelu": LINEAR_GELU, "relu": LINEAR_RELU}


def run(options: argparse.Namespace) -> int:
    """Tune what was asked for; the exit code."""
    layers = _asked(options)
    if not layers:
        raise RangeError("name layers to tune: ROWSxINxOUT, --feed-forward ROWSxINxHIDDENxOUT or --gpt2 BATCHxCONTEXT")
    if options.repeat < 1:
        raise RangeError(f"--repeat must be at least 1, got {options.repeat}")
    if not gpu_count():
        raise RangeError("there is no GPU here to be tuned: phalanx doctor says why")
    try:
        version = (cublaslt.load(), cublaslt.version())[1]
    except cublaslt.Unavailable as error:
        raise RangeError(f"{error}; {cublaslt.MISSING}") from None
    name = products.device_name(cupy().cuda.runtime.getDevice())
    found: dict[str, bytes] = {}
    for op, sizes, attributes in layers:
        print(f"{op.name} {'x'.join(map(str, sizes))}", flush=True)
        run_layer = tune.layer(op, sizes[0], sizes[1:], as_dtype(options.dtype), **attributes)
        found |= tune.tune(run_layer, tune.say, options.repeat)
    path = algorithms.write(name, version, found, Path(options.out) if options.out else None)
    print(f"{len(found)} products of {name} with cuBLASLt {version}: {path}")
    return 0


def _asked(options: argparse.Namespace) -> list[tuple[Any, tuple[int, ...], dict[str, Any]]]:
    layers: list[tuple[Any, tuple[int, ...], dict[str, Any]]] = []
    for text in options.layers:
        kind, _, sizes = text.rpartition(":")
        if kind and kind not in KINDS:
            raise RangeError(f"a layer is one of {', '.join(KINDS)}, got {kind!r} in {text!r}")
        layers.append((KINDS[kind or "linear"], _sizes(sizes, 3), {}))
    gelu = {"activation": "gelu_tanh"}
    layers += [(FEED_FORWARD, _sizes(text, 4), gelu) for text in options.feed_forward]
    if options.gpt2:
        rows, width = int(np.prod(_sizes(options.gpt2, 2))), GPT2["width"]
        layers += [(LINEAR, (rows, width, out), {}) for out in (3 * width, width, GPT2["vocabulary"])]
        layers.append((FEED_FORWARD, (rows, width, 4 * width, width), gelu))
    return layers


def _sizes(text: str, count: int) -> tuple[int, ...]:
    parts = text.split("x")
    if len(parts) != count or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise RangeError(f"expected {count} sizes like {'x'.join(['64'] * count)}, got {text!r}")
    return tuple(map(int, parts))
