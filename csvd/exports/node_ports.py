"""Where every node of the cluster is reached by initiators, and how each is: what nodes say, and what they are told."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from csvd.api.errors import BadRequest
from csvd.config.targets import ACCESS_STATES, PortalGroupSection
from csvd.errors import ConfigError
from csvd.exports.build import ACCESS_STATE_OF
from csvd.iscsi.portals import EVERYWHERE, GROUPS_PER_NODE, join_address, portal_group_tag, split_address
from csvd.scsi.target_ports import AccessState
from csvd.target.cluster_ports import ClusterPort, ClusterPorts

Json = dict[str, Any]
MAX_ADDRESSES: Final = 8
MAX_ADDRESS_CHARACTERS: Final = 262

Groups: TypeAlias = dict[int, list[str]]
"""Portals, as initiators reach them, by portal group tag."""

_WORDS: Final = {state: words for words, state in ACCESS_STATE_OF.items()}


class Member(Protocol):
    """A member of the cluster, as far as its ports go."""

    @property
    def number(self) -> int:
        """Its number."""

    @property
    def is_draining(self) -> bool:
        """Whether initiators are to leave it."""


class PortTold(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A portal group, as nodes are told of it."""

    node: str
    state: str
    addresses: tuple[str, ...]


def groups_at(portals: Sequence[str], number: int) -> tuple[PortalGroupSection, ...]:
    """The portal groups of a node: each of its portals is a target port, a path by itself.

    Raises:
        ConfigError: there are more portals than a node has groups.
    """
    if len(portals) > GROUPS_PER_NODE:
        raise ConfigError(f"a node has at most {GROUPS_PER_NODE} portals for the cluster", where="cluster.portals")
    return tuple(
        PortalGroupSection(tag=portal_group_tag(number, place), portals=(portal,), access_state=ACCESS_STATES[0])
        for place, portal in enumerate(portals)
    )


def reached_at(address: str, host: str) -> str:
    """The address of a portal as others reach it.

    Args:
        host: by which the other nodes reach this one: for a portal on all addresses. Empty where none does.
    """
    listened, port = split_address(address)
    return join_address(host, port) if listened in EVERYWHERE and host else address


def checked_groups(found: object, number: int, node: str) -> Groups:
    """What a node says of its portal groups.

    Raises:
        BadRequest: it is something else, or names groups that are not its own.
    """
    try:
        groups = msgspec.convert(found, Groups, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest("these are no portal groups", where=node, why=str(error)) from error
    own = {portal_group_tag(number, place) for place in range(GROUPS_PER_NODE)}
    for tag, addresses in groups.items():
        if tag not in own:
            raise BadRequest(f"the portal group {tag} is not one of member {number}", where=node)
        if len(addresses) > MAX_ADDRESSES or any(len(address) > MAX_ADDRESS_CHARACTERS for address in addresses):
            raise BadRequest(f"the portal group {tag} is too large", where=node)
        for address in addresses:
            split_address(address)
    return groups


def table_of(said: Mapping[str, Groups], members: Mapping[str, Member], live: Collection[str]) -> Json:
    """What all nodes are told: each portal group with the state of its node, by tag.

    Args:
        said: what each node has said, by its id; of one that is no member any more, nothing is told.
        live: the nodes that have a session.
    """
    table: Json = {}
    for node, groups in said.items():
        member = members.get(node)
        if member is None:
            continue
        state = AccessState.UNAVAILABLE
        if node in live:
            state = AccessState.STANDBY if member.is_draining else AccessState.ACTIVE_OPTIMIZED
        for tag, addresses in groups.items():
            table[str(tag)] = {"node": node, "state": _WORDS[state], "addresses": list(addresses)}
    return table


def ports_of(table: object) -> dict[int, PortTold]:
    """What a node was told.

    Raises:
        BadRequest: it is something else.
    """
    try:
        told = msgspec.convert(table, dict[int, PortTold], strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest("these are no ports of a cluster", why=str(error)) from error
    if not all(one.state in ACCESS_STATE_OF for one in told.values()):
        raise BadRequest("a port of the cluster is in no state that there is")
    return told


def as_ports(told: Mapping[int, PortTold]) -> ClusterPorts:
    """The same for the targets."""
    return {tag: ClusterPort(one.addresses, ACCESS_STATE_OF[one.state]) for tag, one in told.items()}
