"""Which sizes are dynamic, and the runs with other sizes that show what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..core.errors import RangeError
from ..core.nn.module import Module
from .errors import StaticError
from .example import Example
from .graph import Sizes
from .runs import Run, run

Axes = Mapping[str, Mapping[int, str] | Sequence[int]]
Symbols = dict[str, list[tuple[int, int]]]
"""The name of a dynamic axis -> the inputs and dimensions that have it."""


def find_symbols(names: Sequence[str], inputs: Sequence[np.ndarray], axes: Axes | None) -> Symbols:
    """The dynamic axes. Raises RangeError for axes that the inputs do not have."""
    symbols: Symbols = {}
    if axes is None:
        places = [(n, 0) for n, value in enumerate(inputs) if value.ndim]
        sizes = {inputs[n].shape[0] for n, _ in places}
        return {"batch": places} if len(sizes) == 1 else {}
    for name, dimensions in axes.items():
        if name not in names:
            continue  # an output's axes follow from the inputs'
        n = names.index(name)
        rows = dimensions if isinstance(dimensions, Mapping) else {axis: f"{name}_{axis}" for axis in dimensions}
        for axis, symbol in rows.items():
            if not -inputs[n].ndim <= axis < inputs[n].ndim:
                raise RangeError(
                    f"export: dynamic_axes names dimension {axis} of {name}, whose shape is {inputs[n].shape}"
                )
            symbols.setdefault(symbol, []).append((n, axis % inputs[n].ndim))
    for symbol, places in symbols.items():
        if len({inputs[n].shape[axis] for n, axis in places}) > 1:
            raise RangeError(f"export: the axes called {symbol!r} have different sizes in args")
    return symbols


def _other_values(value: np.ndarray) -> np.ndarray:
    """Like ``value``, but with other numbers in another order: what depends on them shows. Integers stay within their range."""
    if not value.size:
        return value
    turned = np.roll(value.reshape(-1)[::-1], 1).reshape(value.shape)
    if value.dtype.kind == "f":
        return np.where(np.isfinite(turned), turned * value.dtype.type(0.75) + value.dtype.type(0.1), turned)
    return turned


def _resized(arrays: Sequence[np.ndarray], places: Sequence[tuple[int, int]], size: int) -> list[np.ndarray]:
    """Arrays with another size at the places (number, axis): less of them, or the same again."""
    resized = list(arrays)
    for n, axis in places:
        resized[n] = np.take(resized[n], np.arange(size) % max(1, resized[n].shape[axis]), axis)
    return resized


def make_runs(model: Module, example: Example, symbols: Symbols) -> tuple[list[Run], dict[str, Sizes]]:
    """Run 0 as given, run 1 with other values, one for each symbol with another size, one with all of these.

    Returns the runs and the size of each symbol in each of them. Raises StaticError where the model takes no other size.
    """
    base = example.arrays
    runs = [run(model, example, base), run(model, example, [_other_values(array) for array in base])]
    chosen: dict[str, tuple[int, int]] = {}
    everything = base
    for symbol, places in symbols.items():
        n, axis = places[0]
        old = base[n].shape[axis]
        failure: Exception | None = None
        for size in (2 * old, old + 1, old - 1):
            try:
                if size > 0 and size != old:
                    runs.append(run(model, example, _resized(base, places, size)))
                    break
            except Exception as error:  # whatever the model says of a size that it does not take
                failure = error
        else:
            raise StaticError(f"the model takes no other size of {symbol!r} than {old} ({failure})")
        chosen[symbol] = (old, size)
        everything = _resized(everything, places, size)
    if len(symbols) > 1:
        runs.append(run(model, example, everything))
    columns = {}
    for number, (symbol, (old, new)) in enumerate(chosen.items()):
        changed = [new if other == number else old for other in range(len(symbols))]
        columns[symbol] = (old, old, *changed, *([new] if len(symbols) > 1 else []))
    return runs, columns
