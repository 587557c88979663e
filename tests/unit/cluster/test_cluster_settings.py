"""What a node is given by its configuration: refused in one clear line where it can not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.cluster.assembly import open_cluster
from csvd.cluster.cluster import Cluster
from csvd.cluster.errors import ClusterError
from csvd.cluster.names import address_of_text, text_of_address
from csvd.cluster.register_members import MAXIMUM_MEMBERS
from csvd.cluster.timeouts import Timeouts
from csvd.errors import ConfigError

MEMBERS = {"n1": ("127.0.0.1", 7000), "n2": ("127.0.0.1", 7001)}


def cluster(directory: Path, **changes: Any) -> Cluster:
    settings: dict[str, Any] = {
        "node": "n1",
        "listen": ("127.0.0.1", 7000),
        "members": MEMBERS,
        "secret": bytes(32),
        "state_directory": directory,
        "reactor": Clock(),
    }
    return open_cluster(**{**settings, **changes})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"node": "N1"}, "'N1' can not be the name of a node (a name is 1 to 63 of a-z, 0-9 and '-')"),
        ({"node": "n3"}, "n3: this node is not among the members"),
        ({"members": {"n1": ("127.0.0.1", 1), "": ("127.0.0.1", 2)}}, "'' can not be the name"),
        ({"members": {"n1": ("h", 1), **{f"m{n}": ("h", n) for n in range(MAXIMUM_MEMBERS)}}}, "more than 32"),
        ({"listen": ("", 7000)}, "no address to listen at"),
        ({"secret": b"short"}, "the secret of the cluster has 5 bytes"),
    ],
)
def test_settings_that_can_not_be_are_refused(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cluster(tmp_path, **changes)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_node_that_is_not_started_has_a_status_and_takes_no_command(tmp_path: Path) -> None:
    node = cluster(tmp_path)
    assert node.status() == {
        "node": "n1",
        "members": [],
        "coordinator": None,
        "epoch": 0,
        "is_coordinator": False,
        "leader": None,
        "term": 0,
        "commit_index": 0,
        "revision": 0,
        "guests": [],
        "failure": "",
    }
    with pytest.raises(ClusterError, match="not started"):
        node.submit({"op": "guest_read", "name": "vm"}, timeout_s=1).send(None)
    Deferred.fromCoroutine(node.stop())


@pytest.mark.parametrize(("address", "text"), [(("::1", 7000), "[::1]:7000"), (("h", 1), "h:1")])
def test_an_address_is_written_as_it_is_read(address: tuple[str, int], text: str) -> None:
    assert text_of_address(address) == text
    assert address_of_text(text) == address
    assert address_of_text("") is None


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"heartbeat_s": 0}, "cluster.heartbeat_s: is not a positive number of seconds"),
        ({"tick_s": float("nan")}, "cluster.tick_s"),
        ({"heartbeat_s": 0.2}, "three times heartbeat_s"),
        ({"election_maximum_s": 0.4}, "election_minimum_s (0.4 s) must be less than election_maximum_s (0.4 s)"),
        ({"leader_fallback_s": 0.05}, "leader_fallback_s"),
        ({"silence_s": 0.1}, "ping_s"),
        ({"redial_maximum_s": 0.01}, "redial_minimum_s"),
    ],
)
def test_times_that_do_not_fit_are_refused(changes: dict[str, float], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Timeouts(**changes)
    assert line in str(caught.value)
