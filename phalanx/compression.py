"""Compressions of gradients for ``DataParallel(compression=...)``: each has the defaults of its name, or takes options.

>>> import phalanx
>>> phalanx.compression.TopK(ratio=0.01) == phalanx.compression.scheme("topk")
True
"""

from .dist.compression import SCHEMES, Half, Int8, OneBit, PowerSGD, TopK, scheme

__all__ = ["SCHEMES", "Half", "Int8", "OneBit", "PowerSGD", "TopK", "scheme"]
