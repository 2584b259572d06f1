"""A plugin of pytest: streams wait for no event. What is right with it does not need them, or is not watched."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture(autouse=True)
def _no_event_is_waited_for(monkeypatch: pytest.MonkeyPatch, standins: None) -> None:
    stream = importlib.import_module("cupy").cuda.Stream
    monkeypatch.setattr(stream, "wait_event", lambda self, event: None)
