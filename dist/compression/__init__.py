"""Gradient compression, apart from algorithm and wire: what a shard's gradients become before they travel."""

from __future__ import annotations

from .half import Half
from .int8 import Int8
from .one_bit import OneBit
from .power_sgd import PowerSGD
from .schemes import SCHEMES, Scheme, scheme
from .top_k import TopK

__all__ = ["SCHEMES", "Half", "Int8", "OneBit", "PowerSGD", "Scheme", "TopK", "scheme"]
