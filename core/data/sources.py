"""Where files come from: a folder, a web address, a Debian package fetched without root."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from ..errors import DataError
from .fetch import MIRROR, Content, Source

URL_TIMEOUT_S = 20.0
"""Longest silence of a server before it counts as unreachable."""
APT_TIMEOUT_S = 600.0


def folder(path: str) -> Source:
    """Gzipped or plain files in ``path``."""

    def read(names: Sequence[str]) -> Content:
        content = {}
        for name in names:
            packed = Path(path, name + ".gz")
            content[name] = (packed if packed.exists() else Path(path, name)).read_bytes()
        return content

    return Source(f"folder {path}", read)


def address(base: str, *, packed: bool = True) -> Source:
    """``base/NAME.gz`` (``base/NAME`` unless ``packed``) on the web. What comes is checked, so plain http does as well."""

    def read(names: Sequence[str]) -> Content:
        slash = "" if base.endswith("%2F") else "/"
        return {name: _download(f"{base}{slash}{name}{'.gz' if packed else ''}") for name in names}

    return Source(f"web {base}", read)


def mirror(title: str) -> list[Source]:
    """What $PHALANX_DATA_MIRROR says, if it says anything: ``MIRROR/title/NAME``, packed or not."""
    named = os.environ.get(MIRROR)
    if not named:
        return []
    base = f"{named.rstrip('/')}/{title}"
    if "://" not in named:
        return [folder(base)]
    return [address(base, packed=False), address(base)]


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=URL_TIMEOUT_S) as response:
            return response.read()
    except (OSError, HTTPException) as error:
        raise DataError(f"{url}: {getattr(error, 'reason', None) or error}") from error


def debian_package(package: str, path: str) -> Source:
    """The files at ``path`` in a Debian package, by ``apt-get download`` and ``dpkg -x``: neither needs root."""

    def read(names: Sequence[str]) -> Content:
        for program in ("apt-get", "dpkg"):
            if shutil.which(program) is None:
                raise DataError(f"no {program} on this machine")
        with tempfile.TemporaryDirectory(prefix="phalanx-apt-") as work:
            archive = _apt_download(package, Path(work))
            unpacked = Path(work, "unpacked")
            _run(["dpkg", "-x", str(archive), str(unpacked)], Path(work))
            return folder(str(unpacked / path.lstrip("/"))).read(names)

    return Source(f"Debian package {package} (apt-get download)", read)


def _apt_download(package: str, work: Path) -> Path:
    """With the machine's package lists, or with lists of our own where it has none."""
    try:
        _run(["apt-get", "download", package], work)
    except DataError:
        options = _private_lists(work)
        _run(["apt-get", *options, "update"], work, check=False)  # some lists may fail, the right one may not
        _run(["apt-get", *options, "download", package], work)
    archives = sorted(work.glob(f"{package}_*.deb"))
    if not archives:
        raise DataError(f"apt-get download {package} left no file")
    return archives[0]


def _private_lists(work: Path) -> list[str]:
    state, cache = work / "state", work / "cache"
    for needed in (state / "lists/partial", cache / "archives/partial"):
        needed.mkdir(parents=True)
    settings = {"Dir::State::Lists": f"{state}/lists", "Dir::Cache": str(cache), "Debug::NoLocking": "1"}
    if os.geteuid() == 0:
        settings["APT::Sandbox::User"] = "root"  # apt's own user may not write into our folder
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _run(command: list[str], work: Path, *, check: bool = True) -> None:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    words = " ".join(word for word in command if not word.startswith(("-o", "Dir::", "Debug::", "APT::")))
    try:
        done = subprocess.run(
            command, cwd=work, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=APT_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{words} did not end within {APT_TIMEOUT_S:g} s") from error
    if check and done.returncode != 0:
        lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise DataError(f"{words} ended with {done.returncode}: {lines[-1] if lines else 'no output'}")
