"""Files of public data sets: from whichever source has them, checked, kept in a cache, fetched once a host.

A file is known by the SHA-256 of its uncompressed content, so that sources may pack it as they like, or by what its
authors publish ("md5:..." of the file as it is). The cache holds it under its own name; it gets there under a temporary
name, is synced and then renamed. What is made of it at some cost is kept beside it. A lock file makes one process of a
host fetch while the others wait; the lock ends with its holder, however that dies.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import logging
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError

log = logging.getLogger("phalanx.data")

LOCK_DEADLINE_S = 900.0
"""How long to wait for another process of this host that is fetching the same files."""
WAIT_WORD_S = 5.0
"""After how long to say that one is waiting."""

MIRROR = "PHALANX_DATA_MIRROR"
"""An address (also file://) or folder that has the files of data sets as ``NAME_OF_DATA_SET/FILE``; asked before others."""

Content = dict[str, bytes]


@dataclass(frozen=True)
class Source:
    """One place where the files may be had."""

    name: str
    """For messages: what a person would call it."""
    read: Callable[[Sequence[str]], Content]
    """File names -> their content, plain or gzipped. Raises OSError or DataError, saying why not."""


@dataclass(frozen=True)
class FileSet:
    """Files that belong together."""

    title: str
    digests: Mapping[str, str]
    """Name -> SHA-256 of the uncompressed content, or "md5:..." of the file as it is published."""
    folder: Path
    """Where the cache keeps them."""
    sources: Sequence[Source]
    """Tried in this order."""

    def load(self, names: Sequence[str], *, deadline_s: float = LOCK_DEADLINE_S) -> Content:
        """The checked content of ``names``: from the cache, else fetched into it.

        All missing files of the set are fetched together. Raises DataError that lists each source and why it failed.
        """
        found = self._cached(names)
        if len(found) == len(names):
            return found
        with self._lock(deadline_s):
            wanted = [name for name in self.digests if name not in self._cached([name], say=name in names)]
            fetched = self._fetch(wanted) if wanted else {}
            for name, content in fetched.items():
                self._keep(name, content)
        found = self._cached([name for name in names if name not in fetched])
        return {name: fetched[name] if name in fetched else found[name] for name in names}

    def derived(self, name: str, make: Callable[[], bytes], *, deadline_s: float = LOCK_DEADLINE_S) -> bytes:
        """What ``make()`` gives, kept as ``name`` with its SHA-256 beside it."""
        kept = self._derived(name)
        if kept is not None:
            return kept
        with self._lock(deadline_s, f".{name}.lock"):
            kept = self._derived(name)
            if kept is None:
                kept = make()
                self._keep(f"{name}.sha256", f"{_digest(kept)}\n".encode())
                self._keep(name, kept)
        return kept

    def _derived(self, name: str) -> bytes | None:
        try:
            content = (self.folder / name).read_bytes()
            return content if _digest(content) == (self.folder / f"{name}.sha256").read_text().strip() else None
        except OSError:
            return None

    def _cached(self, names: Sequence[str], *, say: bool = False) -> Content:
        """The files that the cache holds whole. A damaged one is named when ``say`` is set."""
        found = {}
        for name in names:
            path = self.folder / name
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("%s: %s cannot be read (%s); fetching it again", self.title, path, error)
                continue
            if self._agrees(name, content):
                found[name] = content
            elif say:
                log.warning("%s: %s is damaged (%d bytes); fetching it again", self.title, path, len(content))
        return found

    def _fetch(self, names: Sequence[str]) -> Content:
        failures = [f"cache {self.folder}: {', '.join(names)} missing or damaged"]
        for source in self.sources:
            try:
                packed = source.read(names)
                content = {name: self._unpacked(name, packed[name]) for name in names}
                self._check(content)
            except (OSError, DataError, KeyError, EOFError, zlib.error) as error:
                failures.append(f"{source.name}: {_reason(error)}")
                continue
            log.info("%s: %s from %s", self.title, ", ".join(names), source.name)
            return content
        listed = "".join(f"\n  {number}. {failure}" for number, failure in enumerate(failures, 1))
        by_hand = "; ".join(f"{name} ({self.digests[name][:12]}...)" for name in names)
        raise DataError(
            f"{self.title} cannot be had from any source:{listed}\n"
            f"By hand: place {by_hand} in {self.folder}, or set {MIRROR} to an address or folder that has them"
        )

    def _agrees(self, name: str, content: bytes) -> bool:
        wanted = self.digests[name]
        if wanted.startswith("md5:"):
            return hashlib.md5(content, usedforsecurity=False).hexdigest() == wanted[4:]
        return _digest(content) == wanted

    def _unpacked(self, name: str, content: bytes) -> bytes:
        return content if self.digests[name].startswith("md5:") else _unpack(content)

    def _check(self, content: Content) -> None:
        for name, data in content.items():
            if not self._agrees(name, data):
                kind = "MD5" if self.digests[name].startswith("md5:") else "SHA-256"
                raise DataError(f"{name} ({len(data)} bytes) has another {kind} than {self.digests[name][:16]}...")

    def _keep(self, name: str, content: bytes) -> None:
        """Into the cache; a cache that cannot be written costs time at the next start, nothing else."""
        try:
            write_atomically(self.folder / name, content)
        except OSError as error:
            log.warning("%s: cannot keep %s in %s (%s)", self.title, name, self.folder, error)

    @contextmanager
    def _lock(self, deadline_s: float, name: str = ".lock") -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = open(self.folder / name, "a")  # noqa: SIM115
        except OSError:  # a cache that cannot be written needs no lock
            yield
            return
        with file:
            self._wait_for(file.fileno(), deadline_s)
            yield

    def _wait_for(self, descriptor: int, deadline_s: float) -> None:
        began, said = time.monotonic(), False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                waited_s = time.monotonic() - began
            if waited_s > deadline_s:
                raise DataError(
                    f"{self.title}: another process has been fetching into {self.folder} for over {deadline_s:g} s "
                    f"(it holds {self.folder / '.lock'}): see whether it hangs"
                )
            if waited_s > WAIT_WORD_S and not said:
                said = True
                log.warning("%s: waiting for another process that fetches into %s", self.title, self.folder)
            time.sleep(0.05)


def write_atomically(path: Path, content: bytes) -> None:
    """``path`` has ``content`` whole or is as before, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def cache_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Where data sets are kept: ``root``, else $PHALANX_DATA, else ``phalanx`` in the user's cache folder."""
    if root is not None:
        return Path(root).expanduser()
    named = os.environ.get("PHALANX_DATA")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "phalanx"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _unpack(content: bytes) -> bytes:
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
