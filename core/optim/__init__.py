"""Optimizers on the flat store, their schedules, and averages of parameters."""

from .adam import Adam, Adamax, AdamW, NAdam, RAdam
from .average import EMA
from .layerwise import LAMB, LARS
from .muon import Muon
from .optimizer import Optimizer
from .rms import Adadelta, Adagrad, RMSprop
from .scaling import scale_lr
from .sgd import SGD
from .signs import ASGD, Lion, Rprop

__all__ = [
    "ASGD",
    "EMA",
    "LAMB",
    "LARS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "scale_lr",
]
