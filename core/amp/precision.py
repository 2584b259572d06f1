"""How exact products of float32 matrices are on a GPU, and whether equal runs must give equal bits there.

Both belong to the process, but that a rank has shards to the rank. On the CPU float32 is float32 and every kernel gives the same bits
each time, whatever stands here.
"""

from __future__ import annotations

import threading

from ..errors import RangeError
from ..rank_local import of_rank

PRECISIONS = ("highest", "high", "medium")


class _Settings:
    precision = "highest"
    convolution_tf32 = False
    deterministic = False


class _OfRank(threading.local):
    has_shards = False
    """Whether its bits must be equal everywhere."""


_settings = _Settings()
_rank = of_rank(_OfRank())


def set_float32_matmul_precision(precision: str) -> None:
    """How products of float32 matrices are computed on a GPU: "highest" (float32), "high" or "medium" (TF32: 10 bits of mantissa).

    TF32 is several times faster on tensor cores and errs by 1e-3 instead of 1e-7. Raises RangeError for another word.

    >>> phalanx.set_float32_matmul_precision("highest")
    >>> phalanx.get_float32_matmul_precision()
    'highest'
    """
    if precision not in PRECISIONS:
        raise RangeError(
            f"set_float32_matmul_precision expects one of {', '.join(map(repr, PRECISIONS))}, got {precision!r}"
        )
    _settings.precision = precision


def get_float32_matmul_precision() -> str:
    """The word that :func:`set_float32_matmul_precision` was given; "highest" at first.

    >>> phalanx.get_float32_matmul_precision()
    'highest'
    """
    return _settings.precision


def tf32() -> bool:
    """Whether products of float32 matrices may use TF32.

    >>> tf32()
    False
    """
    return _settings.precision != "highest"


def convolution_tf32() -> bool:
    """Whether float32 convolutions may use TF32 (``phalanx.backends.cudnn.allow_tf32``); PyTorch allows it, here it is asked for.

    >>> convolution_tf32()
    False
    """
    return _settings.convolution_tf32


def set_convolution_tf32(allowed: bool) -> None:
    """Allow or forbid TF32 in float32 convolutions."""
    _settings.convolution_tf32 = bool(allowed)


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Whether kernels on a GPU must give the same bits each time: no atomic sums, no algorithm whose result depends on timing.

    On with ``phalanx.init(shards=...)``, where it must stay on, else off. It costs most in attention's backward (its deterministic form
    needs about eight times the workspace) and in the gradient of an embedding. On the CPU everything is deterministic either way;
    ``warn_only`` changes nothing. Raises RangeError for ``False`` with shards.

    >>> phalanx.use_deterministic_algorithms(True)
    >>> phalanx.are_deterministic_algorithms_enabled()
    True
    >>> phalanx.use_deterministic_algorithms(False)
    """
    if not mode and _rank.has_shards:
        raise RangeError(
            "use_deterministic_algorithms(False): this job runs with shards, whose equal bits need deterministic kernels; "
            "leave shards= out of phalanx.init() for the fast mode"
        )
    _settings.deterministic = bool(mode)


def deterministic() -> bool:
    """Whether equal runs must give equal bits on a GPU.

    >>> phalanx.are_deterministic_algorithms_enabled()
    False
    """
    return _rank.has_shards or _settings.deterministic


are_deterministic_algorithms_enabled = deterministic


def promise(has_shards: bool) -> None:
    """Whether this rank has shards: ``phalanx.init()`` and ``phalanx.shutdown()`` say so."""
    _rank.has_shards = has_shards


def described() -> dict[str, object]:
    """What of this decides the bits: ranks compare it, and checkpoints keep it. Empty where nothing was changed.

    >>> described()
    {}
    """
    found: dict[str, object] = {}
    if tf32():
        found["float32_matmul_precision"] = _settings.precision
    if _settings.convolution_tf32:
        found["convolution_tf32"] = True
    return found
