"""The network of a node that is of no cluster: it listens nowhere, and there is nobody else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from csvd.cluster.calls import Calls, Handler
from csvd.cluster.errors import PeerUnreachable
from csvd.cluster.network import Address, Fingerprints, PeerEvents
from csvd.cluster.reactor import Clock
from csvd.cluster.stream import StreamHandler, StreamLink


class AloneNetwork:
    """A Network (csvd.cluster.network) without others.

    Args:
        node: the name of this node.
        clock: the node's loop.
    """

    address: Address | None = None

    def __init__(self, node: str, clock: Clock) -> None:
        self._node = node
        self._calls = Calls(node, clock)

    def start(self, events: PeerEvents) -> None:
        """Nothing is listened at."""

    async def stop(self) -> None:
        """There is nothing to end."""

    def set_members(self, members: Mapping[str, tuple[Address | None, Fingerprints]]) -> None:
        """There is only this node."""

    def link_to(self, peer: str) -> Callable[[bytes], None] | None:
        """There are no links."""
        return None

    def link_state(self, peer: str) -> tuple[bool, str]:
        """There are no links."""
        return False, "this node is of no cluster"

    def serve(self, method: str, handler: Handler) -> None:
        """Answer a method that this node calls of itself."""
        self._calls.serve(method, handler)

    async def call(self, peer: str, method: str, params: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Call a method of this node.

        Raises:
            PeerUnreachable: it is another's.
            RemoteError: the handler's own error.
        """
        if peer != self._node:
            raise PeerUnreachable("this node is of no cluster", where=peer)
        return await self._calls.call_here(method, params)

    def serve_stream(self, kind: str, handler: StreamHandler) -> None:
        """Nobody opens one."""

    async def open_stream(self, peer: str, kind: str, header: dict[str, Any]) -> StreamLink:
        """There is nobody to open one to.

        Raises:
            PeerUnreachable: always.
        """
        raise PeerUnreachable("this node is of no cluster", where=peer)
