"""``phalanx.save_model`` and ``load_model``: a folder with a model's architecture as JSON and its weights as safetensors."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..core import rng
from ..core.checkpoint.parts import telling
from ..core.errors import CheckpointError, StateError
from ..core.nn.module import Module
from ..core.tree import join
from ..dist.data_parallel import DataParallel
from ..dist.group import joined
from .architecture import Builder, Describer
from .state import PathLike, load, load_into, save
from .writing import write_whole

ARCHITECTURE, WEIGHTS, EXTRA = "model.json", "model.safetensors", "extra.safetensors"
_FORMAT = "phalanx model"
_VERSION = 1


def save_model(model: Module, folder: PathLike, *, extra: Any = None) -> None:
    """Write a whole model: ``model.json`` (classes and what they were built with) and ``model.safetensors``; no pickle.

    Layers of phalanx remember their arguments, and so do classes of yours whose arguments are numbers, text, arrays, modules
    or functions of phalanx; others offer a method ``config()`` that returns such arguments. The description is proved by
    building the model from it. The folder appears whole or not at all; one that holds a model is replaced. On several ranks
    rank 0 writes, the others return at once.

    Args:
        extra: what else belongs to the model, as :func:`save` takes it; :func:`load_extra` returns it.

    Raises StateError for a model that cannot be built again, naming the argument or the layer that was changed since.

    >>> import os, tempfile
    >>> folder = os.path.join(tempfile.mkdtemp(), "model")
    >>> phalanx.save_model(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), folder)
    >>> phalanx.load_model(folder)
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
      (1): ReLU()
    )
    """
    if isinstance(model, DataParallel):
        model = model.module
    if not isinstance(model, Module):
        raise StateError(f"save_model expects a Module, got {type(model).__name__}")
    describer = Describer()
    page: dict[str, Any] = {"format": _FORMAT, "version": _VERSION, "written by": __version__}
    page["model"] = describer.module(model)
    page["penalties"] = [
        [path, name, describer.value(module, f"the penalty on {name}", penalty)]
        for path, module in model.named_modules()
        for name, penalty in module._penalties.items()
    ]
    page["frozen"] = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    text = json.dumps(page, indent=1)
    try:
        with rng.unmarked():
            twin = _built(json.loads(text), describer.kinds)
            page["replaced"] = _replaced(model, twin, describer)
            if page["replaced"]:
                text = json.dumps(page, indent=1)
                twin = _built(json.loads(text), describer.kinds)
    except CheckpointError as error:
        raise StateError(f"save_model: {type(model).__name__} cannot be built again: {error}") from error
    _prove(model, twin)
    group = joined()
    if group is None or group.rank == 0:
        _write(Path(folder), text, model, extra)


def _replaced(model: Module, twin: Module, describer: Describer) -> dict[str, Any]:
    """Layers that came, went or became others since the model was built: by path, None for one that went."""
    rows: dict[str, Any] = {}

    def visit(path: str, mine: Module, theirs: Module) -> None:
        for name in dict.fromkeys([*mine._module_names, *theirs._module_names]):
            own, other = (module.__dict__.get(name) for module in (mine, theirs))
            if own is None and other is not None:
                rows[join(path, name)] = None
            elif own is not None and (other is None or _words(own) != _words(other)):
                rows[join(path, name)] = describer.module(own)
            elif own is not None and other is not None:
                visit(join(path, name), own, other)

    visit("", model, twin)
    return rows


def _built(page: Mapping[str, Any], classes: Mapping[str, type] | None) -> Module:
    """The model of a page, without its weights."""
    builder = Builder(classes)
    model = builder.module(page["model"])
    for path, row in page.get("replaced", {}).items():
        above, _, name = path.rpartition(".")
        try:
            setattr(model.get_submodule(above), name, None if row is None else builder.module(row))
        except (AttributeError, TypeError, KeyError) as error:
            raise CheckpointError(f"layer {path!r} of the model has no place: {error}") from error
    return model


def _prove(model: Module, twin: Module) -> None:
    """The model that was built again has the same layers, names and shapes. Raises StateError."""
    mine, theirs = dict(model.named_modules()), dict(twin.named_modules())
    for name in [*mine, *(name for name in theirs if name not in mine)]:
        words = [_words(modules.get(name)) for modules in (mine, theirs)]
        if words[0] != words[1]:
            raise StateError(
                f"save_model: layer {name!r} was changed since {type(model).__name__} was built: it is {words[0]}, built again it "
                f"would be {words[1]}. Build it as it is now, or give its class a method config()"
            )
    shapes = [{n: (t.shape, t.dtype) for n, t in m.state_dict().items()} for m in (model, twin)]
    differing = sorted(name for name in {*shapes[0], *shapes[1]} if shapes[0].get(name) != shapes[1].get(name))
    if differing:
        rows = "; ".join(f"{name}: {shapes[0].get(name)} now, {shapes[1].get(name)} built again" for name in differing)
        raise StateError(f"save_model: tensors of {type(model).__name__} were changed since it was built: {rows}")
    if _ties(model) != _ties(twin):
        raise StateError(
            f"save_model: weights of {type(model).__name__} were tied since it was built; tie them in its class"
        )


def _words(module: Module | None) -> str:
    return "absent" if module is None else f"{type(module).__name__}({module.extra_repr()})"


def _ties(model: Module) -> list[list[str]]:
    """Names of each parameter that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [row for row in names.values() if len(row) > 1]


