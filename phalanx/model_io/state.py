"""``phalanx.save``, ``load``, ``load_into``: state dicts as safetensors files that PyTorch reads and writes, too."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core.backend import as_dtype, to_device
from ..core.bfloat16 import is_floating
from ..core.errors import CheckpointError, RangeError, StateError
from ..core.nn.module import Module
from ..core.nn.state import IncompatibleKeys
from ..core.tensor import Tensor
from ..dist.group import joined
from . import nested
from .reading import Contents, Entry, contents, read
from .writing import write_tensors

PathLike = str | os.PathLike[str]
Rename = Mapping[str, str] | Callable[[str], str | None]
_FORM = "phalanx"
"""The metadata key of what is no plain state dict."""


def save(obj: Any, path: PathLike, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's state, a state dict, or dicts of them with numbers and text, as one safetensors file.

    PyTorch reads it with ``safetensors.torch.load_file``; tied weights stand under each of their names. The file appears
    whole or not at all: what ``path`` held before stays until then. On several ranks rank 0 writes, the others return at
    once. Raises DTypeError for what is no tensor, number or text, CheckpointError when the system refuses.

    Args:
        obj: a Module, its ``state_dict()``, or e.g. ``{"model": ..., "optimizer": ..., "epoch": 3}``.
        path: of the file; any name will do, ``.safetensors`` is usual.
        metadata: texts by name for :func:`read_metadata`.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> phalanx.save({"w": phalanx.ones(2), "epoch": 3}, path)
    >>> phalanx.load(path)
    {'w': tensor([1., 1.]), 'epoch': 3}
    """
    words = {"format": "pt", **(metadata or {})}
    if not all(isinstance(key, str) and isinstance(value, str) for key, value in words.items()) or _FORM in words:
        raise RangeError(f"save: metadata is a dict of texts without the key {_FORM!r}, got {metadata!r}")
    tensors: dict[str, Any] = {}
    if isinstance(obj, Module):
        tensors = nested.state_of(obj)
    elif nested.is_flat(obj):
        tensors = {name: nested.array_of(value) for name, value in obj.items()}
    else:
        words[_FORM] = json.dumps(nested.flatten(obj, "", tensors))
    group = joined()
    if group is None or group.rank == 0:
        write_tensors(Path(path), tensors, words)


def load(
    path: PathLike,
    map_location: Any = None,
    *,
    dtype: Any = None,
    weights_only: bool = True,
) -> Any:
    """What :func:`save` or PyTorch's safetensors wrote: a dict of names to Tensors, or the object that was saved.

    ``path`` may be a file, an index of several (``model.safetensors.index.json``), or a folder with one of them. 8-bit
    floats become float32, as does bfloat16 where ml_dtypes is not installed. Nothing in a file is run, whatever ``weights_only`` says.

    Args:
        map_location: the device of the tensors; the host if None.
        dtype: floating tensors become of this type.

    Raises CheckpointError for a file that is missing, damaged, or a pickle (``.pt``), with the way to convert that.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> phalanx.save(nn.Linear(2, 1), path)
    >>> model = nn.Linear(2, 1)
    >>> model.load_state_dict(phalanx.load(path))
    <All keys matched successfully>
    """
    table = contents(Path(path))
    wanted = None if dtype is None else as_dtype(dtype)

    def tensor(name: str) -> Tensor:
        if name not in table.entries:
            raise CheckpointError(f"{path} is damaged: it names a tensor {name!r} that it lacks")
        array = read(table.entries[name])
        if wanted is not None and is_floating(array.dtype):
            array = array.astype(wanted, copy=False)
        return Tensor(to_device(array, map_location))

    if _FORM not in table.metadata:
        state = {name: tensor(name) for name in table.entries}
        return state | {name: state[kept] for name, kept in _dropped(table).items()}
    try:
        form = json.loads(table.metadata[_FORM])
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: its metadata {_FORM!r} is no JSON ({error})") from error
    return nested.unflatten(form, tensor)


def _dropped(table: Contents) -> dict[str, str]:
    """Tied names that ``safetensors.torch.save_model`` left out -> the name that it kept."""
    known = table.entries.keys()
    return {name: kept for name, kept in table.metadata.items() if kept in known and name not in known}


def read_metadata(path: PathLike) -> dict[str, str]:
    """The texts that a safetensors file (or the files of an index) carries.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> phalanx.save(nn.Linear(2, 1), path, metadata={"trained on": "MNIST"})
    >>> phalanx.read_metadata(path)
    {'format': 'pt', 'trained on': 'MNIST'}
    """
    return dict(contents(Path(path)).metadata)


