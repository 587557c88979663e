"""The last byte of a node that is fenced is on the disk before its successor may write, whatever the node's end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.integration.fence_order import ENDINGS, run_rounds, table

ROUNDS = 10
LEASE_S = 1.0
"""Long enough for a busy machine to answer each heartbeat; docs/fencing.md has more rounds, with a shorter one."""


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_byte_of_a_fenced_node_lands_after_the_proof(ending: str, tmp_path: Path) -> None:
    takings = run_rounds(tmp_path, ending, ROUNDS, LEASE_S)
    print("\n" + table({ending: takings}))  # noqa: T201 - it is what is to be seen
    assert len(takings) == ROUNDS
    for taking in takings:
        assert taking.late == 0
        assert taking.ordered
        assert taking.status == (None if ENDINGS[ending][1] else -signal.SIGKILL)
    if ending in ("SIGSTOP", "cut off"):
        assert all(taking.refused for taking in takings), "a node that lives can not be fenced"
