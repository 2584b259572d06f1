"""Lines of several ranks: whole, in order, marked, and folded where they are alike."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.launch.output import Folder, LineReader, Printer, Sink, from_warning, label


def printed(size, events, prefix=True, hidden=None, **options):
    """What a printer writes for (time, rank, bytes) events; ``hidden`` gets what it leaves out."""
    reading, writing = os.pipe()
    printer = Printer(Sink(writing), size, prefix, **options)
    for now, rank, data in events:
        printer.tick(now)
        printer.feed(rank, data, now)
    for rank in range(size):
        printer.close(rank, events[-1][0])
    printer.flush()
    printer.sink.finish(1.0)
    os.close(writing)
    if hidden is not None:
        hidden |= printer.hidden
    with open(reading, "rb") as file:
        return file.read().decode()


def test_equal_lines_that_come_close_together_are_folded():
    events = [(0.0, 0, b"epoch 1\n"), (0.01, 2, b"epoch 1\nmine\n"), (0.02, 1, b"epoch 1\n")]
    assert printed(3, events) == "[0-2] epoch 1\n[2] mine\n"


def test_equal_lines_that_come_apart_are_not():
    assert printed(2, [(0.0, 0, b"a\n"), (5.0, 1, b"a\n")]) == "[0] a\n[1] a\n"


def test_the_last_words_of_ranks_that_fail_alike_are_folded_though_they_come_apart():
    words = b'Traceback (most recent call last):\n  File "x", line 1\nKeyError: 1\n'
    lines = words.splitlines(keepends=True)
    events = [(0.0, 0, words), *((0.4 + number / 10, 1, line) for number, line in enumerate(lines))]
    assert printed(2, events) == "".join(f"[0-1] {line.decode()}" for line in lines)
    late = [(0.0, 0, words), (2.0, 1, words)]
    assert printed(2, late) == "".join(f"[{rank}] {line.decode()}" for rank in (0, 1) for line in lines)


def test_after_an_error_that_was_caught_lines_come_as_before():
    events = [(0.0, 0, b"Traceback (most recent call last):\nKeyError: 1\n"), (5.0, 0, b"a\n"), (5.2, 1, b"a\n")]
    assert printed(2, events).endswith("KeyError: 1\n[0] a\n[1] a\n")


def test_a_ranks_lines_keep_their_order():
    events = [(0.0, 0, b"a\nb\n"), (0.01, 1, b"b\na\n")]
    lines = printed(2, events).splitlines()
    assert [line for line in lines if "1" in line.split("]")[0]] == ["[0-1] b", "[1] a"]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([b"a", b"b", b"c"]), st.floats(0, 0.2)), max_size=40))
def test_no_line_is_lost_or_overtaken(events):
    folder, now, out = Folder(3), 0.0, []
    for rank, text, pause in events:
        now += pause
        out += folder.ready(now)
        folder.add(rank, text, now)
    out += folder.ready(now + 10)
    for rank in range(3):
        assert [text for ranks, text in out if rank in ranks] == [text for r, text, _ in events if r == rank]


def test_lines_are_put_together_from_pieces_and_the_last_one_needs_no_end():
    assert (
        printed(2, [(0.0, 0, b"he"), (1.0, 1, b"x\n"), (2.0, 0, b"llo\nunfinished")])
        == "[1] x\n[0] hello\n[0] unfinished\n"
    )


def test_of_a_progress_bar_a_file_keeps_the_last_state():
    assert printed(2, [(0.0, 0, b"\r10%"), (1.0, 0, b"\r90%"), (2.0, 0, b"\r100%\nend\r\n")]) == "[0] 100%\n[0] end\n"


def test_a_progress_bar_is_redrawn_below_other_lines_on_a_terminal():
    leader, follower = os.openpty()
    printer = Printer(Sink(follower), 2)
    printer.feed(0, b"\r10%", 0.0)
    printer.feed(1, b"hello\n", 0.0)
    printer.tick(1.0)
    printer.feed(0, b"\r20%", 1.0)
    printer.feed(0, b"\n", 2.0)
    printer.flush()
    printer.sink.finish(1.0)
    text = os.read(leader, 4096).decode()
    os.close(leader)
    os.close(follower)
    clear = "\r\x1b[K"
    assert text.replace("\r\n", "\n") == f"{clear}10%{clear}[1] hello\n{clear}10%{clear}20%{clear}[0] 20%\n"


def test_the_launchers_word_comes_after_what_was_said_before_and_lets_late_equals_fold():
    reading, writing = os.pipe()
    printer = Printer(Sink(writing), 2)
    printer.feed(0, b"dying\n", 0.0)
    printer.say("phalanx run: rank 0 ended", 0.01)
    printer.feed(1, b"dying\n", 0.05)
    printer.flush()
    printer.sink.finish(1.0)
    assert os.read(reading, 4096) == b"[0-1] dying\nphalanx run: rank 0 ended\n"
    os.close(reading)
    os.close(writing)


def test_equal_lines_are_folded_behind_others_that_are_not():
    events = [(0.0, 1, b"warning of 1\nloss is large\n"), (0.01, 0, b"begin\ninfo of 0\nloss is large\nend\n")]
    assert printed(2, events) == "[1] warning of 1\n[0] begin\n[0] info of 0\n[0-1] loss is large\n[0] end\n"


def test_of_other_ranks_lines_from_warning_on_are_printed_and_what_rank_0_says_too():
    out = b"epoch 1\nrank %d\nERROR %d\n"
    hidden = {}
    events = [(0.0, 1, out % (1, 1)), (0.01, 0, out % (0, 0)), (9.0, 1, b"epoch 1\n")]
    assert printed(2, events, whole=(0,), hidden=hidden) == "[0-1] epoch 1\n[1] ERROR 1\n[0] rank 0\n[0] ERROR 0\n"
    assert hidden == {1: 2}
    assert printed(2, events, whole=(1,)).count("[0] rank 0") == 0
    assert printed(2, events, prefix=False, whole=(0,)) == "ERROR 1\nepoch 1\nrank 0\nERROR 0\n"


@pytest.mark.parametrize(
    ("line", "stdout", "stderr"),
    [
        ("epoch 1", False, True),
        ("INFO:root:ready", False, False),
        ("2026-05-01 10:00:00,123 my.module DEBUG ready", False, False),
        ("[05/01/26 10:00:00] \x1b[34mINFO    \x1b[0m ready", False, False),
        ("2026-05-01 10:00:00.123 | WARNING  | my.module:main:12 - oh", True, True),
        ("\x1b[31mERROR\x1b[0m: oh", True, True),
        ("a.py:11: UserWarning: odd sample", False, True),
        ("Traceback (most recent call last):", False, True),
        ("node-1:77:99 [0] NCCL INFO Bootstrap", False, False),
        ("CRITICAL INFO", True, True),
        ("INFORMATION", False, True),
        ("said by a long line " + "x" * 100 + " INFO", False, True),
    ],
)
def test_levels_of_lines(line, stdout, stderr):
    assert [from_warning(line.encode(), stream) for stream in (False, True)] == [stdout, stderr]


def test_progress_bars_of_other_ranks_are_left_out():
    bar = b"\r  0%|    |\r100%|####|\n"
    assert printed(2, [(0.0, 1, bar), (0.0, 0, bar)], whole=(0,), stderr=True) == "[0] 100%|####|\n"


def test_colours_that_are_reset_at_the_end_are_no_line():
    assert printed(2, [(0.0, 0, b"a\n\n\x1b[0m"), (0.0, 1, b"\x1b[0m\n")]) == "[0] a\n[0] \n"


def test_without_a_prefix_lines_stay_as_they_are():
    assert printed(2, [(0.0, 0, b"a\n"), (0.0, 1, b"a\n")], prefix=False) == "a\na\n"


def test_a_reader_that_went_away_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    sink = Sink(writing)
    sink.put(b"x" * 100)
    sink.finish(0.1)
    sink.put(b"y")
    assert not sink.waiting
    os.close(writing)


def test_a_reader_that_stopped_blocks_nothing():
    reading, writing = os.pipe()
    sink = Sink(writing)
    sink.put(b"x" * (2 * Sink.FULL))
    sink.write_some()
    assert sink.full
    os.close(reading)
    os.close(writing)


def test_labels():
    assert [label(ranks) for ranks in ([3], [0, 1], [0, 2, 3, 4, 9])] == ["[3]", "[0-1]", "[0,2-4,9]"]


def test_a_line_reader_forgets_what_was_overwritten():
    reader = LineReader()
    for percent in range(1000):
        reader.feed(b"\r%d%%" % percent)
    assert reader.bar == b"999%" and len(reader._rest) < 20


def test_a_transient_bar_leaves_nothing_and_takes_no_other_line_along():
    bar, gone = b"\r\x1b[2Kepoch \x1b[32m3/3\x1b[0m", b"\n\x1b[?25h\r\x1b[1A\x1b[2K"
    reader = LineReader()
    assert reader.feed(b"\x1b[?25l" + bar) == [] and reader.bar == b"epoch \x1b[32m3/3\x1b[0m"
    assert reader.feed(gone) == [] and reader.bar == b""
    assert reader.feed(b"epoch done\n") == [b"epoch done"]
    assert reader.feed(b"kept\n" + bar + b"\n" + bar + gone + b"\x1b[1A\x1b[2Klast\n") == [b"kept", b"last"]
