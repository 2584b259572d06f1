"""Lines of several ranks: whole, in order, marked, and folded where they are alike."""

import os

from hypothesis import given
from hypothesis import strategies as st

from phalanx.launch.output import Folder, LineReader, Printer, Sink, label


def printed(size, events, prefix=True):
    """What a printer writes for (time, rank, bytes) events."""
    reading, writing = os.pipe()
    printer = Printer(Sink(writing), size, prefix)
    for now, rank, data in events:
        printer.tick(now)
        printer.feed(rank, data, now)
    for rank in range(size):
        printer.close(rank, events[-1][0])
    printer.flush()
    printer.sink.finish(1.0)
    os.close(writing)
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
