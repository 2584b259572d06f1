"""Averages of the weights, as ``torch.optim.swa_utils``."""

from ..core.optim.average import EMA as EMA
from ..core.optim.swa import SWALR as SWALR
from ..core.optim.swa import AveragedModel as AveragedModel
from ..core.optim.swa import get_ema_avg_fn as get_ema_avg_fn
from ..core.optim.swa import get_ema_multi_avg_fn as get_ema_multi_avg_fn
from ..core.optim.swa import get_swa_avg_fn as get_swa_avg_fn
from ..core.optim.swa import get_swa_multi_avg_fn as get_swa_multi_avg_fn
from ..core.optim.swa import update_bn as update_bn

__all__ = [
    "EMA",
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]
