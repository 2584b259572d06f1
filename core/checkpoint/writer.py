"""Writes pieces of files and tells their checksums: for this process, and as a script in a process of its own that has low priority.

As a script it is run by ``python -I -S writer.py CONNECTION MEMORY [FOLDER]``, two descriptors and where isal is, and imports the standard
library and that alone: it is there in 20 ms. Requests and answers are JSON, a line each. It ends when its connection does, at the latest after the block that it writes just
then; so nothing is left when the process that it writes for was killed.
"""

import contextlib
import errno
import functools
import importlib
import json
import mmap
import os
import select
import signal
import socket
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

ALIGNMENT_NBYTES = 4096
"""What Linux asks of memory, offset and length of a write past the page cache; a disk that asks for more is written through it."""
DIRECT_NBYTES = 1 << 20
"""Past the page cache goes what is at least so long: shorter ones gain nothing."""
BLOCK_NBYTES = 1 << 23
"""Checksum and write take turns over so much: a disk is at its full speed, and a reader that goes away is noticed soon."""
NICE = 10
"""A tenth of the weight of training where they share a core. 19 would be a hundredth, and a save would not end before the next one."""
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What may come to a whole process group; the training process answers them, and may want its last save written."""

NOT_PAST = (errno.EINVAL, errno.ENOTSUP)
"""What a file system says that does not write past the page cache, or not from there."""

Run = tuple[str, int, list[int], Callable[[int, int], memoryview]]
"""Consecutive pieces of a file: its name, where the first one begins, their lengths, and what gives the bytes [lo, hi) of them all, in
memory that is congruent to their place in the file modulo ``ALIGNMENT_NBYTES``.
"""


class Output:
    """A file that is there, open to be written in any order."""

    def __init__(self, path: str) -> None:
        self._through = os.open(path, os.O_WRONLY)
        self._past: int | None = None
        self._path = path
        self._may_pass = hasattr(os, "O_DIRECT")

    def write(self, data: memoryview, offset: int) -> None:
        """Past the page cache where that is possible: it costs a tenth of the processor time, and leaves training's pages alone."""
        head = min(-offset % ALIGNMENT_NBYTES, len(data))
        middle = (len(data) - head) // ALIGNMENT_NBYTES * ALIGNMENT_NBYTES
        if middle >= DIRECT_NBYTES and self._may_pass and self._write_past(data[head : head + middle], offset + head):
            write_all(self._through, data[:head], offset)
            write_all(self._through, data[head + middle :], offset + head + middle)
        else:
            write_all(self._through, data, offset)

    def _write_past(self, data: memoryview, offset: int) -> bool:
        """False where the file system, or the disk, does not do it."""
        try:
            if self._past is None:
                self._past = os.open(self._path, os.O_WRONLY | os.O_DIRECT)
            write_all(self._past, data, offset)
        except OSError as error:
            if error.errno not in NOT_PAST:
                raise
            self._may_pass = False
        return self._may_pass

    def finish(self) -> None:
        """Everything is on the disk."""
        os.fsync(self._through)

    def close(self) -> None:
        for descriptor in (self._through, self._past):
            if descriptor is not None:
                os.close(descriptor)


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):  # a write may be cut short by a signal or a full disk
        done += os.pwrite(descriptor, data[done:], offset + done)


def write_runs(folder: str, runs: Iterable[Run], go_on: Callable[[], object] = lambda: None) -> list[int]:
    """Write ``runs``, those of a file together, make them durable, and return each piece's CRC-32. Raises OSError.

    ``go_on`` is called before each block, and may raise.
    """
    found: list[int] = []
    with contextlib.ExitStack() as files, ThreadPoolExecutor(1) as helper:
        output: Output | None = None
        name = ""
        for file, offset, lengths, take in runs:
            if output is None or file != name:
                _finish(output, files)
                output, name = Output(f"{folder}/{file}"), file
                files.callback(output.close)
            found += _write_run(output, offset, lengths, take, go_on, helper)
        _finish(output, files)
    return found


def _finish(output: Output | None, files: contextlib.ExitStack) -> None:
    if output is not None:
        output.finish()
        files.close()


