"""What only the processes of one job know, and how they prove it without saying it."""

from __future__ import annotations

import hmac
import os

from .env import NAMES, RankEnvironment
from .errors import LaunchError

SHORTEST = 16
"""Characters of a job name below which it could be guessed."""
NONCE_CHARACTERS = 32


def nonce() -> str:
    """A number used once, as text: a proof over it cannot be played again."""
    return os.urandom(NONCE_CHARACTERS // 2).hex()


def proof(secret: str, *words: str) -> str:
    """HMAC-SHA256 over ``words``: whoever knows ``secret`` said them."""
    text = "\0".join(words)
    return hmac.digest(secret.encode(), text.encode(), "sha256").hex()


def proves(claimed: object, secret: str, *words: str) -> bool:
    """Whether ``claimed`` is the :func:`proof` of these words."""
    return hmac.compare_digest(str(claimed).encode(), proof(secret, *words).encode())


def job_of(environment: RankEnvironment) -> str:
    """What all processes of this start of the job share; those of an earlier start do not."""
    return f"{environment.job or ''}/{environment.restart}"


def require_secret(environment: RankEnvironment) -> None:
    """Raises LaunchError when ranks are on several hosts and the job has no name that is hard to guess."""
    if len(environment.job or "") >= SHORTEST:
        return
    name = NAMES["job"]
    has = f"{name} is not set" if not environment.job else f"the job's name {environment.job!r} could be guessed"
    raise LaunchError(
        f"rank {environment.rank} of {environment.size} (from {environment.source}): ranks are on several hosts, and their "
        f"traffic is encrypted with a key made from the job's name, but {has}. Set {name} to the same secret of at least "
        f"{SHORTEST} characters on every rank, for example: export {name}=$(openssl rand -hex 16)"
    )
