"""How `make test` shares the tests between two processes: one has all that waits for real daemons."""

from __future__ import annotations

from typing import Final

from xdist.scheduler import LoadScopeScheduling

IN_REAL_TIME: Final = (
    "tests/integration/",
    "tests/interop/ceph/",
    "tests/interop/guest/",
    "tests/interop/test_cluster_conformance.py",
    "tests/interop/test_iscsi_disk_outage.py",
    "tests/interop/test_load.py",
    "tests/interop/test_multipath_tgtd.py",
    "tests/interop/test_workers_recovery.py",
)
"""They run clusters, guests and daemons that are killed, and wait for what these do: one after another. All other tests
compute, or have programs work that take the time they need."""


class RealTimeApart(LoadScopeScheduling):  # type: ignore[misc]
    """One process gets what is in real time, whole; beside it, and after it, a process gets a file at a time."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "in real time" if path.startswith(IN_REAL_TIME) else path
