"""Settings for all tests."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings

SKIPPED_BY_PEER = "left out by the peer"
"""The property of a test that says what the peer's own suite left out; it comes along from whatever process ran it."""

# No test is timed: a busy machine is no fault. CI looks at the same examples each time, so that what it says is about
# the change at hand; everybody else looks at new ones, and what fails there is kept as a test.
settings.register_profile("csvd", deadline=None, print_blob=True)
settings.register_profile("ci", settings.get_profile("csvd"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "csvd")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of more than one process, where the tests are run so."""
    from tests.scheduling import RealTimeApart

    return RealTimeApart(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What iscsi-test-cu left out by itself; pytest's own counts do not know of it."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    lines = [
        str(line)
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, line in report.user_properties
        if name == SKIPPED_BY_PEER
    ]
    if lines:
        terminalreporter.section("left out by iscsi-test-cu itself", sep="-")
        for line in dict.fromkeys(lines):
            terminalreporter.write_line(line)
