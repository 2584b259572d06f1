"""Sealed messages between hosts: AES-256-GCM, which processors do in hardware, where all ranks have ``cryptography``.

ZeroMQ's own encryption (CURVE) is software: it takes about 170 ms of a core for 64 MB, this about 15. Each rank makes a
key pair for this run (X25519) and tells the public half with its address, over the rendezvous, which knows the job's secret
from strangers. A direction between two sockets has a key of its own (HKDF over what the pair shares and the job's secret), its
messages are numbered, and the number is the nonce: what was changed, left out, repeated or moved does not open.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from typing import Any

_TAG_BYTES = 16


@functools.cache
def _library() -> Any:
    """What ``cryptography`` has of this, or None where it is missing."""
    try:
        from cryptography.hazmat.primitives.asymmetric import x25519  # noqa: PLC0415
        from cryptography.hazmat.primitives.ciphers import aead  # noqa: PLC0415
    except ImportError:
        return None
    return (x25519, aead.AESGCM) if hasattr(aead.AESGCM, "decrypt_into") else None


def can_seal() -> bool:
    """Whether this process can seal messages."""
    return _library() is not None


class KeyPair:
    """This rank's keys of this run; ``public`` is told to the others."""

    def __init__(self, job_secret: str) -> None:
        x25519, _ = _library()
        self._x25519, self._secret = x25519, job_secret.encode()
        self._private = x25519.X25519PrivateKey.generate()
        self.public: str = self._private.public_key().public_bytes_raw().hex()

    def seal(self, other_public: str, direction: str) -> Seal:
        """The seal for one direction between this rank and the one whose public key is given, alike on both."""
        shared = self._private.exchange(self._x25519.X25519PublicKey.from_public_bytes(bytes.fromhex(other_public)))
        both = "".join(sorted((self.public, other_public)))
        extracted = hmac.digest(self._secret, shared, hashlib.sha256)
        return Seal(hmac.digest(extracted, f"phalanx seal {both} {direction}\1".encode(), hashlib.sha256))


class Seal:
    """One direction between two ranks. Each number may be used once."""

    def __init__(self, key: bytes) -> None:
        self._cipher = _library()[1](key)

    def close(self, number: int, data: Any, beside: bytes = b"") -> bytes:
        """``data`` sealed; ``beside`` travels openly and must be the same at :meth:`open`."""
        return self._cipher.encrypt(number.to_bytes(12, "little"), data, beside)

    def open(self, number: int, data: Any, beside: bytes = b"", out: Any = None) -> Any:
        """The bytes that were sealed, or how many of them were written to ``out``. Raises BrokenSealError."""
        try:
            if out is None:
                return self._cipher.decrypt(number.to_bytes(12, "little"), bytes(data), beside)
            return self._cipher.decrypt_into(number.to_bytes(12, "little"), data, beside, out)
        except Exception as error:  # InvalidTag; ValueError for what is shorter than a tag or does not fit
            if type(error).__name__ not in ("InvalidTag", "ValueError"):
                raise
            raise BrokenSealError from None

    @staticmethod
    def size(sealed: Any) -> int:
        """How many bytes were sealed into ``sealed``."""
        return len(sealed) - _TAG_BYTES


class BrokenSealError(Exception):
    """What came is not what was sent."""
