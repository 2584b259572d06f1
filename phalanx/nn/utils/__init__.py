"""Clipping of gradients, packed sequences, parameters as a vector, weight and spectral norm: as ``torch.nn.utils``."""

from ...core.nn.spectral_norm import remove_spectral_norm as remove_spectral_norm
from ...core.nn.spectral_norm import spectral_norm as spectral_norm
from ...core.nn.vector import parameters_to_vector as parameters_to_vector
from ...core.nn.vector import vector_to_parameters as vector_to_parameters
from ...core.nn.weight_norm import remove_weight_norm as remove_weight_norm
from ...core.nn.weight_norm import weight_norm as weight_norm
from ...core.optim.clip import clip_grad_norm_ as clip_grad_norm_
from ...core.optim.clip import clip_grad_value_ as clip_grad_value_
from ...core.optim.clip import clip_grads_with_norm_ as clip_grads_with_norm_
from ...core.optim.clip import get_total_norm as get_total_norm
from . import rnn as rnn

__all__ = [
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
    "parameters_to_vector",
    "remove_spectral_norm",
    "remove_weight_norm",
    "rnn",
    "spectral_norm",
    "vector_to_parameters",
    "weight_norm",
]
