"""What the ranks print, as one stream: rank 0's lines, those of others from WARNING on, equal ones folded into one.

``LineReader`` cuts a rank's bytes into lines; ``from_warning`` tells which of them concern everybody; ``Folder`` (pure: time
comes as an argument) joins equal lines that come close together; ``Sink`` writes without ever blocking the launcher;
``Printer`` puts them together for one stream.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

FOLD_WINDOW_S = 0.1
"""How long a line waits for its equals from other ranks."""
LAST_WORDS_WINDOW_S = 1.0
"""The same from the line on that begins a rank's last words: ranks that fail alike fail at their own pace."""
_LAST_WORDS = (b"Traceback (most recent call last)", b'  File "', b"usage: ")
COLOURS = (36, 33, 32, 35, 34, 31, 96, 93, 92, 95, 94, 91)
"""Terminal colours of the ranks, in turn."""


_COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
_LEVEL = re.compile(rb"\b(?:(DEBUG|INFO)|WARN|WARNING|ERROR|CRITICAL|FATAL)\b")
_LEVEL_STANDS_WITHIN = 100
"""Characters: behind a time, a file and the logger's name."""


def from_warning(line: bytes, stderr: bool) -> bool:
    """Is this line a warning or worse? On stderr all is that does not say that it is less.

    >>> from_warning(b"WARNING:root:loss is large", stderr=False), from_warning(b"epoch 1", stderr=False)
    (True, False)
    >>> from_warning(b"2026-05-01 10:00:00 | INFO | epoch 1", stderr=True), from_warning(b"KeyError: 1", stderr=True)
    (False, True)
    """
    level = _LEVEL.search(_COLOUR.sub(b" ", line)[:_LEVEL_STANDS_WITHIN])
    return stderr if level is None else level[1] is None


class LineReader:
    """Cuts a stream of bytes into lines. A carriage return starts the line anew, as on a terminal. Without ``bars``, lines
    that redrew themselves are left out.

    >>> reader = LineReader()
    >>> reader.feed(b"one\\ntwo 10%\\rtwo 90%"), reader.bar
    ([b'one'], b'two 90%')
    >>> reader.feed(b"\\n")
    [b'two 90%']
    """

    __slots__ = ("_bars", "_rest")

    def __init__(self, bars: bool = True) -> None:
        self._rest, self._bars = b"", bars

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, without their ends."""
        text = self._rest + data
        while (taken_back := _TAKEN_BACK.sub(b"\r", text)) != text:
            text = taken_back
        *lines, self._rest = text.split(b"\n")
        if b"\r" in self._rest[:-1]:
            self._rest = b"\r" + _visible(self._rest) + (b"\r" if self._rest.endswith(b"\r") else b"")
        return [_visible(line) for line in lines if self._bars or b"\r" not in line.rstrip(b"\r")]

    @property
    def bar(self) -> bytes:
        """The unfinished line, when it is one that redraws itself (a progress bar); else nothing."""
        return _visible(self._rest) if b"\r" in self._rest else b""

    def close(self) -> list[bytes]:
        """The unfinished line at the end of the stream."""
        lines = self.feed(b"\n") if self._rest else []
        return [line for line in lines if line]


_TAKEN_BACK = re.compile(rb"[^\n]*\n(?:\x1b\[\?25h)?\r?\x1b\[1?A\x1b\[2K")
"""A finished line and the terminal's codes for "one up, erase": how a transient progress bar leaves."""
_MOVE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-ln-z]")
"""Every terminal code but colours: they move the cursor, which several ranks cannot share."""


def _visible(line: bytes) -> bytes:
    """What a terminal shows of a line that was redrawn: the part after the last carriage return."""
    return _MOVE.sub(b"", line.rstrip(b"\r").rpartition(b"\r")[2])


@dataclass(slots=True)
class _Pending:
    text: bytes
    ranks: set[int]
    due: float
    """When it is printed at the latest."""
    shown: bool = True
    """Is it printed for one of its ranks? Else it waits only for an equal one that is."""


