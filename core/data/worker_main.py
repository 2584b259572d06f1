"""What a worker process of a DataLoader does."""

from __future__ import annotations

import json
import mmap
import os
import runpy
import signal
import socket
import sys
import threading
import traceback
import types
from multiprocessing.reduction import ForkingPickler
from typing import Any

from ..errors import PhalanxError
from . import handover
from .batches import BatchMaker
from .workers import IGNORED, NO_SAMPLE, SAMPLE, WorkerInfo, _Here


def main(arguments: list[str]) -> None:
    """Make batches until the parent is gone."""
    for ignored in IGNORED:
        signal.signal(ignored, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    told = json.loads(arguments[0])
    line, life, cell = told["passed"]
    threading.Thread(target=_end_with_parent, args=(life,), daemon=True).start()
    at = mmap.mmap(cell, SAMPLE.size)
    connection = socket.socket(fileno=line)
    try:
        maker = _prepare(handover.receive(connection), told, at)
        handover.send(connection, maker if isinstance(maker, dict) else {})
        while isinstance(maker, BatchMaker):
            epoch, indices = handover.receive(connection)
            answer = _answer(maker, epoch, indices)
            SAMPLE.pack_into(at, 0, NO_SAMPLE)
            handover.send(connection, answer)
            del answer
    except handover.Closed:
        pass


def _end_with_parent(life: int) -> None:
    os.read(life, 1)
    os._exit(0)


def _prepare(payload: bytes, told: dict[str, Any], at: mmap.mmap) -> BatchMaker | dict[str, str]:
    """What makes batches, or the answer that says why there is none."""
    _Here.inside = True
    try:
        if told["main"] is not None:
            _import_main(told["main"])
        dataset, collate_fn, worker_init_fn = ForkingPickler.loads(payload)
        _Here.info = WorkerInfo(told["number"], told["count"], told["seed"] + told["number"], dataset)
        if worker_init_fn is not None:
            worker_init_fn(told["number"])
        maker = BatchMaker(dataset, collate_fn, told["seed"])
        maker.begins = lambda sample: SAMPLE.pack_into(at, 0, sample)
        return maker
    except Exception as error:
        return _failure(error)


def _import_main(path: str) -> None:
    """The script's classes, found where the parent has them; its `if __name__ == "__main__"` part does not run."""
    module = types.ModuleType("__mp_main__")
    module.__dict__.update(runpy.run_path(path, run_name="__mp_main__"))
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module


def _answer(maker: BatchMaker, epoch: int, indices: Any) -> dict[str, Any]:
    try:
        batch = maker.make(epoch, indices)
        handover.check(batch)
        return {"batch": batch}
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> dict[str, str]:
    words = str(error) if isinstance(error, PhalanxError) else f"{type(error).__name__}: {error}"
    return {"error": words, "traceback": traceback.format_exc()}
