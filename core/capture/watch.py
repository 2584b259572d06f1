"""While any thread records, what the engine is made of is exchanged for what tells: the hot path of all others pays nothing.

Exchanged are the forwards and vjps of the op table, a tensor's ``array`` and ``grad``, the call of a module, and three functions
of the engine. Each asks whether its own thread records.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .. import flat, graph, leaf, op, promotion, tensor
from ..bfloat16 import renew
from ..live import now
from ..nn.module import Module
from ..node import Variable
from ..tensor import Tensor
from .recorder import Recorder, recording
from .traced import looked, plain

_slot: Any = Variable.__dict__["array"]
_grad: Any = Tensor.__dict__["grad"]
_ENGINE = frozenset([graph.__file__, leaf.__file__, flat.__file__])
_HANDS_ON = frozenset(["backward", "detach", "data", "__init__", "_wrap"])
"""Functions of ``tensor.py`` that hand an array on without looking at it."""

_tensor: Any = Tensor
_module: Any = Module
_graph: Any = graph
_lock = threading.Lock()
_count = 0
_kept: list[tuple[Any, Any, Any]] = []
_call: Any = Module.__call__
_record: Any = graph._record
_walk: Any = graph.backward
_promotion: Any = promotion
_binary: Any = promotion.binary


@contextmanager
def recorded(recorder: Recorder) -> Iterator[None]:
    """Within the block ``recorder`` hears what this thread does."""
    _begin()
    now.recorder = recorder
    try:
        yield
    finally:
        now.recorder = None
        _end()


def _begin() -> None:
    global _count, _call, _record, _walk
    with _lock:
        _count += 1
        if _count > 1:
            return
        for each in op.TABLE.values():
            forward, vjp = (getattr(function, "instead_of", function) for function in (each.forward, each.vjp))
            _kept.append((each, forward, vjp))
            object.__setattr__(each, "forward", _telling_forward(each, forward))
            object.__setattr__(each, "vjp", _telling_vjp(vjp))
        _call, _record, _walk = Module.__call__, graph._record, graph.backward
        _tensor.array, _tensor.grad = property(_read, _write), property(_read_grad, _write_grad)
        _module.__call__, _graph._record, _graph.backward = _told_call, _told_record, _told_backward
        _promotion.binary = promotion._promoted


def _end() -> None:
    global _count
    with _lock:
        _count -= 1
        if _count:
            return
        for each, forward, vjp in _kept:
            object.__setattr__(each, "forward", forward)
            object.__setattr__(each, "vjp", vjp)
        _kept.clear()
        renew()
        del _tensor.array
        _tensor.grad = _grad
        _module.__call__, _graph._record, _graph.backward = _call, _record, _walk
        _promotion.binary = _binary


def _read(tensor_: Any) -> Any:
    array = _slot.__get__(tensor_)
    recorder = now.recorder
    if recorder is None or array is None:
        return array
    code = sys._getframe(1).f_code
    file = code.co_filename
    if not file.startswith(graph._PACKAGE):
        looked("reading a tensor's .array")
    by_engine = file in _ENGINE or (file == tensor.__file__ and code.co_name in _HANDS_ON)
    return recorder.read(tensor_, array, by_engine)


def _write(tensor_: Any, array: Any) -> None:
    _slot.__set__(tensor_, plain(array))


def _read_grad(tensor_: Any) -> Any:
    looked("reading a gradient")
    return _grad.__get__(tensor_)


def _write_grad(tensor_: Any, value: Any) -> None:
    looked("setting a gradient")
    _grad.__set__(tensor_, value)


def _telling_forward(each: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
    def told(*arrays: Any, **attributes: Any) -> Any:
        recorder = recording()
        return forward(*arrays, **attributes) if recorder is None else recorder.ran(each, forward, arrays, attributes)

    told.instead_of = forward  # type: ignore[attr-defined]  # another exchange may have put this one back late
    return told


def _telling_vjp(vjp: Callable[..., Any]) -> Callable[..., Any]:
    def told(*args: Any) -> Any:
        gradients = vjp(*args)
        if now.recorder is not None:
            now.recorder.gave(gradients)
        return gradients

    told.instead_of = vjp  # type: ignore[attr-defined]
    return told


def _told_record(each: Any, inputs: Any, saved: Any, shape: Any) -> Any:
    node = _record(each, inputs, saved, shape)
    recorder = recording()
    if recorder is not None:
        recorder.noded(each, saved, node)
    return node


def _told_backward(root: Any, seed: Any, retain_graph: bool = False) -> None:
    recorder = recording()
    if recorder is None:
        _walk(root, seed, retain_graph)
    else:
        recorder.backward(_walk, root, seed, retain_graph)


def _told_call(module: Any, *args: Any, **kwargs: Any) -> Any:
    recorder = recording()
    if recorder is None:
        return _call(module, *args, **kwargs)
    recorder.modules[id(module)] = module
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        recorder.refuse(f"a hook of {type(module).__name__}")
    if not hasattr(type(module), "forward_scope"):
        return _call(module, *args, **kwargs)
    recorder.enter(module, args)
    try:
        return _call(module, *args, **kwargs)
    finally:
        recorder.leave(module)
