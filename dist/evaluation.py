"""``phalanx.evaluate`` and ``phalanx.predict``: each sample once, in fixed chunks, with results that no rank count changes.

A chunk is computed whole by one rank, in evaluation mode; what was measured on it is merged with the others by the tree over
chunk numbers. Nothing is padded. An error on one rank is an error on all of them.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import numpy as np

from ..core import rng
from ..core.backend import device_kind, device_of
from ..core.bfloat16 import of_word, word
from ..core.errors import DataError, RangeError, ShapeError
from ..core.metrics import Mean, Metric, get_all
from ..core.mode import no_grad
from ..core.nn.module import Module
from ..core.nn.statistics import discard
from ..core.node import Variable
from ..core.void import is_void
from . import exchanges
from .chunks import Chunks, call, split_batch
from .data_parallel import DataParallel
from .errors import CommunicatorError
from .group import Group, current
from .nested import put_together, take_apart
from .packed import pack, unpack
from .processor import held_threads
from .reduction.tree import Node, fold

Progress = Callable[[Iterable[int]], Iterable[int]]
_APART = 1 << 44
"""Keeps what a model draws while it is evaluated apart from all other streams."""


def evaluate(
    model: Module,
    data: Any,
    metrics: Any = (),
    *,
    loss: Callable[..., Any] | None = None,
    batch_size: int | None = None,
    threads: int | None = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure ``model`` on ``data``: each sample once, the same result to the bit on any number of ranks. All ranks must call.

    The model is in evaluation mode meanwhile and records nothing; both are as before afterwards.

    Args:
        data: a Dataset of (input, target) or (input, target, weight), a DataLoader (its data set; its order does not count), or
            arrays and Tensors ``(x, y)``. Several inputs stand in a tuple of their own.
        metrics: names (``"accuracy"``), metrics (:mod:`phalanx.metrics`) or functions, one or several. They are not changed.
        loss: ``loss(output, target)``; its mean over the data set is listed as ``"loss"``.
        batch_size: samples that one rank computes at a time: part of the meaning of "equal bits". None: 256, or a DataLoader's if
            that is less.
        threads: what numeric libraries are held to meanwhile: sums change with the number of threads. None: as they are.
        progress: wraps the chunks of this rank to show how far it is, for example ``phalanx.progress``.

    Returns name -> value: a float, or an array where a metric has several values. In a step that is void nothing is computed, and
    each value is not a number.

    Raises RangeError when there is nothing to measure, and on all ranks what went wrong on any.

    >>> model = nn.Linear(2, 1)
    >>> x, y = np.ones((5, 2), np.float32), np.zeros((5, 1), np.float32)
    >>> list(phalanx.evaluate(model, (x, y), "mae", loss=nn.MSELoss()))
    ['loss', 'mae']
    """
    group, chunks = current(), Chunks(data, batch_size)
    measured = [copy.deepcopy(metric) for metric in get_all(metrics)]
    if loss is not None:
        measured = get_all([Mean("loss"), *measured])
    if not measured:
        raise RangeError("evaluate: there is nothing to measure, give metrics or a loss")
    module = _unwrapped(model)

    def join(left: list[Any], right: list[Any]) -> list[Any]:
        return [_joined(metric, *pair) for metric, pair in zip(measured, zip(left, right, strict=True), strict=True)]

    def over_all() -> list[Any] | None:
        partials: dict[Node, list[Any] | None] = {}

        def measure(number: int) -> None:
            inputs, targets, weights = on_device_of(module, split_batch(chunks.batch(number)))
            output = call(module, inputs)
            state = [_measured(m, output, targets, weights, loss if m.name == "loss" else None) for m in measured]
            _push(partials, number, state, join)

        error = _over_chunks((group.rank, group.size), group, module, chunks, threads, progress, measure)
        return _merged(group, chunks, partials, join, error)

    states = exchanges.repeated(group, over_all)
    if states is None:
        return {metric.name: float("nan") for metric in measured}
    for metric, state in zip(measured, states, strict=True):
        metric.reset()
        metric.merge(state)
    values = {metric.name: metric.compute() for metric in measured}
    return {name: value if np.ndim(value) else float(value) for name, value in values.items()}


def predict(
    model: Module,
    data: Any,
    *,
    batch_size: int | None = None,
    threads: int | None = 1,
    progress: Progress | None = None,
) -> Any:
    """What ``model`` gives for each sample of ``data``, in sample order, on all ranks. All ranks must call.

    The model is in evaluation mode meanwhile and records nothing. Each sample is computed once, on one rank; the result is the
    same to the bit on any number of them.

    Args:
        data, batch_size, threads, progress: as for :func:`evaluate`; targets and weights are not looked at.

    Returns an array of N rows, or where the model returns a tuple, list or dict, one of those with arrays in it. In a step that is
    void each rank computes all by itself. Raises
    ShapeError when an output has not one row for each sample, and on all ranks what went wrong on any.

    >>> model = nn.Linear(2, 3)
    >>> phalanx.predict(model, np.ones((5, 2), np.float32)).shape
    (5, 3)
    """
    group = current()
    module = _unwrapped(model)

    def predicted() -> Any:
        return _predicted(group, module, Chunks(data, batch_size), threads, progress)

    found = exchanges.repeated(group, predicted)
    return predicted() if found is None else found


