"""libiscsi's suite where a logical unit is that of a cluster: its families of reservations on one node, and those that
take two paths, on two nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance import suite
from tests.integration.daemon_rig import DaemonNode, Daemons
from tests.integration.shared_target import SHARED_TARGET, share
from tests.interop.cunit import FAILED, PASSED, parse_cunit
from tests.interop.programs import run

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

FAMILY_S = 240
# MultipathIO comes first, for its test of COMPARE AND WRITE expects the zeros of a new disk.
FAMILIES = (
    "MultipathIO",
    "PrinReadKeys",
    "PrinServiceactionRange",
    "PrinReportCapabilities",
    "ProutRegister",
    "ProutReserve",
    "ProutClear",
    "ProutPreempt",
    "Reserve6",
    "CompareAndWrite",
)


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[DaemonNode]]:
    daemons = Daemons()
    try:
        started = daemons.cluster(3)
        share(started, daemons.folder, 256 << 20)
        yield started
    finally:
        daemons.close()


def url(node: DaemonNode) -> str:
    return f"iscsi://{node.cluster_portal}/{SHARED_TARGET}/0"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_passes_with_its_two_sessions_at_two_nodes(nodes: list[DaemonNode], family: str) -> None:
    assert family in suite.families()
    done = run("iscsi-test-cu", "-d", "-t", f"ALL.{family}", url(nodes[0]), url(nodes[1]), timeout_s=FAMILY_S)
    outcomes = [outcome for _, outcome in parse_cunit(done.stdout).outcomes]
    assert FAILED not in outcomes, done.stdout
    assert PASSED in outcomes, done.stdout
