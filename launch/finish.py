"""The ranks' own word that they have finished, for a launcher whose exit code says nothing."""

from __future__ import annotations

import re

LOST = 255


class FinishMarks:
    """Collects ``WORD RANK CODE`` of each rank.

    >>> marks = FinishMarks("word", size=2)
    >>> marks.take(b"word 0 0"), marks.take(b"other"), marks.verdict()
    (b'', b'other', (255, 'mpirun ended with exit code 0, but rank 1 did not finish: its host is lost'))
    """

    def __init__(self, word: str, size: int) -> None:
        self.word, self._size = word, size
        self._mark = re.compile(re.escape(word.encode()) + rb" (\d+) (-?\d+)\s*$")
        self._codes: dict[int, int] = {}

    def take(self, line: bytes) -> bytes:
        """What of a line is the rank's: all, or what stands before a mark."""
        found = self._mark.search(line)
        if found is None:
            return line
        self._codes[int(found[1])] = int(found[2])
        return line[: found.start()]

    def verdict(self) -> tuple[int, str]:
        """Exit code and words after mpirun has ended with 0; (0, "") when every rank has finished well."""
        bad = [(rank, code) for rank, code in sorted(self._codes.items()) if code]
        if bad:
            return bad[0][1] if bad[0][1] > 0 else 128 - bad[0][1], f"rank {bad[0][0]} ended with exit code {bad[0][1]}"
        missing = [str(rank) for rank in range(self._size) if rank not in self._codes]
        if not missing:
            return 0, ""
        several = len(missing) > 1
        who = f"rank{'s' * several} {', '.join(missing)}"
        return (
            LOST,
            f"mpirun ended with exit code 0, but {who} did not finish: {'their' if several else 'its'} host is lost",
        )
