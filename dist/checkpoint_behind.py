"""What a save in the background needs: the copy in memory, and files that the checkpoint before it has already."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ..core.checkpoint.format import Layout, is_frozen
from ..core.checkpoint.manifest import FileEntry, Manifest, TensorEntry
from ..core.checkpoint.parts import Part, Portion, parts_of
from ..core.checkpoint.snapshot import Snapshot, room_for
from ..core.checkpoint.store import Store
from .checkpoint_agreement import Agreement
from .checkpoint_save import Task


class Behind:
    """One rank's side. Files of parameters that no optimizer trains are compared while they are copied."""

    def __init__(self, agreement: Agreement) -> None:
        self._agreement = agreement
        self.snapshot = Snapshot(agreement.say)
        self.room: Task | None = None
        """Under way: memory for the first copy."""
        self._copied = False
        """The snapshot's last copy became a checkpoint."""
        self._made: tuple[Path, Manifest] | None = None
        """On rank 0, the last checkpoint that was made of a copy."""

    def prepare(self, own: Portion) -> None:
        """Room for the copy, while training goes on."""
        nbytes = room_for(own)
        self.room = Task(lambda: self.snapshot.prepare(nbytes), "phalanx-checkpoint-room")

    def take(self, own: Portion, layout: Layout) -> tuple[Portion, list[str]]:
        """A copy of this rank's bytes, and the files that are on all ranks as in the last checkpoint. Collective."""
        if self.room is not None:
            self.room = self.room.result()
        watched = [entry.name for entry in layout.files if is_frozen(entry.name)]
        taken = self.snapshot.take(own, watched)
        same = sorted(self.snapshot.unchanged) if self._copied else []
        self._copied = False
        if not watched:
            return taken, []
        rows, _ = self._agreement.on_all_ranks("unchanged", lambda: same)
        return taken, [name for name in same if all(name in row for row in rows or ())]

    def link(self, store: Store, folder: Path, layout: Layout, same: Iterable[str]) -> list[str]:
        """Rank 0: let files of ``folder`` be those of the last checkpoint; those with which that went well."""
        if self._made is None:
            return []
        source, manifest = self._made
        return [
            name
            for name in same
            if _bare(manifest.files, manifest.tensors, name) == _bare(layout.files, layout.tensors, name)
            and store.link(source, folder, name)
        ]

    def parts_of(self, linked: Collection[str]) -> list[Part]:
        """Rank 0: the checksums of files that nobody wrote."""
        return parts_of(self._made[1], linked) if self._made else []

    def made(self, path: Path, manifest: Manifest) -> None:
        """Rank 0: of the last copy this was made."""
        self._made = path, manifest

    def committed(self) -> None:
        """All ranks: the last copy is a checkpoint now."""
        self._copied = True


def _bare(
    files: Sequence[FileEntry], tensors: Sequence[TensorEntry], name: str
) -> tuple[list[FileEntry], list[TensorEntry]]:
    """What a layout says of one file."""
    return (
        [replace(entry, checksum="") for entry in files if entry.name == name],
        [replace(entry, checksum="") for entry in tensors if entry.file == name],
    )
