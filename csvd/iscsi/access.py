"""Who may log in to a target, from where, as whom, and what it sees (RFC 7143 section 4.2.7, 9.2 and 12)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import NamedTuple, TypeAlias

from csvd.errors import ConfigError
from csvd.iscsi.chap import ALGORITHMS, Algorithm, Credentials, same_secret
from csvd.iscsi.portals import Address

Network: TypeAlias = IPv4Network | IPv6Network


def parse_network(text: str) -> Network:
    """Parse an address range, as ``192.0.2.0/24``, ``2001:db8::/32`` or one address.

    Raises:
        ConfigError: it is none, or has bits set beyond its prefix.
    """
    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigError(
            f"{text!r} is not an address range", why=str(error), hint="write 192.0.2.0/24 or 2001:db8::/32"
        ) from error


class Origin(NamedTuple):
    """Where a connection comes from.

    Args:
        address: of the initiator; None where it has none, and then no address range holds it.
        portal_group_tag: of the portal that it came through.
    """

    address: Address | None
    portal_group_tag: int


@dataclass(frozen=True, slots=True)
class InitiatorRule:
    """What holds for one initiator instead of what holds for all. None: what :class:`Access` says.

    Args:
        credentials: its CHAP users by name; an empty mapping asks it for no CHAP.
        proof: with what the target proves itself to it.
        networks: the address ranges that it may come from.
        portal_group_tags: the portal groups that it may use; None: all of the target's.
        luns: the LUNs that it sees; None: all.
    """

    credentials: Mapping[str, Credentials] | None = None
    proof: Credentials | None = None
    networks: tuple[Network, ...] | None = None
    portal_group_tags: frozenset[int] | None = None
    luns: frozenset[int] | None = None


_ANYONE = InitiatorRule()


@dataclass(frozen=True, slots=True)
class Access:
    """Who may log in to a target (or discover). The default lets in all who reach the portal.

    Args:
        credentials: CHAP users by name; when there is one, CHAP is demanded.
        initiators: names of the initiators let in, in normal form (:func:`csvd.iscsi.names.check_iscsi_name`); None
            lets in all. An initiator with a rule is let in, too.
        networks: address ranges let in; None lets in all.
        proof: the name and secret with which the target proves itself to an initiator that asks (mutual CHAP).
        rules: what is different for one initiator, by its name in normal form.
        algorithms: CHAP algorithms taken.

    Raises:
        ConfigError: the target would prove itself by a secret that an initiator has: who knows it could play both
            (RFC 7143 section 12.1.3).
    """

    credentials: Mapping[str, Credentials] = field(default_factory=dict)
    initiators: frozenset[str] | None = None
    networks: tuple[Network, ...] | None = None
    proof: Credentials | None = None
    rules: Mapping[str, InitiatorRule] = field(default_factory=dict)
    algorithms: tuple[Algorithm, ...] = ALGORITHMS

    def __post_init__(self) -> None:
        # Whatever the rule: who may ask for a proof by one could answer with it under the name of another.
        rules = self.rules.values()
        proofs = [proof for proof in (self.proof, *(rule.proof for rule in rules)) if proof is not None]
        for users in (self.credentials, *(rule.credentials or {} for rule in rules)):
            for user in users.values():
                if any(same_secret(proof, user) for proof in proofs):
                    raise ConfigError(
                        f"the secret of CHAP user {user.user!r} is one by which the target proves itself",
                        hint="give each direction a secret of its own",
                    )

    def _rule(self, initiator_name: str) -> InitiatorRule:
        return self.rules.get(initiator_name, _ANYONE)

    def credentials_for(self, initiator_name: str) -> Mapping[str, Credentials]:
        """The CHAP users by which this initiator may prove itself; empty where it need not."""
        own = self._rule(initiator_name).credentials
        return self.credentials if own is None else own

    def proof_for(self, initiator_name: str) -> Credentials | None:
        """With what the target proves itself to this initiator."""
        own = self._rule(initiator_name).proof
        return self.proof if own is None else own

    def admits(self, initiator_name: str, origin: Origin) -> bool:
        """Whether an initiator of this name is let in from there, as far as its name and address go."""
        if self.initiators is not None and initiator_name not in self.initiators and initiator_name not in self.rules:
            return False
        rule = self._rule(initiator_name)
        if rule.portal_group_tags is not None and origin.portal_group_tag not in rule.portal_group_tags:
            return False
        networks = self.networks if rule.networks is None else rule.networks
        if networks is None:
            return True
        return origin.address is not None and any(origin.address in network for network in networks)

    def shows(self, initiator_name: str, lun: int) -> bool:
        """Whether an initiator of this name sees a LUN."""
        luns = self._rule(initiator_name).luns
        return luns is None or lun in luns

    def keeps(self, initiator_name: str, origin: Origin, proven: Credentials | None) -> bool:
        """Whether a session that came in earlier, and proved to know ``proven``, would still be let in."""
        if not self.admits(initiator_name, origin):
            return False
        users = self.credentials_for(initiator_name)
        return not users or (proven is not None and users.get(proven.user) == proven)


OPEN = Access()
