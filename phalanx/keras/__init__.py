"""Keras's interface to phalanx: the same engine and Trainer, on any number of ranks.

``from phalanx import keras`` instead of ``from tensorflow import keras`` is what changes in most scripts; see
``docs/coming_from_keras.md``.
"""

from . import (
    activations,
    backend,
    callbacks,
    datasets,
    initializers,
    layers,
    losses,
    metrics,
    mixed_precision,
    models,
    optimizers,
    preprocessing,
    regularizers,
    saving,
    utils,
)
from .layers import Input, InputLayer, Layer
from .models import Model, Sequential

__all__ = [
    "Input",
    "InputLayer",
    "Layer",
    "Model",
    "Sequential",
    "activations",
    "backend",
    "callbacks",
    "datasets",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "mixed_precision",
    "models",
    "optimizers",
    "preprocessing",
    "regularizers",
    "saving",
    "utils",
]
