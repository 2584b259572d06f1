"""Have cuDNN plan what the examples need on an H100, on a machine that has none: is it supported, and with how much workspace?

The requests are those that the kernels make (core/kernels/cuda/conv.py, attention.py), for shapes that the models go through; only the device
is described instead of opened. Which engine serves on a real one may differ (engines that ask the device are missing here), so
that this says nothing of speed. ``make plans-cuda`` prepares what it needs: the frontend, cuDNN and NVRTC in a folder of their own, and
absent_driver.py's stub. Ends with 1 if a plan is missing or wants more than the limit.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import phalanx
from phalanx.core.amp import precision
from phalanx.core.kernels import reference_attention
from phalanx.core.kernels.cuda import attention, conv, cudnn
from phalanx.core.kernels.window import Window
from phalanx.core.trace import watched
from tests.gpu import test_attention, test_conv

H100 = {
    "deviceVer": 900, "multiProcessorCount": 132, "driverVer": 13000, "maxSharedMemoryPerBlockOptin": 232448,
    "totalGlobalMem": 85024112640, "deviceName": "NVIDIA H100 80GB HBM3", "cudaDeviceId": 0,
    "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "regsPerBlock": 65536,
    "smClockRateKHz": 1980000, "memClockRateKHz": 2619000, "memoryBusWidth": 5120, "l2CacheSize": 52428800, "warpSize": 32,
    "maxSharedMemoryPerBlock": 49152, "reservedSharedMemoryPerBlock": 1024, "maxRegistersPerSM": 65536, "pciDeviceId": 0,
    "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "isTccDriver": 0, "supportCoopLaunch": 1,
}  # fmt: skip
"""From NVIDIA's public figures."""
LIMIT_MIB = 1024
"""Most workspace that any of these plans may want."""


class Layer:
    """One convolution of a model at batch 1."""

    def __init__(self, x: Any, weight: Any, bias: Any, output: Any, options: dict[str, Any], first: bool) -> None:
        self.x, self.weight, self.output, self.bias = x.shape[1:], weight.shape, output.shape[1:], bias is not None
        self.window = Window(weight.shape[2:], options["stride"], options["padding"], options["dilation"])
        self.first = first

    def requests(self, batch: int, dtype: str) -> Iterator[conv.Convolution]:
        """Forward and both gradients; nobody asks for the gradient of a model's input, which lies with channels first."""
        shapes = ((batch, *self.x), self.weight, (batch, *self.output), self.window)
        last = not self.first
        yield conv.request("forward", dtype, *shapes, input_last=last, bias=self.bias)
        yield conv.request("weight gradient", dtype, *shapes, input_last=last)
        if not self.first:
            yield conv.request("input gradient", dtype, *shapes)


def layers(model: Any, *shape: int) -> list[Layer]:
    """All different convolutions that an input (1, *shape) goes through."""
    found: dict[Any, Layer] = {}

    def see(op: Any, inputs: Any, attributes: Any, outputs: Any) -> None:
        if op.name in ("conv1d", "conv2d", "conv3d"):
            x, weight, bias = (*inputs, None)[:3]
            options = {name: attributes[name] for name in ("stride", "padding", "dilation")}
            key = (x.shape, weight.shape, tuple(options.items()), bias is None)
            found.setdefault(key, Layer(x, weight, bias, outputs[0], options, not found))

    with phalanx.no_grad(), watched(see):
        model(phalanx.zeros(1, *shape))
    return list(found.values())


def attentions(batch: int, places: int, heads: int, width: int) -> Iterator[attention.Attention]:
    """A GPT's attention out of one product, forward and backward, and backward with equal bits."""
    bfloat16 = phalanx.bfloat16
    packed = np.empty((batch, places, 3, heads, width), bfloat16)
    y = np.empty((batch, places, heads, width), bfloat16).swapaxes(1, 2)
    parts, scale = reference_attention.parts(packed), width**-0.5
    yield attention.request_forward(*parts, y, scale, True)
    yield attention.request_backward(*parts, y, (y, *parts), scale, True)
    precision.use_deterministic_algorithms(True)
    yield attention.request_backward(*parts, y, (y, *parts), scale, True)
    precision.use_deterministic_algorithms(False)


