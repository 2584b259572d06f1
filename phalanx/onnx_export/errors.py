"""What an export says when it cannot be done."""

from __future__ import annotations

from ..core.errors import PhalanxError


class ExportError(PhalanxError, RuntimeError):
    """A model that ONNX cannot express: names the op and the layer.

    >>> issubclass(phalanx.onnx.ExportError, RuntimeError)
    True
    """


class StaticError(ExportError):
    """A size that was to be dynamic does not follow from the input's by a rule that the exporter knows."""
