"""How options follow the global batch."""

from __future__ import annotations

import math

from ..errors import RangeError

_POWERS = {"linear": 1.0, "sqrt": 0.5}


def scale_lr(base_lr: float, batch_size: int, base_batch_size: int = 256, *, rule: str = "linear") -> float:
    """The learning rate for a global batch: ``base_lr batch_size / base_batch_size``, tuned for ``base_batch_size``.

    Batch sizes count the samples of a step over all ranks. ``rule="sqrt"`` takes the root of the quotient, as usual with
    Adam and LAMB. Warm up over the first epochs (:class:`phalanx.optim.lr_scheduler.WarmupLR`). Raises RangeError for
    values out of range. Goyal et al., "Accurate, large minibatch SGD", 2017 (arXiv 1706.02677).

    >>> optim.scale_lr(0.1, batch_size=8192)
    3.2
    """
    if batch_size < 1 or base_batch_size < 1:
        raise RangeError(f"scale_lr expects batch sizes of at least 1, got {batch_size} and {base_batch_size}")
    if rule not in _POWERS:
        raise RangeError(f"scale_lr expects rule to be one of {', '.join(map(repr, _POWERS))}, got {rule!r}")
    return base_lr * math.pow(batch_size / base_batch_size, _POWERS[rule])