@dataclass(slots=True)
class Folder:
    """Holds lines for a moment, in order, and joins those that several ranks print alike. ``hidden`` counts, for each rank,
    the lines that were not to be shown and found no equal that was.

    >>> folder = Folder(size=3)
    >>> folder.add(0, b"epoch 1", now=0.0); folder.add(2, b"epoch 1", now=0.01); folder.add(2, b"mine", now=0.02)
    >>> folder.ready(now=0.03), folder.ready(now=1.0)
    ([], [([0, 2], b'epoch 1'), ([2], b'mine')])
    """

    size: int
    window_s: float = FOLD_WINDOW_S
    hidden: dict[int, int] = field(default_factory=dict)
    _pending: list[_Pending] = field(default_factory=list)
    _last_words: dict[int, float] = field(default_factory=dict)

    def add(self, rank: int, text: bytes, now: float, shown: bool = True) -> None:
        """A rank's lines keep their order: a line joins an equal one that stands behind the last that the rank shares with
        others; what the rank alone said since then moves before it."""
        own: list[int] = []
        for index in reversed(range(len(self._pending))):
            entry = self._pending[index]
            if entry.ranks == {rank}:
                own.append(index)
            elif rank in entry.ranks:
                break
            elif entry.text == text and entry.ranks:
                moved = [self._pending.pop(place) for place in own]
                self._pending[index:index] = reversed(moved)
                entry.ranks.add(rank)
                entry.shown |= shown
                return
        if self.window_s and text.startswith(_LAST_WORDS):
            self._last_words[rank] = now + LAST_WORDS_WINDOW_S
        self._pending.append(_Pending(text, {rank}, max(now + self.window_s, self._last_words.get(rank, now)), shown))

    def note(self, text: bytes, now: float) -> None:
        """A line of no rank: it keeps its place among the ranks' lines."""
        self._pending.append(_Pending(text, set(), now))

    def ready(self, now: float) -> list[tuple[list[int], bytes]]:
        """Lines that are complete or have waited long enough, in order."""
        count = 0
        for entry in self._pending:
            if 0 < len(entry.ranks) < self.size and now < entry.due:
                break
            count += 1
        done, self._pending = self._pending[:count], self._pending[count:]
        for rank in (rank for entry in done if not entry.shown for rank in entry.ranks):
            self.hidden[rank] = self.hidden.get(rank, 0) + 1
        return [(sorted(entry.ranks), entry.text) for entry in done if entry.shown]

    def deadline(self) -> float | None:
        """When the next line must be printed."""
        return self._pending[0].due if self._pending else None


def not_shown(hidden: Sequence[Mapping[int, int]], logs: str | None) -> str:
    """What to say at the end of the lines that were not printed; empty when there are none.

    >>> not_shown([{1: 2, 2: 2}, {2: 1}], None)
    'not shown: 5 lines of ranks 1-2 (--tee all shows them, --logs DIR keeps them)'
    """
    count = sum(sum(lines.values()) for lines in hidden)
    if not count:
        return ""
    ranks = sorted(set().union(*hidden))
    where = f"they are in {logs}; --tee all shows them" if logs else "--tee all shows them, --logs DIR keeps them"
    who = f"rank{'s' * (len(ranks) > 1)} {label(ranks)[1:-1]}"
    return f"not shown: {count} line{'s' * (count > 1)} of {who} ({where})"


def label(ranks: Sequence[int]) -> str:
    """
    >>> label([0, 1, 2, 5, 7, 8])
    '[0-2,5,7-8]'
    """
    parts: list[list[int]] = []
    for rank in ranks:
        if parts and rank == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], rank]
        else:
            parts.append([rank])
    return "[" + ",".join("-".join(map(str, part)) for part in parts) + "]"


