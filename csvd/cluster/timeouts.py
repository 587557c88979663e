"""The times of the cluster, in seconds, in one place."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from csvd.errors import ConfigError

CLOCK_DRIFT: Final = 0.01
"""By how much, at most, the clock of a node runs fast or slow. Who has a lease takes it to be shorter by this, who
waits for its end takes it to be longer."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a node waits for what. The same on every node.

    Attributes:
        tick_s: how often Raft's clock is looked at; messages are handled at once, whatever this is.
        heartbeat_s: how often the leader speaks to every follower.
        election_minimum_s: a follower that has not heard its leader for this long, or up to `election_maximum_s`
            (chosen at random each time), stands for election.
        election_maximum_s: see above.
        leader_fallback_s: a leader that a majority has not answered for this long steps down.
        leader_gone_minimum_s: when the connection to the leader is closed by the other side (its process has ended),
            a follower waits only this long, or up to `leader_gone_maximum_s`, for it to come back.
        leader_gone_maximum_s: see above.
        connect_s: for a TCP connection to a peer to be made.
        handshake_s: for a peer to prove who it is.
        ping_s: how often a link on which nothing else is sent says that it is alive.
        silence_s: a link on which nothing came for this long is closed.
        redial_minimum_s: the pause before the first try to make a link again; doubled with each try.
        redial_maximum_s: the longest of these pauses.
        node_lease_s: how long a node may use a shared disk after its coordinator has last heard of it.
        node_heartbeat_s: how often a node renews that lease.
        coordinator_lease_s: how long a coordinator may act after a majority has last heard of it.
        coordinator_heartbeat_s: how often it renews that lease.
        release_s: how long a node whose lease is out may take to end what is under way, before the kernel kills it.
        settle_s: how long a node must have been up before a disk's coordinator is moved to it for balance alone.
    """

    tick_s: float = 0.01
    heartbeat_s: float = 0.1
    election_minimum_s: float = 0.8
    election_maximum_s: float = 1.6
    leader_fallback_s: float = 2.0
    leader_gone_minimum_s: float = 0.1
    leader_gone_maximum_s: float = 0.3
    connect_s: float = 1.0
    handshake_s: float = 2.0
    ping_s: float = 0.5
    silence_s: float = 3.0
    redial_minimum_s: float = 0.05
    redial_maximum_s: float = 1.0
    node_lease_s: float = 5.0
    node_heartbeat_s: float = 1.0
    coordinator_lease_s: float = 2.0
    coordinator_heartbeat_s: float = 0.4
    release_s: float = 2.0
    settle_s: float = 15.0

    def __post_init__(self) -> None:
        """Refuse times that do not fit one another.

        Raises:
            ConfigError: one is not positive, or a pair is the wrong way round.
        """
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ConfigError("is not a positive number of seconds", where=f"cluster.{field.name}")
        self._in_order("tick_s", self.tick_s, "heartbeat_s", self.heartbeat_s)
        self._in_order("three times heartbeat_s", 3 * self.heartbeat_s, "election_minimum_s", self.election_minimum_s)
        self._in_order("election_minimum_s", self.election_minimum_s, "election_maximum_s", self.election_maximum_s)
        self._in_order("heartbeat_s", self.heartbeat_s, "leader_fallback_s", self.leader_fallback_s)
        self._in_order(
            "leader_gone_minimum_s", self.leader_gone_minimum_s, "leader_gone_maximum_s", self.leader_gone_maximum_s
        )
        self._in_order("ping_s", self.ping_s, "silence_s", self.silence_s)
        self._in_order("twice node_heartbeat_s", 2 * self.node_heartbeat_s, "node_lease_s", self.node_lease_s)
        self._in_order(
            "twice coordinator_heartbeat_s",
            2 * self.coordinator_heartbeat_s,
            "coordinator_lease_s",
            self.coordinator_lease_s,
        )
        self._in_order("coordinator_lease_s", self.coordinator_lease_s, "node_lease_s", self.node_lease_s)
        self._in_order("redial_minimum_s", self.redial_minimum_s, "redial_maximum_s", self.redial_maximum_s)

    @staticmethod
    def _in_order(low_name: str, low: float, high_name: str, high: float) -> None:
        if not low < high:
            raise ConfigError(f"{low_name} ({low} s) must be less than {high_name} ({high} s)", where="cluster")
