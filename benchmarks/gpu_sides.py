"""The sides that gpu.py measures, and the worker process of one side."""

from __future__ import annotations

import gc
import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from crew import serve
from gpu_models import CASES, Workload, count_parameters, fill, on
from models import Library

BATCHES = 2
WARM_UP = 4
"""Steps before the first measured one: two are recorded by capture, the third becomes graphs."""
SIDES = ("phalanx", "phalanx.capture", "PyTorch", "torch.compile")


@dataclass(slots=True)
class Task:
    """Steps of one workload in one process."""

    step: Callable[..., Any]
    batches: list[Any]
    profiled: Callable[..., Any]
    """The same step as it is without capture or compile."""
    done: int = 0

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step(*self.batches[self.done % len(self.batches)])
            self.done += 1


class Worker:
    """One side. ``rehearse``: small sizes, on what is there."""

    def __init__(self, side: str, rehearse: bool) -> None:
        self.side, self.rehearse = side, rehearse
        self.library = Library("phalanx" if side.startswith("phalanx") else "torch")
        self.torch = self.library.name == "torch"
        root = self.library.root
        self.device = "cuda" if root.cuda.is_available() else "cpu"
        if not rehearse and self.device == "cpu":
            raise SystemExit(f"{side}: {self.library.name} sees no GPU here")
        self.task: Task | None = None
        root.set_float32_matmul_precision("high")  # TF32 on both sides
        root.backends.cudnn.allow_tf32 = True
        if self.torch:
            root.backends.cudnn.benchmark = True

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """``about``, ``make``, ``run``, ``profile`` or ``drop``; errors come back as words."""
        try:
            return getattr(self, f"_{request.pop('do')}")(**request)
        except Exception as error:  # one workload that fails leaves the others their turn
            self._drop()
            return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}

    def _about(self) -> dict[str, Any]:
        root = self.library.root
        name = root.cuda.get_device_name() if self.device == "cuda" else "no GPU"
        found = {"device": name, "version": root.__version__}
        if not self.torch and self.device == "cuda":
            found |= {"peak": root.cuda.peak_flops(), "kernels": root.kernels.describe("cuda")}
        return found

    def _drop(self) -> dict[str, Any]:
        self.task = None
        gc.collect()
        if self.device == "cuda":
            self.library.root.cuda.empty_cache()
        return {}

    def _wait(self) -> None:
        if self.device == "cuda":
            self.library.root.cuda.synchronize()

    def _make(self, case: str) -> dict[str, Any]:
        """The model with its data; what it computes, and how long a step takes about."""
        self._drop()
        library, root, workload = self.library, self.library.root, CASES[case]
        size = workload.small if self.rehearse else workload.full
        if not self.torch:
            root.manual_seed(0)
        model = workload.build(library, size)
        fill(library, model)
        model = model.to(self.device)
        draw = np.random.default_rng(0)
        given = [[root.tensor(part).to(self.device) for part in workload.batch(draw, size)] for _ in range(BATCHES)]
        if self.torch and workload.images:
            model = model.to(memory_format=root.channels_last)
            given = [[x.contiguous(memory_format=root.channels_last), y] for x, y in given]
        check = self._check(workload, model, given[0])
        optimizer = workload.optimizer(library, model)
        step, plain = self._steps(workload, model, optimizer)
        self.task = Task(step, given, plain)
        began = time.perf_counter()
        self.task.run(WARM_UP)
        self._wait()
        ready = time.perf_counter() - began
        seconds = self._run(1)["seconds"]
        found = {
            "check": check,
            "seconds": seconds,
            "ready": ready,
            "parameters": count_parameters(list(model.parameters())),
        }
        why = getattr(step, "why", None)
        return found | ({"note": str(why)} if why else {})

    def _check(self, workload: Workload, model: Any, batch: Any) -> list[float]:
        """Loss and length of all gradients, which the sides must agree on."""
        library = self.library
        model.eval()  # the draws of dropout differ
        with on(library, self.device, workload.half):
            loss = workload.loss(library, model, *batch)
        loss.backward()
        squares = [float((p.grad.detach().float() ** 2).sum().item()) for p in model.parameters()]
        for p in model.parameters():
            p.grad = None
        model.train()
        return [float(loss.item()), sum(squares) ** 0.5]

    def _steps(self, workload: Workload, model: Any, optimizer: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
        library, root = self.library, self.library.root

        def forward(x: Any, y: Any) -> Any:
            with on(library, self.device, workload.half):
                return workload.loss(library, model, x, y)

        def make(loss_of: Callable[..., Any]) -> Callable[..., Any]:
            def step(x: Any, y: Any) -> Any:
                optimizer.zero_grad()
                loss = loss_of(x, y)
                loss.backward()
                optimizer.step()
                return loss.detach()

            return step

        plain = make(forward)
        if self.side == "phalanx.capture":
            return root.capture(plain), plain
        if self.side == "torch.compile":
            return make(root.compile(forward)), plain
        return plain, plain

    def _run(self, steps: int) -> dict[str, Any]:
        assert self.task is not None
        self._wait()
        began = time.perf_counter()
        self.task.run(steps)
        self._wait()
        return {"seconds": (time.perf_counter() - began) / steps}

    def _free(self) -> dict[str, Any]:
        """What a turn leaves in caches is the next side's."""
        if self.device == "cuda":
            self.library.root.cuda.empty_cache()
        return {}

    def _profile(self, rows: int = 12) -> dict[str, Any]:
        """What takes the time of one plain step: [name, ms, calls], the longest first."""
        assert self.task is not None
        batch = self.task.batches[0]
        found = self._by_torch(batch) if self.torch else self._by_op(batch)
        return {"rows": sorted(found, key=lambda row: -row[1])[:rows]}

    def _by_torch(self, batch: Any) -> list[list[Any]]:
        profiler = self.library.root.profiler
        assert self.task is not None
        with profiler.profile() as seen:
            self.task.profiled(*batch)
            self._wait()
        time_of = "self_device_time_total" if self.device == "cuda" else "self_cpu_time_total"
        return [[event.key[:60], getattr(event, time_of) / 1e3, event.count] for event in seen.key_averages()]

    def _by_op(self, batch: Any) -> list[list[Any]]:
        """Each op forward and backward, between two events on the stream: with what the host needs to launch it, if that is longer."""
        from phalanx.core.op import TABLE

        assert self.task is not None
        root, spans = self.library.root, []
        cuda = root.cuda if self.device == "cuda" else None

        def mark() -> Any:
            if cuda is None:
                return time.perf_counter()
            event = cuda.Event(enable_timing=True)
            event.record()
            return event

        def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def called(*args: Any, **kwargs: Any) -> Any:
                began = mark()
                result = function(*args, **kwargs)
                spans.append((name, began, mark()))
                return result

            return called

        kept = [(op, op.forward, op.vjp) for op in TABLE.values()]
        try:
            for op, forward, vjp in kept:
                object.__setattr__(op, "forward", timed(op.name, forward))
                object.__setattr__(op, "vjp", timed(f"{op.name} backward", vjp))
            self.task.profiled(*batch)
            self._wait()
        finally:
            for op, forward, vjp in kept:
                object.__setattr__(op, "forward", forward)
                object.__setattr__(op, "vjp", vjp)
        found: dict[str, list[Any]] = {}
        for name, began, ended in spans:
            ms = 1e3 * (ended - began) if cuda is None else began.elapsed_time(ended)
            row = found.setdefault(name, [name, 0.0, 0])
            row[1], row[2] = row[1] + ms, row[2] + 1
        return list(found.values())


def why_not(side: str) -> str | None:
    """Why a side cannot run here; None if it may."""
    if not side.startswith("phalanx") and importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    return None


def work(address: str, side: str, rehearse: bool) -> None:
    """The main function of a worker process."""
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")
    serve(address, side, 0, Worker(side, rehearse).answer)
