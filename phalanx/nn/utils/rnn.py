"""Packed and padded sequences, as ``torch.nn.utils.rnn``."""

from ...core.nn.rnn_utils import *  # noqa: F403
from ...core.nn.rnn_utils import __all__ as __all__
