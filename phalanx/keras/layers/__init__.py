"""Layers by Keras's names; data comes channels last."""

from ..base_layer import Layer
from .dense import Activation, Dense, Embedding, Input, InputLayer, Lambda, Masking
from .shaping import (
    Cropping1D,
    Cropping2D,
    Cropping3D,
    Flatten,
    Permute,
    RepeatVector,
    Reshape,
    UpSampling1D,
    UpSampling2D,
    UpSampling3D,
    ZeroPadding1D,
    ZeroPadding2D,
    ZeroPadding3D,
)
