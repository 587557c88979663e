"""The members of the cluster and the tokens by which nodes join, in the register. PURE.

A member's id is the name that it joined by, and never changes: Raft, fences and idempotency keys use it. Its name is
what people see. Its number is its own among the members, for lock bytes and portal group tags; a number that is free
again is given last, so that what still knows the old bearer has time to forget it.

A new member is a learner until the leader has made it a voter (`member_promote`). The voters that these commands leave
behind are the voters of Raft: the leader puts them beside the command into the log (csvd.cluster.election).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from csvd.cluster.register_fields import (
    Answer,
    Operation,
    Refusal,
    check_address,
    check_fingerprint,
    check_flag,
    check_list,
    check_mapping,
    check_node,
    check_number,
)

MAXIMUM_MEMBERS: Final = 32
MAXIMUM_TOKENS: Final = 64
MAXIMUM_FINGERPRINTS: Final = 2
"""Of one member: of the certificate that it has, and of the one that it is about to have."""
MAXIMUM_EVICTED: Final = 64
"""Fingerprints of members that were removed last: a node that comes back with one of them is told why it is refused."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the cluster.

    Attributes:
        id: the name that it joined by; never changes.
        name: what it is called now.
        number: 1 to 32, its own among the members.
        address: where it listens for the others, `host:port`; empty where it listens nowhere.
        fingerprints: the SHA-256 of the SubjectPublicKeyInfo of its certificates, in hexadecimal digits; at most 2.
        is_voter: whether it votes; else it learns.
        is_witness: whether it only votes, and neither holds an office nor exports.
        is_draining: whether it is to hold and export as little as can be.
    """

    id: str
    name: str
    number: int
    address: str = ""
    fingerprints: tuple[str, ...] = ()
    is_voter: bool = False
    is_witness: bool = False
    is_draining: bool = False

    def to_json(self) -> dict[str, Any]:
        """The member as a JSON object with the names of its fields."""
        return {
            "id": self.id,
            "name": self.name,
            "number": self.number,
            "address": self.address,
            "fingerprints": list(self.fingerprints),
            "is_voter": self.is_voter,
            "is_witness": self.is_witness,
            "is_draining": self.is_draining,
        }


def member_named(members: Mapping[str, Member], name: str) -> Member | None:
    """The member that a person means by an id, or by the name that it is shown by; None where there is none.

    Args:
        members: by id; nobody is called by another's id.
    """
    return members.get(name) or next((member for member in members.values() if member.name == name), None)


@dataclass(frozen=True, slots=True)
class Token:
    """A right to join once: the fingerprint of the token's own key, and until when (seconds since 1970)."""

    id: str
    expires_at_s: int
    is_witness: bool

    def to_json(self) -> dict[str, Any]:
        """The token as a JSON object with the names of its fields."""
        return {"id": self.id, "expires_at_s": self.expires_at_s, "is_witness": self.is_witness}


