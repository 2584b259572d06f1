"""Checksums that name their algorithm, and that several writers of one tensor can join."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import CheckpointError
from .writer import fast_crc32

_POLYNOMIAL = 0xEDB88320
"""CRC-32 of zlib, gzip and PNG (ISO 3309), bits reversed."""
_ONE = 1 << 31
"""The polynomial 1 in that form."""
_CHUNK_NBYTES = 1 << 24


def crc32(data: Any, value: int = 0) -> int:
    """CRC-32 of bytes or of a byte view; ``value`` goes on from what came before."""
    view = memoryview(data)
    for lo in range(0, view.nbytes, _CHUNK_NBYTES):
        value = fast_crc32()(view[lo : lo + _CHUNK_NBYTES], value)
    return value


def text(value: int) -> str:
    """How a manifest writes it: the algorithm first, so that another can follow.

    >>> text(crc32(b"123456789"))
    'crc32:cbf43926'
    """
    return f"crc32:{value:08x}"


def value(checksum: str) -> int:
    """The other way.

    >>> value("crc32:cbf43926") == crc32(b"123456789")
    True
    """
    require_known(checksum)
    return int(checksum.partition(":")[2], 16)


def require_known(checksum: str) -> None:
    """Raises CheckpointError for an algorithm that this version cannot compute."""
    if not checksum.startswith("crc32:"):
        raise CheckpointError(
            f"checksum {checksum!r}: expected the algorithm crc32; update phalanx to read this checkpoint"
        )


def combine(first: int, second: int, second_nbytes: int) -> int:
    """The CRC-32 of two byte strings in a row, from theirs and the length of the second.

    crc(A + B) = crc(A) x^(8 |B|) + crc(B) over GF(2), modulo the polynomial.

    >>> combine(crc32(b"1234"), crc32(b"56789"), 5) == crc32(b"123456789")
    True
    """
    return _multiply(_power_of_x(8 * second_nbytes), first) ^ second


def join(pieces: Iterable[tuple[int, int]]) -> int:
    """The CRC-32 of consecutive pieces given as (crc, nbytes).

    >>> join([]) == crc32(b"")
    True
    """
    value = 0
    for crc, nbytes in pieces:
        value = combine(value, crc, nbytes)
    return value


def _multiply(a: int, b: int) -> int:
    """a times b modulo the polynomial, both with bit 31 as the coefficient of x^0."""
    product, bit = 0, _ONE
    while bit:
        if a & bit:
            product ^= b
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1
        bit >>= 1
    return product


def _power_of_x(exponent: int) -> int:
    """x^exponent modulo the polynomial, by squaring."""
    result, square = _ONE, _ONE >> 1
    while exponent:
        if exponent & 1:
            result = _multiply(result, square)
        square = _multiply(square, square)
        exponent >>= 1
    return result
