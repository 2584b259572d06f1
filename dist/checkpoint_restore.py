"""A training run put into the state that a manifest tells of, wherever the bytes come from: a folder, or another rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core.backend import array_module
from ..core.checkpoint import parts as disk
from ..core.checkpoint.format import plain
from ..core.checkpoint.manifest import Manifest
from ..core.checkpoint.parts import Part, read, require_fit
from ..core.errors import CheckpointError, StateError
from ..core.owned import OwnPart, on_host
from . import extra_state, named_state
from .checkpoint_agreement import Agreement
from .checkpoint_names import OPTIMIZER, dot, owner
from .checkpoint_subject import Subject

Arrays = Mapping[str, Any]
Fill = Callable[[Arrays], str]
"""Reads into the arrays (on the host, by name), and says what went wrong: equal on all ranks."""


def from_folder(agreement: Agreement, path: Path, manifest: Manifest) -> Fill:
    """Each rank reads all of what it holds. Collective."""

    def fill(staged: Arrays) -> str:
        rows, problem = agreement.on_all_ranks("read", lambda: read(path, manifest, staged))
        if rows is not None:
            spread = [name for name, array in staged.items() if isinstance(array, OwnPart)]
            problem = "; ".join(disk.compare_tensors(manifest, spread, (Part(*row) for own in rows for row in own)))
        return problem

    return fill


class Restorer:
    """What a Checkpointer holds, for going on from a manifest.

    Args:
        subject, state, loader: models and optimizers, named state, the loader or None.
        group, agreement: the ranks.
    """

    def __init__(
        self, subject: Subject, state: Mapping[str, Any], loader: Any, group: Any, agreement: Agreement
    ) -> None:
        self.subject, self.state, self.loader = subject, state, loader
        self.group, self.agreement = group, agreement

    def restore(self, where: Path | str, manifest: Manifest, fill: Fill, *, allow: tuple[str, ...] = ()) -> None:
        """``where``: how messages call what is restored."""
        self.subject.refuse_other(where, manifest)
        self._refuse_other_run(where, manifest, allow)
        if "state" not in allow:
            named_state.require_saved(self.state, manifest.scalars, where)
        if self.loader is not None:
            if manifest.cursor is None:
                raise StateError(f"checkpoint {where} was saved without a loader: it has no position to go on from")
            self.loader.load_state_dict(dict(manifest.cursor), allow=tuple(name for name in allow if name != "state"))
        for name, optimizer in self.subject.optimizers.items():
            head = OPTIMIZER + dot(name)
            keys = [t.name.removeprefix(head) for t in manifest.tensors if t.name.startswith(head)]
            optimizer.prepare_state(manifest.scalars[owner(name)], keys, self.subject.names())
        self._read(where, manifest, fill)

    def _read(self, where: Path | str, manifest: Manifest, fill: Fill) -> None:
        extra = extra_state.Reading(self.subject.models, manifest.tensors, self.agreement.say)
        further = named_state.Reading(self.state, manifest.scalars, manifest.tensors)
        extras = extra.arrays | further.arrays
        arrays = self.subject.arrays() | extras  # only now: preparing state may have moved parameters into a store
        require_fit(where, (t for t in manifest.tensors if self.subject.wants(t.name) or t.name in extras), arrays)
        staged = {name: on_host(array) for name, array in arrays.items()}
        if problem := fill(staged):
            raise CheckpointError(f"checkpoint {where}: {problem}")
        for name, array in arrays.items():
            here, there = (a.array if isinstance(a, OwnPart) else a for a in (staged[name], array))
            if here is not there:
                there[...] = array_module(there).asarray(here)
        extra.finish()
        further.finish()

    def _refuse_other_run(self, where: Path | str, manifest: Manifest, allow: tuple[str, ...]) -> None:
        differences = [
            f"{what}={getattr(manifest, what)} there, {what}={getattr(self.group, what)} here"
            for what in ("seed", "shards")
            if getattr(manifest, what) != getattr(self.group, what) and what not in allow
        ]
        if differences:
            raise StateError(
                f"checkpoint {where} is of another run: {'; '.join(differences)}. Give phalanx.init() the saved values, or "
                'name the difference: resume(..., allow=("seed",))'
            )
        ours = plain(getattr(self.group, "fingerprint", {}), "fingerprint")
        differing = sorted(
            key for key in ours.keys() | manifest.fingerprint.keys() if ours.get(key) != manifest.fingerprint.get(key)
        )
        if differing and manifest.fingerprint:
            self.agreement.say(
                f"the checkpoint comes from another machine ({', '.join(differing)}): bits may differ from here on"
            )
