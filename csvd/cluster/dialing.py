"""Making connections to peers: the factories that Twisted asks for, and who dials a peer again and again."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from twisted.internet.protocol import ClientFactory, Factory
from twisted.python.failure import Failure

from csvd.cluster.framing import Kind
from csvd.cluster.link import Link, LinkOwner
from csvd.cluster.reactor import DelayedCall, Reactor
from csvd.cluster.timeouts import Timeouts


class ListenFactory(Factory):
    """A factory of connections that come in."""

    noisy = False

    def __init__(self, build: Callable[[str], Link]) -> None:
        """
        Args:
            build: given the address of the host that the connection comes from.
        """
        self._build = build

    def buildProtocol(self, addr: Any) -> Link:  # noqa: N802
        """A connection has come."""
        return self._build(str(addr.host))


class DialFactory(ClientFactory):
    """A factory of one connection."""

    noisy = False

    def __init__(self, build: Callable[[], Link], failed: Callable[[str], None]) -> None:
        self._build = build
        self._failed = failed

    def buildProtocol(self, addr: object) -> Link:  # noqa: N802
        """The connection is made."""
        return self._build()

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:  # noqa: N802
        """It was not."""
        self._failed(reason.getErrorMessage())


class DialingNetwork(LinkOwner, Protocol):
    """What a dialer needs of the network that it dials for."""

    def dial(self, peer: str, owner: LinkOwner, failed: Callable[[str], None]) -> Any:
        """Begin to make the control link to a peer; gives Twisted's connector."""

    def note_trouble(self, peer: str, reason: str) -> None:
        """Remember why there is no link to a peer."""


class Knock:
    """One connection to a peer that is to dial this node and does not, to hear whether this node was evicted: members
    dial no other node, and the peer ends the connection of one that is a member."""

    def __init__(self, network: LinkOwner) -> None:
        self._network = network

    def link_up(self, link: Link) -> None:
        """It lets this node in: there is no news."""
        link.drop("there is no news")

    def link_received(self, link: Link, kind: Kind, body: bytes) -> None:
        """Nothing is heard."""

    def link_lost(self, link: Link, reason: str) -> None:
        """It has ended."""
        self._network.link_lost(link, reason)


class Dialer:
    """Makes the control link to one peer, again and again."""

    def __init__(
        self, network: DialingNetwork, peer: str, reactor: Reactor, timeouts: Timeouts, random: Random
    ) -> None:
        self._network = network
        self._peer = peer
        self._reactor = reactor
        self._timeouts = timeouts
        self._random = random
        self._pause_s = timeouts.redial_minimum_s
        self._timer: DelayedCall | None = None
        self._connector: Any = None
        self._is_stopped = False

    def start(self) -> None:
        """Dial now."""
        self._timer = None
        self._connector = self._network.dial(self._peer, self, self._failed)

    def stop(self) -> None:
        """Dial no more."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connector is not None:
            self._connector.disconnect()

    def link_up(self, link: Link) -> None:
        """The link is there: the network has it from now on, and we are told of its end."""
        self._pause_s = self._timeouts.redial_minimum_s
        self._network.link_up(link)

    def link_received(self, link: Link, kind: Kind, body: bytes) -> None:
        """A frame came."""
        self._network.link_received(link, kind, body)

    def link_lost(self, link: Link, reason: str) -> None:
        """The link is gone, or was refused."""
        self._network.link_lost(link, reason)
        self._failed(reason)

    def _failed(self, reason: str) -> None:
        if self._is_stopped:
            return
        self._network.note_trouble(self._peer, reason)
        pause_s = self._pause_s * self._random.uniform(0.8, 1.2)
        self._pause_s = min(self._pause_s * 2, self._timeouts.redial_maximum_s)
        self._timer = self._reactor.callLater(pause_s, self.start)
