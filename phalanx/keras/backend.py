"""The few names of ``keras.backend`` that scripts use."""

from .losses.functions import EPSILON
from .names import clear_session


def epsilon() -> float:
    """What probabilities keep from 0 and 1.

    >>> from phalanx import keras
    >>> keras.backend.epsilon()
    1e-07
    """
    return EPSILON


__all__ = ["clear_session", "epsilon"]
