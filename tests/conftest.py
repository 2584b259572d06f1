"""Tests that start jobs run one after another on each of two workers; the others fill the gaps."""

from __future__ import annotations

import pytest

JOBS = {
    "runs": ("tests/ranks/test_equal", "tests/ranks/test_kills", "tests/ranks/test_stop", "tests/ranks/test_restarts",
             "tests/ranks/test_damaged", "tests/ranks/test_training"),
    "parts": ("tests/launch/", "tests/ranks/", "tests/house/test_plain_script.py", "tests/house/test_wrong_input.py"),
}  # fmt: skip
"""Group -> beginnings of the names of its tests; the first that fits counts."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    groups: dict[str, list[pytest.Item]] = {group: [] for group in JOBS}
    others = []
    for item in items:
        group = next((g for g, beginnings in JOBS.items() if item.nodeid.startswith(beginnings)), None)
        if group is None:
            others.append(item)
        else:
            item.add_marker(pytest.mark.xdist_group(group))
            groups[group].append(item)
    items[:] = [item for group in groups.values() for item in group] + others
