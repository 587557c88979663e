"""Making a cluster, and joining one, while the daemon does not run: what `csvd init` and `csvd join` do.

Both hold the node's state, and both end by giving it its identity: a node that has one is of the cluster, whole; a
crash before that leaves a node that is not, and the same command does it again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from csvd.cluster.beginning import begin_cluster, begin_joining, founding_members
from csvd.cluster.errors import ClusterError
from csvd.cluster.identity.certificate import NodeIdentity, make_cluster
from csvd.cluster.identity.files import has_identity, load_identity, store_identity
from csvd.cluster.identity.joining_files import is_joining, joining_key, store_joined
from csvd.cluster.identity.token import JoinToken
from csvd.cluster.joining import Joining
from csvd.cluster.journal import JOURNAL_NAME, Journal
from csvd.cluster.names import CLUSTER_NAME_RULE, NODE_NAME_RULE, is_cluster_name, is_node_name
from csvd.cluster.reactor import Reactor
from csvd.cluster.state_directory import StateDirectory
from csvd.cluster.timeouts import Timeouts
from csvd.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Founder:
    """The node that is to make or to join a cluster.

    Attributes:
        directory: its cluster state directory.
        node: its name.
        address: where the others find it, `host:port`.
    """

    directory: Path
    node: str
    address: str


def found_cluster(founder: Founder, cluster: str, *, now_s: float) -> NodeIdentity:
    """Make a cluster with this node as its first member; what the node had in its register stays.

    Raises:
        ConfigError: a name can not be, or the node is of a cluster already.
        JournalError: its journal is another node's, or damaged, or can not be written.
    """
    if not is_cluster_name(cluster):
        raise ConfigError(f"{cluster!r} can not be the name of a cluster", hint=f"a name is {CLUSTER_NAME_RULE}")
    _check(founder)
    identity = make_cluster(cluster, [founder.node], now_s=now_s)[founder.node]
    files = StateDirectory(founder.directory)
    try:
        _check_alone(founder)
        now_ms = int(now_s * 1000)
        members = founding_members({founder.node: founder.address}, {founder.node: [identity.fingerprint]})
        if not begin_cluster(files, founder.node, members, now_ms=now_ms):
            # It ran by itself before; that its register lacks the key and the address it will find out by itself.
            Journal(files, founder.node, now_ms=now_ms)
        store_identity(founder.directory, identity)
    finally:
        files.close()
    return identity


async def join_cluster(
    founder: Founder, token: JoinToken, *, reactor: Reactor, wall_s: Callable[[], float], timeouts: Timeouts
) -> NodeIdentity:
    """Join a cluster by a token; a node that has joined it already is left as it is.

    Raises:
        ConfigError: a name can not be, the token has expired, or the node is of another cluster.
        ClusterError: the cluster refused, or could not be reached; or this node has a state of its own.
    """
    _check(founder)
    if has_identity(founder.directory):
        identity = load_identity(founder.directory)
        if (identity.authority.fingerprint, identity.node) == (token.authority, founder.node):
            return identity
    files = StateDirectory(founder.directory)
    try:
        _check_alone(founder)
        has_asked = is_joining(founder.directory)
        if not has_asked and files.read(JOURNAL_NAME) is not None:
            raise ClusterError(
                "this node has run by itself, and what it has in its register would be lost",
                where=str(founder.directory),
                hint="make it the first node of a cluster by csvd init, or give it a new state directory",
            )
        joining = Joining(
            reactor,
            token,
            joining_key(founder.directory),
            has_asked=has_asked,
            node=founder.node,
            address=founder.address,
            wall_s=wall_s,
            timeouts=timeouts,
        )
        joined = await joining.join()
        if files.read(JOURNAL_NAME) is None:
            begin_joining(files, founder.node, now_ms=int(wall_s() * 1000))
        store_joined(founder.directory, joined.identity, joined.members)
    finally:
        files.close()
    return joined.identity


def _check(founder: Founder) -> None:
    if not is_node_name(founder.node):
        raise ConfigError(f"{founder.node!r} can not be the name of a node", hint=f"a name is {NODE_NAME_RULE}")


def _check_alone(founder: Founder) -> None:
    if has_identity(founder.directory):
        identity = load_identity(founder.directory)
        raise ConfigError(
            f"this node is {identity.node} of cluster {identity.cluster} already",
            where=os.fspath(founder.directory),
            hint="to begin anew, evict it there, and give it a new state directory",
        )
