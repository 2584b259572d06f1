"""Elastic jobs in tests: a launcher whose ranks say what they hear, and whose own words can be waited for."""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.launch.rig import DEADLINE_S, PHALANX, Started, started

SPEAKER = str(Path(__file__).with_name("elastic_speaker.py"))


class ElasticJob:
    """A running job of speakers. ``rows``: what they said, in the order in which it was read."""

    def __init__(self, job: Started, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.rows: list[dict[str, Any]] = []
        self.err = ""
        self._rest = ""
        for stream in (job.popen.stdout, job.popen.stderr):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)

    def read(self, pause_s: float = 0.0) -> None:
        out, err = self.job.popen.stdout, self.job.popen.stderr
        assert out is not None and err is not None
        for stream in select.select([out, err], [], [], pause_s)[0]:
            with contextlib.suppress(BlockingIOError):
                text = os.read(stream.fileno(), 1 << 16).decode()
                if stream is err:
                    self.err += text
                    continue
                *lines, self._rest = (self._rest + text).split("\n")
                self.rows += [json.loads(line[line.index("{") :]) for line in lines if "{" in line]

    def wait_for(self, word: str, times: int = 1) -> str:
        """Until the launcher has said ``word`` so often; what it has said."""
        self._until(lambda: self.err.count(word) >= times, word)
        return self.err

    def events(self, event: str, count: int, **words: Any) -> list[dict[str, Any]]:
        """Until so many such events have been told by ranks; all of them."""
        self._until(lambda: len(self._found(event, words)) >= count, event)
        return self._found(event, words)

    def _found(self, event: str, words: dict[str, Any]) -> list[dict[str, Any]]:
        wanted = {"event": event, **words}
        return [row for row in self.rows if all(row.get(name) == value for name, value in wanted.items())]

    def _until(self, there: Any, word: str) -> None:
        end = time.monotonic() + DEADLINE_S
        while not there():
            ended = self.job.popen.poll()
            self.read(0.02)
            assert there() or (ended is None and time.monotonic() < end), (word, ended, self.err, self.rows)

    def pid(self, rank: int) -> int:
        """Process id of the rank that the job started under this number."""

        def found() -> list[int]:
            return [row["pid"] for row in self._found("came", {"rank": rank, "newcomer": False})]

        self._until(found, f"rank {rank} came")
        return found()[0]

    def act(self) -> None:
        (self.folder / "act").touch()

    def finish(self) -> int:
        """Let all ranks end well; the launcher's exit code."""
        (self.folder / "stop").touch()
        return self.code()

    def code(self) -> int:
        """The launcher's exit code, once it has ended."""
        end = time.monotonic() + DEADLINE_S
        while self.job.popen.poll() is None:
            assert time.monotonic() < end, (self.err, self.rows)
            self.read(0.02)
        for _ in range(3):
            self.read()
        return int(self.job.popen.returncode)


@contextlib.contextmanager
def elastic(folder: Path, ranks: int, *options: str, deeds: tuple[str, ...] = (), **added: str) -> Iterator[ElasticJob]:
    """``phalanx run -n RANKS OPTIONS`` of speakers on this machine."""
    added = {"XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder)} | added
    with started(
        *PHALANX, "run", "--tee", "all", "-n", str(ranks), *options, SPEAKER, str(folder), *deeds, **added
    ) as job:
        yield ElasticJob(job, folder)