class Sink:
    """A descriptor written to in small pieces, only when it can take them, so that a stopped reader stops nothing else.

    A reader that went away (``| head``) is not an error of the job: what it does not want is dropped.
    """

    __slots__ = ("_closed", "_waiting", "descriptor", "terminal")

    PIECE = 4096
    """PIPE_BUF of Linux: what a pipe that polls as writable takes without blocking."""
    FULL = 1 << 20
    """Above this the ranks are not read any more until the reader catches up."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.terminal = os.isatty(descriptor)
        self._waiting = bytearray()
        self._closed = False

    def put(self, data: bytes) -> None:
        if not self._closed:
            self._waiting += data

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    @property
    def full(self) -> bool:
        return len(self._waiting) > self.FULL

    def write_some(self) -> None:
        """Write what the descriptor takes now."""
        while self._waiting and _writable(self.descriptor):
            try:
                written = os.write(self.descriptor, self._waiting[: self.PIECE])
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EBADF):
                    raise
                self._closed = True
                self._waiting.clear()
                return
            del self._waiting[:written]

    def finish(self, patience_s: float) -> None:
        """Write the rest, as long as the reader keeps reading."""
        end = time.monotonic() + patience_s
        while self._waiting and time.monotonic() < end:
            before = len(self._waiting)
            self.write_some()
            if len(self._waiting) < before:
                end = time.monotonic() + patience_s
            elif self._waiting:
                with contextlib.suppress(OSError, ValueError):
                    select.select([], [self.descriptor], [], 0.05)


def _writable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


class Printer:
    """All ranks' lines of one stream (stdout or stderr) onto one sink. Of ranks that are not in ``whole`` (None: all are)
    only lines from WARNING on are printed."""

    def __init__(
        self,
        sink: Sink,
        size: int,
        prefix: bool = True,
        colour: bool = False,
        whole: Collection[int] | None = None,
        stderr: bool = False,
    ) -> None:
        self.sink, self.size, self._prefix, self._colour = sink, size, prefix, colour
        self._whole, self._stderr = whole, stderr
        self._leader = 0
        self._folder = Folder(size)
        self.resize(size)
        self._readers: dict[int, LineReader] = {}
        self._bar = b""

    def resize(self, size: int) -> None:
        """So many ranks print from now on: equal lines of all of them need not wait for more."""
        self._folder.size, self._folder.window_s = size, FOLD_WINDOW_S if self._prefix and size > 1 else 0.0

    def follow(self, rank: int) -> None:
        """The process that was started as ``rank`` is rank 0 from now on."""
        if rank != self._leader and self._whole is not None and self._leader in self._whole:
            self._whole = {*self._whole, rank}
        self._leader = rank

    @property
    def hidden(self) -> dict[int, int]:
        """Rank -> its lines that were not printed."""
        return self._folder.hidden

    def feed(self, rank: int, data: bytes, now: float) -> None:
        """Bytes that a rank wrote."""
        if rank not in self._readers:
            self._readers[rank] = LineReader(bars=self._shows(rank))
        self._add(rank, self._readers[rank].feed(data), now)
        self.tick(now)
        if rank == self._leader and self.sink.terminal:
            self._draw(self._readers[rank].bar)

    def close(self, rank: int, now: float) -> None:
        """The rank's stream has ended: its unfinished line is printed too."""
        self._add(rank, self._readers[rank].close() if rank in self._readers else [], now)
        if rank == self._leader:
            self._draw(b"")

    def tick(self, now: float) -> None:
        """Print what has waited long enough."""
        lines = self._folder.ready(now)
        if not lines:
            return
        bar = self._bar
        self._draw(b"")
        self.sink.put(b"".join(self._marked(ranks, text) for ranks, text in lines))
        self._draw(bar)

    def say(self, text: str, now: float) -> None:
        """The launcher's own word, after everything that the ranks said before it."""
        self._folder.note(text.encode(), now)
        self.tick(now)

    def flush(self) -> None:
        self.tick(float("inf"))
        self._draw(b"")

    def deadline(self) -> float | None:
        return self._folder.deadline()

    def _add(self, rank: int, lines: Iterable[bytes], now: float) -> None:
        for line in lines:
            if not line or _COLOUR.sub(b"", line):  # colours that a library resets at its end are no line
                self._folder.add(rank, line, now, self._shows(rank) or from_warning(line, self._stderr))

    def _shows(self, rank: int) -> bool:
        return self._whole is None or rank in self._whole

    def _marked(self, ranks: Sequence[int], text: bytes) -> bytes:
        if not self._prefix or not ranks:
            return text + b"\n"
        mark = label(ranks)
        if self._colour:
            mark = f"\x1b[{COLOURS[ranks[0] % len(COLOURS)] if len(ranks) == 1 else 1}m{mark}\x1b[0m"
        return mark.encode() + b" " + text + b"\n"

    def _draw(self, bar: bytes) -> None:
        """Show rank 0's progress bar below the lines, in place of the one before."""
        if bar != self._bar:
            self.sink.put(b"\r\x1b[K" + bar)
            self._bar = bar
