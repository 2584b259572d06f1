"""Metrics as mergeable states, exact over ranks: ``phalanx.evaluate(model, data, ["accuracy", phalanx.metrics.F1()])``.

>>> import phalanx
>>> accuracy = phalanx.metrics.Accuracy()
>>> accuracy.update(phalanx.tensor([[0.2, 0.8], [0.9, 0.1]]), phalanx.tensor([1, 1]))
>>> accuracy.compute()
0.5
"""

from .core.metrics import *  # noqa: F403
from .core.metrics import __all__ as __all__
