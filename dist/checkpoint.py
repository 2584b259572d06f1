"""Who writes what of a checkpoint, and how all ranks agree that it is there.

Rank 0 alone creates, renames, lists and removes; what it decides travels by message. Every rank writes and checks its own byte
ranges. Nothing in a checkpoint tells how many ranks wrote it, and any number reads it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core import spans
from ..core.backend import array_module
from ..core.checkpoint import parts as disk
from ..core.checkpoint.format import BLOCK_NBYTES, Layout, plain, plan
from ..core.checkpoint.manifest import Manifest
from ..core.checkpoint.parts import Part, complete, read, require_fit, write_portion
from ..core.checkpoint.policy import scalars_of
from ..core.checkpoint.store import Store
from ..core.errors import CheckpointError, RangeError, StateError
from ..core.faults import fault_point, set_position
from ..core.owned import OwnPart, on_host
from . import env, extra_state, named_state
from . import group as groups
from .checkpoint_agreement import Agreement
from .checkpoint_behind import Behind
from .checkpoint_find import find
from .checkpoint_names import OPTIMIZER, dot, named, owner
from .checkpoint_save import Save, portion_of
from .checkpoint_subject import Subject

STOP_FILE = "STOP"
LOOK_S = 0.2


class Checkpointer:
    """Saves a training run so that any number of ranks can go on with it, and resumes it.

    Args:
        directory: where the checkpoints are; all ranks must see the same folder. None: nothing is saved.
        model: a Module, or several by name (``{"g": generator, "d": discriminator}``).
        optimizer: an optimizer, or several by name; None: its state is neither saved nor restored.
        loader: the training DataLoader; its position is saved, its ``step`` names the checkpoint. Without one, calls of
            :meth:`after_step` are counted.
        every: :meth:`after_step` saves when the step is a multiple of it; None: only when the job is asked to stop.
        keep: how many of the newest checkpoints remain; None keeps all.
        keep_every: checkpoints of steps that are multiples of it remain, too.
        keep_best: so many of those with the best ``score`` (see :meth:`save`) remain, too; ``mode``: whether ``"min"`` or
            ``"max"`` is best.
        background: :meth:`after_step` only copies what this rank writes, into memory that it keeps for it, and a process writes it
            while training goes on; call :meth:`wait` after the last step. A save that is due while the one before is still
            being written is left out, with a line.
        config: any JSON, for whoever reads the manifest.
        state: whatever else must survive, by name (``{"schedule": scheduler, "average": ema}``): things with ``state_dict()``, of
            JSON, arrays and Tensors and equal on all ranks, and ``load_state_dict()``.
        group: the ranks; by default those of ``phalanx.init()``.

    All methods are collective: every rank calls them at the same place. A job that is asked to stop (SIGTERM, SIGUSR1, or a file
    called ``STOP`` in ``directory``, which rank 0 looks for and takes away) saves and ends at the next
    :meth:`after_step`, whatever ``every`` is.

    >>> import tempfile
    >>> model = nn.Linear(2, 1)
    >>> optimizer = optim.SGD(model.parameters(), lr=0.1)
    >>> checkpointer = phalanx.Checkpointer(tempfile.mkdtemp(), model=model, optimizer=optimizer, every=100)
    >>> checkpointer.resume("auto")
    >>> for _ in range(100):
    ...     checkpointer.after_step()
    >>> [path.name for path in checkpointer.store.list()]
    ['step-00000100']
    """

    block_nbytes = BLOCK_NBYTES
    """Ranks share files in blocks of this size."""

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        *,
        model: Any,
        optimizer: Any = None,
        loader: Any = None,
        every: int | None = None,
        keep: int | None = 3,
        keep_every: int | None = None,
        keep_best: int | None = None,
        mode: str = "min",
        background: bool = False,
        config: Any = None,
        state: Mapping[str, Any] | None = None,
        group: Any = None,
    ) -> None:
        if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
            raise RangeError(f"Checkpointer expects every to be None or a number of steps of at least 1, got {every!r}")
        self._group = groups.current() if group is None else group
        self._agreement = Agreement(self._group)
        self.store: Store | None = None
        if directory is not None:
            say = self._agreement.say
            self.store = Store(directory, keep=keep, keep_every=keep_every, keep_best=keep_best, mode=mode, say=say)
        self.every, self.loader, self.background = every, loader, background
        self._subject = Subject(named(model, "model"), named(optimizer, "optimizer"))
        self._config, self._state = plain(config, "config"), named_state.check(state)
        self._counted_steps = 0
        self._looked_s = 0.0
        self._saved: tuple[int, Path] | None = None
        """Step and folder of the last checkpoint that was written here."""
        self._save: Save | None = None
        """The one in the background."""
        self._behind = Behind(self._agreement)
        self._prepared = False
        self._subject.require_known_parameters()
        if self.store is not None and (listen := getattr(self._group, "listen_for_stop", None)):
            listen()

    @property
    def step(self) -> int:
        """Steps done since the start of training, those before a resume included."""
        return self._counted_steps if self.loader is None else self.loader.step

    # -- save --------------------------------------------------------------------------------------------------------

    def save(self, score: float | None = None) -> Path:
        """Save now; returns the checkpoint's folder. Raises CheckpointError on all ranks when any rank cannot.

        ``score``: what ``keep_best`` compares; that of rank 0 counts. One that is not finite is never the best.
        """
        if self.store is None:
            raise CheckpointError("save() needs a directory: this Checkpointer was made with directory=None")
        path, problem = self._save_now(self.store, score)
        if path is None:
            raise CheckpointError(problem)
        return path

    def after_step(self, score: float | None = None) -> None:
        """To be called after each ``optimizer.step()``: saves when it is time, and ends the job when it was asked to stop.

        When a save fails rank 0 says so in one line and training goes on; older checkpoints stay. With ``background`` this is
        where a save that all ranks have written becomes a checkpoint. When the job was asked to stop: raises SystemExit on all
        ranks, with 0 when the state was saved. ``score``: as for :meth:`save`.
        """
        self._counted_steps += 1
        fault_point("after-update")
        if self.store is None:
            return
        self._look_for_stop_file(self.store)
        self._prepare()
        word = self._group.stop_requested
        self._go_on(wait=bool(word))
        due = self.every is not None and self.step % self.every == 0
        if (due or word) and (self._saved is None or self._saved[0] != self.step):
            if self.background and not word:
                self._save_behind(self.store, score)
            else:
                path, problem = self._save_now(self.store, score)
                if path is None and not word:
                    self._not_saved(self.step, problem)
                elif path is None:
                    self._agreement.say(f"stopped by {word} after step {self.step}, NOT saved: {problem}")
                    raise SystemExit(1)
        if word and self._saved is not None:
            self._agreement.say(f"stopped by {word} after step {self.step}, saved in {self._saved[1]}")
            raise SystemExit(env.stop_code(os.environ))

    def _look_for_stop_file(self, store: Store) -> None:
        """A STOP that is there asks for a stop once: a job that goes on from what is saved now must not find it."""
        now = time.monotonic()
        if self._group.rank or now < self._looked_s + LOOK_S:
            return
        self._looked_s = now
        file = store.directory / STOP_FILE
        if file.exists():
            self._group.stop_heard = self._group.stop_heard or f"the file {STOP_FILE}"
            with contextlib.suppress(OSError):  # a folder that may not be written says so at the save
                file.unlink()

    def wait(self) -> Path | None:
        """Finish the save in the background, if there is one; returns the last checkpoint of this Checkpointer. Collective.

        To be called after the last step when ``background`` is on.
        """
        self._go_on(wait=True)
        return None if self._saved is None else self._saved[1]

    def _save_now(self, store: Store, score: float | None) -> tuple[Path | None, str]:
        """The new checkpoint, or None and what went wrong, equal on all ranks."""
        self._go_on(wait=True)
        with spans.span("checkpoint", "save", {"step": self.step}):
            save, problem = self._begin(store, score, background=False)
            if save is None:
                return None, problem
            save.advance(wait=True)
        if save.path is not None:
            self._saved = self.step, save.path
        return save.path, save.problem

    def _save_behind(self, store: Store, score: float | None) -> None:
        """Copy the state, and let it be written."""
        if self._save is not None:
            self._not_saved(self.step, f"that of step {self._save.step} is still being written")
            return
        with spans.span("checkpoint", "begin to save", {"step": self.step}):
            self._save, problem = self._begin(store, score, background=True)
        if self._save is None:
            self._not_saved(self.step, problem)

    def _go_on(self, *, wait: bool) -> None:
        """With the save in the background."""
        if self._save is None:
            return
        self._save.advance(wait=wait)
        if self._save.over:
            save, self._save = self._save, None
            if save.path is None:
                self._not_saved(save.step, save.problem)
            else:
                self._saved = save.step, save.path
                self._behind.committed()

    def _not_saved(self, step: int, problem: str) -> None:
        self._agreement.say(f"no checkpoint after step {step}: {problem}; training goes on")

    def _prepare(self) -> None:
        """Room for the copy, while training goes on: the state has its size after the first step."""
        if not self.background or self._prepared or self.every is None:
            return
        self._prepared = True
        layout, arrays, _ = self._laid_out()
        self._behind.prepare(portion_of(self._agreement, layout, arrays, self.block_nbytes))

    def _laid_out(self) -> tuple[Layout, dict[str, Any], dict[str, Any]]:
        """Where everything goes, the arrays on the host, and the scalars of named state."""
        scalars, arrays = named_state.take_apart(self._state)
        arrays |= self._subject.arrays() | extra_state.arrays(self._subject.models)
        arrays = {name: on_host(array) for name, array in arrays.items()}
        return plan(arrays, self._subject.frozen()), arrays, scalars

    def _begin(self, store: Store, score: float | None, *, background: bool) -> tuple[Save | None, str]:
        """A save that is under way, or None and what went wrong, equal on all ranks."""
        set_position(self._group.rank, self.step)
        fault_point("checkpoint-begin")
        layout, arrays, scalars = self._laid_out()
        own = portion_of(self._agreement, layout, arrays, self.block_nbytes)
        same: list[str] = []
        if background:
            own, same = self._behind.take(own, layout)
        started: list[Manifest] = []

        def begin() -> tuple[str, list[str]]:
            started.append(self._manifest(scalars | scalars_of(score)))
            folder = store.begin(self.step, layout)
            return str(folder), self._behind.link(store, folder, layout, same)

        told, problem = self._agreement.on_rank_0("begin", begin)
        if told is None:
            return None, problem
        folder, linked = Path(told[0]), told[1]
        own = [item for item in own if item[0].file not in linked]
        write_own = self._behind.snapshot.write if background else write_portion

        def write() -> list[Part]:
            parts = write_own(folder, own)
            fault_point("checkpoint-after-write")
            return parts

        def commit(parts: list[Part]) -> Path:
            files, tensors = complete(layout, parts + self._behind.parts_of(linked))
            manifest = replace(started[0], files=files, tensors=tensors)
            path = store.commit(folder, manifest)
            if background:
                self._behind.made(path, manifest)
            return path

        return Save(self._agreement, store, self.step, folder, write=write, commit=commit, background=background), ""

    def _manifest(self, scalars: Mapping[str, Any]) -> Manifest:
        """All but what lies in files."""
        return Manifest(
            step=self.step,
            seed=self._group.seed,
            shards=self._group.shards,
            cursor=None if self.loader is None else plain(self.loader.state_dict(), "the loader's position"),
            scalars=plain(self._subject.scalars(), "optimizer") | dict(scalars),
            config=self._config,
            fingerprint=plain(getattr(self._group, "fingerprint", {}), "fingerprint"),
        )

    # -- resume ------------------------------------------------------------------------------------------------------

    def resume(self, which: str | os.PathLike[str] = "auto", *, allow: Iterable[str] = ()) -> int | None:
        """Restore model, optimizer, position and seed in place; returns the step gone on from, None when there is nothing.

        ``which``: "auto" (the newest valid checkpoint; damaged newer ones are named and passed over), "none", or the folder
        of one checkpoint or of a run. ``allow``: what may differ from the saved run ("seed", "shards", "batch_size",
        "fingerprint", ... as the loader calls them; "state": some of it was not saved). Raises StateError when the checkpoint
        is of another model or run (with all names at once), CheckpointError when the one asked for is damaged or missing.

        After a restart by ``phalanx run --restarts`` the newest checkpoint of this run goes before what is asked for.
        """
        self._go_on(wait=True)
        path, manifest = self._after_restart(which)
        if path is None and which != "none" and (which != "auto" or self.store is not None):
            where = self.store if which == "auto" and self.store is not None else Path(which)
            path, manifest, problems = find(self._agreement, where, self.block_nbytes)
            if path is None and which != "auto":
                raise CheckpointError(f"cannot resume from {which}: {'; '.join(problems)}")
        if path is None or manifest is None:
            return None
        self._restore(path, manifest, allow=tuple(allow))
        self._agreement.say(f"resumed from step {manifest.step} ({path})")
        return manifest.step

    def _after_restart(self, which: str | os.PathLike[str]) -> tuple[Path | None, Manifest | None]:
        """What this run saved before the launcher restarted it, if it did."""
        since = env.restarted_since(os.environ)
        if since is None or which == "auto" or self.store is None:
            return None, None
        path, manifest, _ = find(self._agreement, self.store, self.block_nbytes, since)
        if path is not None:
            self._agreement.say(
                f"restarted by the launcher: going on from this run's newest checkpoint, not from {str(which)!r}"
            )
        return path, manifest

    def _restore(self, path: Path, manifest: Manifest, *, allow: tuple[str, ...]) -> None:
        self._subject.refuse_other(path, manifest)
        self._refuse_other_run(path, manifest, allow)
        if "state" not in allow:
            named_state.require_saved(self._state, manifest.scalars, path)
        if self.loader is not None:
            if manifest.cursor is None:
                raise StateError(f"checkpoint {path} was saved without a loader: it has no position to go on from")
            self.loader.load_state_dict(dict(manifest.cursor), allow=tuple(name for name in allow if name != "state"))
        self._counted_steps = manifest.step
        for name, optimizer in self._subject.optimizers.items():
            head = OPTIMIZER + dot(name)
            keys = [t.name.removeprefix(head) for t in manifest.tensors if t.name.startswith(head)]
            optimizer.prepare_state(manifest.scalars[owner(name)], keys, self._subject.names())
        self._read(path, manifest)

    def _read(self, path: Path, manifest: Manifest) -> None:
        extra = extra_state.Reading(self._subject.models, manifest.tensors, self._agreement.say)
        further = named_state.Reading(self._state, manifest.scalars, manifest.tensors)
        extras = extra.arrays | further.arrays
        arrays = self._subject.arrays() | extras  # only now: preparing state may have moved parameters into a store
        require_fit(path, (t for t in manifest.tensors if self._subject.wants(t.name) or t.name in extras), arrays)
        staged = {name: on_host(array) for name, array in arrays.items()}
        rows, problem = self._agreement.on_all_ranks("read", lambda: read(path, manifest, staged))
        if rows is not None:
            spread = [name for name, array in arrays.items() if isinstance(array, OwnPart)]
            parts = (Part(*row) for own in rows for row in own)
            problem = "; ".join(disk.compare_tensors(manifest, spread, parts))
        if problem:
            raise CheckpointError(f"checkpoint {path}: {problem}")
        for name, array in arrays.items():
            here, there = (a.array if isinstance(a, OwnPart) else a for a in (staged[name], array))
            if here is not there:
                there[...] = array_module(there).asarray(here)
        extra.finish()
        further.finish()

    def _refuse_other_run(self, path: Path, manifest: Manifest, allow: tuple[str, ...]) -> None:
        differences = [
            f"{what}={getattr(manifest, what)} there, {what}={getattr(self._group, what)} here"
            for what in ("seed", "shards")
            if getattr(manifest, what) != getattr(self._group, what) and what not in allow
        ]
        if differences:
            raise StateError(
                f"checkpoint {path} is of another run: {'; '.join(differences)}. Give phalanx.init() the saved values, or "
                'name the difference: resume(..., allow=("seed",))'
            )
        ours = plain(getattr(self._group, "fingerprint", {}), "fingerprint")
        differing = sorted(
            key for key in ours.keys() | manifest.fingerprint.keys() if ours.get(key) != manifest.fingerprint.get(key)
        )
        if differing and manifest.fingerprint:
            self._agreement.say(
                f"the checkpoint comes from another machine ({', '.join(differing)}): bits may differ from here on"
            )
