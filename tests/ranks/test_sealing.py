"""Sealed messages: what was changed, repeated, moved or made by strangers does not open."""

from __future__ import annotations

import numpy as np
import pytest

from phalanx.dist.communicators import sealing
from phalanx.dist.communicators.sealing import BrokenSealError, KeyPair, Seal

pytest.importorskip("cryptography")

TEXT = b"a gradient" * 100


def pair(secret: str = "job", other_secret: str = "job", direction: str = "a b") -> tuple[Seal, Seal]:
    here, there = KeyPair(secret), KeyPair(other_secret)
    return here.seal(there.public, direction), there.seal(here.public, direction)


def test_what_one_side_closes_the_other_opens() -> None:
    here, there = pair()
    sealed = here.close(7, TEXT, b"prefix")
    assert TEXT[:10] not in sealed
    assert Seal.size(sealed) == len(TEXT)
    assert there.open(7, sealed, b"prefix") == TEXT
    out = np.zeros(len(TEXT), np.uint8)
    assert there.open(7, sealed, b"prefix", out) == len(TEXT)
    assert out.tobytes() == TEXT


@pytest.mark.parametrize("how", ["number", "beside", "bit", "tag", "short", "direction", "secret", "stranger"])
@pytest.mark.parametrize("into", [False, True])
def test_anything_else_does_not_open(how: str, into: bool) -> None:
    here, there = pair(other_secret="another job" if how == "secret" else "job")
    sealed, number, beside = bytearray(here.close(7, TEXT, b"prefix")), 7, b"prefix"
    if how == "number":
        number = 8
    elif how == "beside":
        beside = b"prefiy"
    elif how in ("bit", "tag"):
        sealed[3 if how == "bit" else -1] ^= 1
    elif how == "short":
        sealed = sealed[:9]
    elif how == "direction":
        first, second = KeyPair("job"), KeyPair("job")
        sealed, there = (
            bytearray(first.seal(second.public, "a b").close(7, TEXT, beside)),
            second.seal(first.public, "b a"),
        )
    elif how == "stranger":
        _, there = pair()
    out = np.zeros(max(0, Seal.size(sealed)), np.uint8) if into else None
    with pytest.raises(BrokenSealError):
        there.open(number, sealed, beside, out)


def test_without_the_library_nothing_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_library", lambda: None)
    assert not sealing.can_seal()
