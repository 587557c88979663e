"""The network of a node: one port that peers connect to, one control link to each peer, streams, and joins.

Of each pair of nodes the one whose name sorts first dials the other's port, and dials again, with growing pauses,
whenever the link is lost. Every node may open streams to every other. A connection whose peer does not prove that it is
a member, or one that may join, gets nothing but its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from random import Random
from typing import Any, Final

from cryptography import x509
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from csvd.cluster.admittance import Admittance, Peer
from csvd.cluster.calls import Calls, Handler
from csvd.cluster.dialing import Dialer, DialFactory, Knock, ListenFactory
from csvd.cluster.errors import ClusterError, PeerMessageError, PeerUnreachable
from csvd.cluster.framing import Kind, Purpose
from csvd.cluster.identity.certificate import NodeIdentity
from csvd.cluster.link import Link, LinkOwner
from csvd.cluster.network import Address, Fingerprints, PeerEvents
from csvd.cluster.reactor import DelayedCall, Reactor
from csvd.cluster.stream import (
    StreamHandler,
    StreamLink,
    decode_open,
    decode_refusal,
    encode_open,
    encode_refusal,
)
from csvd.cluster.timeouts import Timeouts
from csvd.cluster.tls import node_context
from csvd.errors import ConfigError, CsvdError

MAXIMUM_HALF_OPEN: Final = 64
MAXIMUM_STREAMS: Final = 256
MAXIMUM_JOINS: Final = 8
MAXIMUM_REFUSALS_LOGGED: Final = 5
JOIN_METHOD: Final = "cluster.join"
JOIN_LIFE_S: Final = 60.0
"""How long a joining node may keep its connection."""
KNOCK_S: Final = 5.0
"""Between two looks for peers that were to dial this node, and have not: one of them is asked why."""

JoinHandler = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Given the fingerprint of the key that the joining node has shown, and its parameters."""


