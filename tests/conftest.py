"""Tests that start jobs run one after another on each of two workers; the others fill the gaps."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile

import pytest

LONG = re.compile(
    r"test_mpi\.py::test_contract\[[14]\]"
    r"|test_zeromq\.py::test_contract\[(.*-)?[14](-.*)?\]"
    r"|test_zeromq\.py::test_survivors_of_a_kill_at_any_moment.*\[[2-5]\]"
    r"|test_zeromq\.py::test_a_killed_rank_is_named.*\[(0-middle|2-before|0-long before)\]"
    r"|test_kills\.py::test_survivors_stand_together\[before-reduce"
    r"|test_nothing_left\.py::test_nothing_is_left_after_a_signal_to_the_launcher\[2-130"
    r"|test_nothing_left\.py::test_ranks_may_save_and_leave.*\[10"
    r"|test_plain_script\.py::test_plain_script_learns_as_in_pytorch\[(?!mlp)"
    r"|test_benchmarks\.py::test_efficiency_ends_its_workers"
    r"|test_fault_table\.py::test_fault\[(two jobs, one is killed|rank returns from main, mpirun|rank killed, mpirun goes on"
    r"|tiny /dev/shm, mpi|rank stopped, the stall line, mpi)"
    r"|test_hosts\.py::test_(a_rank_that_stands_still|a_proxy_that_changes_nothing|mpi_ranks_of_one_host)"
    r"|test_hosts_run\.py::test_nothing_is_left_on_any_host\[15"
    r"|test_compression_jobs\.py::test_same_bits_and_resumed_elsewhere\[powersgd-mpirun"
    r"|test_zero\.py::test_equal_bits\[(adamax|radam|adagrad|adadelta|rprop|asgd|rmsprop)-"
    r"|test_optimizer_state\.py::test_resumed_elsewhere.*\[(?!adam\]|nadam|muon|by hand)"
    r"|test_watch\.py::test_a_stopped_rank_is_called_stopped\[mpi"
    r"|test_data_training\.py::test_(worker_processes_of_ranks_are_no_ranks\[run|no_worker_outlives)"
    r"|test_workers\.py::test_(what_befalls_a_worker.*\[(exit|raise|odd|sleep)|a_collate_function_crosses|persistent_workers|a_loop_inside)"
    r"|test_safetensors\.py::test_the_recipe_for_a_pickle"
    r"|test_onnx\.py::test_from_pytorch_to_onnxruntime\[ResNet18-options1"
    r"|test_predict\.py::test_ranks_share_the_samples\[run 3"
    r"|test_sync_batch_norm\.py::test_equal_bits_on_any_number_of_ranks\[(accumulated|zero-1|compressed)"
    r"|test_sync_batch_norm\.py::test_equal_ledgers_and_results_over_every_wire\[(threads|mpirun)"
    r"|test_layers_of_house\.py::test_the_checker_sees\[(?!a bare import|an arrow)"
)
"""Tests whose shorter siblings cover the same ground: only in `make test-all`."""

JOBS = {
    "runs": ("tests/ranks/test_equal", "tests/ranks/test_kills", "tests/ranks/test_stop", "tests/ranks/test_restarts",
             "tests/ranks/test_damaged", "tests/ranks/test_training", "tests/ranks/test_fault_table"),
    "parts": ("tests/launch/", "tests/ranks/", "tests/house/test_plain_script.py", "tests/house/test_wrong_input.py",
              "tests/house/test_examples.py", "tests/house/test_keras.py", "tests/house/test_plain_keras.py",
              "tests/house/test_coming_from_pytorch.py", "tests/house/test_coming_from_keras.py"),
}  # fmt: skip
"""Group -> beginnings of the names of its tests; the first that fits counts."""


def pytest_configure() -> None:
    """Jobs that fail on purpose leave their flight records here, unless a test is about these."""
    os.environ["PHALANX_TESTS_FLIGHT"] = tempfile.mkdtemp(prefix="phalanx-tests-flight-")


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["PHALANX_TESTS_FLIGHT"], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    groups: dict[str, list[pytest.Item]] = {group: [] for group in JOBS}
    others = []
    for item in items:
        if LONG.search(item.nodeid):
            item.add_marker(pytest.mark.whole)
        group = next((g for g, beginnings in JOBS.items() if item.nodeid.startswith(beginnings)), None)
        if group is None:
            others.append(item)
        else:
            item.add_marker(pytest.mark.xdist_group(group))
            groups[group].append(item)
    items[:] = [item for group in groups.values() for item in group] + others


@pytest.fixture(autouse=True)
def _alone_again():
    """A test that called ``phalanx.init()`` in this process leaves its group at the end, also when it failed."""
    yield
    group = sys.modules.get("phalanx.dist.group")
    if group is not None and group.joined() is not None:
        group.shutdown()
        sys.modules["phalanx.core.rng"].manual_seed(0)


def pytest_terminal_summary(terminalreporter) -> None:
    """What tests have to tell of a run that passed: when each job was killed, and from where it went on."""
    reports = terminalreporter.getreports("passed")
    lines = [text for report in reports for name, text in report.user_properties if name == "told"]
    if lines:
        terminalreporter.section("told")
        for line in lines:
            terminalreporter.write_line(line)