def _predicted(group: Group, module: Module, chunks: Chunks, threads: int | None, progress: Progress | None) -> Any:
    place = (0, 1) if is_void() else (group.rank, group.size)
    forms, parts = list[Any](), list[list[np.ndarray]]()

    def collect(number: int) -> None:
        inputs = on_device_of(module, split_batch(chunks.batch(number)))[0]
        form, arrays = take_apart(call(module, inputs), chunks.samples(number))
        if forms:
            _expect_alike(forms[0], parts[0], form, arrays, number)
        forms.append(form)
        parts.append(arrays)

    error = _over_chunks(place, group, module, chunks, threads, progress, collect)
    kinds = [[word(array.dtype), list(array.shape[1:])] for array in parts[0]] if parts else []
    said: dict[str, Any] = {"error": _words(error), "length": chunks.length}
    said["output"] = [forms[0], kinds] if forms else None
    rows = [said]
    if place[1] > 1:
        rows = _or_again(exchanges.gather_object(group, said, name="predict: outputs"))
    _raise_together(group, error, rows)
    (form, kinds), *others = [row["output"] for row in rows if row["output"] is not None]
    if any(other != [form, kinds] for other in others):
        raise ShapeError(
            f"the model's outputs differ in form, dtype or shape between chunks: {[[form, kinds], *others]}"
        )
    gathered = [
        _gathered(group, place, chunks, of_word(kind), tail, [arrays[index] for arrays in parts], index)
        for index, (kind, tail) in enumerate(kinds)
    ]
    if place[1] > 1 and exchanges.generation(group) is not None:
        _or_again(exchanges.gather_bytes(group, b"", name="predict: all have all"))
    return put_together(form, gathered)


def _or_again(rows: list[Any] | None) -> list[Any]:
    """What an exchange gave; where the step has become void, the prediction begins anew, alone."""
    if rows is None:
        raise exchanges.Regrouped
    return rows


# -- one rank's chunks ---------------------------------------------------------------------------------------------------


def _over_chunks(
    place: tuple[int, int],
    group: Group,
    module: Module,
    chunks: Chunks,
    threads: int | None,
    progress: Progress | None,
    work: Callable[[int], None],
) -> Exception | None:
    """Call ``work`` for each chunk of this rank, ``place`` out of how many; the error that ended it, if one did. Errors of the wire are raised."""
    held = threads is not None and not (threads == 1 and group.shards is not None)  # with shards it is one anyway
    seed = rng.splitmix64(rng.initial_seed()) + _APART
    try:
        with ExitStack() as stack:
            stack.enter_context(closing(chunks))
            stack.enter_context(evaluating(module))
            if held and threads is not None:
                stack.enter_context(held_threads(threads))
            numbers = chunks.open(*place)
            for number in numbers if progress is None else progress(numbers):
                with no_grad(), discard(), rng.own_stream(seed + number):
                    work(number)
    except CommunicatorError:
        raise
    except Exception as error:
        return error
    return None


@contextmanager
def evaluating(module: Module) -> Iterator[None]:
    """Within, all of ``module`` is in evaluation mode; afterwards each layer is in the mode that it had."""
    before = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, training in before:
            layer.training = training


def _unwrapped(model: Any) -> Module:
    if not isinstance(model, Module):
        raise TypeError(f"expected a Module (phalanx.nn.Module), got {type(model).__name__}")
    return model.module if isinstance(model, DataParallel) else model


def on_device_of(module: Module, value: Any) -> Any:
    """Tensors of a batch where the model is; nothing changes on the host."""
    parameter = next(module.parameters(), None)
    if parameter is None or device_kind(parameter.array) == "cpu":
        return value
    device = device_of(parameter.array)

    def move(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: move(inner) for key, inner in part.items()}
        if isinstance(part, tuple | list):
            return type(part)(move(inner) for inner in part)
        return part.to(device) if isinstance(part, Variable) else part  # type: ignore[attr-defined]

    return move(value)


def _measured(metric: Metric, output: Any, targets: Any, weights: Any, loss: Callable[..., Any] | None) -> Any:
    """The state of one chunk."""
    metric.reset()
    if loss is None:
        metric.update(output, targets, weights)
        return metric.state()
    value = loss(output, targets) if weights is None else loss(output, targets, sample_weight=weights)
    array = value.array
    if array.ndim:
        raise ShapeError(
            f"evaluate: the loss must be one number for each batch (reduction='mean'), got shape {array.shape}"
        )
    samples = len(targets) if hasattr(targets, "__len__") else len(output)
    metric.update(array, None, float(samples) if value.weight is None else float(value.weight))
    return metric.state()


