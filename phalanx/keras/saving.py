"""Models and weights in files: the folders of ``phalanx.save_model`` and safetensors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError
from ..model_io.folder import load_extra, save_model
from ..model_io.folder import load_model as _load_model
from ..model_io.state import load_into, read_metadata
from ..model_io.state import save as save_state
from . import losses, metrics, optimizers
from .described import NoWords, described, restored
from .shared_files import seen_by_all

__all__ = ["load_model"]

_HOMES = {"losses": losses, "metrics": metrics, "optimizers": optimizers, "schedules": optimizers.schedules}
_ORDER = "weights of keras, in order"
"""The metadata key of the names of weights: another model of the same architecture may call its layers otherwise."""
PathLike = str | os.PathLike[str]


class Savable:
    """The part of a Model that is saved."""

    name: str
    built: bool
    __dict__: dict[str, Any]

    def save(self, filepath: PathLike, overwrite: bool = True, **unused: Any) -> None:
        """Write architecture, weights and what ``compile`` was given to the folder ``filepath``; rank 0 writes."""
        self._expect_built("save")
        if not overwrite and Path(filepath).exists():
            raise CheckpointError(f"{filepath} is there already, and overwrite is False")
        save_model(self, filepath, extra={"compiled": _words(self.__dict__["_compiled"])})  # type: ignore[arg-type]

    def save_weights(self, filepath: PathLike, overwrite: bool = True) -> None:
        """Write all weights as one safetensors file; rank 0 writes."""
        self._expect_built("save_weights")
        names = [name for name, _ in self._all_weights()]  # type: ignore[attr-defined]
        save_state(self, filepath, metadata={_ORDER: json.dumps(names)})

    def load_weights(self, filepath: PathLike, skip_mismatch: bool = False, by_name: bool = False) -> None:
        """Take the weights that :meth:`save_weights` wrote; all ranks must call. Raises StateError that lists what does not fit."""
        self._expect_built("load_weights")
        own = [name for name, _ in self._all_weights()]  # type: ignore[attr-defined]
        with seen_by_all(filepath) as path:
            given = json.loads(read_metadata(path).get(_ORDER, "[]"))
            rename = None
            if not by_name and set(given) != set(own) and len(given) == len(own):  # as Keras: by the order of layers
                rename = dict(zip(given, own, strict=True)).get
            load_into(self, path, strict=not (skip_mismatch or by_name), rename=rename)  # type: ignore[arg-type]

    def _expect_built(self, who: str) -> None:
        if not self.built:
            raise ValueError(f"{who}: {self.name} has no weights yet; give it an input shape, or call it once")


def load_model(
    filepath: PathLike, custom_objects: Mapping[str, type] | None = None, compile: bool = True, **unused: Any
) -> Any:
    """The model that ``model.save`` wrote, compiled as it was unless that took functions or classes of one's own. All ranks must call.

    The optimizer begins anew: to go on with an interrupted fit use callbacks.BackupAndRestore.

    ``custom_objects`` gives classes of one's own by name, as is needed for those that a script defined.

    >>> import os, tempfile
    >>> from phalanx import keras
    >>> path = os.path.join(tempfile.mkdtemp(), "model.keras")
    >>> keras.Sequential([keras.Input(shape=(3,)), keras.layers.Dense(2)]).save(path)
    >>> keras.models.load_model(path).output_shape
    (None, 2)
    """
    with seen_by_all(filepath) as path:
        model = _load_model(path, classes=custom_objects)
        given = (load_extra(path) or {}).get("compiled") or {}
    model.eval()
    if compile and given.get("loss") is not None and hasattr(model, "compile"):
        model.compile(**restored(given, _HOMES))
    return model


def _words(given: dict[str, Any]) -> dict[str, Any]:
    """What ``compile`` was given, in words; nothing where a function or an object of one's own was among it."""
    try:
        return {key: described(value) for key, value in given.items() if value is not None}
    except NoWords:
        return {}
