"""Whether a graph gives what the model gave, by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .errors import ExportError
from .proto import session
from .runs import Run

_TOLERANCE = {np.dtype(np.float16): 1e-2, np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-6}
"""Of the largest number of an output; other dtypes must be equal."""


class Judge:
    """Runs a model (bytes, or the path of a file) on the inputs of ``runs``; ``strict``: onnxruntime must be installed."""

    def __init__(self, names: Sequence[str], runs: Sequence[Run], strict: bool) -> None:
        self._names, self._runs, self._strict = names, runs, strict

    def __call__(self, model: Any) -> None:
        """Raises ExportError when an output is another one than the model's."""
        running = session(model)
        if running is None:
            if self._strict:
                raise ExportError('verify=True needs onnxruntime: pip install "phalanx[onnx]"')
            return
        wanted = {port.name for port in running.get_inputs()}
        for run in self._runs:
            given = {name: array for name, array in zip(self._names, run.inputs, strict=True) if name in wanted}
            for number, (found, expected) in enumerate(zip(running.run(None, given), run.outputs, strict=True)):
                if not _agrees(found, expected):
                    sizes = ", ".join(str(array.shape) for array in run.inputs)
                    raise ExportError(
                        f"with inputs of shape {sizes} output {number} of the graph is not the model's: forward does something "
                        "that its ops do not show, such as NumPy on arrays or choices by value"
                    )


def _agrees(found: np.ndarray, expected: np.ndarray) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    tolerance = _TOLERANCE.get(expected.dtype)
    if tolerance is None:
        return bool(np.array_equal(found, expected))
    finite = np.isfinite(expected)
    if not np.array_equal(found[~finite], expected[~finite], equal_nan=True):
        return False
    largest = float(np.abs(expected[finite]).max(initial=0.0))
    return bool((np.abs(found[finite] - expected[finite]) <= tolerance * (1 + largest)).all())
