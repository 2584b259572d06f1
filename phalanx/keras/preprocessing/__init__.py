"""The place where older scripts find ``sequence.pad_sequences``."""

from . import sequence

__all__ = ["sequence"]
