"""The compressions by name, and what ``DataParallel(compression=...)`` takes."""

from __future__ import annotations

from typing import Any

from ...core.errors import RangeError
from .codec import Codec
from .half import Half
from .int8 import Int8
from .one_bit import OneBit
from .power_sgd import PowerSGD
from .top_k import TopK

Scheme = Codec | PowerSGD
SCHEMES: dict[str, Scheme] = {
    "fp16": Half("float16"),
    "bf16": Half("bfloat16"),
    "int8": Int8(),
    "1bit": OneBit(),
    "topk": TopK(),
    "powersgd": PowerSGD(),
}


def scheme(given: Any) -> Scheme:
    """The compression of a name, or ``given`` itself when it is one. Raises RangeError that lists the names.

    >>> phalanx.compression.scheme("topk"), phalanx.compression.scheme(phalanx.compression.Int8(256))
    (TopK(ratio=0.01), Int8(block=256))
    """
    if isinstance(given, Codec | PowerSGD):
        return given
    if isinstance(given, str) and given in SCHEMES:
        return SCHEMES[given]
    known = isinstance(given, type) and issubclass(given, Codec | PowerSGD)
    hint = f"; write {given.__name__}()" if known else ""
    raise RangeError(
        f"compression must be None, one of {', '.join(map(repr, SCHEMES))}, or one of phalanx.compression's Half, Int8, OneBit, "
        f"TopK and PowerSGD, got {given!r}{hint}"
    )
