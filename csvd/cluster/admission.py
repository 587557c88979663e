"""How nodes come into the cluster, on the side of its members: tokens, and the answer to a node that joins by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Protocol

import msgspec
from twisted.logger import Logger

from csvd.cluster.errors import ClusterError, CommandRefused
from csvd.cluster.identity.certificate import NodeIdentity, certificate_pem, fingerprint, key_of_request, key_pem
from csvd.cluster.identity.token import JoinToken
from csvd.cluster.names import address_of_text
from csvd.cluster.peer import JoinHandler
from csvd.cluster.register_members import Member, Token

COMMAND_TIMEOUT_S: Final = 15.0
MINIMUM_TOKEN_LIFE_S: Final = 10
MAXIMUM_TOKEN_LIFE_S: Final = 30 * 86400
DEFAULT_TOKEN_LIFE_S: Final = 3600


class MembersRegister(Protocol):
    """The register, as far as joins need it."""

    @property
    def members(self) -> Mapping[str, Member]:
        """By id."""

    @property
    def tokens(self) -> Mapping[str, Token]:
        """By id."""


class JoinedCluster(Protocol):
    """This node's membership."""

    @property
    def register(self) -> MembersRegister:
        """As far as this node has applied it."""

    async def submit(self, command: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Have the leader carry out a command."""


class JoinNetwork(Protocol):
    """What lets joining nodes in."""

    def serve_joins(self, is_token: Callable[[str], bool], handler: JoinHandler) -> None:
        """Let in who shows the key of a token, and answer it."""


class JoinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a joining node asks.

    Attributes:
        node: the name that it will have.
        address: where it listens for the others, `host:port`.
        request: for a certificate of its key (PKCS #10, PEM).
    """

    node: Annotated[str, msgspec.Meta(max_length=63)]
    address: Annotated[str, msgspec.Meta(max_length=262)]
    request: Annotated[str, msgspec.Meta(max_length=4096)]


class JoinAnswer(msgspec.Struct, frozen=True):
    """What it is answered.

    Attributes:
        certificate: of its key (PEM).
        authority: the certificate of the cluster's authority (PEM).
        authority_key: its key (PEM).
        data_key: the cluster's key for secrets on shared disks.
        members: by id the address of each, and the fingerprints of its keys.
    """

    certificate: str
    authority: str
    authority_key: str
    data_key: bytes
    members: dict[str, tuple[str, tuple[str, ...]]]


class Admission:
    """Makes tokens, and lets in who shows one.

    Args:
        cluster: this node's membership.
        identity: who this node is now.
        wall_s: the time in seconds since 1970.
        data_key: the cluster's current key for secrets on shared disks; None for that of the identity.
    """

    _log = Logger()

    def __init__(
        self,
        cluster: JoinedCluster,
        identity: Callable[[], NodeIdentity],
        wall_s: Callable[[], float],
        *,
        data_key: Callable[[], bytes] | None = None,
    ) -> None:
        self._cluster = cluster
        self._data_key = data_key
        self._identity = identity
        self._wall_s = wall_s

    def serve(self, network: JoinNetwork) -> None:
        """Answer nodes that join, from now on."""
        network.serve_joins(self.is_token, self.join)

    def is_token(self, key: str) -> bool:
        """Whether a fingerprint is that of a token that can be used now."""
        token = self._cluster.register.tokens.get(key)
        return token is not None and self._wall_s() < token.expires_at_s

    def tokens(self) -> list[dict[str, Any]]:
        """The tokens that can be used now, without what they are made of."""
        now_s = self._wall_s()
        return [token.to_json() for token in self._cluster.register.tokens.values() if token.expires_at_s > now_s]

    async def create_token(self, *, life_s: int = DEFAULT_TOKEN_LIFE_S, is_witness: bool = False) -> dict[str, Any]:
        """Make a token, and register it.

        Returns:
            `id`, `expires_at_s`, `is_witness`, and `token`, the secret text.

        Raises:
            CommandRefused: no token can be made.
            OutcomeUnknown: the leader did not answer in time.
        """
        if not MINIMUM_TOKEN_LIFE_S <= life_s <= MAXIMUM_TOKEN_LIFE_S:
            raise CommandRefused(
                f"a token can not live for {life_s} s",
                hint=f"{MINIMUM_TOKEN_LIFE_S} s to {MAXIMUM_TOKEN_LIFE_S // 86400} days",
            )
        addresses = [address_of_text(member.address) for member in self._cluster.register.members.values()]
        known = [address for address in addresses if address is not None]
        if not known:
            raise CommandRefused("no node could join: none of the cluster listens at an address")
        identity, now_s = self._identity(), int(self._wall_s())
        token = JoinToken.make(
            cluster=identity.cluster,
            addresses=known,
            authority=identity.authority.fingerprint,
            expires_at_s=now_s + life_s,
            is_witness=is_witness,
        )
        record = {"id": token.id, "expires_at_s": token.expires_at_s, "is_witness": is_witness}
        await self._cluster.submit({"op": "token_add", **record, "at_s": now_s}, timeout_s=COMMAND_TIMEOUT_S)
        return {**record, "token": token.text()}

    async def revoke_token(self, start: str) -> dict[str, Any]:
        """Remove a token, named by its id or by how that begins.

        Raises:
            CommandRefused: there is no such token, or more than one.
        """
        found = [token for token in self._cluster.register.tokens if start and token.startswith(start)]
        if len(found) != 1:
            raise CommandRefused("there is no such token" if not found else "there are several such tokens")
        return await self._cluster.submit({"op": "token_remove", "id": found[0]}, timeout_s=COMMAND_TIMEOUT_S)

    async def join(self, shown: str, params: dict[str, Any]) -> dict[str, Any]:
        """Answer a node that joins: register it, sign its certificate, and give it what a member has.

        A node whose answer was lost asks again by its own key, and is answered the same.

        Args:
            shown: the fingerprint of the key that it has proven to have: of a token, or its own.
            params: a JoinRequest.

        Raises:
            ClusterError: what it asks is no request.
            CommandRefused: it can not join.
            OutcomeUnknown: the leader did not answer in time.
        """
        try:
            asked = msgspec.convert(params, JoinRequest)
        except msgspec.ValidationError as error:
            raise ClusterError("what the joining node asks is not a request", why=str(error)) from error
        key = key_of_request(asked.request.encode())
        own = fingerprint(key)
        if shown == own:
            member = self._cluster.register.members.get(asked.node)
            if member is None or own not in member.fingerprints:
                raise CommandRefused("the node has another name", where=asked.node)
        else:
            command = {"op": "member_join", "token": shown, "id": asked.node, "address": asked.address}
            await self._cluster.submit(
                {**command, "fingerprint": own, "at_s": int(self._wall_s())}, timeout_s=COMMAND_TIMEOUT_S
            )
            self._log.info("{node} at {address} has joined the cluster", node=asked.node, address=asked.address)
        identity = self._identity()
        certificate = identity.authority.certify(asked.node, key, now_s=self._wall_s())
        answer = JoinAnswer(
            certificate_pem(certificate).decode(),
            certificate_pem(identity.authority.certificate).decode(),
            key_pem(identity.authority.key).decode(),
            identity.data_key if self._data_key is None else self._data_key(),
            {
                node: (member.address, tuple(member.fingerprints))
                for node, member in self._cluster.register.members.items()
            },
        )
        return dict(msgspec.to_builtins(answer, builtin_types=(bytes,)))
