"""A node whose targets are served by worker processes: logins are sent on, workers die and come back, all is kept."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.daemon_rig import TARGET, DaemonNode, Daemons

OTHER = f"{TARGET}:other"
SHARING = f"{TARGET}:sharing"


@pytest.fixture
def node() -> Iterator[DaemonNode]:
    made = Daemons()
    more = (
        f'[[target]]\nname = "{OTHER}"\nportals = ["127.0.0.1:0"]\n'
        f'[[target.lun]]\nnumber = 0\ndisk = "{made.folder}/other.img"\ncreate = "16M"\n'
        f'[[target]]\nname = "{SHARING}"\nportals = ["127.0.0.1:0"]\n'
        f'[[target.lun]]\nnumber = 0\ndisk = "{made.folder}/disk.img"\nserial = "test"\n'
    )
    node = made.node(more=more)
    text = node.config.read_text().replace("[node]\n", "[node]\nworkers = 2\n").replace("[target]\n", "[[target]]\n")
    node.config.write_text(text)
    yield node.start().ready()
    made.close()


def workers(node: DaemonNode) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = node.client.request("GET", "/v1/node")["workers"]
    return found


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.interop
def test_targets_are_discovered_at_the_portal_and_served_by_their_workers(node: DaemonNode) -> None:
    listed = run("iscsi-ls", "-s", f"iscsi://{node.portal}")
    assert sorted(line for line in listed.stdout.splitlines() if line.startswith("Target:")) == sorted(
        f"Target:{name} Portal:{node.portal},1" for name in (TARGET, OTHER, SHARING)
    )
    first, second = workers(node)
    assert (first["targets"], second["targets"]) == ([TARGET, SHARING], [OTHER])
    for name in (TARGET, OTHER, SHARING):
        assert run("iscsi-inq", f"iscsi://{node.portal}/{name}/0").returncode == 0
