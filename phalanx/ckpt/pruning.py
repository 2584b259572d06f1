"""``phalanx ckpt prune``: the policies of a Checkpointer, by hand."""

from __future__ import annotations

import argparse
import shutil

from ..core.checkpoint.parts import telling
from ..core.checkpoint.store import Store, step_name
from ..core.errors import CheckpointError
from . import finding


def prune(options: argparse.Namespace) -> int:
    """Remove what no rule keeps; a newest one that is damaged does not make older ones go."""
    if not finding.several(options.folder):
        return 0
    store = Store(
        options.folder, keep=options.keep, keep_every=options.keep_every, keep_best=options.keep_best, mode=options.mode
    )
    valid = store.newest_valid(lambda path, problem: print(f"{path.name}  damaged: {problem}"))
    if valid is None:
        raise CheckpointError(f"{options.folder} holds no valid checkpoint: nothing is removed")
    doomed = [step_name(step) for step in store.policy.doomed(store.scores())]
    if valid[0].name in doomed:
        raise CheckpointError(
            f"{valid[0].name} is the newest valid checkpoint and no rule keeps it: nothing is removed; give a larger --keep"
        )
    left = finding.leftovers(options.folder) if options.leftovers else []
    if not options.dry_run:
        store.prune()
        for path in left:
            with telling("remove", path):
                shutil.rmtree(path)
    verb = "would be removed" if options.dry_run else "removed"
    for name in [*doomed, *(path.name for path in left)]:
        print(f"{name}  {verb}")
    if not doomed and not left:
        print("nothing to remove")
    return 0