def convolutions(model: Any, batch: int, dtype: str, *shape: int) -> Iterator[conv.Convolution]:
    for layer in layers(model, *shape):
        yield from layer.requests(batch, dtype)


def kinds() -> Iterator[Any]:
    """The shapes that tests compare: all kinds of window, groups and dimensions, heads of other widths and lengths."""
    for shape, weight, stride, padding, dilation in test_conv.CASES.values():
        window = Window(weight[2:], stride, padding, dilation)
        shapes = (shape, weight, (shape[0], weight[0], *window.output(shape[2:])), window)
        for dtype in cudnn.FLOATS:
            yield conv.request("forward", dtype, *shapes, bias=True)
            for kind in ("forward", "input gradient", "weight gradient"):
                yield conv.request(kind, dtype, *shapes)
    for shapes in test_attention.SHAPES.values():
        q, k, v = (np.empty(shape, phalanx.bfloat16) for shape in shapes)
        if attention.suits(q, k, v):
            y = np.empty((*q.shape[:-1], v.shape[-1]), phalanx.bfloat16)
            yield attention.request_forward(q, k, v, y, 1.0, True)
            if q.shape[-2] > 1:  # cuDNN has none for one place, and the test knows
                yield attention.request_backward(q, k, v, y, (y, q, k, v), 1.0, True)


def of_example(
    name: str, model: str, batch: int, dtype: str, *shape: int, **options: int
) -> Callable[[], Iterator[Any]]:
    """The convolutions of a model that an example defines."""

    def requests() -> Iterator[Any]:
        made = getattr(importlib.import_module(f"examples.{name}"), model)(**options)
        return convolutions(made, batch, dtype, *shape)

    return requests


JOBS: dict[str, Callable[[], Iterator[Any]]] = {
    "fashion_mnist --model cnn, batch 256, float32": of_example("fashion_mnist", "CNN", 256, "float32", 1, 28, 28),
    "fashion_mnist --model cnn, batch 256, bfloat16": of_example("fashion_mnist", "CNN", 256, "bfloat16", 1, 28, 28),
    "cifar_resnet, batch 128, bfloat16": of_example("cifar_resnet", "ResNet", 128, "bfloat16", 3, 32, 32, channels=3),
    "resnet50, batch 256, bfloat16": of_example(
        "resnet50", "ResNet", 256, "bfloat16", 3, 224, 224, layers=(3, 4, 6, 3), width=64, classes=1000
    ),
    "gpt2, batch 32": lambda: attentions(32, 1024, 12, 64),
    "the shapes of tests": kinds,
}
"""What each example needs on a GPU, and what tests compare."""


def main() -> int:
    """Plan everything; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="examples whose name contains this")
    only = parser.parse_args().only
    library = cudnn.library()
    place = {"device_property": library.create_device_properties(json.dumps(H100)), "sm_version": 90, "sm_count": 132}
    print(f"{cudnn.describe()}, planned for {H100['deviceName']}")
    refused = 0
    for name, requests in JOBS.items():
        if only not in name:
            continue
        start, count, largest, largest_of = time.perf_counter(), 0, -1, None
        for request in requests():
            count += 1
            try:
                nbytes = cudnn.build(request, **place).nbytes
            except library.cudnnGraphNotSupportedError as error:
                print(f"  NO PLAN for {request}: {' '.join(str(error).split())[:200]}")
                refused += 1
                continue
            if nbytes > LIMIT_MIB << 20:
                print(f"  TOO MUCH WORKSPACE, {nbytes >> 20} MiB, for {request}")
                refused += 1
            if nbytes > largest:
                largest, largest_of = nbytes, request
        print(
            f"{name}: {count} plans in {time.perf_counter() - start:.1f} s; most workspace {largest / 2**20:.1f} MiB, for {largest_of}"
        )
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