class Members:
    """The table of members and tokens."""

    name = "members"

    def __init__(self, members: Iterable[Member] = ()) -> None:
        self._records = {member.id: member for member in members}
        self._tokens: dict[str, Token] = {}
        self._evicted: tuple[str, ...] = ()
        self._last_number = max((member.number for member in self._records.values()), default=0)

    @property
    def records(self) -> Mapping[str, Member]:
        """The members by id."""
        return self._records

    @property
    def tokens(self) -> Mapping[str, Token]:
        """The tokens by id."""
        return self._tokens

    @property
    def evicted(self) -> tuple[str, ...]:
        """The fingerprints of members that were removed, the last one last; those before MAXIMUM_EVICTED are gone."""
        return self._evicted

    @property
    def voters(self) -> frozenset[str]:
        """The ids of the members that vote."""
        return frozenset(member.id for member in self._records.values() if member.is_voter)

    def require(self, id: str) -> Member:  # noqa: A002 - the word of the contract
        """A member.

        Raises:
            Refusal: there is none of this id.
        """
        member = self._records.get(id)
        if member is None:
            raise Refusal(f"there is no node {id} in the cluster")
        return member

    def operations(self) -> Mapping[str, Operation]:
        """The operations on members and tokens."""
        token = {"id": check_fingerprint}
        member = {"id": check_node}
        joining = {
            "token": check_fingerprint,
            "id": check_node,
            "address": check_address,
            "fingerprint": check_fingerprint,
            "at_s": check_number,
        }
        settable = {
            "name": check_node,
            "address": check_address,
            "fingerprints": _fingerprints,
            "is_draining": check_flag,
        }
        return {
            "token_add": Operation(
                {**token, "expires_at_s": check_number, "is_witness": check_flag, "at_s": check_number}, self._token_add
            ),
            "token_remove": Operation(token, self._token_remove),
            "member_join": Operation(joining, self._join),
            "member_set": Operation(member, self._set, optional=settable),
            "member_promote": Operation(member, self._promote),
            "member_remove": Operation(member, self._remove),
        }

    def snapshot(self) -> dict[str, Any]:
        """The members and tokens, sorted by id."""
        return {
            "last_number": self._last_number,
            "records": [member.to_json() for _, member in sorted(self._records.items())],
            "tokens": [token.to_json() for _, token in sorted(self._tokens.items())],
            "evicted": list(self._evicted),
        }

    def restore(self, part: Any) -> None:
        """Become the state of a snapshot's part."""
        self._last_number = check_number(check_mapping(part)["last_number"])
        for item in check_list(part["records"], at_most=MAXIMUM_MEMBERS):
            member = _member(check_mapping(item))
            self._records[member.id] = member
        for item in check_list(part["tokens"], at_most=MAXIMUM_TOKENS):
            record = check_mapping(item)
            expires_at_s, is_witness = check_number(record["expires_at_s"]), check_flag(record["is_witness"])
            token = Token(check_fingerprint(record["id"]), expires_at_s, is_witness)
            self._tokens[token.id] = token
        # A register of before there was this part has none.
        evicted = check_list(part.get("evicted", []), at_most=MAXIMUM_EVICTED)
        self._evicted = tuple(check_fingerprint(item) for item in evicted)

    def _token_add(self, id: str, expires_at_s: int, is_witness: bool, at_s: int) -> Answer:  # noqa: A002
        if expires_at_s <= at_s:
            raise Refusal("the token would have expired already")
        if id in self._tokens:
            raise Refusal("there is such a token already")
        fresh = {token.id: token for token in self._tokens.values() if token.expires_at_s > at_s}
        if len(fresh) >= MAXIMUM_TOKENS:
            raise Refusal(f"there are {MAXIMUM_TOKENS} tokens already, the register holds no more")
        self._tokens = {**fresh, id: Token(id, expires_at_s, is_witness)}
        return {"id": id}

    def _token_remove(self, id: str) -> Answer:  # noqa: A002
        if id not in self._tokens:
            raise Refusal("there is no such token: it was used, removed, or has expired")
        del self._tokens[id]
        return {"id": id}

    def _join(self, token: str, id: str, address: str, fingerprint: str, at_s: int) -> Answer:  # noqa: A002
        member = self._records.get(id)
        if member is not None and fingerprint in member.fingerprints:
            return member.to_json()  # It asks again, for it did not get the answer.
        known = self._tokens.get(token)
        if known is None:
            raise Refusal("the token is not known: it was used, removed, or has expired")
        if known.expires_at_s <= at_s:
            raise Refusal("the token has expired")
        if member is not None:
            raise Refusal(f"there is a node {id} in the cluster already")
        self._check_free(id, name=id, address=address, fingerprints=(fingerprint,))
        if len(self._records) >= MAXIMUM_MEMBERS:
            raise Refusal(f"the cluster has {MAXIMUM_MEMBERS} nodes, no more")
        number = self._free_number()
        del self._tokens[token]
        self._last_number = number
        return self._stored(Member(id, id, number, address, (fingerprint,), is_witness=known.is_witness))

    def _set(self, id: str, **changes: Any) -> Answer:  # noqa: A002
        member = self.require(id)
        self._check_free(
            id,
            name=changes.get("name", ""),
            address=changes.get("address", ""),
            fingerprints=changes.get("fingerprints", ()),
        )
        return self._stored(replace(member, **changes))

    def _promote(self, id: str) -> Answer:  # noqa: A002
        member = self.require(id)
        if member.is_voter:
            raise Refusal(f"{id} is a voter already")
        return self._stored(replace(member, is_voter=True))

    def _remove(self, id: str) -> Answer:  # noqa: A002
        member = self.require(id)
        if not self.voters - {id}:
            raise Refusal(f"{id} is the last voter of the cluster")
        del self._records[id]
        self._evicted = (*self._evicted, *member.fingerprints)[-MAXIMUM_EVICTED:]
        return {"id": id}

    def _stored(self, member: Member) -> Answer:
        self._records[member.id] = member
        return member.to_json()

    def _check_free(self, id: str, *, name: str, address: str, fingerprints: tuple[str, ...]) -> None:  # noqa: A002
        """See that no other member has what one is about to have."""
        for other in self._records.values():
            if other.id == id:
                continue
            if name in (other.id, other.name):
                raise Refusal(f"{name} is the name of another node")
            if address and address == other.address:
                raise Refusal(f"{address} is the address of {other.id}")
            if set(fingerprints) & set(other.fingerprints):
                raise Refusal(f"a certificate of {other.id} has this key")

    def _free_number(self) -> int:
        """The next number after the one that was given last, around at the end."""
        taken = {member.number for member in self._records.values()}
        numbers = ((self._last_number + step) % MAXIMUM_MEMBERS + 1 for step in range(MAXIMUM_MEMBERS))
        return next(number for number in numbers if number not in taken)


def _fingerprints(value: object) -> tuple[str, ...]:
    return tuple(check_fingerprint(item) for item in check_list(value, at_most=MAXIMUM_FINGERPRINTS))


def _member(record: Mapping[str, Any]) -> Member:
    number = check_number(record["number"])
    if not 1 <= number <= MAXIMUM_MEMBERS:
        raise Refusal(f"the number of a node is 1 to {MAXIMUM_MEMBERS}")
    return Member(
        check_node(record["id"]),
        check_node(record["name"]),
        number,
        check_address(record["address"]),
        _fingerprints(record["fingerprints"]),
        is_voter=check_flag(record["is_voter"]),
        is_witness=check_flag(record["is_witness"]),
        is_draining=check_flag(record["is_draining"]),
    )
