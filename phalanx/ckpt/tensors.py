"""``phalanx ckpt cat`` and ``export``: tensors of a checkpoint, checked before they are shown or written."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

import numpy as np

from ..core.checkpoint.manifest import Manifest, TensorEntry
from ..core.checkpoint.parts import read, telling
from ..core.errors import CheckpointError, RangeError
from ..model_io.words import WORDS, stored_dtype, to_numpy
from ..model_io.writing import write_tensors
from . import finding

MODEL = "model/"
_SHOWN = 1000
"""Up to so many elements are printed whole."""


def load(path: Path, manifest: Manifest, entry: TensorEntry) -> np.ndarray:
    """One tensor, whose checksum was right; bfloat16, which NumPy lacks, as float32."""
    word = WORDS[entry.dtype]
    kept = stored_dtype(word)
    assert kept is not None
    into = np.empty(entry.shape, kept)
    as_kept = TensorEntry(
        entry.name, into.dtype.name, entry.shape, entry.file, entry.offset, entry.nbytes, entry.checksum
    )
    try:
        read(path, Manifest(manifest.step, files=manifest.files, tensors=(as_kept,)), {entry.name: into})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return to_numpy(word, into)


def cat(options: argparse.Namespace) -> int:
    """Print one tensor: what it is, what its values are like, the values."""
    path, manifest = finding.one(options.folder)
    entry = _entry(path, manifest, options.tensor)
    array = load(path, manifest, entry)
    if options.output:
        with telling("write", Path(options.output)), open(options.output, "wb") as file:
            np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
        return 0
    print(f"{entry.name}  {entry.dtype}{list(entry.shape)}  {summary(array)}")
    print(np.array2string(array, threshold=sys.maxsize if options.all else _SHOWN, separator=", ", max_line_width=120))
    return 0


def summary(array: np.ndarray) -> str:
    """Its range and mean in few words.

    >>> summary(np.array([1.0, 3.0, np.nan]))
    'min 1, max 3, mean 2, 1 not finite'
    """
    finite = array[np.isfinite(array)].astype(np.float64)
    reductions = (("min", np.min), ("max", np.max), ("mean", np.mean)) if finite.size else ()
    words = [f"{name} {reduce(finite):.6g}" for name, reduce in reductions]
    if array.size > finite.size:
        words.append(f"{array.size - finite.size} not finite")
    return ", ".join(words) or "no elements"


def export(options: argparse.Namespace) -> int:
    """The weights alone, under the names of the model's ``state_dict()``."""
    path, manifest = finding.one(options.folder)
    head = MODEL if options.model is None else f"{MODEL}{options.model}."
    entries = [entry for entry in manifest.tensors if entry.name.startswith(head)]
    if not entries:
        there = sorted(
            {
                entry.name.removeprefix(MODEL).partition(".")[0]
                for entry in manifest.tensors
                if entry.name.startswith(MODEL)
            }
        )
        raise RangeError(f"{path} has no model {options.model or ''}; names begin with: {', '.join(there) or 'none'}")
    for entry in entries:
        if entry.dtype == "bfloat16":
            print(f"phalanx ckpt: {entry.name} is bfloat16; it is written as float32", file=sys.stderr)
    arrays = {entry.name.removeprefix(head): load(path, manifest, entry) for entry in entries}
    write_tensors(Path(options.output), arrays, {"format": "pt"})
    print(f"{options.output}: {len(arrays)} tensors of step {manifest.step}")
    return 0


def _entry(path: Path, manifest: Manifest, name: str) -> TensorEntry:
    """By its whole name, or without the family when that is clear."""
    names = {entry.name: entry for entry in manifest.tensors}
    found = [names[name]] if name in names else [e for e in manifest.tensors if e.name.partition("/")[2] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise RangeError(f"{path} has several tensors {name}: {', '.join(entry.name for entry in found)}")
    near = difflib.get_close_matches(name, list(names) + [each.partition("/")[2] for each in names], 3)
    raise RangeError(f"{path} has no tensor {name}; " + (f"near: {', '.join(near)}" if near else "show lists them"))
