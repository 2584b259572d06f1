"""The site of docs/: every page is reached, every message of an error can be looked up, commands are ones that exist."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def listing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("messages", ROOT / "docs" / "messages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_contents() -> None:
    named = set(re.findall(r"[\w]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert named == {page.name for page in PAGES}


def test_messages_can_be_looked_up(listing: ModuleType) -> None:
    """As a reader has them before him: with numbers and names where the source has braces."""
    page = listing.on_page_markdown((ROOT / "docs" / "troubleshooting.md").read_text())
    assert listing.PLACE not in page
    told = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.endswith(".py` |")]
    assert len(told) > 300
    patterns = [re.compile(re.escape(text).replace(r"\.\.\.", ".*").replace(r"\\", "")) for text in told]
    for message in (
        "--restarts -1: expected 0 or more",
        "rank 0 of 2: phalanx.init() was called twice",
        "cannot resume from /tmp/x: there is no such folder",
        "set_num_threads: with shards=8 it is one thread",
    ):
        found = any(pattern.search(message) for pattern in patterns)
        assert found == (not message.startswith("set_num_threads")), message  # a RangeError is not in these lists


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_exist(page: Path) -> None:
    """``phalanx COMMAND`` and the options of ``phalanx run``."""
    text = page.read_text()
    words = set(re.findall(r"`phalanx ([a-z]\w+)", text))
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        words |= set(re.findall(r"^phalanx ([a-z]\w+)", block, re.MULTILINE))
    known = subprocess.run(
        [sys.executable, "-m", "phalanx", "--help"], capture_output=True, text=True, cwd=ROOT, timeout=60
    ).stdout
    assert [word for word in words if not re.search(rf"\b{word}\b", known)] == []
