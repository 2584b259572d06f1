"""``model.summary()``: Keras's table."""

from __future__ import annotations

from typing import Any

from ..core.errors import StateError
from ..dist.group import joined


def print_summary(model: Any, print_fn: Any = None, expand_nested: bool = False) -> None:
    """Print the table; on rank 0 alone, unless ``print_fn`` is given."""
    text = table(model, expand_nested)
    group = joined()
    if print_fn is not None:
        print_fn(text)
    elif group is None or group.rank == 0:
        print(text, flush=True)


def table(model: Any, expand_nested: bool = False) -> str:
    """The lines of the table."""
    rows = list(_rows(model, expand_nested, ""))
    head = ("Layer (type)", "Output Shape", "Param #", "Connected to")
    graph = any(row[3] for row in rows)
    columns = 4 if graph else 3
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(columns)]

    def line(cells: tuple[str, ...], wall: str) -> str:
        padded = [cells[c].rjust(widths[c]) if c == 2 else cells[c].ljust(widths[c]) for c in range(columns)]
        return f"{wall} " + f" {wall} ".join(padded) + f" {wall}"

    def rule(left: str, mid: str, right: str, dash: str) -> str:
        return left + mid.join(dash * (width + 2) for width in widths) + right

    lines = [f'Model: "{model.name}"', rule("┏", "┳", "┓", "━"), line(head, "┃"), rule("┡", "╇", "┩", "━")]
    for number, row in enumerate(rows):
        lines += [rule("├", "┼", "┤", "─")] if number else []
        lines.append(line(row, "│"))
    lines.append(rule("└", "┴", "┘", "─"))
    return "\n".join([*lines, *_totals(model)])


def _totals(model: Any) -> list[str]:
    weights = model.weights
    total = sum(weight.array.size for weight in weights)
    trained = sum(weight.array.size for weight in weights if weight.requires_grad)
    nbytes = [
        sum(weight.array.nbytes for weight in weights if weight.requires_grad is wanted or wanted is None)
        for wanted in (None, True, False)
    ]
    return [
        f" Total params: {total:,} ({_size(nbytes[0])})",
        f" Trainable params: {trained:,} ({_size(nbytes[1])})",
        f" Non-trainable params: {total - trained:,} ({_size(nbytes[2])})",
    ]


def _size(nbytes: float) -> str:
    for unit in ("B", "KB", "MB"):
        if nbytes < 1024:
            return f"{nbytes:.2f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.2f} GB"


def _rows(model: Any, expand: bool, indent: str) -> Any:
    for layer in model.layers:
        shape, came_from = "?", ""
        try:
            output = layer.output
            shape = ", ".join(str(t.shape) for t in ([output] if hasattr(output, "shape") else list(output)))
            if hasattr(model, "output_names") and "_order" in model.__dict__:
                came_from = _sources(layer)
        except (AttributeError, StateError):
            pass
        count = f"{sum(w.array.size for w in layer.weights):,}" if layer.built else "0 (unbuilt)"
        yield (f"{indent}{layer.name} ({type(layer).__name__})", shape, count, came_from)
        if expand and hasattr(layer, "layers"):
            yield from _rows(layer, expand, indent + "    ")


def _sources(layer: Any) -> str:
    nodes = layer.__dict__.get("_nodes")
    if not nodes:
        return "-"
    names = [f"{t.node.layer.name if t.node else t.name}[0][{t.index}]" for t in nodes[0].inputs]
    return ", ".join(names)
