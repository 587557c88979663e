"""What `make load` measures, in short: many changes share writes, and leave nothing behind at any node."""

from __future__ import annotations

import pytest

from tests.cluster_load import SESSIONS, Footprint, change_register, change_reservations, grown, warm_up
from tests.integration.faults.hosts import host_cluster


@pytest.mark.timeout(600)
def test_hundreds_of_changes_share_writes_and_leave_memory_log_and_records_as_they_were() -> None:
    with host_cluster() as cluster:
        before = warm_up(cluster)
        few = change_reservations(cluster, SESSIONS[0], 30)
        many = change_reservations(cluster, SESSIONS[-1], 240)
        register = change_register(cluster, 4, 120)
        after = Footprint.of(cluster)
    assert (few.changes, many.changes, register.changes) == (30, 240, 120)
    assert many.writes is None or many.writes < many.changes / 2, "None: the office has moved"
    assert not grown(before, after)
