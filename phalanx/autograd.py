"""Gradients by name and operations of one's own, as ``torch.autograd``."""

from __future__ import annotations

from .core.anomaly import detect_anomaly, set_detect_anomaly
from .core.autograd import backward, grad
from .core.compat import Variable
from .core.gradcheck import gradcheck
from .core.mode import enable_grad, inference_mode, no_grad, set_grad_enabled
from .core.user_function import Context, Function, once_differentiable

__all__ = [
    "Context",
    "Function",
    "Variable",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "grad",
    "gradcheck",
    "inference_mode",
    "no_grad",
    "once_differentiable",
    "set_detect_anomaly",
    "set_grad_enabled",
]
