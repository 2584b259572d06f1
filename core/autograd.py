"""Gradients asked for by name: ``grad(outputs, inputs)`` walks the graph without touching any ``.grad``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .anomaly import watched
from .backend import Array, as_array
from .errors import GraphError, ShapeError
from .graph import FREED, free, own_precision, unbroadcast, where
from .leaf import run_hooks
from .live import refuse
from .mode import mode
from .node import Node, Variable, wrap
from .part import Part

if TYPE_CHECKING:
    from .tensor import Tensor


class Walk:
    """One pass from ``roots`` to ``targets``: gradients of the targets, only along paths that lead to one.

    Unlike ``graph.backward`` it keeps what arrives in itself, so that passes can lie in each other, and it tells no
    listener. Nodes older than ``floor`` are not entered.
    """

    def __init__(self, roots: Sequence[Any], targets: Sequence[Any], floor: int = -1) -> None:
        refuse("phalanx.grad() or backward(inputs=...)")
        self.roots = roots
        self.targets = [target._node if isinstance(target, Variable) and target._node else target for target in targets]
        self._wanted = set(self.targets)
        self._floor = floor
        self._held: dict[Any, Any] = {}
        self._nodes = self._reachable()
        self._needed = self._leading()

    def _reachable(self) -> list[Node]:
        nodes = [root._node for root in self.roots if root._node is not None]
        nodes = list(dict.fromkeys(node for node in nodes if node.sequence >= self._floor))
        seen = set(nodes)
        for node in nodes:
            for edge in node.edges:
                if edge.__class__ is Node and edge not in seen and edge.sequence >= self._floor:
                    seen.add(edge)
                    nodes.append(edge)
        nodes.sort(key=lambda node: node.sequence, reverse=True)
        return nodes

    def _leading(self) -> set[Node]:
        """The nodes below which a target lies."""
        leading: set[Node] = set()
        for node in reversed(self._nodes):
            if any(edge is not None and (edge in self._wanted or edge in leading) for edge in node.edges):
                leading.add(node)
        return leading

    def run(self, seeds: Sequence[Array], retain_graph: bool = False) -> list[Array | None]:
        """The targets' gradients, None where none arrived, for the roots' gradients ``seeds``."""
        found: dict[Any, Any] = {}
        for root, seed in zip(self.roots, seeds, strict=True):
            self._add(root if root._node is None else root._node, seed)
        step = watched(self._step) if mode.anomaly else self._step
        for node in self._nodes:
            gradient = self._held.pop(node, None)
            if gradient is None:
                continue
            if node.shape is None:
                gradient = tuple(gradient)
            elif node.hooks is not None:
                gradient = run_hooks(node.hooks, gradient)
            if node in self._wanted:
                found[node] = gradient
            if node in self._needed:
                try:
                    step(node, gradient, retain_graph)
                except Exception as error:
                    error.add_note(where(node))
                    raise
        found.update(self._held)  # leaves, and nodes below the floor
        return [found.get(target) for target in self.targets]

    def _step(self, node: Node, gradient: Any, retain_graph: bool) -> None:
        edges = node.edges
        if node.op is None:
            source = edges[0]
            parts = self._held.setdefault(source, [None] * len(source.gradient))
            index = node.saved
            parts[index] = gradient if parts[index] is None else as_array(parts[index] + gradient)
            return
        if node.saved is FREED:
            raise GraphError(
                f"a second pass through {node.op.name} (forward at {node.site()}), whose saved arrays were freed by the "
                "first: run forward again, or call the first with retain_graph=True"
            )
        needs = [edge is not None and (edge in self._wanted or edge in self._needed) for edge in edges]
        gradients = node.op.vjp(node.saved, gradient, needs, [own_precision(edge) for edge in edges])
        if not retain_graph and node.saved is not None:
            free(node)
        for edge, g, need in zip(edges, gradients, needs, strict=True):
            if need and g is not None:
                self._add(edge, g)

    def _add(self, target: Any, gradient: Any) -> None:
        if gradient.__class__ is Part:
            gradient = gradient.whole()
        shape: Any = target.shape if target.__class__ is Node else target.array.shape
        if gradient.shape != shape:
            gradient = unbroadcast(gradient, shape)
        held = self._held.get(target)
        self._held[target] = gradient if held is None else as_array(held + gradient)


def _sequence(name: str, given: Any) -> list[Any]:
    found = [given] if isinstance(given, Variable) else list(given)
    for x in found:
        if not isinstance(x, Variable):
            raise GraphError(f"grad: {name} are Tensors, got {type(x).__name__}")
    return found


def seed_of(output: Any, gradient: Any) -> Array:
    """The gradient that a pass starts from; 1 for a single element without one."""
    array = output.array
    if gradient is None:
        if array.size != 1:
            raise GraphError(
                f"the gradient of an output of shape {array.shape} is needed: reduce it to a scalar first, with .mean() or "
                ".sum(), or give one of that shape"
            )
        return np.ones_like(array)
    seed = gradient.array if isinstance(gradient, Variable) else np.asarray(gradient, array.dtype)
    if seed.shape != array.shape:
        raise ShapeError(f"a gradient of shape {array.shape} expected, got {seed.shape}")
    return seed.astype(array.dtype, copy=False)


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """d(outputs)/d(inputs): a tuple with one gradient for each input, summed over the outputs. No ``.grad`` changes.

    Args:
        outputs: a Tensor or several; ``grad_outputs``: theirs, None for single elements, whose gradient is 1.
        inputs: a Tensor or several, leaves or not, that want gradients.
        retain_graph: keep what the graph saved, for another pass through it.
        allow_unused: None instead of an error for an input that no output depends on; ``materialize_grads``: zeros.

    With a DataParallel these are the gradients of this rank's own loss, not summed over shards. Raises GraphError for an
    input that nothing depends on, for ``create_graph`` (gradients are of first order only), and for a freed graph.

    >>> x = phalanx.tensor([1.0, 2.0], requires_grad=True)
    >>> phalanx.autograd.grad((x * x).sum(), x)
    (tensor([2., 4.]),)
    """
    if create_graph:
        raise GraphError("grad(create_graph=True): phalanx computes first-order gradients only")
    roots, targets = _sequence("outputs", outputs), _sequence("inputs", inputs)
    given = [grad_outputs] if isinstance(grad_outputs, Variable | None) else list(grad_outputs)
    given = given * len(roots) if grad_outputs is None else given
    if len(given) != len(roots):
        raise GraphError(f"grad: {len(roots)} outputs and {len(given)} grad_outputs")
    for kind, tensors in (("output", roots), ("input", targets)):
        for i, x in enumerate(tensors):
            if not x.requires_grad:
                raise GraphError(f"grad: {kind} {i} (shape {x.shape}) does not require a gradient")
    walk = Walk(roots, targets)
    found = walk.run([seed_of(x, g) for x, g in zip(roots, given, strict=True)], bool(retain_graph))
    results: list[Any] = []
    for i, (target, gradient) in enumerate(zip(targets, found, strict=True)):
        if gradient is not None and target._node is None and target._hooks:
            gradient = run_hooks(target._hooks, gradient)
        if gradient is None and materialize_grads:
            gradient = np.zeros_like(target.array)
        if gradient is None and not allow_unused:
            raise GraphError(
                f"grad: no output depends on input {i} (shape {target.shape}); pass allow_unused=True for None in its place"
            )
        results.append(None if gradient is None else wrap(gradient))
    return tuple(results)


def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Add the gradient of the sum of ``tensors`` to the ``.grad`` of every leaf below, or of ``inputs`` only.

    >>> w = phalanx.tensor([3.0], requires_grad=True)
    >>> phalanx.autograd.backward([w * 2, w * w])
    >>> w.grad
    tensor([8.])
    """
    roots = _sequence("tensors", tensors)
    given = [grad_tensors] if isinstance(grad_tensors, Variable) else list(grad_tensors or [None] * len(roots))
    if len(given) != len(roots):
        raise GraphError(f"backward: {len(roots)} tensors and {len(given)} gradients")
    if inputs is not None:
        targets = _sequence("inputs", inputs)
        found = grad(roots, targets, given, retain_graph, create_graph, allow_unused=True)
        for target, gradient in zip(targets, found, strict=True):
            if gradient is not None:
                target.grad = gradient if target.grad is None else target.grad + gradient
    elif len(roots) == 1:
        roots[0].backward(given[0], retain_graph=bool(retain_graph), create_graph=create_graph)
    else:
        total = sum((x * wrap(seed_of(x, g))).sum() for x, g in zip(roots, given, strict=True))
        total.backward(retain_graph=bool(retain_graph), create_graph=create_graph)