def _joined(metric: Metric, left: Any, right: Any) -> Any:
    metric.reset()
    metric.merge(left)
    metric.merge(right)
    return metric.state()


def _expect_alike(
    first_form: Any, first: Sequence[np.ndarray], form: Any, arrays: Sequence[np.ndarray], number: int
) -> None:
    mine, theirs = ([(array.dtype.name, array.shape[1:]) for array in each] for each in (arrays, first))
    if form != first_form or mine != theirs:
        raise ShapeError(
            f"the model's outputs differ between chunks: {mine} in chunk {number}, {theirs} before. Pad them to one shape to predict"
        )


# -- all ranks -----------------------------------------------------------------------------------------------------------


def _push(partials: dict[Node, Any], number: int, state: Any, join: Callable[[Any, Any], Any]) -> None:
    """Add the state of chunk ``number`` to those before, as far as the tree goes whatever the count of all chunks."""
    node = (number, number + 1)
    while (before := (2 * node[0] - node[1], node[0])) in partials and before[0] % (2 * (node[1] - node[0])) == 0:
        state = join(partials.pop(before), state)
        node = (before[0], node[1])
    partials[node] = state


def _merged(
    group: Group,
    chunks: Chunks,
    partials: dict[Node, list[Any] | None],
    join: Callable[[list[Any], list[Any]], list[Any]],
    error: Exception | None,
) -> list[Any] | None:
    """The states over all chunks, merged in the order of the tree over chunk numbers; None where the step has become void."""
    if group.size > 1:
        nodes = [] if error is not None else list(partials)
        states = [state for node in nodes for state in partials[node] or []]
        words = {"error": _words(error), "length": chunks.length, "nodes": nodes, "keys": [list(s) for s in states]}
        data = pack(words, [array for state in states for array in state.values()])
        rows = exchanges.gather_bytes(group, data, name="evaluate: states")
        if rows is None:
            return None
        told = [unpack(row) for row in rows]
        _raise_together(group, error, [words for words, _ in told])
        partials = {}
        for words, arrays in told:
            rest = iter(arrays)
            found = [{key: next(rest) for key in keys} for keys in words["keys"]]
            width = len(found) // max(1, len(words["nodes"]))
            partials |= {(a, b): found[i * width : (i + 1) * width] for i, (a, b) in enumerate(words["nodes"])}
    elif error is not None:
        raise error
    merged = fold((0, chunks.count), partials, join)
    assert merged is not None
    return merged


def _gathered(
    group: Group,
    place: tuple[int, int],
    chunks: Chunks,
    kind: np.dtype,
    tail: list[int],
    own: Sequence[np.ndarray],
    index: int,
) -> np.ndarray:
    """All rows of one output on all ranks, in sample order."""
    size = place[1]
    owned = [[chunks.bounds(number) for number in chunks.owned(rank, size)] for rank in range(size)]
    ends = np.cumsum([0, *(sum(hi - lo for lo, hi in bounds) for bounds in owned)]).tolist()
    cut = list(itertools.pairwise(ends))
    rows = np.empty((ends[-1], *tail), kind)
    if own:
        np.concatenate(own, out=rows[slice(*cut[place[0]])])
    if size > 1 and rows.nbytes:
        nbytes = rows.nbytes // ends[-1]
        ranges = [(lo * nbytes, hi * nbytes) for lo, hi in cut]
        flat = rows.reshape(-1).view(np.uint8)
        group.control.all_gather_slices(flat, ranges, name=f"predict: output {index}").wait()
    bounds = [pair for pairs in owned for pair in pairs]  # as the ranks have them one after another
    if bounds == sorted(bounds):
        return rows
    whole = np.empty_like(rows)
    at = 0
    for lo, hi in bounds:
        whole[lo:hi] = rows[at : at + hi - lo]
        at += hi - lo
    return whole


def _words(error: Exception | None) -> str | None:
    return None if error is None else f"{type(error).__name__}: {error}"


def _raise_together(group: Group, error: Exception | None, rows: Sequence[dict[str, Any]]) -> None:
    """Raise this rank's own error, or say which rank met one, or that ranks do not see the same data."""
    if error is not None:
        raise error
    for rank, words in enumerate(rows):
        if words["error"] is not None:
            failure = CommunicatorError(f"rank {rank} of {group.size} failed in this evaluation: {words['error']}")
            failure.from_peer = True
            raise failure
    lengths = [words["length"] for words in rows]
    if len(set(lengths)) > 1:
        raise DataError(f"the ranks do not see the same data: {lengths} samples on ranks 0 to {group.size - 1}")
