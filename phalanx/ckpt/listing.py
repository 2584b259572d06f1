"""``phalanx ckpt ls``, ``show``, ``verify``."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..core.checkpoint.manifest import Manifest, encode
from ..core.checkpoint.parts import read_manifest, verify
from ..core.checkpoint.policy import SCORE, score_of
from ..core.checkpoint.store import SUPERSEDED
from ..core.errors import CheckpointError
from . import finding


def list_checkpoints(options: argparse.Namespace) -> int:
    """One line for each committed checkpoint, oldest first, and for what else lies there."""
    found = finding.several(options.folder)
    for path in found:
        try:
            print(f"{path.name}  {_in_short(read_manifest(path))}")
        except CheckpointError as error:
            print(f"{path.name}  damaged: {error}")
    for path in finding.leftovers(options.folder):
        why = (
            "set aside: of a run that was given up"
            if path.name.startswith(SUPERSEDED)
            else "a save that is not finished"
        )
        print(f"{path.name}  {why}")
    return 0


def verify_checkpoints(options: argparse.Namespace) -> int:
    """Read every byte of every checkpoint; 1 when one is damaged."""
    damaged = 0
    for path in finding.several(options.folder):
        try:
            verify(path)
        except CheckpointError as error:
            damaged += 1
            print(f"{path.name}  damaged: {error}")
        else:
            print(f"{path.name}  good")
    return int(damaged > 0)


def show(options: argparse.Namespace) -> int:
    """What a checkpoint holds."""
    path, manifest = finding.one(options.folder)
    if options.json:
        print(encode(manifest).decode("ascii"), end="")
        return 0
    print(f"{path}  {_in_short(manifest)}")
    for name in ("seed", "shards", "cursor", "config", "fingerprint"):
        if (value := getattr(manifest, name)) not in (None, {}):
            print(f"{name}: {json.dumps(value)}")
    for owner, scalars in manifest.scalars.items():
        if owner != SCORE:
            print(f"{owner}: {json.dumps(scalars)}")
    rows = [(t.name, t.dtype, str(list(t.shape)), f"{t.nbytes:,}", t.checksum) for t in manifest.tensors]
    print(table([("tensor", "dtype", "shape", "bytes", "checksum"), *rows], right=(3,)))
    return 0


def _in_short(manifest: Manifest) -> str:
    nbytes = sum(entry.nbytes for entry in manifest.files)
    score = score_of(manifest)
    words = f"step {manifest.step}, {len(manifest.tensors)} tensors, {size(nbytes)}"
    return words if score is None else f"{words}, score {score:g}"


def size(nbytes: int) -> str:
    """So many bytes, as a person says it.

    >>> size(999), size(5800), size(3_250_000_000)
    ('999 B', '5.8 kB', '3.2 GB')
    """
    value, units = float(nbytes), iter(("kB", "MB", "GB", "TB"))
    unit = "B"
    while value >= 1000 and (larger := next(units, None)):
        value, unit = value / 1000, larger
    return f"{nbytes} B" if unit == "B" else f"{value:.1f} {unit}"


def table(rows: list[tuple[Any, ...]], right: tuple[int, ...] = ()) -> str:
    """Rows of texts in columns; those numbered in ``right`` end at one place.

    >>> print(table([("a", "b"), ("cc", "10")], right=(1,)))
    a    b
    cc  10
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
