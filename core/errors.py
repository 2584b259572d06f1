"""Errors of the engine: what was expected, what came, what to do.

Each is a :class:`PhalanxError` and also the built-in class that a user would catch.
"""


class PhalanxError(Exception):
    """Base of every error that phalanx raises on purpose.

    >>> issubclass(phalanx.core.errors.ShapeError, phalanx.PhalanxError)
    True
    """


class ShapeError(PhalanxError, ValueError):
    """Arrays whose shapes do not fit the operation."""


class DTypeError(PhalanxError, TypeError):
    """Arrays whose element type does not fit the operation."""


class DeviceError(PhalanxError, RuntimeError):
    """Arrays that meet in one operation and lie on different devices."""


class RangeError(PhalanxError, ValueError):
    """A value (label, index, option) outside of what is allowed."""


class GraphError(PhalanxError, RuntimeError):
    """A backward pass that cannot be done: no graph, graph already freed, gradient read too early."""


class NonFiniteError(PhalanxError, ArithmeticError):
    """A loss, gradient or activation that is NaN or infinite."""


class StateError(PhalanxError, ValueError):
    """A state dict that does not fit: lists all missing, extra and mismatched names at once."""


class DataError(PhalanxError, ValueError):
    """A data set that is missing, damaged or does not fit."""


class CheckpointError(PhalanxError, RuntimeError):
    """A checkpoint that is missing, damaged, or of another model or run."""
