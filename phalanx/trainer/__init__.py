"""The Trainer: a whole training run from a model, an optimizer, a loss and data."""

from .trainer import Trainer

__all__ = ["Trainer"]
