"""Debian's packages, fetched and unpacked into a folder of the test's own: nothing is installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

needs_debian = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg")), reason="the programs come from Debian's packages"
)


def unpack(folder: Path, packages: Sequence[str]) -> Path:
    """The folder in which the packages' files lie as on a machine where they are installed."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["apt-get", "download", "-qq", *packages], cwd=folder, capture_output=True, text=True, timeout=120
    )
    archives = list(folder.glob("*.deb"))
    if done.returncode != 0 or len(archives) < len(packages):
        raise RuntimeError(f"apt-get download: {done.stderr.strip()[-300:]} (apt-get update may be needed)")
    for archive in archives:
        subprocess.run(["dpkg", "-x", str(archive), str(folder / "root")], check=True, timeout=60)
    return folder / "root"
