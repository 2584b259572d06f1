"""The graph: nodes, the backward walk, un-broadcasting, and "this gradient is final".

:func:`apply` runs an op on arrays and, if any input wants a gradient, records one :class:`Node`. :func:`backward` walks the
reachable nodes from the newest to the oldest. What it gives to a leaf goes straight into the leaf's slot of the flat
store where there is one.

A **listener** (an object on ``leaf._listener``; DataParallel sets it) hears of every backward pass that reaches its leaves:
``backward_begins(leaves, root)`` before the walk, ``gradient_final(leaf)`` when a leaf has got its last contribution of
this pass (also if that turned out to be none), unless the first returned False, ``backward_ends()`` after the walk, also if
it failed.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from operator import attrgetter, is_
from types import FrameType
from typing import Any

import numpy as np

from .anomaly import watched
from .backend import Array, as_array
from .broadcasting import unbroadcast as unbroadcast
from .errors import GraphError, PhalanxError
from .leaf import Pending, contribute, run_hooks
from .mode import enable_grad as enable_grad
from .mode import is_grad_enabled as is_grad_enabled
from .mode import mode
from .mode import no_grad as no_grad
from .mode import set_grad_enabled as set_grad_enabled
from .node import Node, Variable, bindings, moved, on_one_device
from .node import bind as bind
from .node import wrap as wrap
from .op import Op
from .ops.lower import LOWER
from .part import Part

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
next_sequence = itertools.count().__next__
"""Nodes count in the order in which they were recorded."""
_ndarray = np.ndarray
FREED = object()
_PLAIN = frozenset({int, float, bool, str, type(None), tuple, slice, type(Ellipsis), np.dtype})
_MANY = 16
_NO_SLOTS: list[tuple[None, ...]] = [(None,) * n for n in range(_MANY)]
_ALL: list[tuple[bool, ...]] = [(True,) * n for n in range(_MANY)]
_add: Any = np.add

inside: dict[str, bool] = {}
"""Whether a source file belongs to the package, by name."""


def outside(frame: FrameType) -> FrameType:
    """The innermost frame outside of the package, from ``frame`` on; the outermost if there is none."""
    while True:
        name = frame.f_code.co_filename
        found = inside.get(name)
        if found is None:
            found = inside[name] = os.path.abspath(name).startswith(_PACKAGE)
        outer = frame.f_back if found else None
        if outer is None:
            return frame
        frame = outer


def apply(op: Op, *inputs: Any, **attributes: Any) -> Any:
    """Run ``op`` on ``inputs`` (Tensors, arrays, Python numbers or None) and record it if a gradient is wanted.

    Returns a Tensor, or a tuple of Tensors for an op with several outputs. Raises ShapeError or DTypeError that names the
    op and the inputs' shapes.
    """
    # The hot path of all training: no helper calls, one loop over the inputs.
    if mode.autocast is not None:
        inputs = mode.autocast(op, inputs)
    arrays = []
    wanted = False
    for x in inputs:
        if isinstance(x, Variable):
            arrays.append(x.array)
            if x.requires_grad:
                wanted = True
        else:
            arrays.append(x)
    try:
        output, saved = op.forward(*arrays, **attributes)
    except PhalanxError:
        raise
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        device = on_one_device(op, arrays, error)
        return apply(op, *[moved(x, device, apply) for x in inputs], **attributes)
    if output.__class__ is not _ndarray:
        if output.__class__ is tuple:
            return _several(op, inputs, output, saved, wanted)
        output = as_array(output)
    result = bindings.make(output)
    if wanted and mode.enabled and op.differentiable != ():
        result.requires_grad = True
        result._node = _record(op, inputs, saved, output.shape)
    return result


def _record(op: Op, inputs: Sequence[Any], saved: Any, shape: tuple[int, ...] | None) -> Node:
    """The node of an op that ran; called by ``apply``'s frame or one below it."""
    node = Node()
    node.op = op
    node.saved = saved
    node.shape = shape
    edges: list[Any] = []
    special, complete = len(inputs) >= _MANY, True
    for x in inputs:
        if isinstance(x, Variable) and x.requires_grad:
            source = x._node
            if source is None:
                edges.append(x)
            else:
                edges.append(source)
                if source.op is LOWER:
                    special = True
        else:
            edges.append(None)
            complete = False
    node.edges = edges
    node.needs = _ALL[len(edges)] if complete and len(edges) < _MANY else tuple([edge is not None for edge in edges])
    node.special = special
    node.gradient = node.hooks = node.walk = None
    node.sequence = next_sequence()
    frame = outside(sys._getframe(2))
    node.code = frame.f_code
    node.instruction = frame.f_lasti
    return node


