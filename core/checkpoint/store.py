"""Checkpoints on disk: names, atomic commit, list, newest valid one. One folder for each step.

A save goes through ``begin`` (one process), ``parts.write`` (all of them, each its own byte ranges), then ``commit`` or ``abandon``
(one process). Until the one rename in ``commit`` the folder has a name that no reader looks at. Whoever calls from several
processes lets one of them alone create, rename, list and remove.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from ..errors import CheckpointError
from ..faults import fault_point
from .format import Layout
from .manifest import Manifest, encode
from .parts import MANIFEST, read_manifest, telling, verify
from .policy import Policy, score_of

TEMPORARY = ".tmp-"
SUPERSEDED = "superseded-"
_NAME = re.compile(r"step-(\d{8,})")


def step_name(step: int) -> str:
    """The folder of a step's checkpoint.

    >>> step_name(123)
    'step-00000123'
    """
    return f"step-{step:08d}"


def step_of(path: str | Path) -> int | None:
    """The step in a checkpoint's name; None for any other name."""
    match = _NAME.fullmatch(Path(path).name)
    return int(match[1]) if match else None


class Store:
    """The checkpoints of one run in ``directory``, which is made at the first save.

    ``keep``: how many of the newest remain after a save; None keeps all. ``keep_every``, ``keep_best`` and ``mode``: which others
    remain (see :class:`~core.checkpoint.policy.Policy`). ``say``: told in one line what a person should know.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int | None = None,
        keep_every: int | None = None,
        keep_best: int | None = None,
        mode: str = "min",
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.policy = Policy(keep, keep_every, keep_best, mode)
        self._say = say or (lambda line: None)

    # -- what is there -----------------------------------------------------------------------------------------------

    def list(self) -> list[Path]:
        """The committed checkpoints, oldest step first."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CheckpointError(f"cannot list {self.directory}: {error.strerror}") from error
        found = [(step, name) for name in names if (step := step_of(name)) is not None]
        return [self.directory / name for _, name in sorted(found)]

    def newest_valid(self, on_skip: Callable[[Path, str], None] | None = None) -> tuple[Path, Manifest] | None:
        """The newest checkpoint of which every byte is right, and its manifest; None when there is none.

        ``on_skip(path, what_is_wrong)`` is called for each newer one that is damaged.
        """
        for path in reversed(self.list()):
            try:
                return path, verify(path)
            except CheckpointError as error:
                if on_skip is not None:
                    on_skip(path, str(error))
        return None

    # -- saving: one process -----------------------------------------------------------------------------------------

    def begin(self, step: int, layout: Layout) -> Path:
        """Sweep leftovers of saves that died, then make the temporary folder with files of their final size."""
        folder = self.directory / f"{TEMPORARY}{step_name(step)}-{secrets.token_hex(4)}"
        with telling("begin a checkpoint in", self.directory):
            if not self.directory.is_dir():
                self.directory.mkdir(parents=True)
                _sync_folder(self.directory.parent)
            self.sweep()
            folder.mkdir()
            try:
                for entry in layout.files:
                    with open(folder / entry.name, "xb") as file:
                        file.truncate(entry.nbytes)
            except OSError:
                self.abandon(folder)
                raise
        return folder

    def link(self, source: Path, folder: Path, name: str) -> bool:
        """Let a file of the temporary ``folder`` be that of the checkpoint ``source``; False where that cannot be."""
        link = folder / f"{TEMPORARY}{name}"
        try:
            if (source / name).stat().st_size != (folder / name).stat().st_size:
                return False
            os.link(source / name, link)
            os.replace(link, folder / name)
        except OSError:
            return False
        return True

    def sweep(self) -> None:
        """Remove temporary folders that a killed save left."""
        for name in os.listdir(self.directory):
            if name.startswith(TEMPORARY):
                shutil.rmtree(self.directory / name, ignore_errors=True)

    def abandon(self, folder: Path) -> None:
        """Remove the temporary folder of a save that failed."""
        shutil.rmtree(folder, ignore_errors=True)

    def commit(self, folder: Path, manifest: Manifest) -> Path:
        """Write the manifest and give the folder its name, in one rename; then drop what ``keep`` does not keep.

        Checkpoints of later steps belong to a run that was given up (one went back before them): they are set aside as
        ``superseded-...`` first, so that the newest one is this run's. One of the same step and content stays as it is.
        """
        final = self.directory / step_name(manifest.step)
        with telling("commit", final):
            fault_point("checkpoint-before-manifest")
            _write_durably(folder / MANIFEST, encode(manifest))
            _sync_folder(folder)
            if _same(final, manifest):
                self.abandon(folder)
                return final
            self._set_aside(manifest.step)
            fault_point("checkpoint-before-rename")
            replaced = self._move_away(final)
            os.rename(folder, final)
            fault_point("checkpoint-after-rename")
            _sync_folder(self.directory)
        if replaced is not None:
            self.abandon(replaced)
        self._prune_quietly()
        return final

    def _set_aside(self, step: int) -> None:
        for path in self.list():
            if (other := step_of(path)) is not None and other > step:
                aside = self.directory / f"{SUPERSEDED}{path.name}-{secrets.token_hex(4)}"
                os.rename(path, aside)
                self._say(f"{path.name} is of a run that was given up at an earlier step: set aside as {aside.name}")

    def _move_away(self, final: Path) -> Path | None:
        """A checkpoint of the same step but another content makes room; a kill before the next line leaves older ones."""
        if not final.exists():
            return None
        replaced = self.directory / f"{TEMPORARY}replaced-{final.name}-{secrets.token_hex(4)}"
        os.rename(final, replaced)
        return replaced

    def _prune_quietly(self) -> None:
        """The checkpoint is there: that an older one cannot be removed does not make the save a failed one."""
        try:
            self.prune()
        except CheckpointError as error:
            self._say(f"older checkpoints were not removed: {error}")

    def scores(self) -> dict[int, float | None]:
        """The steps that there are, each with the score that its manifest holds; None: none, or it cannot be read."""
        found: dict[int, float | None] = {}
        for path in self.list():
            step = step_of(path)
            assert step is not None
            try:
                found[step] = None if self.policy.best is None else score_of(read_manifest(path))
            except CheckpointError:
                found[step] = None
        return found

    def prune(self) -> tuple[Path, ...]:
        """Remove what the policy does not keep; returns what was removed. Only after a commit: there is a newer valid one."""
        removed = []
        for step in self.policy.doomed(self.scores()):
            path = self.directory / step_name(step)
            doomed = self.directory / f"{TEMPORARY}pruned-{path.name}-{secrets.token_hex(4)}"
            try:
                os.rename(path, doomed)
            except OSError:
                continue
            shutil.rmtree(doomed, ignore_errors=True)
            removed.append(path)
        return tuple(removed)


def _same(final: Path, manifest: Manifest) -> bool:
    """Is there already, whole, what the manifest says?"""
    try:
        return encode(verify(final)) == encode(manifest)
    except CheckpointError:
        return False


def _write_durably(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
