"""Which checkpoint a run goes on from: the newest that all ranks together found whole."""

from __future__ import annotations

from pathlib import Path

from ..core.checkpoint.format import share
from ..core.checkpoint.manifest import Manifest, decode, encode
from ..core.checkpoint.parts import Part, compare, measure, read_manifest
from ..core.checkpoint.store import Store
from ..core.errors import CheckpointError
from .checkpoint_agreement import Agreement
from .checkpoint_names import candidates


def find(
    agreement: Agreement, where: Store | Path, block_nbytes: int, since: float = 0.0
) -> tuple[Path | None, Manifest | None, list[str]]:
    """The newest checkpoint that all ranks together found whole, and what is wrong with newer ones."""
    paths, problem = agreement.on_rank_0("list", lambda: [str(path) for path in candidates(where, since)])
    if paths is None:
        raise CheckpointError(problem)
    problems: list[str] = []
    for path in map(Path, paths):
        manifest, problem = verified(agreement, path, block_nbytes)
        if manifest is not None:
            return path, manifest, problems
        problems.append(f"checkpoint {path} is damaged: {problem}")
        last = str(path) == paths[-1]
        agreement.say(f"{problems[-1]}; {'no valid one remains' if last else 'going back to the one before it'}")
    return None, None, problems


def verified(agreement: Agreement, path: Path, block_nbytes: int) -> tuple[Manifest | None, str]:
    """The manifest when every byte is right; each rank checks its share of the bytes."""
    text, problem = agreement.on_rank_0("manifest", lambda: encode(read_manifest(path)).decode("ascii"))
    if text is None:
        return None, problem
    manifest = decode(text.encode("ascii"))
    ranges = share(manifest.files, agreement.size, block_nbytes)[agreement.rank]
    rows, problem = agreement.on_all_ranks("verify", lambda: measure(path, manifest, ranges))
    if rows is None:
        return None, problem
    problem = "; ".join(compare(manifest, (Part(*row) for parts in rows for row in parts)))
    return (None, problem) if problem else (manifest, "")