def _several(op: Op, inputs: Sequence[Any], arrays: tuple[Any, ...], saved: Any, wanted: bool) -> tuple[Any, ...]:
    """Tensors for the outputs of an op with several; each that carries a gradient gets a node that picks it."""
    results = tuple([bindings.make(as_array(array)) for array in arrays])
    if not (wanted and mode.enabled and op.differentiable != ()):
        return results
    node = _record(op, inputs, saved, None)
    node.gradient = [None] * len(arrays)
    for index in range(len(arrays)) if op.differentiable is None else op.differentiable:
        pick = Node()
        pick.op, pick.saved, pick.edges, pick.needs, pick.special = None, index, [node], (True,), False
        pick.gradient = pick.hooks = pick.walk = None
        pick.sequence = next_sequence()
        pick.code, pick.instruction = node.code, node.instruction
        pick.shape = results[index].array.shape
        results[index].requires_grad = True
        results[index]._node = pick
    return results


_by_sequence = attrgetter("sequence")


def _reachable(root: Node) -> tuple[list[Node], dict[Any, Pending]]:
    """All nodes below ``root``, newest first, and the leaves with the number of edges that lead to each."""
    nodes = [root]
    leaves: dict[Any, Pending] = {}
    walk = root.walk = object()
    for node in nodes:
        if node.saved is FREED:
            raise GraphError(
                f"backward a second time through {node.op.name if node.op else 'a part of the graph'} "
                f"(forward at {node.site()}), whose saved arrays "
                "were freed by the first: run forward again, or call the first with retain_graph=True"
            )
        for edge in node.edges:
            if edge.__class__ is Node:
                if edge.walk is not walk:
                    edge.walk = walk
                    nodes.append(edge)
            elif edge is not None:
                pending = leaves.get(edge)
                if pending is None:
                    leaves[edge] = Pending(node)
                else:
                    pending.remaining += 1
                    pending.source = None
    nodes.sort(key=_by_sequence, reverse=True)
    return nodes, leaves


def backward(root: Any, seed: Array, retain_graph: bool = False) -> None:
    """Add the gradient of ``root`` (a Tensor; ``seed`` is its own gradient) to ``.grad`` of every leaf below it.

    Raises GraphError if a part of the graph was freed by an earlier pass.
    """
    if root._node is None:
        leaves = {root: Pending(None)}
        nodes: list[Node] = []
    else:
        nodes, leaves = _reachable(root._node)
    listeners: dict[int, tuple[Any, list[Any]]] = {}
    last: Any = None
    own: list[Any] = []
    for leaf in leaves:
        listener = leaf._listener
        if listener is not None:
            if listener is not last:
                last, own = listeners.setdefault(id(listener), (listener, []))
            own.append(leaf)
    begun: list[Any] = []
    node = root._node
    try:
        for listener, own in listeners.values():
            if listener.backward_begins(own, root) is False:
                for leaf in own:
                    leaves[leaf].told = False
            begun.append(listener)
        if node is None:
            contribute(root, leaves[root], seed)
        else:
            node.gradient = seed
            summed: set[Node] = set()
            direct = {pending.source for pending in leaves.values()}
            step = watched(_step) if mode.anomaly else _step
            for node in nodes:
                step(node, leaves, direct, summed, retain_graph)
    except BaseException as error:
        if isinstance(error, Exception) and len(begun) == len(listeners) and node is not None:
            error.add_note(where(node))
        for node in nodes:
            node.gradient = None if node.shape is not None else [None] * len(node.gradient)
        raise
    finally:
        for listener in begun:
            listener.backward_ends()


