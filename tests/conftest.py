"""Tests that start jobs run one after another on one worker; the others fill the second core."""

from __future__ import annotations

import pytest

JOBS = ("tests/ranks/", "tests/launch/", "tests/house/test_plain_script.py", "tests/house/test_wrong_input.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    jobs = [item for item in items if item.nodeid.startswith(JOBS)]
    for item in jobs:
        item.add_marker(pytest.mark.xdist_group("jobs"))
    starts_jobs = set(map(id, jobs))
    items[:] = jobs + [item for item in items if id(item) not in starts_jobs]
