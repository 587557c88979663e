"""What a node is given by its configuration: refused in one clear line where it can not be."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from csvd.cluster.assembly import ClusterNode, open_node
from csvd.cluster.errors import ClusterError
from csvd.cluster.journal import JOURNAL_NAME
from csvd.cluster.names import address_of_text, text_of_address
from csvd.cluster.reactor import Reactor
from csvd.cluster.timeouts import Timeouts
from csvd.errors import ConfigError
from tests.members_at_once import make_members


def node_at(directory: Path, name: str = "n1") -> ClusterNode:
    return open_node(
        node=name,
        directory=directory,
        listen=("127.0.0.1", 7000),
        advertise="127.0.0.1:7000",
        reactor=cast(Reactor, Clock()),
    )


def stop(node: ClusterNode) -> None:
    Deferred.fromCoroutine(node.cluster.stop())


def test_a_name_that_can_not_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        node_at(tmp_path, "N1")
    assert str(caught.value) == "'N1' can not be the name of a node (a name is 1 to 63 of a-z, 0-9 and '-')"


def test_a_node_that_joined_by_another_name_is_refused(tmp_path: Path) -> None:
    make_members({"n1": tmp_path}, {"n1": ("127.0.0.1", 1)})
    with pytest.raises(ConfigError, match="the state directory is node n1's, and the configuration names n2"):
        node_at(tmp_path, "n2")
    stop(node_at(tmp_path))


def test_a_node_without_an_identity_is_alone_and_listens_nowhere(tmp_path: Path) -> None:
    node = node_at(tmp_path)
    assert (node.identity, node.admission, node.own_record) == (None, None, None)
    assert node.cluster.address is None
    stop(node)


def test_a_member_that_has_lost_its_journal_does_not_start(tmp_path: Path) -> None:
    make_members({"n1": tmp_path}, {"n1": ("127.0.0.1", 1)})
    (tmp_path / JOURNAL_NAME).unlink()
    node = node_at(tmp_path)
    failures: list[Failure] = []
    Deferred.fromCoroutine(node.cluster.start()).addErrback(failures.append)
    assert "the journal is missing" in str(failures[0].value)
    assert "join anew" in str(failures[0].value)


def test_a_node_that_is_not_started_has_a_status_and_takes_no_command(tmp_path: Path) -> None:
    opened = node_at(tmp_path)
    node = opened.cluster
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
    stop(opened)


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
        ({"heartbeat_s": 0.3}, "three times heartbeat_s"),
        ({"election_maximum_s": 0.8}, "election_minimum_s (0.8 s) must be less than election_maximum_s (0.8 s)"),
        ({"leader_fallback_s": 0.05}, "leader_fallback_s"),
        ({"silence_s": 0.1}, "ping_s"),
        ({"redial_maximum_s": 0.01}, "redial_minimum_s"),
    ],
)
def test_times_that_do_not_fit_are_refused(changes: dict[str, float], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Timeouts(**changes)
    assert line in str(caught.value)
