"""What a node's cluster needs of a network: links to the other members, calls and streams over them.

csvd.cluster.peer has it over TCP; the simulation has one in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from csvd.cluster.calls import Handler
from csvd.cluster.stream import StreamHandler, StreamLink

Address = tuple[str, int]
"""Host and port."""

Fingerprints = tuple[str, ...]
"""SHA-256 of the SubjectPublicKeyInfo of a member's certificates, in hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class PeerEvents:
    """What the network tells the node.

    Attributes:
        link_up: there is a link to a member.
        link_down: there is none any more.
        raft_received: a message of Raft came from a member; a PeerMessageError that it raises ends the link.
    """

    link_up: Callable[[str], None]
    link_down: Callable[[str], None]
    raft_received: Callable[[str, bytes], None]


class Network(Protocol):
    """All connections of one node. Members are known by their ids."""

    @property
    def address(self) -> Address | None:
        """Where this node listens, with the real port once it does; None where it listens nowhere."""

    def start(self, events: PeerEvents) -> None:
        """Listen, and make links to the members, again and again.

        Raises:
            ConfigError: the address can not be listened at.
        """

    async def stop(self) -> None:
        """End all connections and listen no more."""

    def set_members(self, members: Mapping[str, tuple[Address | None, Fingerprints]]) -> None:
        """Say who the members are now, this node included, with their addresses and certificates.

        Links to those that are no members any more, or whose certificate is none of theirs any more, are ended; new
        members are dialed. A member without an address is not dialed. May be called at any time, also before `start`.
        """

    def link_to(self, peer: str) -> Callable[[bytes], None] | None:
        """How to send a message of Raft over the link to a member that there is now; None where there is none."""

    def link_state(self, peer: str) -> tuple[bool, str]:
        """Whether there is a link to a member, and what ended the last one or the last try."""

    def serve(self, method: str, handler: Handler) -> None:
        """Answer a method that members call."""

    async def call(self, peer: str, method: str, params: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Call a method of a member (also of this node itself).

        Raises:
            PeerUnreachable: there is no link; nothing was sent.
            RemoteError: the handler's own error.
            OutcomeUnknown: no answer came.
        """

    def serve_stream(self, kind: str, handler: StreamHandler) -> None:
        """Accept streams of a kind; a CsvdError that the handler raises refuses the stream."""

    async def open_stream(self, peer: str, kind: str, header: dict[str, Any]) -> StreamLink:
        """Open a stream to a member.

        Raises:
            PeerUnreachable: it could not be connected.
            RemoteError: it refused the stream.
        """
