"""Models: Sequential, Model, load_model."""

from __future__ import annotations

from typing import Any

from .functional import Functional
from .model import Model
from .saving import load_model
from .sequential import Sequential


def save_model(model: Any, filepath: Any, overwrite: bool = True, **unused: Any) -> None:
    """``model.save(filepath)``.

    >>> import os, tempfile
    >>> from phalanx import keras
    >>> model = keras.Sequential([keras.Input(shape=(3,)), keras.layers.Dense(2)])
    >>> keras.models.save_model(model, os.path.join(tempfile.mkdtemp(), "model.keras"))
    """
    model.save(filepath, overwrite)


def clone_model(model: Any) -> Any:
    """A model of the same architecture with new weights.

    >>> from phalanx import keras
    >>> model = keras.Sequential([keras.Input(shape=(3,)), keras.layers.Dense(2)])
    >>> keras.models.clone_model(model).count_params()
    8
    """
    from_config = type(model)
    return from_config(**_copied(model.config()))


def _copied(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _copied(part) for key, part in config.items()}
    if isinstance(config, list):
        return [_copied(part) for part in config]
    if hasattr(config, "config") and callable(config.config):
        return type(config)(**_copied(config.config()))
    return config


__all__ = ["Functional", "Model", "Sequential", "clone_model", "load_model", "save_model"]
