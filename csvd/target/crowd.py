"""Who has to go first when too many connections are logging in."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address

from csvd.iscsi.portals import Address
from csvd.target.connection import ServerConnection


def oldest_of_crowd(connections: Iterable[ServerConnection]) -> ServerConnection:
    """Give the oldest connection of the host that has the most of these; they stand in the order of their age."""
    by_host: dict[Address | int | None, list[ServerConnection]] = {}
    for connection in connections:
        address = connection.engine.origin.address
        # A host has as many IPv6 addresses as it likes, of one prefix of 64 bits.
        host = int(address) >> 64 if isinstance(address, IPv6Address) else address
        by_host.setdefault(host, []).append(connection)
    return max(by_host.values(), key=len)[0]
