"""Which checkpoints remain: pure, so that every process that knows the same decides the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import CheckpointError
from .manifest import Manifest

SCORE = "score"
"""Where a manifest's scalars hold the value that ``keep_best`` compares."""
MODES = ("min", "max")


@dataclass(frozen=True, slots=True)
class Policy:
    """What remains after a save; a checkpoint stays that any of the rules keeps.

    >>> Policy(last=2, every=30, best=1).doomed({10: 0.5, 20: 0.1, 30: 0.4, 40: 0.3, 50: 0.6, 60: None})
    [10, 40]
    """

    last: int | None = None
    """How many of the newest; None: all."""
    every: int | None = None
    """Steps that are a multiple of it, whatever their number."""
    best: int | None = None
    """How many of those with the best scores; of equal ones the earlier."""
    mode: str = "min"
    """Whether a low or a high score is good."""

    def __post_init__(self) -> None:
        for name, value in (("keep", self.last), ("keep_every", self.every), ("keep_best", self.best)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                none = "all" if name == "keep" else "none"
                raise CheckpointError(f"{name} must be None ({none}) or at least 1, got {value!r}")
        if self.mode not in MODES:
            raise CheckpointError(f'mode must be "min" or "max", got {self.mode!r}')

    def doomed(self, scores: Mapping[int, float | None]) -> list[int]:
        """The steps to remove, of those that there are, with the score of each that has one."""
        if self.last is None:
            return []
        steps = sorted(scores)
        kept = set(steps[-self.last :])
        if self.every is not None:
            kept.update(step for step in steps if step % self.every == 0)
        if self.best is not None:
            kept.update(self.ranking(scores)[: self.best])
        return [step for step in steps if step not in kept]

    def ranking(self, scores: Mapping[int, float | None]) -> list[int]:
        """The steps that have a score, the best first."""
        sign = 1.0 if self.mode == "min" else -1.0
        rated = [(sign * score, step) for step, score in scores.items() if score is not None]
        return [step for _, step in sorted(rated)]


def scalars_of(score: float | None) -> dict[str, dict[str, float]]:
    """What a manifest's scalars hold of a score; nothing of one that is no finite number: it is never the best."""
    if score is None or not math.isfinite(score):
        return {}
    return {SCORE: {"value": float(score)}}


def score_of(manifest: Manifest) -> float | None:
    """The score that was saved with a checkpoint."""
    described = manifest.scalars.get(SCORE)
    value = described.get("value") if isinstance(described, Mapping) else None
    return float(value) if isinstance(value, int | float) else None