def _write_run(
    output: Output,
    offset: int,
    lengths: list[int],
    take: Callable[[int, int], memoryview],
    go_on: Callable[[], object],
    helper: ThreadPoolExecutor,
) -> list[int]:
    """Block by block, its checksums while it is written."""
    sums = Sums(lengths)
    for lo, hi in blocks(offset, sum(lengths)):
        go_on()
        data = take(lo, hi)
        if len(data) != hi - lo:
            raise ValueError(f"bytes [{lo}, {hi}) of a run at {offset} are not in memory: got {len(data)}")
        if len(data) < DIRECT_NBYTES:
            sums.add(data)
            output.write(data, offset + lo)
        else:
            added = helper.submit(sums.add, data)
            output.write(data, offset + lo)
            added.result()
    return sums.found


@functools.cache
def fast_crc32() -> Callable[[Any, int], int]:
    """ISA-L's, which is several times as fast, where the package isal is installed; else zlib's. They give the same."""
    try:
        fast: Callable[[Any, int], int] = importlib.import_module("isal.isal_zlib").crc32
    except ImportError:
        return zlib.crc32
    return fast


class Sums:
    """CRC-32 of pieces of these ``lengths`` that come in a row, cut anywhere.

    >>> sums = Sums([4, 5]); sums.add(memoryview(b"123412")); sums.add(memoryview(b"345"))
    >>> sums.found == [zlib.crc32(b"1234"), zlib.crc32(b"12345")]
    True
    """

    def __init__(self, lengths: list[int]) -> None:
        self.found = [0] * len(lengths)
        self._lengths, self._number, self._rest = lengths, 0, lengths[0]

    def add(self, data: memoryview) -> None:
        at = 0
        while at < len(data):
            part = min(self._rest, len(data) - at)
            self.found[self._number] = fast_crc32()(data[at : at + part], self.found[self._number])
            at, self._rest = at + part, self._rest - part
            if not self._rest and self._number + 1 < len(self._lengths):
                self._number += 1
                self._rest = self._lengths[self._number]


def blocks(offset: int, nbytes: int) -> Iterator[tuple[int, int]]:
    """Cut [0, nbytes), which lies at ``offset`` of a file, at the file's multiples of ``BLOCK_NBYTES``.

    >>> list(blocks(BLOCK_NBYTES - 10, 20))
    [(0, 10), (10, 20)]
    """
    lo = 0
    while lo < nbytes:
        hi = min(nbytes, lo + BLOCK_NBYTES - (offset + lo) % BLOCK_NBYTES)
        yield lo, hi
        lo = hi


# -- the script --------------------------------------------------------------------------------------------------------


def serve(connection: socket.socket, memory_file: int) -> None:
    """Answer requests ``{"folder", "nbytes", "runs": [[file, offset, lengths, place in memory], ...]}`` until nobody asks."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)

    def go_on() -> None:
        if poll.poll(0):
            sys.exit()

    memory: mmap.mmap | None = None
    answer: dict[str, Any]
    stream = connection.makefile("rwb")
    for line in stream:
        request = json.loads(line)
        try:
            if memory is None or len(memory) < request["nbytes"]:
                memory = mmap.mmap(memory_file, request["nbytes"], mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)
            answer = {"crcs": write_runs(request["folder"], _runs(memoryview(memory), request["runs"]), go_on)}
        except OSError as error:
            answer = {"errno": error.errno, "strerror": error.strerror, "filename": error.filename}
        except Exception:
            answer = {"error": traceback.format_exc()}
        stream.write(json.dumps(answer).encode() + b"\n")
        stream.flush()


def _runs(memory: memoryview, told: Iterable[tuple[str, int, list[int], int]]) -> Iterator[Run]:
    for file, offset, lengths, place in told:
        yield file, offset, lengths, lambda lo, hi, place=place: memory[place + lo : place + hi]  # type: ignore[misc]


def main(arguments: list[str]) -> None:
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    connection, memory_file, *folders = arguments
    sys.path += folders
    with contextlib.suppress(BrokenPipeError, ConnectionResetError), socket.socket(fileno=int(connection)) as theirs:
        serve(theirs, int(memory_file))


if __name__ == "__main__":
    main(sys.argv[1:])