class PeerNetwork:
    """All connections of one node to its peers.

    Args:
        identity: who this node is.
        listen: the host (an address, never all of them unless it says so) and port to accept peers at; port 0 takes a
            free one.
        reactor: the node's loop.
        timeouts: of connections, handshakes and links.
        random: spreads the times of dialing.
        wall_s: the time in seconds since 1970, by which certificates are valid or not.
        first_members: of a node that has joined and does not know the register yet: the members for as long.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        identity: NodeIdentity,
        listen: Address,
        reactor: Reactor,
        timeouts: Timeouts,
        random: Random,
        wall_s: Callable[[], float],
        first_members: Mapping[str, tuple[Address | None, Fingerprints]] | None = None,
    ) -> None:
        self.node = identity.node
        self._first_members = first_members or {}
        self._listen = listen
        self._context = node_context(identity)
        self._admittance = Admittance(self.node, identity.authority.certificate, wall_s)
        self._members: dict[str, Address | None] = {}
        self._events: PeerEvents | None = None
        self._reactor = reactor
        self._timeouts = timeouts
        self._random = random
        self._calls = Calls(self.node, reactor)
        self._join_calls = Calls(self.node, reactor, caller=lambda link: link.fingerprint)
        self._stream_handlers: dict[str, StreamHandler] = {}
        self._links: dict[str, Link] = {}
        self._troubles: dict[str, str] = {}
        self._half_open: dict[Link, str] = {}
        self._streams: set[Link] = set()
        self._joins: dict[Link, DelayedCall] = {}
        self._port: Any = None
        self._refusals = (0, 0)  # the second, and how many connections were refused in it
        self._is_stopped = False
        self._dialers: dict[str, Dialer] = {}
        self._knocking: DelayedCall | None = None
        self.on_evicted: Callable[[str], None] = lambda peer: None
        """Told of the member that says that this node is none any more."""

    @property
    def address(self) -> Address:
        """Where this node listens; the real port once it does."""
        if self._port is None:
            return self._listen
        host = self._port.getHost()
        return (host.host, host.port)

    def start(self, events: PeerEvents) -> None:
        """Listen, and dial; tell of links and of Raft's messages.

        Raises:
            ConfigError: the address can not be listened at.
        """
        self._events = events
        host, port = self._listen
        try:
            self._port = self._reactor.listenTCP(port, ListenFactory(self._arrival), interface=host)
        except CannotListenError as error:
            raise ConfigError(
                "the nodes' port can not be listened at", where=f"{host}:{port}", why=str(error.socketError)
            ) from error
        for dialer in self._dialers.values():
            dialer.start()
        self._knocking = self._reactor.callLater(KNOCK_S, self._knock)

    async def stop(self) -> None:
        """End all connections and listen no more."""
        self._is_stopped = True
        if self._knocking is not None:
            self._knocking.cancel()
            self._knocking = None
        for dialer in self._dialers.values():
            dialer.stop()
        for link in self._all_links():
            link.drop("this node is stopped")
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)

    def set_members(self, members: Mapping[str, tuple[Address | None, Fingerprints]]) -> None:
        """Have these members from now on, each with its address and the fingerprints of its keys.

        New ones are dialed, and let in. Connections of those that are gone, or whose key is, are cut at once.
        No members at all are those of a register that is not known yet.
        """
        members = members or self._first_members
        before, self._members = self._members, {node: address for node, (address, _) in members.items()}
        self._admittance.set_members({node: fingerprints for node, (_, fingerprints) in members.items()})
        if self._is_stopped:
            return
        for peer in [peer for peer in self._dialers if self._members.get(peer) != before.get(peer)]:
            self._dialers.pop(peer).stop()
        for link in self._all_links():
            if link.identity is not None and link.peer and not self._admittance.is_member(link.identity):
                link.drop("its key is not a member's any more")
                self._log.info("the connection to {peer} is cut: its key is not a member's any more", peer=link.peer)
        for peer, address in self._members.items():
            if peer > self.node and address is not None and peer not in self._dialers:
                self._dialers[peer] = Dialer(self, peer, self._reactor, self._timeouts, self._random)
                if self._port is not None:
                    self._dialers[peer].start()
        self._troubles = {peer: trouble for peer, trouble in self._troubles.items() if peer in members}

    def set_identity(self, identity: NodeIdentity) -> None:
        """Show this certificate of this node from now on, on connections that are made after this."""
        self._context = node_context(identity)

    @property
    def shows_old(self) -> bool:
        """Whether there is a connection on which an earlier certificate of this node was shown."""
        return any(link.context is not self._context for link in self._all_links())

    def renew_links(self) -> None:
        """Make anew the control links on which an earlier certificate was shown; streams go on to their end."""
        for link in [*self._links.values()]:
            if link.context is not self._context:
                link.drop("the certificate of this node was renewed")

    def tell_evicted(self, is_evicted: Callable[[str], bool]) -> None:
        """Tell nodes that were members why they are not let in, and nothing else.

        Args:
            is_evicted: whether a fingerprint was that of a member which was removed.
        """
        self._admittance.is_evicted = is_evicted

    def serve_joins(self, is_token: Callable[[str], bool], handler: JoinHandler) -> None:
        """Let in nodes that join, to ask for nothing but that.

        Args:
            is_token: whether a fingerprint is that of a token that can be used now.
            handler: answers a joining node.
        """
        self._admittance.is_token = is_token
        self._join_calls.serve(JOIN_METHOD, handler)

    def link_to(self, peer: str) -> Callable[[bytes], None] | None:
        """How to send a message of Raft over the link to a peer that there is now; None where there is none."""
        link = self._links.get(peer)
        return None if link is None else lambda data: link.send(Kind.RAFT, data)

    def link_state(self, peer: str) -> tuple[bool, str]:
        """Whether there is a link to a peer, and what ended the last one or the last try."""
        return peer in self._links, self._troubles.get(peer, "")

    def serve(self, method: str, handler: Handler) -> None:
        """Answer a method that peers call."""
        self._calls.serve(method, handler)

    async def call(self, peer: str, method: str, params: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Call a method of a node (also of this one).

        Raises:
            PeerUnreachable: there is no link; nothing was sent.
            RemoteError: the handler's own error.
            OutcomeUnknown: no answer came.
        """
        if peer == self.node:
            return await self._calls.call_here(method, params)
        self._check_member(peer)
        link = self._links.get(peer)
        if link is None:
            raise PeerUnreachable("there is no link to the node", where=peer, why=self._troubles.get(peer, ""))
        return await self._calls.call(link, method, params, timeout_s=timeout_s)

    def serve_stream(self, kind: str, handler: StreamHandler) -> None:
        """Accept streams of a kind; a CsvdError that the handler raises refuses the stream."""
        if kind in self._stream_handlers:
            raise ValueError(f"streams of kind {kind} are served already")
        self._stream_handlers[kind] = handler

    async def open_stream(self, peer: str, kind: str, header: dict[str, Any]) -> StreamLink:
        """Open a stream to a node.

        Raises:
            PeerUnreachable: it could not be connected.
            RemoteError: it refused the stream.
        """
        self._check_member(peer)
        if peer == self.node:
            raise ClusterError("a node opens no stream to itself", where=peer)
        host, port = self._address_of(peer)
        opening = _Opening(self._streams.discard, kind, encode_open(kind, header))
        factory = DialFactory(lambda: self._dialed(peer, Purpose.STREAM, opening), opening.failed)
        connector = self._reactor.connectTCP(host, port, factory, timeout=self._timeouts.connect_s)
        try:
            return await opening.opened
        except BaseException:
            connector.disconnect()
            raise

    def _check_member(self, peer: str) -> None:
        if peer not in self._members:
            raise ClusterError("there is no such node in the cluster", where=peer)

    def _address_of(self, peer: str) -> Address:
        address = self._members[peer]
        if address is None:
            raise PeerUnreachable("the node listens nowhere", where=peer)
        return address

    def dial(self, peer: str, owner: LinkOwner, failed: Callable[[str], None]) -> Any:
        """Begin to make the control link to a peer; gives Twisted's connector."""
        host, port = self._address_of(peer)
        factory = DialFactory(lambda: self._dialed(peer, Purpose.CONTROL, owner), failed)
        return self._reactor.connectTCP(host, port, factory, timeout=self._timeouts.connect_s)

    def _knock(self) -> None:
        """Ask one of the peers that do not dial this node; where it was evicted, nobody ever will."""
        self._knocking = self._reactor.callLater(KNOCK_S * self._random.uniform(0.8, 1.2), self._knock)
        silent = [peer for peer in self._members if peer < self.node and peer not in self._links]
        silent = [peer for peer in silent if self._members[peer] is not None]
        if silent:
            self.dial(self._random.choice(silent), Knock(self), lambda reason: None)

    def _dialed(self, peer: str, purpose: Purpose, owner: LinkOwner) -> Link:
        """The protocol of a connection that was made to a peer."""
        admit = partial(self._admittance.who_listens, peer)
        link = self._link(admit, owner, purpose)
        if purpose is Purpose.STREAM:
            self._streams.add(link)
        return link

    def _arrival(self, host: str) -> Link:
        """The protocol of a connection that comes in."""
        link = self._link(self._admittance.who_dials, self, None)
        if len(self._half_open) >= MAXIMUM_HALF_OPEN:
            self._make_room()
        self._half_open[link] = host
        return link

    def _make_room(self) -> None:
        """Drop the oldest connection, of those that have not said who they are, of the host that has the most.

        An honest handshake takes milliseconds: the oldest is the least likely to be one.
        """
        busiest, _ = Counter(self._half_open.values()).most_common(1)[0]
        oldest = next(link for link, host in self._half_open.items() if host == busiest)
        oldest.drop("too many connections have not said who they are")

    def _link(
        self, admit: Callable[[list[x509.Certificate]], Peer], owner: LinkOwner, dials_for: Purpose | None
    ) -> Link:
        return Link(self._context, admit, owner, self._reactor, self._timeouts, dials_for=dials_for)

    def _all_links(self) -> list[Link]:
        return [*self._half_open, *self._streams, *self._joins, *self._links.values()]

    def link_up(self, link: Link) -> None:
        """A connection that came in has proven who it is; or a control link that was dialed is up."""
        self._half_open.pop(link, None)
        if link.purpose is Purpose.JOIN:
            self._joins[link] = self._reactor.callLater(JOIN_LIFE_S, link.drop, "it did not join in time")
            if len(self._joins) > MAXIMUM_JOINS:
                link.drop(f"{MAXIMUM_JOINS} nodes are joining already")
            return
        if link.purpose is Purpose.STREAM:
            self._streams.add(link)
            if len(self._streams) > MAXIMUM_STREAMS:
                link.drop(f"{MAXIMUM_STREAMS} streams are open already")
            return
        if not link.is_dialer and link.peer > self.node:
            link.drop("its name sorts after this node's, so that this node is to dial it")
            return
        old = self._links.get(link.peer)
        if old is not None:
            old.drop("the peer has made a new link")
        self._links[link.peer] = link
        self._troubles.pop(link.peer, None)
        self._log.info("link to {peer} is up", peer=link.peer)
        if self._events is not None:
            self._events.link_up(link.peer)

    def link_received(self, link: Link, kind: Kind, body: bytes) -> None:
        """A frame came over a control link or from a joining node, or the OPEN of a stream."""
        if link.purpose is Purpose.JOIN:
            if kind is not Kind.REQUEST:
                raise PeerMessageError(f"a joining node sent a frame of kind {kind.name}")
            self._join_calls.received(link, kind, body)
        elif link.purpose is Purpose.STREAM:
            if kind is not Kind.OPEN:
                raise PeerMessageError("its stream does not begin with OPEN", where=link.peer)
            self._accept_stream(link, body)
        elif kind is Kind.RAFT:
            if self._events is not None:
                self._events.raft_received(link.peer, body)
        elif kind in (Kind.REQUEST, Kind.ANSWER, Kind.FAILURE):
            self._calls.received(link, kind, body)
        else:
            raise PeerMessageError(f"it sent a frame of kind {kind.name} on its control link", where=link.peer)

    def link_lost(self, link: Link, reason: str) -> None:
        """A connection has ended."""
        if link.told_evicted:
            self.on_evicted(link.peer)
        self._streams.discard(link)
        if link in self._half_open:
            del self._half_open[link]
            self._note_refusal(link, reason)
            return
        timer = self._joins.pop(link, None)
        if timer is not None:
            if timer.active():
                timer.cancel()
            return
        self._calls.link_lost(link, reason)
        if self._links.get(link.peer) is link:
            del self._links[link.peer]
            self.note_trouble(link.peer, reason)
            if self._events is not None:
                self._events.link_down(link.peer)

    def note_trouble(self, peer: str, reason: str) -> None:
        """Remember, and log once, why there is no link to a peer."""
        if self._troubles.get(peer) != reason and not self._is_stopped:
            self._log.warn("no link to {peer}: {reason}", peer=peer, reason=reason)
        self._troubles[peer] = reason

    def _note_refusal(self, link: Link, reason: str) -> None:
        """Log why a connection was refused; not more lines a second than a person can read."""
        second = int(self._reactor.seconds())
        if self._refusals[0] != second:
            self._refusals = (second, 0)
        self._refusals = (second, self._refusals[1] + 1)
        if self._refusals[1] <= MAXIMUM_REFUSALS_LOGGED:
            self._log.warn(
                "a connection to the nodes' port from {host} was refused: {reason}", host=link.host, reason=reason
            )

    def _accept_stream(self, link: Link, body: bytes) -> None:
        kind, header = decode_open(link, body)
        stream = StreamLink(link, kind, self._streams.discard)
        stream.hold()
        try:
            handler = self._stream_handlers.get(kind)
            if handler is None:
                raise ClusterError(f"this node does not take streams of kind {kind!r}", where=self.node)
            handler(link.peer, header, stream)
        except CsvdError as error:
            link.send(Kind.REFUSE, encode_refusal(error))
            link.close("refused by this node")
            return
        link.send(Kind.ACCEPT)
        stream.release()


