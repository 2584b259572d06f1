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
from ..core.checkpoint.format import BLOCK_NBYTES, Layout, plain, plan
from ..core.checkpoint.manifest import Manifest
from ..core.checkpoint.parts import Part, complete, write_portion
from ..core.checkpoint.policy import scalars_of
from ..core.checkpoint.store import Store
from ..core.errors import CheckpointError, RangeError
from ..core.faults import fault_point, set_position
from ..core.owned import on_host
from ..core.void import is_void
from . import checkpoint_join as joining
from . import env, exchanges, extra_state, named_state
from . import group as groups
from .checkpoint_agreement import VOID, Agreement
from .checkpoint_behind import Behind
from .checkpoint_find import find
from .checkpoint_names import named
from .checkpoint_restore import Fill, Restorer, from_folder
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
        self._save_since: int | None = None
        """The generation of ranks that began it."""
        self._behind = Behind(self._agreement)
        self._prepared = False
        self._subject.require_known_parameters()
        self._restorer = Restorer(self._subject, self._state, loader, self._group, self._agreement)
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
        ranks, with 0 when the state was saved. ``score``: as for :meth:`save`. In a step that is void it does nothing.
        """
        if is_void():
            return
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

        def save() -> tuple[Path | None, str]:
            found, problem = self._begin(store, score, background=False)
            if found is None:
                return None, problem
            with found.dropped_with_ranks():
                found.advance(wait=True)
            return found.path, found.problem

        with spans.span("checkpoint", "save", {"step": self.step}):
            path, problem = exchanges.repeated(self._group, save) or (None, VOID)
        if path is not None:
            self._saved = self.step, path
        return path, problem

    def _save_behind(self, store: Store, score: float | None) -> None:
        """Copy the state, and let it be written."""
        if self._save is not None:
            self._not_saved(self.step, f"that of step {self._save.step} is still being written")
            return
        with spans.span("checkpoint", "begin to save", {"step": self.step}):
            begin = lambda: self._begin(store, score, background=True)  # noqa: E731
            self._save, problem = exchanges.repeated(self._group, begin) or (None, VOID)
            self._save_since = exchanges.generation(self._group)
        if self._save is None:
            self._not_saved(self.step, problem)

    def _go_on(self, *, wait: bool) -> None:
        """With the save in the background."""
        if self._save is None:
            return
        try:
            with exchanges.within(self._group, self._save_since), self._save.dropped_with_ranks():
                self._save.advance(wait=wait)
        except exchanges.Regrouped:
            self._not_saved(self._save.step, "ranks were lost or joined while it was written")
            self._save = None
            return
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

    # -- ranks that join ---------------------------------------------------------------------------------------------------

    def state_now(self) -> tuple[Manifest, Mapping[str, Any]]:
        """All that a checkpoint would hold: what it consists of, and the arrays on the host."""
        layout, arrays, scalars = self._laid_out()
        return replace(self._manifest(scalars), tensors=layout.tensors), arrays

    def take_state(
        self, manifest: Manifest, where: Path | str, fill: Fill, going_back: Agreement | None = None
    ) -> None:
        """Take what :meth:`state_now` gave on another rank, or a checkpoint; ``fill`` brings the arrays.

        ``going_back``: within a loop over the loader, which is left alone; how the ranks agree then.
        """
        loader, agreement = (self.loader, self._agreement) if going_back is None else (None, going_back)
        Restorer(self._subject, self._state, loader, self._group, agreement).restore(where, manifest, fill)
        self._counted_steps = manifest.step

    # -- resume ------------------------------------------------------------------------------------------------------

    def resume(self, which: str | os.PathLike[str] = "auto", *, allow: Iterable[str] = ()) -> int | None:
        """Restore model, optimizer, position and seed in place; returns the step gone on from, None when there is nothing.

        ``which``: "auto" (the newest valid checkpoint; damaged newer ones are named and passed over), "none", or the folder
        of one checkpoint or of a run. ``allow``: what may differ from the saved run ("seed", "shards", "batch_size",
        "fingerprint", ... as the loader calls them; "state": some of it was not saved). Raises StateError when the checkpoint
        is of another model or run (with all names at once), CheckpointError when the one asked for is damaged or missing.

        After a restart by ``phalanx run --restarts`` the newest checkpoint of this run goes before what is asked for. In a rank
        that joins an elastic job it waits for the others to come between two steps, and takes the state from them.
        """
        joining.serve(self, self._group)
        elastic = getattr(self._group, "elastic", None)
        if elastic is not None and elastic.newcomer:
            return joining.join(self, self._group)
        self._go_on(wait=True)
        return exchanges.repeated(self._group, lambda: self._resume(which, tuple(allow)))

    def _resume(self, which: str | os.PathLike[str], allow: tuple[str, ...]) -> int | None:
        path, manifest = self._after_restart(which)
        if path is None and which != "none" and (which != "auto" or self.store is not None):
            where = self.store if which == "auto" and self.store is not None else Path(which)
            path, manifest, problems = find(self._agreement, where, self.block_nbytes)
            if path is None and which != "auto":
                raise CheckpointError(f"cannot resume from {which}: {'; '.join(problems)}")
        if path is None or manifest is None:
            return None
        self._restorer.restore(path, manifest, from_folder(self._agreement, path, manifest), allow=allow)
        self._counted_steps = manifest.step
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
