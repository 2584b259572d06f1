"""What killed MPI jobs have left, as findings; :mod:`..dist.leftovers` finds and sweeps it."""

from __future__ import annotations

from collections.abc import Sequence

from ..dist import leftovers
from ..dist.leftovers import Leftover
from .finding import Finding, Surroundings, size_words

TOPIC = "leftovers"


def check(here: Surroundings) -> list[Finding]:
    found = list(leftovers.find())
    safe = [each for each in found if not each.kept_because]
    used = [each for each in found if each.kept_because]
    findings = []
    if safe:
        total = sum(each.nbytes for each in safe)
        findings.append(
            Finding(
                TOPIC,
                "leftovers",
                "warning",
                f"{len(safe)} left by killed MPI jobs, {size_words(total)}: {_names(safe)}",
                "no living process uses them; what lies in /dev/shm takes memory until the next job over MPI sweeps it",
                "phalanx doctor --sweep",
                {"paths": [str(each.path) for each in safe], "bytes": total},
            )
        )
    if used:
        words = "; ".join(f"{each.path} ({each.kept_because})" for each in used[:4])
        more = f" and {len(used) - 4} more" if len(used) > 4 else ""
        findings.append(
            Finding(
                TOPIC,
                "in-use",
                "ok",
                f"{len(used)} of MPI jobs that stay: {words}{more}",
                data={"paths": [str(each.path) for each in used]},
            )
        )
    return findings or [
        Finding(TOPIC, "leftovers", "ok", f"nothing of a killed MPI job in {', '.join(map(str, leftovers.places()))}")
    ]


def _names(found: Sequence[Leftover]) -> str:
    shown = ", ".join(str(each.path) for each in found[:5])
    return shown + (f" and {len(found) - 5} more" if len(found) > 5 else "")
