"""Clipping of gradients and packed sequences, as ``torch.nn.utils``."""

from ...core.optim.clip import clip_grad_norm_ as clip_grad_norm_
from ...core.optim.clip import clip_grad_value_ as clip_grad_value_
from ...core.optim.clip import clip_grads_with_norm_ as clip_grads_with_norm_
from ...core.optim.clip import get_total_norm as get_total_norm
from . import rnn as rnn

__all__ = ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm", "rnn"]
