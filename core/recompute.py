"""Activation checkpointing: forget what a part of the model computed, and compute it again in backward.

Forward runs the part as usual and keeps its inputs only; the recorded nodes tell which parameters and outer tensors it
used, and one node stands for all of it. Backward runs it again on the same inputs, with the same keyed randomness (in
whatever step and shard backward happens) and without leaving batch statistics a second time, and walks that graph. So
memory holds the inputs of each part and the activations of one, for one more forward (Chen et al., Training deep nets
with sublinear memory cost, arXiv 1604.06174).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import collective, rng
from .autograd import Walk
from .errors import GraphError
from .graph import apply, next_sequence
from .live import refuse
from .mode import casts, enable_grad, mode
from .nn import statistics
from .node import Node, Variable, wrap
from .op import Op


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    preserve_rng_state: bool = True,
    determinism_check: str = "default",
    **kwargs: Any,
) -> Any:
    """``function(*args, **kwargs)``, whose activations are not kept but computed again in backward.

    Gradients are those without it; dropout draws the same numbers again, batch norm moves its statistics once. ``function``
    must compute the same from the same arguments. PyTorch's other arguments are accepted: there is one implementation, it
    keeps the randomness, and it checks the shapes of what comes out again.

    Raises GraphError in backward if the second run gives other shapes than the first.

    >>> layer = nn.Linear(4, 4)
    >>> x = phalanx.ones(2, 4)
    >>> y = phalanx.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    >>> phalanx.equal(y, layer(x))
    True
    """
    if not mode.enabled:
        return function(*args, **kwargs)
    refuse("activation checkpointing")
    moment = rng.moment()
    floor = next_sequence()
    inputs, call = _isolated(function, args, kwargs)
    heard: list[Any] = []  # what other shards said: they are not asked a second time
    with collective.remember(heard):
        outputs = call(inputs)
    tensors = [x for x in _tensors(outputs) if x.requires_grad]
    if not tensors:
        return outputs
    inside = {id(x) for x in inputs}
    edges = [edge for edge in _borders(tensors, floor) if id(edge) not in inside]
    given = [x for x in _tensors((args, kwargs)) if x.requires_grad]
    shapes = tuple(x.array.shape for x in tensors)
    casting = mode.autocast

    def replay(gradients: Sequence[Any]) -> list[Any]:
        fresh = [_leaf(x) for x in inputs]
        start = next_sequence()
        with rng.replayed(moment), statistics.discard(), collective.recall(heard), enable_grad(), casts(casting):
            again = [x for x in _tensors(call(fresh)) if x.requires_grad]
        if tuple(x.array.shape for x in again) != shapes:
            raise GraphError(
                f"checkpoint: recomputation gave outputs of shapes {[x.array.shape for x in again]}, the first run "
                f"{list(shapes)}; the function must compute the same from the same arguments"
            )
        seeds = [np.zeros_like(x.array) if g is None else g for x, g in zip(again, gradients, strict=True)]
        return Walk(again, [*fresh, *edges], start).run(seeds)

    return _stood_for(outputs, tensors, [*given, *map(_stub, edges)], replay)


def _stood_for(outputs: Any, tensors: list[Any], sources: list[Any], replay: Any) -> Any:
    """The outputs, those that want gradients made by one node above ``sources``."""
    single = len(tensors) == 1
    once = [(tuple(x.array for x in tensors), replay)]

    def forward(*_: Any) -> tuple[Any, Any]:
        made, saved = once.pop()  # or the node would hold outputs and inputs for as long as it lives
        return (made[0] if single else made), saved

    def vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> tuple[Any, ...]:
        return tuple(saved([gradient] if single else gradient))

    made = apply(Op("checkpoint", forward, vjp), *sources)
    made = [made] if single else list(made)
    for new, old in zip(made, tensors, strict=True):
        new._weight = old._weight
    replaced = dict(zip(map(id, tensors), made, strict=True))
    return _changed(outputs, lambda x: replaced.get(id(x), x))


def _isolated(function: Any, args: Any, kwargs: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """Leaves in place of the arguments that want gradients, and how to call ``function`` with such leaves."""
    given = [x for x in _tensors((args, kwargs)) if x.requires_grad]
    inputs = [_leaf(x) for x in given]

    def call(leaves: list[Any]) -> Any:
        instead = dict(zip(map(id, given), leaves, strict=True))
        own_args, own_kwargs = _changed((args, kwargs), lambda x: instead.get(id(x), x))
        return function(*own_args, **own_kwargs)

    return inputs, call


def _leaf(x: Any) -> Any:
    """The same memory as a leaf that wants a gradient."""
    leaf = wrap(x.array)
    leaf.requires_grad, leaf._weight = True, x._weight
    return leaf


def _stub(edge: Any) -> Any:
    """What stands for an outer node as input of an op."""
    if edge.__class__ is not Node:
        return edge
    stub = wrap(None)
    stub.requires_grad, stub._node = True, edge
    return stub


def _borders(tensors: Sequence[Any], floor: int) -> list[Any]:
    """The leaves, and the nodes that were there before, that the recorded part leads to; in a fixed order."""
    nodes = [x._node for x in tensors if x._node is not None and x._node.sequence >= floor]
    found: dict[Any, None] = {x if x._node is None else x._node: None for x in tensors if x._node not in nodes}
    nodes = list(dict.fromkeys(nodes))
    seen = set(nodes)
    for node in nodes:
        for edge in node.edges:
            if edge is None:
                continue
            if edge.__class__ is Node and edge.sequence >= floor:
                if edge not in seen:
                    seen.add(edge)
                    nodes.append(edge)
            else:
                found[edge] = None
    return list(found)


def _tensors(value: Any) -> list[Any]:
    """Each Tensor in nested tuples, lists and dicts once."""
    found: dict[int, Any] = {}
    pending = [value]
    while pending:
        part = pending.pop(0)
        if isinstance(part, Variable):
            found.setdefault(id(part), part)
        elif isinstance(part, tuple | list):
            pending[:0] = part
        elif isinstance(part, dict):
            pending[:0] = part.values()
    return list(found.values())


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same nest with other Tensors."""
    if isinstance(value, Variable):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_changed(part, change) for part in value))
    if isinstance(value, tuple | list):
        return type(value)(_changed(part, change) for part in value)
    if isinstance(value, dict):
        return {key: _changed(part, change) for key, part in value.items()}
    return value


def checkpoint_sequential(
    functions: Any, segments: int, input: Any, use_reentrant: bool | None = None, preserve_rng_state: bool = True
) -> Any:
    """A ``Sequential`` (or a list of functions) in ``segments`` parts, each but the last under :func:`checkpoint`.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> phalanx.utils.checkpoint.checkpoint_sequential(model, 2, phalanx.ones(1, 4), use_reentrant=False).shape
    (1, 2)
    """
    layers = list(functions)
    if segments < 1 or segments > len(layers):
        raise GraphError(f"checkpoint_sequential: segments between 1 and {len(layers)} expected, got {segments}")
    size = len(layers) // segments
    cuts = [size * i for i in range(segments)] + [len(layers)]

    def part(first: int, last: int) -> Callable[[Any], Any]:
        def run(value: Any) -> Any:
            for layer in layers[first:last]:
                value = layer(value)
            return value

        return run

    *early, final = itertools.pairwise(cuts)
    for first, last in early:
        input = checkpoint(part(first, last), input)
    return part(*final)(input)
