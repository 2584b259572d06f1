"""Replay of training steps whose shapes stay the same. ``step`` is where to begin; ``docs/replay.md`` says what it does."""

from __future__ import annotations

from .step import CapturedStep as CapturedStep
from .step import capture as capture