class _Opening:
    """A stream that this node opens, until it is accepted or not."""

    def __init__(self, ended: Callable[[Link], None], kind: str, open_body: bytes) -> None:
        self._ended = ended
        self._kind = kind
        self._open_body = open_body
        self.opened: Deferred[StreamLink] = Deferred()

    def failed(self, reason: str) -> None:
        """The TCP connection was not made."""
        self._fail(PeerUnreachable("the node could not be connected", why=reason))

    def link_up(self, link: Link) -> None:
        """The peer let it in: say what the stream is."""
        link.send(Kind.OPEN, self._open_body)

    def link_received(self, link: Link, kind: Kind, body: bytes) -> None:
        """The peer accepts or refuses."""
        if kind is Kind.ACCEPT and not self.opened.called:
            self.opened.callback(StreamLink(link, self._kind, self._ended))
        elif kind is Kind.REFUSE:
            self._fail(decode_refusal(link, body))
            link.close("refused by the peer")
        else:
            raise PeerMessageError(f"it answered OPEN by {kind.name}", where=link.peer)

    def link_lost(self, link: Link, reason: str) -> None:
        """The connection has ended before the peer said anything."""
        self._ended(link)
        self._fail(PeerUnreachable("the stream was not opened", where=link.peer, why=reason))

    def _fail(self, error: ClusterError) -> None:
        if not self.opened.called:
            self.opened.errback(error)
