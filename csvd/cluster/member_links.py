"""Which nodes this one is linked to: the members of its register, and those that it may not know of yet.

A member that was removed stays linked for a moment, so that it hears of its removal by the log.

A node that was away may come back and not know the leader: it has joined meanwhile, and the node's own register, which
names all whom it lets in, only the leader could bring up to date. So a node that hears no leader asks those to whom it
is linked, who are members as far as it knows, who the members are; it lets in those, too, until its register has come
as far as the answer was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from csvd.cluster.errors import ClusterError
from csvd.cluster.names import address_of_text
from csvd.cluster.network import Address, Fingerprints, Network
from csvd.cluster.reactor import Clock, DelayedCall
from csvd.cluster.register import Register
from csvd.cluster.register_fields import Refusal, check_address, check_fingerprint, check_node
from csvd.cluster.register_members import MAXIMUM_FINGERPRINTS, MAXIMUM_MEMBERS, Member

LEAVING_S: Final = 1.0
"""How long a member that was removed is still linked."""
ASKING_S: Final = 1.0
"""How often a node that hears no leader asks for members that it does not know."""

_METHOD: Final = "cluster.members"
_Fingerprints = Annotated[tuple[str, ...], msgspec.Meta(max_length=MAXIMUM_FINGERPRINTS)]
_Ways = Mapping[str, tuple[Address | None, Fingerprints]]
_Members = Annotated[dict[str, tuple[str, _Fingerprints]], msgspec.Meta(max_length=MAXIMUM_MEMBERS)]


class _Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    revision: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    members: _Members


class MemberLinks:
    """Tells the network of one node who is to be let in.

    Args:
        node: this node.
        register: as far as this node has applied it.
        network: the links.
        clock: the node's loop.
        heard_of: the leader that this node knows, or None, and up to which entry it knows the log to be committed.
    """

    _log = Logger()

    def __init__(
        self,
        node: str,
        register: Register,
        network: Network,
        clock: Clock,
        heard_of: Callable[[], tuple[str | None, int]],
    ) -> None:
        self._node = node
        self._register = register
        self._network = network
        self._clock = clock
        self._heard_of = heard_of
        self._foreseen: Mapping[str, Member] = {}
        self._until_committed = 0
        self._linked: set[str] = set()
        self._known: dict[str, tuple[Address | None, Fingerprints]] | None = None
        self._heard: dict[str, tuple[Address | None, Fingerprints]] = {}
        self._heard_revision = 0
        self._leaving: dict[str, DelayedCall] = {}
        self._asking = LoopingCall(self._ask_who_is_there)
        self._asking.clock = clock  # type: ignore[assignment]
        network.serve(_METHOD, self._asked)

    def start(self, foreseen: Mapping[str, Member], *, until_committed: int) -> None:
        """Tell the network of the members, and ask for others when it is needed.

        Args:
            foreseen: the members that there will be when all that is in the log now is committed: to commit it, the
                node may need them.
            until_committed: the last entry of that log.
        """
        self._foreseen, self._until_committed = foreseen, until_committed
        self.update()
        self._asking.start(ASKING_S, now=False)

    def stop(self) -> None:
        """Do nothing more."""
        if self._asking.running:
            self._asking.stop()
        for call in self._leaving.values():
            call.cancel()
        self._leaving.clear()

    def link_up(self, peer: str) -> None:
        """There is a link to a node."""
        self._linked.add(peer)

    def link_down(self, peer: str) -> None:
        """There is none any more."""
        self._linked.discard(peer)

    def update(self) -> None:
        """The register has changed: tell the network when its members have.

        An empty register has told nothing yet: the network goes by what it was given for that time.
        """
        if self._heard_of()[1] >= self._until_committed:
            self._foreseen = {}
        members = _either(_ways(self._foreseen), _ways(self._register.members))
        before = self._known or {}
        if self._register.revision >= self._heard_revision:
            self._heard = {}
        for node in set(before) - set(members) - set(self._heard) - set(self._leaving) - {self._node}:
            self._leaving[node] = self._clock.callLater(LEAVING_S, self._has_left, node)
        for node in set(self._leaving) & {*members, *self._heard}:
            self._leaving.pop(node).cancel()
        self._tell({**{node: before[node] for node in self._leaving}, **_either(self._heard, members)})

    def _has_left(self, node: str) -> None:
        del self._leaving[node]
        self._tell({known: what for known, what in (self._known or {}).items() if known != node})

    def _tell(self, known: dict[str, tuple[Address | None, Fingerprints]]) -> None:
        if known != self._known:
            self._known = known
            self._network.set_members(known)

    async def _asked(self, peer: str, params: dict[str, Any]) -> dict[str, Any]:
        members = self._register.members.values()
        return {
            "revision": self._register.revision,
            "members": {member.id: (member.address, list(member.fingerprints)) for member in members},
        }

    def _ask_who_is_there(self) -> None:
        if self._heard_of()[0] is not None:
            return
        for peer in sorted(self._linked):
            Deferred.fromCoroutine(self._ask(peer)).addErrback(
                lambda failure: self._log.failure("the members could not be asked for", failure)
            )

    async def _ask(self, peer: str) -> None:
        try:
            answer = await self._network.call(peer, _METHOD, {}, timeout_s=ASKING_S)
            revision, members = _checked(answer)
        except (ClusterError, Refusal, msgspec.ValidationError) as error:
            self._log.info("{peer} did not tell who the members are: {error}", peer=peer, error=str(error))
            return
        if revision > max(self._register.revision, self._heard_revision) and self._heard_of()[0] is None:
            self._heard, self._heard_revision = dict(members), revision
            self.update()


def _ways(members: Mapping[str, Member]) -> _Ways:
    return {node: (address_of_text(member.address), member.fingerprints) for node, member in members.items()}


def _either(newer: _Ways, older: _Ways) -> _Ways:
    """All members of both. One that is in both may have been removed and have joined anew between them, with another
    key: which of its keys it has now is not known before the register has come that far, so either lets it in."""
    both = {**older, **newer}
    for node in newer.keys() & older.keys():
        address, fingerprints = newer[node]
        both[node] = address, tuple(dict.fromkeys((*fingerprints, *older[node][1])))
    return both


def _checked(answer: dict[str, Any]) -> tuple[int, Mapping[str, tuple[Address | None, Fingerprints]]]:
    """The revision and the members of an answer.

    Raises:
        Refusal, msgspec.ValidationError: it is none.
    """
    told = msgspec.convert(answer, _Answer)
    members = {
        check_node(node): (
            address_of_text(check_address(address)),
            tuple(check_fingerprint(fingerprint) for fingerprint in fingerprints),
        )
        for node, (address, fingerprints) in told.members.items()
    }
    return told.revision, members