def load_into(
    model: Module,
    path: PathLike,
    strict: bool = True,
    rename: Rename | None = None,
    transpose: str | None = None,
) -> IncompatibleKeys:
    """Read a safetensors file (or index, or folder) tensor by tensor into ``model``; all of it or nothing is loaded.

    ``path`` may be a training run's checkpoint, or its folder of checkpoints: then the weights of the newest valid one. With
    ``rename`` and ``strict=False`` a model takes over what it shares with another one (transfer learning).

    Floating values take the dtype of the model's; a name that the file lacks is not missing if it is tied to one that is
    there.

    Args:
        rename: names in the file -> names in the model: a dict of regular expressions to replacements, applied in order, or
            a function that returns the new name, or None to leave a tensor out.
        transpose: matrices whose name in the file this regular expression matches in full are transposed, as those of
            GPT-2's Conv1D must be: ``r".*(c_attn|c_proj|c_fc)\\.weight"``.

    Returns ``(missing_keys, unexpected_keys)``. Raises StateError that lists all missing and unexpected names (with
    ``strict``) and all of another shape, CheckpointError for a file that cannot be read.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> phalanx.save({"module.weight": phalanx.ones(1, 2), "module.bias": phalanx.zeros(1)}, path)
    >>> phalanx.load_into(nn.Linear(2, 1), path, rename={r"^module\\.": ""})
    <All keys matched successfully>
    """
    table = contents(Path(path))
    entries = dict(table.entries) | {name: table.entries[kept] for name, kept in _dropped(table).items()}
    places = _renamed(entries, rename)
    turned = re.compile(transpose) if transpose is not None else None
    flipped = {name for name, (_, old) in places.items() if turned is not None and turned.fullmatch(old)}
    targets = model.state_dict(keep_vars=True)
    hooked = any(module._state_hooks.get("loading") for module in model.modules())  # these may translate names, too
    missing, unexpected = _differences(targets, places)
    mismatched = [
        f"{name}: {why}"
        for name, (entry, _) in places.items()
        if name in targets and (why := _mismatch(targets[name], entry, name in flipped))
    ]
    if not hooked and (mismatched or (strict and (missing or unexpected))):
        raise StateError(_complaint(path, model, missing, unexpected, mismatched))
    state = {}
    for name, (entry, _) in places.items():
        if hooked or name in targets:
            array = read(entry).T if name in flipped else read(entry)
            state[name] = array.astype(targets[name].dtype, copy=False) if name in targets else array
    found = model.load_state_dict(state, strict=strict and hooked)
    return found if hooked else IncompatibleKeys(missing, unexpected)


def _differences(targets: Mapping[str, Any], places: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Names that the file lacks, but for those that are tied to one that is there, and names that the model lacks."""
    there = {id(targets[name]) for name in places if name in targets}
    missing = [name for name, tensor in targets.items() if name not in places and id(tensor) not in there]
    return missing, [name for name in places if name not in targets]


def _renamed(entries: Mapping[str, Entry], rename: Rename | None) -> dict[str, tuple[Entry, str]]:
    """New name -> entry and its old name. Raises RangeError when two get one name."""
    places: dict[str, tuple[Entry, str]] = {}
    for old, entry in entries.items():
        new: str | None = old
        if callable(rename):
            new = rename(old)
        elif rename is not None:
            for pattern, replacement in rename.items():
                new = re.sub(pattern, replacement, str(new))
        if new is None:
            continue
        if new in places:
            raise RangeError(f"load_into: rename gives both {places[new][1]!r} and {old!r} the name {new!r}")
        places[new] = (entry, old)
    return places


_INTEGERS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")


def _mismatch(target: Tensor, entry: Entry, flipped: bool) -> str | None:
    shape = entry.shape[::-1] if flipped else entry.shape
    if flipped and len(shape) != 2:
        return f"a matrix expected to transpose, the file has {entry.shape}"
    if tuple(target.shape) != shape:
        return f"shape {tuple(target.shape)} expected, the file has {shape}{' transposed' if flipped else ''}"
    if (is_floating(target.dtype)) == (entry.word in _INTEGERS):
        return f"dtype {target.dtype} expected, the file has {entry.word}"
    return None


def _complaint(path: PathLike, model: Module, missing: list[str], unexpected: list[str], mismatched: list[str]) -> str:
    rows = (("missing", missing, ", "), ("unexpected", unexpected, ", "), ("mismatched", mismatched, "; "))
    lines = [f"  {title} ({len(names)}): {between.join(names)}" for title, names, between in rows if names]
    advice = "build the same model, translate names with rename=, or pass strict=False to load what fits"
    if mismatched:
        advice = "build the model with the sizes that the file was saved with, or transpose= what needs it"
    head = f"{path} does not fit {type(model).__name__}:"
    return "\n".join([head, *lines, f"  {advice} (nothing was changed)"])
