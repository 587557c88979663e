"""How a node comes into a cluster, on its own side: by a token it finds a member, and asks it for its certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from OpenSSL import SSL
from twisted.internet.defer import Deferred

from csvd.cluster.admission import JoinAnswer, JoinRequest
from csvd.cluster.admittance import Peer
from csvd.cluster.calls import Calls
from csvd.cluster.dialing import DialFactory
from csvd.cluster.errors import (
    AuthenticationError,
    ClusterError,
    OutcomeUnknown,
    PeerMessageError,
    PeerUnreachable,
    RemoteError,
)
from csvd.cluster.framing import Kind, Purpose
from csvd.cluster.identity.certificate import (
    DATA_KEY_BYTES,
    Authority,
    NodeIdentity,
    certificate_fingerprint,
    check_certificate,
    fingerprint,
    make_request,
    read_certificate,
    read_key,
    self_signed,
)
from csvd.cluster.identity.joining_files import FirstMembers
from csvd.cluster.identity.token import JoinToken
from csvd.cluster.link import Link
from csvd.cluster.names import text_of_address
from csvd.cluster.network import Address
from csvd.cluster.peer import JOIN_METHOD
from csvd.cluster.reactor import Reactor
from csvd.cluster.timeouts import Timeouts
from csvd.cluster.tls import tls_context
from csvd.errors import ConfigError

ANSWER_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Joined:
    """What the cluster has answered."""

    identity: NodeIdentity
    members: FirstMembers


class Joining:
    """One node that joins.

    Args:
        reactor: its loop.
        token: what it joins by.
        key: the node's own, kept over tries.
        has_asked: whether it may have been let in before, by a try whose answer was lost.
        node: the name that it will have.
        address: where the others are to find it, `host:port`.
        wall_s: the time in seconds since 1970.
        timeouts: of the connection.
    """

    def __init__(
        self,
        reactor: Reactor,
        token: JoinToken,
        key: Ed25519PrivateKey,
        *,
        has_asked: bool,
        node: str,
        address: str,
        wall_s: Callable[[], float],
        timeouts: Timeouts,
    ) -> None:
        self._reactor = reactor
        self._token = token
        self._key = key
        self._has_asked = has_asked
        self._node = node
        self._address = address
        self._wall_s = wall_s
        self._timeouts = timeouts

    async def join(self) -> Joined:
        """Ask one member after the other until one answers.

        Raises:
            ConfigError: the token has expired.
            RemoteError: the cluster has refused.
            PeerUnreachable: no member let this node in, or answered; it can be asked again with the same key.
        """
        now_s = self._wall_s()
        is_expired = now_s >= self._token.expires_at_s
        if is_expired and not self._has_asked:
            raise ConfigError("the join token has expired", hint="csvd token create makes another")
        troubles: dict[str, None] = {}
        if not is_expired:
            by_token = self_signed("joining", self._token.key, now_s=now_s)
            joined = await self._ask_all(tls_context(by_token, self._token.key), troubles)
            if joined is not None:
                return joined
        if self._has_asked:
            by_own = self_signed(self._node, self._key, now_s=now_s)
            joined = await self._ask_all(tls_context(by_own, self._key), troubles)
            if joined is not None:
                return joined
        raise PeerUnreachable(
            "no node of the cluster let this one in",
            where=self._token.cluster,
            why="; ".join(troubles),
            hint="the token may have been used or revoked, or have expired: csvd token ls there, and the log of a node",
        )

    async def _ask_all(self, context: SSL.Context, troubles: dict[str, None]) -> Joined | None:
        """What the first member answers that answers at all; None where none does."""
        for address in self._token.addresses:
            try:
                return self._checked(await self._ask(address, context))
            except RemoteError as error:
                if error.kind != OutcomeUnknown.__name__:
                    raise
                self._has_asked = True
                troubles[f"{text_of_address(address)}: {error}"] = None
            except OutcomeUnknown as error:
                self._has_asked = True
                troubles[f"{text_of_address(address)}: {error.why}"] = None
            except PeerUnreachable as error:
                troubles[f"{text_of_address(address)}: {error.why}"] = None
        return None

    async def _ask(self, address: Address, context: SSL.Context) -> dict[str, Any]:
        asking = _Asking(self._reactor)
        factory = DialFactory(
            lambda: Link(context, self._who_listens, asking, self._reactor, self._timeouts, dials_for=Purpose.JOIN),
            asking.failed,
        )
        connector = self._reactor.connectTCP(*address, factory, timeout=self._timeouts.connect_s)
        try:
            link = await asking.connected
            request = JoinRequest(self._node, self._address, make_request(self._node, self._key).decode())
            return await asking.calls.call(link, JOIN_METHOD, msgspec.to_builtins(request), timeout_s=ANSWER_TIMEOUT_S)
        finally:
            connector.disconnect()

    def _who_listens(self, chain: list[x509.Certificate]) -> Peer:
        """The member at an address of the token, known by the authority that it shows."""
        of_token = (one for one in chain[1:] if certificate_fingerprint(one) == self._token.authority)
        authority = next(of_token, None)
        if authority is None:
            raise AuthenticationError("it is not of the cluster that the join token is for")
        node = check_certificate(chain[0], authority, now_s=self._wall_s())
        return Peer(node, certificate_fingerprint(chain[0]))

    def _checked(self, result: dict[str, Any]) -> Joined:
        """What was answered, when it is what a member of this cluster may answer."""
        where = self._token.cluster
        try:
            answer = msgspec.convert(result, JoinAnswer)
            authority = Authority(
                read_certificate(answer.authority.encode(), where=where),
                read_key(answer.authority_key.encode(), where=where),
            )
            certificate = read_certificate(answer.certificate.encode(), where=where)
            name = check_certificate(certificate, authority.certificate, now_s=self._wall_s())
        except (msgspec.ValidationError, ConfigError, AuthenticationError) as error:
            raise ClusterError("what the cluster has answered is not an answer", where=where, why=str(error)) from error
        is_right = (
            authority.fingerprint == self._token.authority == fingerprint(authority.key.public_key())
            and (name, certificate_fingerprint(certificate)) == (self._node, fingerprint(self._key.public_key()))
            and len(answer.data_key) == DATA_KEY_BYTES
            and self._node in answer.members
        )
        if not is_right:
            raise ClusterError("what the cluster has answered is not for this node", where=where)
        return Joined(NodeIdentity(authority, certificate, self._key, answer.data_key), answer.members)


class _Asking:
    """The owner of the link to the member that is asked."""

    def __init__(self, reactor: Reactor) -> None:
        self.calls = Calls("", reactor)
        self.connected: Deferred[Link] = Deferred()

    def failed(self, reason: str) -> None:
        """The TCP connection was not made."""
        if not self.connected.called:
            self.connected.errback(PeerUnreachable("the node could not be connected", why=reason))

    def link_up(self, link: Link) -> None:
        """The member let this node in."""
        self.connected.callback(link)

    def link_received(self, link: Link, kind: Kind, body: bytes) -> None:
        """Its answer."""
        if kind not in (Kind.ANSWER, Kind.FAILURE):
            raise PeerMessageError(f"it answered by {kind.name}", where=link.peer)
        self.calls.received(link, kind, body)

    def link_lost(self, link: Link, reason: str) -> None:
        """The connection has ended."""
        self.failed(reason)
        self.calls.link_lost(link, reason)