def _write(folder: Path, text: str, model: Module, extra: Any) -> None:
    known = {ARCHITECTURE, WEIGHTS, EXTRA}
    with telling("write to", folder):
        there = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        if folder.exists() and (not folder.is_dir() or there - known):
            raise CheckpointError(f"cannot write {folder}: it holds other things than a model")
        temporary = folder.with_name(f".tmp-{folder.name}-{secrets.token_hex(4)}")
        temporary.mkdir()
        try:
            save(model.state_dict(), temporary / WEIGHTS)
            if extra is not None:
                save(extra, temporary / EXTRA)
            write_whole(temporary / ARCHITECTURE, [text.encode()])
            replaced = temporary.with_name(temporary.name + "-replaced") if folder.exists() else None
            if replaced is not None:
                os.rename(folder, replaced)
            os.rename(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)


def load_model(folder: PathLike, *, classes: Mapping[str, type] | None = None, device: Any = None) -> Module:
    """The model that :func:`save_model` wrote, on the host or on ``device``, in training mode.

    Layers come from ``phalanx.nn``; a class of your own is imported from the module it was defined in, which runs that module:
    load what you trust. ``classes`` gives classes by name instead, as is needed for those that a script defined.

    Raises CheckpointError for what is missing, damaged, or does not fit.

    >>> import os, tempfile
    >>> folder = os.path.join(tempfile.mkdtemp(), "model")
    >>> phalanx.save_model(nn.Linear(3, 2), folder)
    >>> phalanx.load_model(folder)(phalanx.zeros(1, 3)).shape
    (1, 2)
    """
    page = _page(Path(folder))
    with rng.unmarked():
        model = _built(page, classes)
    try:
        load_into(model, Path(folder) / WEIGHTS)
    except StateError as error:
        raise CheckpointError(f"{folder}: weights and architecture do not belong together: {error}") from error
    builder = Builder(classes)
    for path, name, penalty in page.get("penalties", []):
        model.get_submodule(path).register_penalty(name, builder.value(penalty))
    parameters = dict(model.named_parameters())
    for name in page.get("frozen", []):
        if name in parameters:
            parameters[name].requires_grad = False
    return model if device is None else model.to(device)


def load_extra(folder: PathLike) -> Any:
    """What was saved with a model as ``extra``; None if there was nothing.

    >>> import os, tempfile
    >>> folder = os.path.join(tempfile.mkdtemp(), "model")
    >>> phalanx.save_model(nn.Linear(3, 2), folder, extra={"labels": ["cat", "dog"]})
    >>> phalanx.load_extra(folder)
    {'labels': ['cat', 'dog']}
    """
    _page(Path(folder))
    path = Path(folder) / EXTRA
    return load(path) if path.exists() else None


def _page(folder: Path) -> dict[str, Any]:
    path = folder / ARCHITECTURE
    if folder.is_dir() and not path.exists():
        raise CheckpointError(f"{folder} has no {ARCHITECTURE}: a folder that save_model wrote is expected")
    with telling("read", path):
        text = path.read_bytes()
    try:
        page = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(page, dict) or page.get("format") != _FORMAT or "model" not in page:
        raise CheckpointError(f"{path} is no model of phalanx")
    if page.get("version") != _VERSION:
        raise CheckpointError(f"{path} has version {page.get('version')}, this phalanx reads {_VERSION}")
    return page
