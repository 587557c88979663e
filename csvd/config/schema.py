"""The sections and keys of a node's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Final

from csvd.cluster.names import NODE_NAME_RULE, is_node_name
from csvd.cluster.timeouts import Timeouts
from csvd.config.sections import Key, key, table, tables
from csvd.config.targets import ISCSI_NAME, ChapSection, TargetSection
from csvd.config.values import (
    ADDRESS,
    FILE_MODE,
    NETWORK,
    PATH,
    PORTAL,
    choice,
    list_of,
    matching,
    number,
    whole,
)
from csvd.iscsi.keepalive import KEEPALIVE, Keepalive

DEFAULT_STATE_DIRECTORY: Final = "/var/lib/csvd"
DEFAULT_CLUSTER_ADDRESS: Final = "127.0.0.1:7001"
MAX_WORKERS: Final = 64
DEFAULT_METRICS_ADDRESS: Final = "127.0.0.1:9464"

_NODE_NAME: Final = matching(f"the name of a node ({NODE_NAME_RULE})", is_node_name)
_TIMES: Final = Timeouts()


def _time(name: str, doc: str) -> Key:
    """A key of csvd.cluster.timeouts, with the default that it has there."""
    default = getattr(_TIMES, name)
    return key(number(0, 3600), doc, default=default, default_words=f"{default:g}", example=f"{default:g}", off=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSection:
    """This node."""

    name: Annotated[
        str,
        key(_NODE_NAME, "The name of this node, by which it joins a cluster. It stays.", example='"node1"'),
    ]
    state_directory: Annotated[
        Path,
        key(
            PATH,
            "Where the node keeps what must outlive it: its journal, its lock, and guests. Made with mode 0700 when "
            "it is missing. Two daemons never share one.",
            default=DEFAULT_STATE_DIRECTORY,
            example='"/var/lib/csvd"',
        ),
    ]
    workers: Annotated[
        int,
        key(
            whole(0, MAX_WORKERS),
            "Processes that serve the targets; with 0 the daemon does it itself. Each target is served by one of them, "
            "targets that have a disk in common by the same one, and logins at the portals are sent on to a port of "
            "its own (login status 0101h), which firewalls have to let through. Worth it with several targets that are "
            "busy at once, on a host with two or more processors to spare. The targets of a cluster are served by the "
            "daemon itself: a node that serves them has 0 here, and one that is to have workers for targets of its own "
            "has cluster.portals = [].",
            default=0,
            example="0",
        ),
    ]
    log_level: Annotated[
        str,
        key(
            choice("debug", "info", "warn", "error"),
            "What the log on stderr tells: events of this level and above.",
            default="info",
            example='"info"',
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutsSection:
    """The times of the cluster in seconds; the same on every node."""

    tick_s: Annotated[float, _time("tick_s", "How often Raft's clock is looked at.")]
    heartbeat_s: Annotated[float, _time("heartbeat_s", "How often the leader speaks to every follower.")]
    election_minimum_s: Annotated[
        float,
        _time(
            "election_minimum_s",
            "A follower that has not heard its leader for this long, or up to election_maximum_s, chosen at random "
            "each time, stands for election. At least three heartbeats.",
        ),
    ]
    election_maximum_s: Annotated[float, _time("election_maximum_s", "See election_minimum_s.")]
    leader_fallback_s: Annotated[
        float, _time("leader_fallback_s", "A leader that a majority has not answered for this long steps down.")
    ]
    leader_gone_minimum_s: Annotated[
        float,
        _time(
            "leader_gone_minimum_s",
            "When the other side closes the connection to the leader, as it does when its process ends, a follower "
            "waits only this long, or up to leader_gone_maximum_s, before it stands for election.",
        ),
    ]
    leader_gone_maximum_s: Annotated[float, _time("leader_gone_maximum_s", "See leader_gone_minimum_s.")]
    connect_s: Annotated[float, _time("connect_s", "For a TCP connection to another node to be made.")]
    handshake_s: Annotated[float, _time("handshake_s", "For another node to prove who it is.")]
    ping_s: Annotated[float, _time("ping_s", "How often a link on which nothing else is sent says that it is alive.")]
    silence_s: Annotated[float, _time("silence_s", "A link on which nothing came for this long is closed.")]
    redial_minimum_s: Annotated[
        float, _time("redial_minimum_s", "The pause before the first try to make a link again; doubled with each try.")
    ]
    redial_maximum_s: Annotated[float, _time("redial_maximum_s", "The longest of these pauses.")]
    node_lease_s: Annotated[
        float,
        _time("node_lease_s", "How long a node may use a shared disk after its coordinator has last heard of it."),
    ]
    node_heartbeat_s: Annotated[float, _time("node_heartbeat_s", "How often a node renews its lease.")]
    coordinator_lease_s: Annotated[
        float,
        _time(
            "coordinator_lease_s",
            "How long the coordinator of a disk may act after a majority of the nodes has last heard of it.",
        ),
    ]
    coordinator_heartbeat_s: Annotated[
        float, _time("coordinator_heartbeat_s", "How often a coordinator renews its lease.")
    ]
    release_s: Annotated[
        float,
        _time(
            "release_s",
            "How long a node whose lease is out may take to end what is under way, before the kernel kills its daemon.",
        ),
    ]
    settle_s: Annotated[
        float,
        _time(
            "settle_s", "How long a node must have been up before the coordinator of a disk is moved to it for balance."
        ),
    ]

    def to_timeouts(self) -> Timeouts:
        """Give them as the cluster takes them.

        Raises:
            ConfigError: two of them do not fit one another.
        """
        return Timeouts(**{field.name: getattr(self, field.name) for field in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSection:
    """How this node takes part in its cluster. Who its members are stands in the cluster's register, not here."""

    listen: Annotated[
        str,
        key(
            ADDRESS,
            "Where a node of a cluster listens for the others. A node that is of none (csvd init and csvd join make it "
            "one of a cluster) listens nowhere.",
            default=None,
            default_words=DEFAULT_CLUSTER_ADDRESS,
            example=f'"{DEFAULT_CLUSTER_ADDRESS}"',
        ),
    ]
    advertise: Annotated[
        str | None,
        key(
            ADDRESS,
            "The address at which the other nodes find this one, where it is not that of listen: behind a translation "
            "of addresses, or when it listens on all of them.",
            default=None,
            default_words="that of listen",
            example='"10.0.0.1:7001"',
            off=True,
        ),
    ]
    portals: Annotated[
        Sequence[str],
        key(
            list_of(PORTAL, least=0),
            "Where this node serves the targets of the cluster to initiators: at most 15, each a path by itself, with "
            "a portal group tag that no other node has. On all addresses (0.0.0.0) the others tell initiators the host "
            "of this node's address in the cluster. With [] it serves none of them, and its own targets alone.",
            default=None,
            default_words="port 3260 of the address that the other nodes reach this one at",
            example='["10.0.0.1:3260", "10.0.1.1:3260"]',
            off=True,
        ),
    ]
    disk_secret_file: Annotated[
        Path | None,
        key(
            PATH,
            "The CHAP secret of the user in the URL of a shared iscsi:// disk (csvd disk add): 12 to 255 bytes, in a "
            "file of mode 0600. All such disks have the one; an image of Ceph has its keyring.",
            default=None,
            default_words="there is no CHAP",
            example='"shared.secret"',
            off=True,
        ),
    ]
    disk_initiator_name: Annotated[
        str | None,
        key(
            ISCSI_NAME,
            "What this node calls itself to the targets of shared iscsi:// disks; another name on every node.",
            default=None,
            default_words="made of the host's name",
            example='"iqn.2026-11.org.example:node1"',
            off=True,
        ),
    ]
    timeouts: Annotated[
        TimeoutsSection, table(TimeoutsSection, "How long the node waits for what, in seconds; the same on every node.")
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSection:
    """The control API, which the command line speaks to."""

    socket: Annotated[
        Path,
        key(
            PATH,
            "The Unix socket of the control API. A path of at most 107 bytes: the kernel has no room for more.",
            default=None,
            default_words="control.sock in the state directory",
            example='"/run/csvd/control.sock"',
        ),
    ]
    mode: Annotated[
        int,
        key(
            FILE_MODE,
            'Who may use it: "0600" the user of the daemon and root, "0660" its group, too. Who may can do everything.',
            default=0o600,
            default_words='"0600"',
            example='"0600"',
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestsSection:
    """Guests, and how they are migrated from here."""

    directory: Annotated[
        Path,
        key(
            PATH,
            "Where guests keep what they are made of; their memory, too, when it is not on /dev/shm.",
            default=None,
            default_words="guests in the state directory",
            example='"guests"',
            off=True,
        ),
    ]
    downtime_target_ms: Annotated[
        float,
        key(
            number(0, 3_600_000),
            "A guest is stopped for its last round when that is expected to take no longer than this.",
            default=300.0,
            default_words="300",
            example="300",
        ),
    ]
    max_rounds: Annotated[
        int, key(whole(1, 1000), "Rounds of copying before on_no_progress decides.", default=30, example="30")
    ]
    on_no_progress: Annotated[
        str,
        key(
            choice("force", "abort"),
            "What to do with a guest that writes faster than its pages are sent: stop it for longer than the target, "
            "or leave it where it is.",
            default="force",
            example='"force"',
        ),
    ]


def _silence(name: str, doc: str) -> Key:
    """A key of csvd.iscsi.keepalive, with the default that it has there."""
    default = getattr(KEEPALIVE, name)
    return key(number(0, 86400), doc, default=default, default_words=f"{default:g}", example=f"{default:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepaliveSection:
    """How long initiators may be silent, in seconds."""

    idle_s: Annotated[
        float,
        _silence("idle_s", "Silence after which an initiator is asked whether it is there, and how often it is then."),
    ]
    dead_s: Annotated[
        float,
        _silence(
            "dead_s",
            "Silence after which an initiator that does not answer, or does not read, is given up; longer than idle_s.",
        ),
    ]
    login_s: Annotated[float, _silence("login_s", "The time for a whole login.")]
    discovery_s: Annotated[float, _silence("discovery_s", "Silence after which a discovery session is ended.")]

    def to_keepalive(self) -> Keepalive:
        """Give them as the target takes them."""
        return Keepalive(self.idle_s, self.dead_s, self.login_s, self.discovery_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSection:
    """Where metrics can be asked for without the control socket."""

    listen: Annotated[
        str,
        key(
            ADDRESS,
            "Where GET /metrics is answered, to everybody who can connect there: nothing else is, and nothing is "
            "encrypted.",
            default=DEFAULT_METRICS_ADDRESS,
            example=f'"{DEFAULT_METRICS_ADDRESS}"',
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoverySection:
    """Who may ask which targets there are."""

    networks: Annotated[
        Sequence[str] | None,
        key(
            list_of(NETWORK),
            "The addresses from which it may be asked, as networks.",
            default=None,
            default_words="any",
            example='["10.0.0.0/8"]',
            off=True,
        ),
    ]
    chap: Annotated[ChapSection | None, table(ChapSection, "Demand CHAP for discovery.", is_optional=True, off=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of it, with every default in place."""

    node: Annotated[NodeSection, table(NodeSection, "This node.")]
    cluster: Annotated[
        ClusterSection,
        table(ClusterSection, "How the other nodes of its cluster reach this one."),
    ]
    control: Annotated[ControlSection, table(ControlSection, "The control API, which the command line speaks to.")]
    target: Annotated[
        Sequence[TargetSection],
        tables(
            TargetSection,
            "An iSCSI target of this node: [target] where there is one, [[target]] for each where there are several. "
            "More can be made while the node runs: csvd target create.",
            is_one_a_table=True,
        ),
    ]
    discovery: Annotated[
        DiscoverySection | None,
        table(
            DiscoverySection,
            "Who may ask this node which targets it has. Without this section CHAP is demanded for it when every "
            "target demands it, with the names and secrets of all of them. Nobody is told of a target that would not "
            "let him in.",
            is_optional=True,
            off=True,
        ),
    ]
    keepalive: Annotated[KeepaliveSection, table(KeepaliveSection, "How long initiators may be silent, in seconds.")]
    metrics: Annotated[
        MetricsSection | None,
        table(
            MetricsSection,
            "Answer GET /metrics at a TCP address, too, for Prometheus. The control socket answers it always.",
            is_optional=True,
            off=True,
        ),
    ]
    guests: Annotated[GuestsSection, table(GuestsSection, "Guests, and how they are migrated from here.")]
