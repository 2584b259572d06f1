"""Write one safetensors file: whole under its name, or not at all."""

from __future__ import annotations

import itertools
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core.backend import to_host
from ..core.checkpoint.format import byte_view
from ..core.checkpoint.parts import telling
from ..core.errors import DTypeError
from .words import WORDS

_ALIGNMENT_NBYTES = 64
"""Where the data begins, so that readers can map it."""


def write_tensors(path: Path, arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Write ``arrays`` (of either library) by name; the bytes follow from names, values and metadata alone.

    The file gets its name when all of it is on disk: what ``path`` held before stays until then. Raises DTypeError for a
    dtype that the format lacks, CheckpointError when the system refuses.
    """
    described: dict[str, Any] = {"__metadata__": dict(metadata)}
    order = sorted(arrays, key=lambda name: (-np.dtype(arrays[name].dtype).itemsize, name))
    end = 0
    for name in order:
        dtype, shape = np.dtype(arrays[name].dtype).name, [int(size) for size in arrays[name].shape]
        if dtype not in WORDS:
            raise DTypeError(f"save: {name} has dtype {dtype}; a safetensors file holds {', '.join(WORDS)}")
        start, end = end, end + int(arrays[name].nbytes)
        described[name] = {"dtype": WORDS[dtype], "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-(8 + len(header)) % _ALIGNMENT_NBYTES)
    data = (byte_view(to_host(arrays[name])) for name in order)  # each comes from its device when its turn comes
    write_whole(path, itertools.chain([len(header).to_bytes(8, "little"), header], data))


def write_whole(path: Path, parts: Iterable[Any]) -> None:
    """Write ``parts`` as a file beside ``path``, make it durable, and give it the name in one step.

    Raises CheckpointError when the system refuses (full disk, no such folder); nothing is changed then.
    """
    temporary = path.with_name(f".tmp-{path.name}-{secrets.token_hex(4)}")
    with telling("write", path):
        try:
            with open(temporary, "xb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