def _step(
    node: Node, leaves: dict[Any, Pending], direct: set[Node | None], summed: set[Node], retain_graph: bool
) -> None:
    """Pass one node's gradient on to its inputs.

    ``direct``: nodes that alone give to some leaf; ``summed``: those whose gradient was made here, to be added to in place.
    """
    # The hot path of all training, as apply.
    gradient = node.gradient
    if gradient.__class__ is _ndarray and node.hooks is None:
        node.gradient = None
    else:
        gradient = _arrived(node)
    edges = node.edges
    op = node.op
    if op is None:
        edges[0].gradient[node.saved] = gradient
        return
    saved = node.saved
    if gradient is None:
        gradients: Sequence[Any] = [None] * len(edges)
    else:
        slots = _slots(edges, leaves) if node in direct or node.special else _NO_SLOTS[len(edges)]
        gradients = op.vjp(saved, gradient, node.needs, slots)
    if not retain_graph and saved is not None:
        if saved.__class__ is tuple and saved and saved[0].__class__ is _ndarray:
            node.saved = FREED
        else:
            free(node)
        saved = None
    for edge, g in zip(edges, gradients):  # noqa: B905 - strict costs, and the table's tests check the lengths
        if edge.__class__ is Node:
            if g is None:
                continue
            if g.shape != edge.shape:
                g = unbroadcast(g, edge.shape)  # type: ignore[arg-type]
            before = edge.gradient
            if before is None:
                edge.gradient = g
            elif edge in summed:
                before += g
                edge.gradient = before  # a new array where g is a Part
            else:
                g = before + g
                if g.__class__ is not Part:
                    g = as_array(g)
                    summed.add(edge)
                edge.gradient = g
        elif edge is not None:
            pending = leaves[edge]
            if g.__class__ is _ndarray and g.shape == pending.summed and pending.remaining > 1:
                pending.remaining -= 1
                _add(g, pending.total, pending.total)
            else:
                contribute(edge, pending, g.whole() if g.__class__ is Part else g)


def _arrived(node: Node) -> Any:
    """Take the gradient that has arrived for a node; a tuple for one with several outputs, None if there is none."""
    gradient = node.gradient
    if node.shape is None:
        node.gradient = [None] * len(gradient)
        return None if all(map(is_, gradient, itertools.repeat(None))) else tuple(gradient)
    node.gradient = None
    if gradient.__class__ is Part:
        gradient = gradient.whole()
    if node.hooks is not None and gradient is not None:
        gradient = run_hooks(node.hooks, gradient)
    return gradient


def _slots(edges: Sequence[Any], leaves: dict[Any, Pending]) -> Sequence[Array | None]:
    """For each input the slot of its leaf, if it is all that the leaf will get in this pass.

    A lowered parameter's gradient is made in the parameter's own precision: in its slot, or else beside it.
    """
    slots: list[Array | None] = []
    for edge in edges:
        slot = None
        if edge.__class__ is Node:
            if edge.op is LOWER:
                leaf = edge.edges[0]
                if leaves[leaf].source is not None and leaf._grad is None:
                    slot = leaf._slot
                slot = own_precision(edge) if slot is None else slot
        elif edge is not None and leaves[edge].source is not None and edge._grad is None:
            slot = edge._slot
        slots.append(slot)
    return slots


def own_precision(edge: Any) -> Array | None:
    """A place for the gradient of a lowered parameter, in the parameter's own precision; None for other edges."""
    if edge.__class__ is not Node or edge.op is not LOWER:
        return None
    return np.empty_like(edge.edges[0].array)


def where(node: Node) -> str:
    """For an error in a vjp or a hook: the op, the parameters that it used, the shape of its output, and the line of the script."""
    name = node.op.name if node.op is not None else "an op with several outputs"
    leaves = [edge for edge in node.edges if isinstance(edge, Variable)]
    known = [getattr(leaf._listener, "names", {}).get(leaf) or leaf.name for leaf in leaves]
    parameters = f" of {', '.join(filter(None, known))}" if any(known) else ""
    shape = f" (output of shape {node.shape})" if node.shape is not None else ""
    return f"in the backward of {name}{parameters}{shape}, whose forward was called at {node.site()}"


def free(node: Node) -> None:
    """Let go of what the node saved, unless that is only shapes and numbers, which may serve again."""
    saved = node.saved
    kind = saved.__class__
    if kind is tuple:
        for part in saved:
            if part.__class__ not in _PLAIN:
                node.saved = FREED
                return
    elif kind not in _PLAIN:
        node.saved = FREED
