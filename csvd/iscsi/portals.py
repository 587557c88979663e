"""Portal groups, and where a login is sent on to (RFC 7143 sections 4.2.1, 4.4.1 and 11.13.5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple, Protocol, TypeAlias

from csvd.errors import ConfigError
from csvd.iscsi.codes import LoginStatus
from csvd.iscsi.errors import LoginFailure

DEFAULT_PORT: Final = 3260
EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
"""The hosts that stand for all addresses of a node."""
MAX_PORTAL_GROUP_TAG: Final = 0xFFFF
GROUPS_PER_NODE: Final = 15
"""Portal groups that one node has; see `portal_group_tag`."""
_STRIDE: Final = GROUPS_PER_NODE + 1

Address: TypeAlias = IPv4Address | IPv6Address


def portal_group_tag(number: int, place: int = 0) -> int:
    """The tag of a portal group of a node, which is its relative target port identifier, too: no other node's.

    Below those of member 1 there are the tags that nodes give the targets of their own.

    Args:
        number: the member's number, from 1 on.
        place: which of its groups, from 0 on.
    """
    assert number >= 1
    assert 0 <= place < GROUPS_PER_NODE
    return number * _STRIDE + 1 + place


def split_address(text: str) -> tuple[str, int]:
    """Split ``host``, ``host:port`` or ``[v6]:port`` into its host, without brackets, and its port.

    Raises:
        ConfigError: it has another form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(DEFAULT_PORT)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif any(character in host for character in ":[]"):
        raise ConfigError(f"{text!r} is not an address", hint="write an IPv6 address in brackets: [ADDRESS]:PORT")
    if not host or not port.isascii() or not port.isdigit() or not 0 < len(port) <= 5 or int(port) > 65535:
        raise ConfigError(f"{text!r} is not an address", hint="write HOST:PORT")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """Give ``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def numeric_host(host: str) -> Address | None:
    """Give the address that a host is, an IPv4 address mapped into IPv6 as IPv4; None for a name."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def peer_address(text: str) -> Address | None:
    """Give the address in ``host:port``; None where there is none."""
    try:
        return numeric_host(split_address(text)[0])
    except ConfigError:
        return None


@dataclass(frozen=True, slots=True)
class PortalGroup:
    """Portals through which the connections of one session may come (RFC 7143 section 4.4.1).

    Args:
        tag: 0 to 65535, one a group of this node. It is part of the name of the target port.
        portals: the addresses (``host:port``) listened at.
    """

    tag: int
    portals: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.tag <= MAX_PORTAL_GROUP_TAG:
            raise ConfigError(f"a portal group tag is 0 to {MAX_PORTAL_GROUP_TAG}, not {self.tag}")

    def addresses(self, local_address: str) -> list[str]:
        """Give the addresses to name to an initiator that reached this node at ``local_address``.

        A portal on all addresses of the host is named by the one that the initiator knows to reach.
        """
        known = split_address(local_address)[0]
        named = []
        for portal in self.portals:
            host, port = split_address(portal)
            if host == "::" or (host == "0.0.0.0" and ":" not in known):  # noqa: S104 - compared, not bound
                named.append(join_address(known, port))
            elif host != "0.0.0.0":  # noqa: S104
                named.append(portal)
        return named


class Moved(NamedTuple):
    """Where a login is sent on to.

    Args:
        address: ``host:port`` of the other portal.
        permanent: status 0102h, the initiator may remember it; else 0101h.
    """

    address: str
    permanent: bool


class Redirection(Protocol):
    """Tells where logins to a target are sent on to."""

    def moved(self, local_address: str, portal_group_tag: int, *, joins: bool) -> Moved | None:
        """Where a login is sent on to that came through a portal; None: it is served here.

        Args:
            local_address: ``host:port`` at which it came.
            joins: whether it is for a further connection of a session.

        Raises:
            LoginFailure: it can be served neither here nor elsewhere, for now.
        """


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where the logins to a target are sent on to.

    A login that comes through the portal it would be sent to is served there, so that nobody goes in circles; where the
    address is a name, or another one from outside, the portal group tag says which portal that is.

    Args:
        address: ``host:port`` of the other portal.
        permanent: status 0102h, the initiator may remember it; else 0101h.
        portal_group_tag: the group of that portal, when it is one of this node.

    Raises:
        ConfigError: not an address, or a name without a portal group tag.
    """

    address: str
    permanent: bool = False
    portal_group_tag: int | None = None

    def __post_init__(self) -> None:
        host, _ = split_address(self.address)
        if numeric_host(host) is None and self.portal_group_tag is None:
            raise ConfigError(
                f"{host!r} is a name: a login could go in circles",
                hint="write an IP address, or the portal group tag of the portal, too",
            )

    def moved(self, local_address: str, portal_group_tag: int, *, joins: bool) -> Moved | None:
        """Its address, where a login that came through this portal is sent on; a session is joined where it is."""
        if joins or portal_group_tag == self.portal_group_tag:
            return None
        (host, port), (here, here_port) = split_address(self.address), split_address(local_address)
        same_host = host == here or (numeric_host(host) is not None and numeric_host(host) == numeric_host(here))
        return None if same_host and port == here_port else Moved(self.address, self.permanent)


@dataclass(frozen=True, slots=True)
class PortRedirect:
    """Every login is sent on to another port of the address that it came to: another process of the node serves the
    target there.

    Args:
        ports: that port, by the portal (``host:port``) it stands for; the address of all addresses stands for each.
        before: where the target itself sends logins, first.
    """

    ports: Mapping[str, int]
    before: Redirection | None = None

    def moved(self, local_address: str, portal_group_tag: int, *, joins: bool) -> Moved | None:
        """The portal of the other process; it is never said for good."""
        if self.before is not None:
            elsewhere = self.before.moved(local_address, portal_group_tag, joins=joins)
            if elsewhere is not None:
                return elsewhere
        host, port = split_address(local_address)
        for portal in (local_address, f"0.0.0.0:{port}", f"[::]:{port}"):
            if portal in self.ports:
                return Moved(join_address(host, self.ports[portal]), permanent=False)
        raise LoginFailure(LoginStatus.SERVICE_UNAVAILABLE, f"no process serves the target behind {local_address} yet")
