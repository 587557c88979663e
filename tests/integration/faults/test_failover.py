"""What `make failover` measures, in short: a killed coordinator is followed by another soon."""

from __future__ import annotations

import pytest

from tests.failover.probes import Probes
from tests.failover.trials import Trials, run_trials
from tests.integration.faults.hosts import host_cluster

ROOM_S = 15.0
"""Many times what it takes on a machine with nothing else to do."""


@pytest.mark.timeout(200)
def test_a_change_is_acknowledged_soon_after_the_coordinator_was_killed() -> None:
    with host_cluster() as cluster:
        probes = Probes(cluster)
        try:
            trials = list(run_trials(Trials(cluster, probes), {"kill -9": 2}))
        finally:
            probes.close()
    assert all(0 < trial.change_s <= trial.every_change_s < ROOM_S for trial in trials), trials
    assert all(trial.write_stall_s < ROOM_S for trial in trials), trials
