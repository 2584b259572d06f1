"""Callbacks of :class:`phalanx.Trainer`: save, stop early, log, show, average.

>>> phalanx.callbacks.EarlyStopping("val_loss", patience=3).wait
0
"""

from .average import EMA
from .base import Callback
from .checkpoint import BackupAndRestore, Checkpoint
from .csv_logger import CSVLogger
from .early_stopping import EarlyStopping
from .history import History
from .learning_rate import LearningRateMonitor, LRScheduler, ReduceLROnPlateau
from .ledger_writer import LedgerWriter
from .model_checkpoint import ModelCheckpoint
from .progress import ProgressBar
from .stops import LambdaCallback, TerminateOnNaN
from .tensorboard import TensorBoard
from .timeline import Timeline

__all__ = [
    "EMA",
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "History",
    "LRScheduler",
    "LambdaCallback",
    "LearningRateMonitor",
    "LedgerWriter",
    "ModelCheckpoint",
    "ProgressBar",
    "ReduceLROnPlateau",
    "TensorBoard",
    "TerminateOnNaN",
    "Timeline",
]
