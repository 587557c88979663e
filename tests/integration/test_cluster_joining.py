"""A cluster as a person makes it: init, token, join with real daemons; tokens that are replayed; an evicted node."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

from csvd.cluster.framing import Kind, frame_header
from csvd.cluster.identity.certificate import self_signed
from csvd.cluster.identity.files import load_identity
from csvd.cluster.tls import node_context, tls_context
from tests.bad_peers.strangers import told
from tests.integration.daemon_rig import ROOT, TARGET, DaemonNode, Daemons, eventually, free_ports


class Hosts:
    """Hosts with a configuration each, none of them of a cluster."""

    def __init__(self, daemons: Daemons, count: int) -> None:
        self.folder = daemons.folder
        self.nodes: list[DaemonNode] = []
        for number, port in enumerate(free_ports(count), 1):
            configuration = (
                f'[node]\nname = "node{number}"\nstate_directory = "state"\n'
                f'[cluster]\nlisten = "127.0.0.1:{port}"\n'
                f'[target]\nname = "{TARGET}"\nportals = ["127.0.0.1:0"]\nportal_group_tag = {number}\n'
            )
            node = DaemonNode(f"node{number}", daemons.folder, configuration)
            daemons.nodes.append(node)
            self.nodes.append(node)

    def init(self) -> DaemonNode:
        """Make the cluster on the first host, and start its daemon."""
        first = self.nodes[0]
        made = csvd("init", "--cluster", "east", "--config", str(first.config))
        assert made.returncode == 0, made.stderr
        first.start().ready()
        eventually(lambda: (first.status() or {}).get("is_coordinator") or None)
        return first

    def token(self, *options: str) -> str:
        made = self.nodes[0].csvd("token", "create", *options)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def join(self, node: DaemonNode, token: str) -> subprocess.CompletedProcess[str]:
        return csvd("join", "-", "--config", str(node.config), stdin=token)


def csvd(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "csvd", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def links_of(node: DaemonNode) -> dict[str, str] | None:
    status = node.status()
    return None if status is None else {name: member["link"] for name, member in status["members"].items()}


def all_linked(nodes: list[DaemonNode]) -> bool | None:
    """Whether these nodes know each other, and no more, and have links."""
    wanted = {node.name for node in nodes}
    for node in nodes:
        links = links_of(node)
        if links is None or set(links) != wanted or any(link == "down" for link in links.values()):
            return None
    return True


def everything_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_three_hosts_become_a_cluster_by_commands_and_no_secret_is_where_others_can_read_it(daemons: Daemons) -> None:
    hosts = Hosts(daemons, 3)
    first, second, third = hosts.nodes
    hosts.init()
    tokens = []
    for node in (second, third):
        tokens.append(hosts.token())
        joined = hosts.join(node, tokens[-1])
        assert joined.returncode == 0, joined.stderr
        assert joined.stdout.startswith(f"this node is {node.name} of cluster east")
        again = csvd("join", "-", "--config", str(node.config), "--json", stdin=tokens[-1])
        assert json.loads(again.stdout)["node"] == node.name, "JSON and nothing else"
        node.start().ready()
        assert json.loads(first.csvd("token", "ls", "--json").stdout) == {"tokens": []}
    eventually(lambda: all_linked(hosts.nodes))
    # A change through the newest node: all of them take part.
    made = third.csvd("vm", "create", "g", "--memory", "16M", "--node", "node2")
    assert made.returncode == 0, made.stderr
    eventually(lambda: True if [guest["name"] for guest in first.client.guests()] == ["g"] else None)

    for node in hosts.nodes:
        files = everything_in(node.folder / "state" / "cluster")
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        assert not any(token[6:] in line for line in node.log for token in tokens)
        assert not any("PRIVATE KEY" in line for line in node.log)
    keys = {(node.folder / "state/cluster/identity/node.key").read_bytes() for node in hosts.nodes}
    shared = {(node.folder / "state/cluster/identity/data.key").read_bytes() for node in hosts.nodes}
    assert (len(keys), len(shared)) == (3, 1)


def test_a_node_that_is_started_again_is_still_of_its_cluster(daemons: Daemons) -> None:
    hosts = Hosts(daemons, 2)
    first = hosts.init()
    second = hosts.nodes[1]
    assert hosts.join(second, hosts.token()).returncode == 0
    second.start().ready()
    eventually(lambda: all_linked(hosts.nodes))
    for node in (second, first):
        assert node.terminate() == 0
        node.start().ready()
        eventually(lambda: all_linked(hosts.nodes))


def test_a_token_is_used_once_until_it_expires_or_is_revoked(daemons: Daemons) -> None:
    hosts = Hosts(daemons, 3)
    first = hosts.init()
    second, third = hosts.nodes[1:]
    used = hosts.token()
    assert hosts.join(second, used).returncode == 0
    revoked = hosts.token()
    (listed,) = json.loads(first.csvd("token", "ls", "--json").stdout)["tokens"]
    assert "token" not in listed
    assert first.csvd("token", "revoke", listed["id"][:12]).returncode == 0
    for token in (used, revoked):
        refused = hosts.join(third, token)
        assert refused.returncode == 1
        assert "does not let this node in" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        assert token not in refused.stderr
    words = "it shows a join token that is used, expired, revoked or of another cluster"
    eventually(lambda: True if sum(words in line for line in first.log) >= 2 else None)
    # The same node asks again with what it has: it is told the same, and stays what it is.
    again = hosts.join(second, used)
    assert again.returncode == 0, again.stderr
    third.start().ready()
    assert list(links_of(third) or {}) == ["node3"]
    running = hosts.join(third, hosts.token())
    assert running.returncode == 1
    assert "another daemon uses this state directory" in running.stderr


def test_a_join_that_was_cut_short_goes_on_by_the_same_command(daemons: Daemons) -> None:
    hosts = Hosts(daemons, 2)
    hosts.init()
    second = hosts.nodes[1]
    token = hosts.token()
    assert hosts.join(second, token).returncode == 0
    # As if the power had gone before the last step: the key is there, and nothing of what was answered.
    state = second.folder / "state" / "cluster"
    key = (state / "identity" / "node.key").read_bytes()
    shutil.move(state / "identity", state / "identity.joining")
    for path in (state / "identity.joining").iterdir():
        if path.name != "node.key":
            path.unlink()
    again = hosts.join(second, token)
    assert again.returncode == 0, again.stderr
    assert (state / "identity" / "node.key").read_bytes() == key
    second.start().ready()
    eventually(lambda: all_linked(hosts.nodes))


def test_a_node_that_ran_by_itself_keeps_what_it_has_as_the_first_of_a_cluster(daemons: Daemons) -> None:
    hosts = Hosts(daemons, 2)
    first, second = hosts.nodes
    first.start().ready()
    eventually(lambda: (first.status() or {}).get("is_coordinator") or None)
    alone = first.csvd("token", "create")
    assert alone.returncode == 1
    assert "this node is of no cluster" in alone.stderr
    assert first.csvd("vm", "create", "g", "--memory", "16M").returncode == 0
    assert first.terminate() == 0
    hosts.init()
    assert [guest["name"] for guest in first.client.guests()] == ["g"]

    def made() -> str | None:
        token = first.csvd("token", "create")
        return token.stdout if token.returncode == 0 else None

    # Its record has no address before the node has been told that it leads, and has written it.
    assert hosts.join(second, eventually(made)).returncode == 0
    second.start().ready()
    eventually(lambda: all_linked(hosts.nodes))
    eventually(lambda: True if [guest["name"] for guest in second.client.guests()] == ["g"] else None)


def test_an_evicted_node_is_cut_off_and_not_let_in_again(daemons: Daemons) -> None:
    hosts = Hosts(daemons, 3)
    first = hosts.init()
    second, third = hosts.nodes[1:]
    for node in (second, third):
        assert hosts.join(node, hosts.token()).returncode == 0
        node.start().ready()
    eventually(lambda: all_linked(hosts.nodes))
    evicted = first.csvd("node", "evict", "node3")
    assert evicted.returncode == 0, evicted.stderr
    eventually(lambda: all_linked([first, second]))
    third.kill()
    # Its key, with its certificate or without, lets nobody in any more; nor does the cluster have it back by itself.
    identity = load_identity(third.folder / "state" / "cluster")
    host, port = first.client.status()["members"]["node1"]["address"].rsplit(":", 1)
    address = (host, int(port))
    for context, refusal, answer in (
        (
            node_context(identity),
            "its certificate is not a member's: it is for node3, which was evicted",
            frame_header(Kind.EVICTED, 0),
        ),
        (
            tls_context(self_signed("node3", identity.key, now_s=time.time()), identity.key),
            "it shows a join token that is used, expired, revoked or of another cluster",
            b"",
        ),
    ):
        # For a moment after it was evicted it may still hear that it was.
        while not any(refusal in line for line in first.log):
            assert told(address, context) in (b"", answer)
    third.start().ready()
    eventually(lambda: "was evicted from the cluster" in third.client.status()["failure"] or None)
    assert any("takes no part in the cluster" in line and "evicted" in line for line in third.log)
    shown = third.csvd("status")
    assert "THIS NODE TAKES NO PART IN THE CLUSTER: node3: this node was evicted from the cluster" in shown.stdout
    assert "csvd join" in shown.stdout
    assert all_linked([first, second])
