"""Clipping of gradients and packed sequences, as ``torch.nn.utils``."""

from ...core.optim.clip import clip_grad_norm_ as clip_grad_norm_
from ...core.optim.clip import clip_grad_value_ as clip_grad_value_
from . import rnn as rnn

__all__ = ["clip_grad_norm_", "clip_grad_value_", "rnn"]
