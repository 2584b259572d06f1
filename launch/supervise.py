"""Watching a started job: the first failure stops the rest, signals are passed on, and the output is printed.

One thread and one loop: pipes, ended children and signals all wake the same ``poll``.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from .mpirun import untag
from .output import Printer, not_shown
from .process import TAGGED, Job, Relay, Runs, Source, signal_ranks

LAST_WORD_S = 1.0
"""After the first failure: for the others to notice, agree and print why."""
JUDGE_S = 0.25
"""From the first failure to the word about it: a rank that meets a dead one may end before the dead one is reaped."""
TERM_S = 0.5
"""From SIGTERM to SIGKILL."""
MPIRUN_TERM_S = 3.0
"""The same for mpirun, which has to remove its files."""
INTERRUPT_S = 3.0
"""From Ctrl-C to SIGTERM."""
DRAIN_S = 2.0
"""For the last output to be read after the last process has ended."""

FORWARDED = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGUSR1: signal.SIGUSR1,
    signal.SIGHUP: signal.SIGTERM,
}
"""What the launcher gets -> what the ranks get."""


HOST_LOST = 255
"""Exit code when a host is lost; ssh's own."""


class Signals:
    """Catches the launcher's signals for as long as it is entered; ``descriptor`` becomes readable when one came."""

    def __init__(self) -> None:
        self.came: deque[int] = deque()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self.descriptor, self._write = os.pipe()
        os.set_blocking(self.descriptor, False)
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (*FORWARDED, signal.SIGCHLD):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started under nohup
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self.descriptor)
        os.close(self._write)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self.came.append(number)

    def drain(self) -> None:
        """Empty the wake-up pipe."""
        try:
            while os.read(self.descriptor, 4096):
                pass
        except BlockingIOError:
            pass

    def wait(self, seconds: float) -> bool:
        """Sleep; True as soon as a signal came."""
        end = time.monotonic() + seconds
        while not self.came and (left := end - time.monotonic()) > 0:
            select.select([self.descriptor], [], [], left)
            self.drain()
        return bool(self.came)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended."""

    code: int
    words: str = ""
    """The first failure, in words; empty when all went well."""
    asked: bool = False
    """Did a signal to the launcher end it? Then it is not restarted."""
    lost: tuple[str, ...] = ()
    """Hosts that did not answer to the end."""
    final: bool = False
    """Is there no sense in a restart?"""
    replaced: int = 0
    """How many of the restarts went to single ranks of an elastic job."""


def verdict(failures: Sequence[tuple[str, int]]) -> tuple[int, str]:
    """Exit code and words for processes that ended badly close together, in the order in which they did.

    A signal is the likelier cause, an exit code the likelier consequence; of exit codes the first one counts, and all who
    ended with it are named, since the order among them says little.

    >>> verdict([("rank 0", 1), ("rank 2", -9)])
    (137, 'rank 2 was killed by SIGKILL (signal 9)')
    >>> verdict([("rank 2", 3), ("rank 0", 3)])
    (3, 'ranks 0, 2 ended with exit code 3')
    """
    code = next((code for _, code in failures if code < 0), failures[0][1])
    names = sorted((name for name, its_code in failures if its_code == code), key=lambda name: (len(name), name))
    who = names[0] if len(names) == 1 else "ranks " + ", ".join(name.removeprefix("rank ") for name in names)
    if code >= 0:
        return code, f"{who} ended with exit code {code}"
    known = {int(one): one.name for one in signal.Signals}
    verb = "was" if len(names) == 1 else "were"
    return 128 - code, f"{who} {verb} killed by {known.get(-code, 'a signal')} (signal {-code})"


class Supervisor:
    """Runs one job to its end. ``run`` may be called once, from the main thread."""

    def __init__(
        self,
        job: Job,
        printers: tuple[Printer, Printer],
        signals: Signals,
        grace_s: float,
    ) -> None:
        self._job, self._printers, self._signals, self._grace_s = job, printers, signals, grace_s
        self._running: list[Runs] = list(job.processes)
        self._relays: dict[int, Relay] = {relay.descriptor: relay for relay in job.relays}
        self._sources: dict[int, Source] = {source.descriptor: source for source in job.sources}
        self._watched: dict[int, Callable[[], None]] = {}
        """Other descriptors, and what is to be done when they become readable."""
        self._size = printers[0].size
        self._rests: dict[int, bytes] = {}
        self._steps: list[tuple[float, int]] = []
        """What will be sent to the job and when, unless it leaves before."""
        self._code, self._words, self._asked = 0, "", 0
        self._failures: list[tuple[str, int]] = []
        self._judge_at = 0.0
        self._term_s = MPIRUN_TERM_S if job.rank_names else TERM_S
        for descriptor in self._sources:
            os.set_blocking(descriptor, False)

    def run(self) -> Outcome:
        """Until every process of the job has ended."""
        while self._running:
            self._turn(self._pause(time.monotonic()))
            self._reap()
            self._obey()
            self._escalate(time.monotonic())
        if self._job.finish is not None and not self._code and not self._asked:
            self._code, self._words = self._job.finish.verdict()
            if self._words:
                self._say(self._words)
        lost = tuple(relay.name for relay in self._job.relays if relay.lost)
        return Outcome(self._code, self._words, self._asked > 0, lost)

    def drain(self) -> None:
        """Read and print what is still in the pipes, after nobody is left to write."""
        end = time.monotonic() + DRAIN_S
        while (self._sources or self._relays) and time.monotonic() < end and self._turn(0.02):
            pass
        now = time.monotonic()
        for source in list(self._sources.values()):
            self._close(source, now)
        for relay in self._job.relays:
            for rank in relay.ranks:
                for printer in self._printers:
                    printer.close(rank, now)
        for printer in self._printers:
            printer.flush()
        folder = None if self._job.logs is None else str(self._job.logs.folder)
        words = not_shown([printer.hidden for printer in self._printers], folder)
        if words:
            self._say(words)
        for printer in self._printers:
            printer.sink.finish(DRAIN_S)

    # --- one turn of the loop ---------------------------------------------------------------------------------------

    def _pause(self, now: float) -> float:
        deadlines = [printer.deadline() for printer in self._printers] + [when for when, _ in self._steps]
        if self._failures and not self._words:
            deadlines.append(self._judge_at)
        waits = [when - now for when in deadlines if when is not None]
        return max(0.0, min([1.0, *waits]))

    def _turn(self, pause_s: float) -> bool:
        """Wait for something to happen, read and print; was anything read?"""
        poll = select.poll()
        poll.register(self._signals.descriptor, select.POLLIN)
        if not any(printer.sink.full for printer in self._printers):
            for descriptor in (*self._sources, *self._relays):
                poll.register(descriptor, select.POLLIN)
        for descriptor in self._watched:
            poll.register(descriptor, select.POLLIN)
        for printer in self._printers:
            if printer.sink.waiting:
                poll.register(printer.sink.descriptor, select.POLLOUT)
        ready = {descriptor for descriptor, _ in poll.poll(1000 * pause_s)}
        if self._signals.descriptor in ready:
            self._signals.drain()
        now = time.monotonic()
        read = [source for descriptor, source in list(self._sources.items()) if descriptor in ready]
        for source in read:
            self._read(source, now)
        for descriptor in ready & self._relays.keys():
            self._relay(self._relays[descriptor], now)
        for descriptor in ready & self._watched.keys():
            self._watched[descriptor]()
        for printer in self._printers:
            printer.tick(now)
            printer.sink.write_some()
        return bool(read)

    def _read(self, source: Source, now: float) -> None:
        try:
            data = os.read(source.descriptor, 65536)
        except BlockingIOError:
            return
        printer = self._printers[source.stream]
        if not data:
            self._close(source, now)
        elif source.rank == TAGGED:
            self._read_tagged(source, data, now)
        elif source.rank < 0:
            printer.flush()
            printer.sink.put(data.replace(b"\0", b""))  # Open MPI ends its messages with one
        else:
            self._feed(source.rank, source.stream, data, now)

    def _read_tagged(self, source: Source, data: bytes, now: float) -> None:
        """Lines of all ranks in one pipe; what says no rank is mpirun's own word."""
        *lines, self._rests[source.descriptor] = (self._rests.get(source.descriptor, b"") + data).split(b"\n")
        for line in lines:
            rank, text = untag(line.replace(b"\0", b""))
            marks = self._job.finish
            kept = text if marks is None else marks.take(text)
            if kept != text and not kept:
                continue
            text = kept
            if rank is not None and rank < self._size:
                self._feed(rank, source.stream, text + b"\n", now)
            elif text.strip():
                self._printers[source.stream].say(text.decode(errors="replace"), now)

    def _relay(self, relay: Relay, now: float) -> None:
        descriptor = relay.descriptor
        for rank, stream, data in relay.read():
            self._feed(rank, stream, data, now)
        if not relay.open:
            del self._relays[descriptor]

    def _feed(self, rank: int, stream: int, data: bytes, now: float) -> None:
        if self._job.logs is not None:
            self._job.logs.write(rank, data)
        self._printers[stream].feed(rank, data, now)

    def _close(self, source: Source, now: float) -> None:
        if self._sources.pop(source.descriptor, None) is not None and source.rank >= 0:
            self._printers[source.stream].close(source.rank, now)

    # --- ends, signals, stopping --------------------------------------------------------------------------------------

    def _reap(self) -> None:
        codes = [(process, process.poll()) for process in self._running]
        self._running = [process for process, code in codes if code is None]
        self._note([(process.name, code) for process, code in codes if code], time.monotonic())

    def _note(self, failures: Sequence[tuple[str, int]], now: float) -> None:
        """Processes ended badly: the others are stopped, and what is to be said is found out."""
        if failures and not self._failures:
            self._judge_at = now + JUDGE_S
        if not self._words:
            self._failures += failures
        if failures and self._asked != signal.SIGINT:
            self._stop_within(LAST_WORD_S)
        if self._failures and not self._words and (now >= self._judge_at or not self._running):
            self._judge()

    def _judge(self) -> None:
        code, self._words = verdict(self._failures)
        lost = self._fatal()
        if lost:
            code, self._words = HOST_LOST, "; ".join(f"{relay.name}: {relay.lost}" for relay in lost)
        self._code = self._code or code
        if not self._asked:
            count = sum(process.name.startswith(("rank", "mpirun")) for process in self._running)
            stopping = f"; stopping the other {f'{count} ranks' if count > 1 else 'rank'}" if count else ""
            self._say(self._words + stopping)

    def _fatal(self) -> list[Relay]:
        """The hosts whose loss ends the job."""
        return [relay for relay in self._job.relays if relay.lost]

    def _stop_within(self, seconds: float) -> None:
        """SIGTERM after ``seconds``, SIGKILL a little later; what was already to come earlier stays."""
        now = time.monotonic()
        steps = [(now + seconds, signal.SIGTERM), (now + seconds + self._term_s, signal.SIGKILL)]
        self._steps = sorted([*self._steps, *steps])[:4] if self._steps else list(steps)

    def _obey(self) -> None:
        while self._signals.came:
            number = self._signals.came.popleft()
            if self._asked or self._failures:
                self._say(f"{signal.Signals(number).name} again: stopping at once")
                self._steps = []
                self._stop_within(0.0)
                continue
            self._asked = number
            signal_ranks(self._job, FORWARDED[signal.Signals(number)])
            if number == signal.SIGINT:
                self._code = 130
                self._say("interrupted; stopping all ranks")
                self._stop_within(INTERRUPT_S)
            else:
                name = signal.Signals(number).name
                self._say(f"{name}: passed on to all ranks; they have {self._grace_s:g} s to save and leave")
                self._steps = [(time.monotonic() + self._grace_s, signal.SIGKILL)]

    def _escalate(self, now: float) -> None:
        while self._steps and self._steps[0][0] <= now:
            _, number = self._steps.pop(0)
            for process in self._running:
                process.send(number)
            if number == signal.SIGKILL and self._job.rank_names:
                signal_ranks(self._job, number)

    def _say(self, text: str) -> None:
        self._printers[1].say(f"phalanx run: {text}", time.monotonic())
