"""What bench.py measures: training steps of the models, and single operations forward and backward, for either library.

A :class:`Task` is one of them in one process: made from equal weights in both libraries, ready to run steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from models import WORKLOADS, Library

BATCHES = 8
"""Different batches that a task goes through."""
LEARNING_RATE = 1e-5
FORMS = ("plain", "channels_last", "compile", "replay")
"""How a library is used: as everybody writes it; images and weights channels last (PyTorch); torch.compile; phalanx.capture."""
COMPILED = ("mlp", "cnn", "lstm", "vae", "gpt", "chain")
"""What torch.compile is asked to compile unless all is: it takes half a minute of processor time for each."""
IMAGES = ("cnn", "cifar", "resnet", "conv")


@dataclass(slots=True)
class Task:
    """Steps of one workload."""

    step: Callable[..., Any]
    """One step on one batch."""
    batches: Sequence[tuple[Any, ...]]
    check: Callable[[], list[float]]
    """Numbers that both libraries must agree on: the loss, the length of all gradients together."""
    done: int = field(default=0)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step(*self.batches[self.done % len(self.batches)])
            self.done += 1


@dataclass(frozen=True, slots=True)
class Case:
    """A workload by name: ``batches`` makes its data once, ``make`` the task over them in one of ``FORMS``."""

    label: str
    batches: Callable[[Library], list[tuple[Any, ...]]]
    make: Callable[[Library, str, list[tuple[Any, ...]]], Task]


def takes_part(name: str, form: str, compile_all: bool) -> bool:
    """Whether a workload is run in a form: an update alone has nothing to compile or to replay."""
    if form == "compile":
        return name != "adam" and (compile_all or name in COMPILED)
    return form != "replay" or name != "adam"


def forms_of(name: str, library: str) -> tuple[str, ...]:
    """The forms among which a user would choose the faster one."""
    return ("plain", "channels_last") if library == "torch" and name in IMAGES else ("plain",)


def _length(library: Library, gradients: Sequence[Any]) -> float:
    return float(sum(float((g.detach().numpy().astype(np.float64) ** 2).sum()) for g in gradients) ** 0.5)


# ---- models ----------------------------------------------------------------------------------------------------------


def fill(library: Library, model: Any) -> None:
    """The same weights in either library: drawn by NumPy, in the order of parameters, at the usual sizes."""
    rng = np.random.default_rng(1)
    for name, p in model.named_parameters():
        values = rng.standard_normal(tuple(p.shape), np.float32)
        if p.ndim > 1:
            values *= 0.02 if "tokens" in name else np.float32(np.prod(p.shape[1:])) ** -0.5
        else:
            values = values * np.float32(0.05) + np.float32(name.endswith("weight"))
        with library.root.no_grad():
            p.copy_(library.root.tensor(values))


def _training(name: str) -> Case:
    workload = WORKLOADS[name]

    def batches(library: Library) -> list[tuple[Any, ...]]:
        rng = np.random.default_rng(0)
        parts = [workload.batch(rng, workload.samples) for _ in range(BATCHES)]
        return [tuple(library.root.tensor(part) for part in batch) for batch in parts]

    def make(library: Library, form: str, given: list[tuple[Any, ...]]) -> Task:
        model = workload.build(library)
        fill(library, model)
        if form == "channels_last":
            layout = {"memory_format": library.root.channels_last}
            model, given = model.to(**layout), [(x.contiguous(**layout), y) for x, y in given]
        extra = {"fused": True} if library.name == "torch" else {}
        optimizer = getattr(library.optim, workload.optimizer)(model.parameters(), lr=LEARNING_RATE, **extra)

        def forward(inputs: Any, labels: Any) -> Any:
            return workload.loss(library, model, inputs, labels)

        def check() -> list[float]:
            model.eval()  # the draws of dropout differ
            loss = forward(*given[0])
            loss.backward()
            length = _length(library, [p.grad for p in model.parameters()])
            model.train()
            return [float(loss.item()), length]

        loss_of = library.root.compile(forward) if form == "compile" else forward

        def step(inputs: Any, labels: Any) -> Any:
            optimizer.zero_grad()
            loss = loss_of(inputs, labels)
            loss.backward()
            optimizer.step()
            return loss

        return Task(library.root.capture(step) if form == "replay" else step, given, check)

    return Case(workload.label.removesuffix(" a rank"), batches, make)


# ---- single operations -----------------------------------------------------------------------------------------------


def _single(label: str, shapes: Sequence[tuple[int, ...]], operation: Callable[..., Any]) -> Case:
    """``operation(library, *tensors)`` forward and backward, all tensors with gradients."""

    def batches(library: Library) -> list[tuple[Any, ...]]:
        rng = np.random.default_rng(0)
        return [tuple(library.root.tensor(rng.standard_normal(shape, np.float32)) for shape in shapes)]

    def make(library: Library, form: str, given: list[tuple[Any, ...]]) -> Task:
        (tensors,) = given
        if form == "channels_last":
            tensors = tuple(
                t.contiguous(memory_format=library.root.channels_last) if t.ndim == 4 else t for t in tensors
            )
        leaves = [library.nn.Parameter(t.clone()) for t in tensors]
        keeper = library.optim.SGD(leaves, lr=LEARNING_RATE)  # forgets gradients, and is never asked for more
        slope = library.root.ones_like(operation(library, *leaves).detach())

        def forward(*leaves: Any) -> Any:
            return operation(library, *leaves)

        def check() -> list[float]:
            y = forward(*leaves)
            y.backward(slope)
            return [float(y.detach().sum().item()), _length(library, [leaf.grad for leaf in leaves])]

        compute = library.root.compile(forward) if form == "compile" else forward

        def step() -> Any:
            keeper.zero_grad()
            y = compute(*leaves)
            y.backward(slope)
            return y

        return Task(library.root.capture(step) if form == "replay" else step, [()], check)

    return Case(label, batches, make)


def _chain(library: Library, x: Any, scale: Any, shift: Any) -> Any:
    for _ in range(50):
        x = x * scale + shift
    return x


def _attention(library: Library, q: Any, k: Any, v: Any) -> Any:
    return library.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def _optimizer(label: str, count: int) -> Case:
    def batches(library: Library) -> list[tuple[Any, ...]]:
        rng = np.random.default_rng(0)
        return [tuple(library.root.tensor(rng.standard_normal(count, np.float32)) for _ in range(2))]

    def make(library: Library, form: str, given: list[tuple[Any, ...]]) -> Task:
        value, gradient = given[0]
        parameters = [library.nn.Parameter(part.clone()) for part in value.reshape(10, -1)]
        for p, g in zip(parameters, gradient.reshape(10, -1), strict=True):
            p.grad = g.clone()
        extra = {"fused": True} if library.name == "torch" else {}
        optimizer = library.optim.Adam(parameters, lr=LEARNING_RATE, **extra)

        def step() -> None:
            optimizer.step()

        def check() -> list[float]:
            step()
            return [_length(library, parameters)]

        return Task(step, [()], check)

    return Case(label, batches, make)


CASES: dict[str, Case] = {
    **{name: _training(name) for name in ("mlp", "mlp2048", "cnn", "cifar", "lstm", "vae", "gpt", "resnet", "tiny")},
    "chain": _single("chain of 100 ops on 8 numbers, forward and backward", [(8,)] * 3, _chain),
    "conv": _single(
        "conv 64x64x16x16 -> 64, 3x3, forward and backward",
        [(64, 64, 16, 16), (64, 64, 3, 3), (64,)],
        lambda library, x, w, b: library.functional.conv2d(x, w, b, padding=1),
    ),
    "matmul": _single(
        "linear 256x1024 -> 1024, forward and backward",
        [(256, 1024), (1024, 1024), (1024,)],
        lambda library, x, w, b: library.functional.linear(x, w, b),
    ),
    "attention": _single("causal attention 16x4x128x32, forward and backward", [(16, 4, 128, 32)] * 3, _attention),
    "adam": _optimizer("Adam alone, 10 million parameters in 10 arrays", 10_000_000),
}
LAYERS = _single(
    "",
    [(32, 512), (512, 512), (512,), (128, 512), (128,)],
    lambda library, x, w, b, v, c: library.functional.linear(
        library.functional.relu(library.functional.linear(x, w, b)), v, c
    ),
)
"""Two linear layers large enough for the library of products that either one uses: whose first call sets it up."""
DEFAULT = [name for name in CASES if name != "tiny"]
