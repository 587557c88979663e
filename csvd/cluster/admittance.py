"""Whom a node lets in: members by the fingerprints of their keys, joining nodes by their token or by their own key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from cryptography import x509

from csvd.cluster.errors import AuthenticationError, Evicted
from csvd.cluster.identity.certificate import certificate_fingerprint, check_certificate, is_self_signed


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection.

    Attributes:
        node: the member's id; empty where it is not a member yet.
        fingerprint: of the key that it has shown to have.
        is_joining: whether it may ask for its certificate, and nothing else.
    """

    node: str
    fingerprint: str
    is_joining: bool = False


class Admittance:
    """Decides by the certificate that a peer has shown, whose key TLS has proven to be the peer's.

    Args:
        node: the name of this node.
        authority: the cluster's.
        wall_s: the time, in seconds since 1970.
    """

    def __init__(self, node: str, authority: x509.Certificate, wall_s: Callable[[], float]) -> None:
        self._node = node
        self._authority = authority
        self._wall_s = wall_s
        self._nodes: dict[str, str] = {}
        self.is_token: Callable[[str], bool] = lambda fingerprint: False
        self.is_evicted: Callable[[str], bool] = lambda fingerprint: False

    def set_members(self, fingerprints: Mapping[str, Iterable[str]]) -> None:
        """Let in these members, by the fingerprints of each, and no other from now on."""
        self._nodes = {one: node for node, all_of_it in fingerprints.items() for one in all_of_it}

    def is_member(self, peer: Peer) -> bool:
        """Whether the key of a peer that was let in before is still that member's."""
        return self._nodes.get(peer.fingerprint) == peer.node

    def who_listens(self, expected: str, chain: list[x509.Certificate]) -> Peer:
        """Who is at the address that this node dialed.

        Raises:
            AuthenticationError: not the member that was expected there.
        """
        peer = self._member(chain[0])
        if peer.node != expected:
            raise AuthenticationError(f"the node at this address is {peer.node}", where=expected)
        return peer

    def who_dials(self, chain: list[x509.Certificate]) -> Peer:
        """Who has dialed this node.

        Raises:
            Evicted: it was a member.
            AuthenticationError: neither a member nor one that may join.
        """
        certificate = chain[0]
        key = certificate_fingerprint(certificate)
        if is_self_signed(certificate):
            # A member's own key without a certificate: it has joined, and asks once more for what it did not get.
            node = self._nodes.get(key, "")
            if not node and not self.is_token(key):
                raise AuthenticationError("it shows a join token that is used, expired, revoked or of another cluster")
            return Peer(node, key, is_joining=True)
        return self._member(certificate)

    def _member(self, certificate: x509.Certificate) -> Peer:
        name = check_certificate(certificate, self._authority, now_s=self._wall_s())
        key = certificate_fingerprint(certificate)
        node = self._nodes.get(key)
        if node is None and self.is_evicted(key):
            raise Evicted("its certificate is not a member's", why=f"it is for {name}, which was evicted")
        if node is None:
            raise AuthenticationError("its certificate is not a member's", why=f"it is for {name}, or was revoked")
        if node != name:
            raise AuthenticationError("its certificate is in another node's name", why=f"it is {node}, not {name}")
        if node == self._node:
            raise AuthenticationError("it shows this node's own certificate", where=node)
        return Peer(node, key)
