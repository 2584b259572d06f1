"""How a rank says why it ends: once, with a traceback only where the error arose."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from phalanx.dist import excepthook
from phalanx.dist.communicators.alone import AloneCommunicator
from phalanx.dist.errors import AbortedError, MismatchError, PeerLostError
from phalanx.dist.messages import consequence


class Recorder(AloneCommunicator):
    """Writes down how the job was ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[tuple[str, int, bool]] = []
        self.others_ended: dict[int, str] = {}
        self.heard_before = False
        """Did those others end the job before this rank failed? Otherwise the messages cross."""
        self.own: dict[int, str] = {}

    def abort(self, reason: str) -> None:
        if not self.heard_before:
            self.own = {2: reason}

    def end_job(self, reason: str, code: int = 1, *, is_consequence: bool = False) -> None:
        self.ended.append((reason, code, is_consequence))

    def _ended_by(self) -> dict[int, str]:
        return self.others_ended | self.own


@pytest.fixture
def ending() -> Iterator[excepthook.Ending]:
    ending = excepthook.Ending(2, 4)
    ending.communicator = Recorder()
    yield ending


def raise_it(error: BaseException, ending: excepthook.Ending) -> None:
    try:
        raise error
    except BaseException as caught:
        ending.uncaught(type(caught), caught, caught.__traceback__)


def test_an_error_is_printed_once_with_its_traceback(
    ending: excepthook.Ending, capfd: pytest.CaptureFixture[str]
) -> None:
    raise_it(ValueError("boom"), ending)
    raise_it(AbortedError("later"), ending)
    printed = capfd.readouterr().err
    assert printed.startswith("rank 2 of 4 failed:\nTraceback (most recent call last)")
    assert printed.count("ValueError: boom") == 1
    assert "later" not in printed
    assert ending.communicator.ended == [("rank 2: ValueError: boom", 1, False)]


@pytest.mark.parametrize(
    ("error", "waits"), [(consequence("rank 1: ValueError: boom"), True), (PeerLostError("rank 2: lost rank 1"), False)]
)
def test_what_another_rank_caused_is_one_line(
    ending: excepthook.Ending, capfd: pytest.CaptureFixture[str], error: Exception, waits: bool
) -> None:
    raise_it(error, ending)
    assert capfd.readouterr().err == f"rank 2 of 4 stops: {error}\n"
    assert ending.communicator.ended[0][1:] == (1, waits)


@pytest.mark.parametrize(
    ("others", "heard_before", "traceback"),
    [([], False, True), ([3], False, True), ([0], False, False), ([0, 3], False, False), ([3], True, False)],
)
def test_of_ranks_that_notice_the_same_the_lowest_speaks(
    ending: excepthook.Ending,
    capfd: pytest.CaptureFixture[str],
    others: list[int],
    heard_before: bool,
    traceback: bool,
) -> None:
    ending.communicator.heard_before = heard_before
    ending.communicator.others_ended = dict.fromkeys(others, "rank 9: both sides")
    raise_it(MismatchError("both sides"), ending)
    assert ("Traceback" in capfd.readouterr().err) == traceback


@pytest.mark.parametrize(
    ("others", "heard_before", "traceback"),
    [
        ({}, False, True),
        ({0: "rank 0: ValueError: on rank 0 of 4"}, False, False),
        ({3: "rank 3: ValueError: on rank 3 of 4"}, True, False),
        ({3: "rank 3: ValueError: on rank 3 of 4"}, False, True),
        ({0: "rank 0: ValueError: another"}, False, True),
        ({0: "rank 0: KeyError: on rank 0 of 4"}, True, True),
    ],
)
def test_of_ranks_whose_script_fails_alike_one_speaks(
    ending: excepthook.Ending,
    capfd: pytest.CaptureFixture[str],
    others: dict[int, str],
    heard_before: bool,
    traceback: bool,
) -> None:
    ending.communicator.heard_before = heard_before
    ending.communicator.others_ended = others
    raise_it(ValueError("on rank 2 of 4"), ending)
    printed = capfd.readouterr().err
    assert ("Traceback" in printed) == traceback
    assert traceback or printed == "rank 2 of 4 stops: the same ValueError\n"


def test_a_helper_thread(ending: excepthook.Ending, capfd: pytest.CaptureFixture[str]) -> None:
    ending.install()
    try:
        for work in (lambda: 1 // 0, lambda: sys.exit(0)):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
    finally:
        ending.uninstall()
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert len(ending.communicator.ended) == 1


@pytest.mark.parametrize(("status", "code"), [(3, 3), ("wrong file", 1), (0, 0), (None, 0)])
def test_sys_exit(ending: excepthook.Ending, capfd: pytest.CaptureFixture[str], status: object, code: int) -> None:
    before = sys.exit
    ending.install()
    try:
        with pytest.raises(SystemExit):
            sys.exit(status)
        ending.at_exit()
    finally:
        ending.uninstall()
    assert sys.exit is before
    assert [c for _, c, _ in ending.communicator.ended] == ([code] if code else [])
    assert ("rank 2 of 4 ends the job" in capfd.readouterr().err) == bool(code)
