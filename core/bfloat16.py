"""bfloat16: the upper half of a float32. NumPy has no such dtype; the package ml_dtypes, which this file alone knows, gives it one.

``phalanx.bfloat16`` loads it at first use. Who must prepare for it says so by :func:`when_used`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import DTypeError

bfloat16: np.dtype
"""8 bits of mantissa with float32's range; see :func:`load`."""

_loaded: list[np.dtype] = []
_waiting: list[Callable[[], None]] = []


def load() -> np.dtype:
    """The dtype. Raises DTypeError where ml_dtypes is missing."""
    if not _loaded:
        try:
            import ml_dtypes  # noqa: PLC0415 - optional library, owned by this file
        except ImportError as error:
            raise DTypeError(
                f"bfloat16 needs the package ml_dtypes, which cannot be imported here ({error}); install phalanx[bf16], or use "
                "float16 or float32"
            ) from error
        _loaded.append(np.dtype(ml_dtypes.bfloat16))
        for prepare in _waiting:
            prepare()
    return _loaded[0]


def installed() -> bool:
    """Whether there is the package; does not load it."""
    return bool(_loaded) or importlib.util.find_spec("ml_dtypes") is not None


def limits(dtype: np.dtype) -> Any:
    """NumPy's ``finfo``, for bfloat16 too."""
    if dtype.kind == "f":
        return np.finfo(dtype)
    import ml_dtypes  # noqa: PLC0415 - optional library, owned by this file

    found: Any = ml_dtypes.finfo
    return found(dtype)


def when_used(prepare: Callable[[], None]) -> None:
    """Call ``prepare`` once somebody has asked for bfloat16; now, if that has been."""
    _waiting.append(prepare)
    if _loaded:
        prepare()


def renew() -> None:
    """Prepare again, where somebody has put back what was there before the first use."""
    if _loaded:
        for prepare in _waiting:
            prepare()


def word(dtype: np.dtype) -> str:
    """A dtype in messages, byte order included: :func:`of_word` reads it. NumPy has no word of its own for bfloat16.

    >>> word(np.dtype(np.float32))
    '<f4'
    """
    return "bfloat16" if dtype.name == "bfloat16" else dtype.str


def of_word(text: str) -> np.dtype:
    """The dtype of a word, of a name or of NumPy's character.

    >>> of_word("<f4") == of_word("float32") == of_word("f")
    True
    """
    return load() if text in ("bfloat16", "E") else np.dtype(text)


def is_floating(dtype: np.dtype) -> bool:
    """Whether a tensor's dtype is a floating one. NumPy counts bfloat16 as "void"; no other such dtype gets into a tensor.

    >>> is_floating(np.dtype(np.float16)), is_floating(np.dtype(np.int8))
    (True, False)
    """
    return dtype.kind in "fV"


def is_half(dtype: np.dtype) -> bool:
    """Whether a dtype is float16 or bfloat16: sums of such numbers are made in float32 and rounded once.

    >>> is_half(np.dtype(np.float16)), is_half(np.dtype(np.float32))
    (True, False)
    """
    return dtype.itemsize == 2 and dtype.kind in "fV"


def __getattr__(name: str) -> Any:
    if name == "bfloat16":
        return load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
