"""Tuned tables: which algorithm a card uses for which product. Files of ``algorithms/``, one for each model of card.

``phalanx tune`` makes them on a card; ``PHALANX_ALGORITHMS`` names another folder. A table names the library's version, since what it holds means
nothing to another; without an entry the library's own heuristic decides. All files together have a digest, which is in the
fingerprint that ranks compare: another table may give other bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

VARIABLE = "PHALANX_ALGORITHMS"
"""Environment variable: the folder of the tables, where it is not the one beside this file."""


def default_folder() -> Path:
    """Where tables are looked for and written."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path(__file__).parent / "algorithms"


def file_of(device_name: str, folder: Path | None = None) -> Path:
    """Where the table of a model of card lies."""
    return (folder or default_folder()) / (re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-") + ".json")


@lru_cache(maxsize=8)
def table(device_name: str, version: str) -> dict[str, bytes]:
    """Key of a problem -> algorithm, for a model of card and a version of the library; empty if there is none."""
    path = file_of(device_name)
    if not path.is_file():
        return {}
    entries = json.loads(path.read_text()).get("versions", {}).get(version, {})
    return {key: bytes.fromhex(value) for key, value in entries.items()}


@lru_cache(maxsize=1)
def digest() -> str:
    """Eight digits of all tables; "heuristic" if there is none."""
    files = sorted(default_folder().glob("*.json"))
    if not files:
        return "heuristic"
    total = hashlib.sha256()
    for path in files:
        total.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"algorithms {total.hexdigest()[:8]}"


def write(device_name: str, version: str, entries: dict[str, bytes], folder: Path | None = None) -> Path:
    """Add ``entries`` to the table of a model of card; what it holds for other problems and versions stays."""
    path = file_of(device_name, folder)
    held: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"device": device_name, "versions": {}}
    versions: dict[str, dict[str, str]] = held["versions"]
    merged = versions.get(version, {}) | {key: value.hex() for key, value in entries.items()}
    versions[version] = dict(sorted(merged.items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(held, indent=1, sort_keys=True) + "\n")
    table.cache_clear()
    digest.cache_clear()
    return path
