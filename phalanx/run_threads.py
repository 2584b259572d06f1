"""``phalanx run --threads``: the ranks are threads of this process, each runs the script as its own ``__main__``."""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, ModuleType, TracebackType
from typing import Any

from . import profiler
from .dist import env, processor
from .dist.communicators.base import DEFAULT_TIMEOUT_S
from .dist.communicators.threads import current_communicator, run_threads
from .dist.errors import LaunchError
from .dist.stop_signals import pass_on as pass_signals_on
from .launch.arguments import RunArguments
from .launch.logs import RankLogs
from .launch.output import FOLD_WINDOW_S, Printer, Sink, not_shown
from .launch.plan import flight_folder, names_flight_folder
from .launch.records import FlightRecords
from .launch.run import look_around, new_job_name

FLUSH_S = 5.0
"""How long the last output may wait for its reader."""


def run_in_threads(arguments: RunArguments) -> int:
    """Compile the script once and run it in ``arguments.ranks`` threads; the exit code is the first failure's.

    Everything that belongs to a rank is thread-local in phalanx. What a script changes in other modules, its working
    folder and its random numbers outside phalanx are shared by all ranks.
    """
    try:
        code, package, path = _load(arguments)
    except SyntaxError as error:
        traceback.print_exception(error.with_traceback(None))
        return 1
    sys.argv = [path, *arguments.arguments]
    sys.path.insert(0, os.getcwd() if arguments.module else os.path.dirname(os.path.abspath(path)))
    modules = [_main_module(package, path) for _ in range(arguments.ranks)]
    sys.modules["__main__"] = modules[0]

    def rank_main() -> None:
        communicator = current_communicator()
        assert communicator is not None
        try:
            with profiler.from_environment():
                exec(code, modules[communicator.rank].__dict__)
        except SystemExit as leaving:
            if leaving.code not in (None, 0):
                raise

    timeout_s = arguments.timeout_s or env.read_timeout_s(os.environ) or DEFAULT_TIMEOUT_S
    pass_signals_on()
    records = _prepare(arguments)
    exit_code = 1
    processor.fingerprint()  # imports what computes: in one of the ranks, the others' first deadline would run meanwhile
    try:
        with _marked_output(arguments):
            run_threads(rank_main, arguments.ranks, timeout_s=timeout_s)
        exit_code = 0
    except SystemExit as leaving:
        exit_code = _exit_code(leaving)
    except KeyboardInterrupt:
        print("phalanx run: interrupted; stopping all ranks", file=sys.stderr)
        exit_code = 130
    except BaseException as error:
        traceback.print_exception(error.with_traceback(_from_script(error.__traceback__, code.co_filename)))
    records.end(failed=exit_code not in (0, 130))
    return exit_code


def _prepare(arguments: RunArguments) -> FlightRecords:
    """What the launcher of processes puts into their environment goes into this one's own."""
    machine = look_around()
    records = FlightRecords(keep=names_flight_folder(arguments, machine))
    folder = flight_folder(arguments, machine, new_job_name())
    records.begin(folder)
    os.environ.update(env.write_diagnosis(folder, arguments.check_replicas, arguments.profile))
    return records


def _from_script(frames: TracebackType | None, path: str) -> TracebackType | None:
    """The traceback without our own frames before the script's first."""
    inner = frames
    while inner is not None and inner.tb_frame.f_code.co_filename != path:
        inner = inner.tb_next
    return inner or frames


def _load(arguments: RunArguments) -> tuple[CodeType, str | None, str]:
    """Code, package and path of what is to be run."""
    if not arguments.module:
        with io.open_code(os.path.abspath(arguments.script)) as file:
            return compile(file.read(), arguments.script, "exec"), None, arguments.script
    sys.path.insert(0, os.getcwd())
    name = arguments.script
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:  # a package, as in python -m
        name = f"{name}.__main__"
        spec = importlib.util.find_spec(name)
    loader: Any = spec.loader if spec else None
    code = loader.get_code(name) if hasattr(loader, "get_code") else None
    if spec is None or code is None:
        raise LaunchError(f"-m {arguments.script}: no such module")
    return code, spec.parent, spec.origin or arguments.script


def _main_module(package: str | None, path: str) -> ModuleType:
    module = ModuleType("__main__")
    module.__dict__.update(__builtins__=builtins, __file__=path, __package__=package)
    return module


def _exit_code(leaving: SystemExit) -> int:
    if isinstance(leaving.code, int):
        return leaving.code
    print(leaving.code, file=sys.stderr)
    return 1


# --- output -------------------------------------------------------------------------------------------------------


@contextmanager
def _marked_output(arguments: RunArguments) -> Iterator[None]:
    """Within, what a rank's thread prints goes through the launcher's printer, and into its log."""
    logs = RankLogs(arguments.logs) if arguments.logs else None
    if arguments.ranks == 1 and logs is None:
        yield
        return
    before = sys.stdout, sys.stderr
    lock = threading.Lock()
    streams = [_RankStream(stream, arguments, logs, lock) for stream in before]
    sys.stdout, sys.stderr = streams  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in streams:
            stream.finish()
        words = not_shown([stream.hidden for stream in streams], arguments.logs)
        if words:
            print(f"phalanx run: {words}", file=sys.stderr)
        if logs is not None:
            logs.close()


class _RankStream(io.TextIOBase):
    """stdout or stderr of all ranks: lines of the ranks' threads are marked, those of other threads pass."""

    def __init__(self, stream: Any, arguments: RunArguments, logs: RankLogs | None, lock: threading.Lock) -> None:
        self._stream, self._ranks, self._logs, self._lock = stream, arguments.ranks, logs, lock
        stream.flush()
        sink = Sink(stream.fileno())
        colour = sink.terminal and not os.environ.get("NO_COLOR")
        prefix, stderr = arguments.prefix and self._ranks > 1, stream is sys.stderr
        self._printer = Printer(sink, self._ranks, prefix, colour, arguments.tee, stderr)
        self._ended = threading.Event()
        threading.Thread(target=self._tick, name="output", daemon=True).start()

    def write(self, text: str) -> int:
        communicator = current_communicator()
        if communicator is None:
            return self._stream.write(text)
        data = text.encode(errors="replace")
        with self._lock:
            if self._logs is not None:
                self._logs.write(communicator.rank, data)
            self._printer.feed(communicator.rank, data, time.monotonic())
            self._printer.sink.write_some()
        return len(text)

    @property
    def hidden(self) -> dict[int, int]:
        return self._printer.hidden

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def _tick(self) -> None:
        while not self._ended.wait(FOLD_WINDOW_S):
            with self._lock:
                self._printer.tick(time.monotonic())
                self._printer.sink.write_some()

    def finish(self) -> None:
        """Print what is left."""
        self._ended.set()
        with self._lock:
            for rank in range(self._ranks):
                self._printer.close(rank, time.monotonic())
            self._printer.flush()
            self._printer.sink.finish(FLUSH_S)
