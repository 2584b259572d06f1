"""The King James Bible, 4.4 MB of English text that Debian has in its package bible-kjv-text: for language models."""

from __future__ import annotations

import os
import re
import struct

from ...errors import DataError
from .. import sources
from .pictures import file_set

DEBIAN_PACKAGE = "bible-kjv-text"
DEBIAN_FOLDER = "/usr/lib"
DIGESTS = {"bible.data": "6c746c2acc8a34bfded980883ff1701a5d68934a1c853ebf88a07b978fe0ae0e"}
"""SHA-256 of the file in versions 4.38 (and, its data being of 1993, of others)."""
CLEAR, FIRST_FREE, WIDEST = 256, 257, 16
"""compress(1)'s code that empties its table, the first that it gives away, and its longest code in bits."""


class BibleText:
    """31,102 verses of the King James Bible (1611), a line each. Not a Dataset of samples: text to make tokens of.

    ``text``: all of it; ``verses``: list of (book, chapter, verse, text). ``references=True`` leaves "Ge1:1 " at the
    beginnings of lines. Sources, in order: the cache under ``root``, Debian's installed package, $PHALANX_DATA_MIRROR, the
    package fetched without root.

    >>> bible = phalanx.data.datasets.BibleText()  # doctest: +SKIP
    >>> bible.text[:31]  # doctest: +SKIP
    'In the beginning God created th'
    """

    def __init__(
        self, root: str | os.PathLike[str] | None = None, references: bool = False, download: bool = True
    ) -> None:
        files = file_set(
            "King James Bible",
            ("BibleText",),
            DIGESTS,
            root,
            download,
            local=[sources.folder(DEBIAN_FOLDER)],
            remote=[sources.debian_package(DEBIAN_PACKAGE, DEBIAN_FOLDER)],
        )
        content = files.derived("bible.txt", lambda: unpack(files.load(["bible.data"])["bible.data"]))
        lines = content.decode("ascii").splitlines()[1:]  # the first is a title
        found = [re.match(r"(\w+?)(\d+):(\d+) (.*)", line) for line in lines]
        self.verses = [(m[1], int(m[2]), int(m[3]), m[4]) for m in found if m is not None]
        if len(self.verses) != len(lines):
            raise DataError("the Bible's text has lines that are no verses: remove it from the cache")
        self.text = "".join(f"{line}\n" for line in (lines if references else (verse[3] for verse in self.verses)))

    def __len__(self) -> int:
        return len(self.text)

    def __repr__(self) -> str:
        return f"BibleText({len(self.text)} characters)"


def unpack(content: bytes) -> bytes:
    """The text in bible-kjv's file: windows of equal size, each packed by compress(1), their starts in the head."""
    if content[:2] != b"EC":
        raise DataError(f"not a file of bible-kjv: it begins with {content[:4]!r}")
    (count,) = struct.unpack_from(">I", content, 0x58)
    starts = struct.unpack_from(f">{count}I", content, 0x5C)
    return b"".join(decompress(content[lo:hi]) for lo, hi in zip(starts, [*starts[1:], len(content)], strict=True))


def decompress(packed: bytes) -> bytes:
    """What compress(1) packed with up to 16 bits, without its head of three bytes (Welch 1984).

    >>> decompress(bytes([0x61, 0xC4, 0x04, 0x0C]))
    b'abab'
    """
    table: list[bytes] = [bytes([byte]) for byte in range(256)] + [b""]
    parts: list[bytes] = []
    width, place, group, before = 9, 0, 0, b""
    while place + width <= 8 * len(packed):
        word = int.from_bytes(packed[place >> 3 : (place >> 3) + 4], "little")
        code = (word >> (place & 7)) & ((1 << width) - 1)
        place += width
        if code != CLEAR:
            part = table[code] if code < len(table) else before + before[:1]
            if before and len(table) < 1 << WIDEST:
                table.append(before + part[:1])
            parts.append(part)
            before = part
            if len(table) < 1 << width or width == WIDEST:
                continue
        # another width: codes come in eights, and what is left of the eight is padding
        place = group = group + -(-(place - group) // (8 * width)) * 8 * width
        width = 9 if code == CLEAR else width + 1
        if code == CLEAR:
            del table[FIRST_FREE:]
            before = b""
    return b"".join(parts)
