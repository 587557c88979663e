"""What the register says of this node is kept right: where it listens, and the fingerprints of its keys.

A certificate is renewed at two thirds of its life, with a new key, in steps of which each can be repeated after a
crash: the new pair is stored; its fingerprint goes into the register; it is used; when no connection shows the old one
any more, the old fingerprint is taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from csvd.cluster.errors import ClusterError
from csvd.cluster.identity.certificate import NodeIdentity
from csvd.cluster.identity.files import load_renewal, store_renewal, use_renewal
from csvd.cluster.reactor import Clock, DelayedCall
from csvd.cluster.register_members import Member
from csvd.errors import CsvdError

LOOK_S: Final = 60.0
"""How often it is looked whether something is to be done."""
SETTLE_S: Final = 10.0
"""How long the others have to hear of a new fingerprint before it is used."""
COMMAND_TIMEOUT_S: Final = 15.0

T = TypeVar("T")
Run = Callable[[Callable[[], T]], "Deferred[T]"]


class Members(Protocol):
    """The register, as far as it is needed here."""

    @property
    def members(self) -> Mapping[str, Member]:
        """By id."""


class MemberCluster(Protocol):
    """This node's membership."""

    @property
    def register(self) -> Members:
        """As far as this node has applied it."""

    async def submit(self, command: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Have the leader carry out a command."""


class CertifiedNetwork(Protocol):
    """What shows this node's certificate."""

    def set_identity(self, identity: NodeIdentity) -> None:
        """Show another one on new connections."""

    def renew_links(self) -> None:
        """Make the control links anew that show an earlier one."""

    @property
    def shows_old(self) -> bool:
        """Whether any connection does."""


class OwnRecord:
    """Keeps the record of this node right, from `start` to `stop`.

    Args:
        directory: the cluster's state directory, with the identity.
        identity: of this node.
        address: where the others find it, `host:port`.
        cluster: this node's membership.
        network: its links.
        clock: the node's loop.
        wall_s: the time in seconds since 1970.
        run: runs what waits for the disk.
    """

    _log = Logger()

    def __init__(
        self,
        directory: Path,
        identity: NodeIdentity,
        address: str,
        *,
        cluster: MemberCluster,
        network: CertifiedNetwork,
        clock: Clock,
        wall_s: Callable[[], float],
        run: Callable[[Callable[[], Any]], Deferred[Any]],
    ) -> None:
        self._directory = directory
        self.identity = identity
        self._address = address
        self._cluster = cluster
        self._network = network
        self._clock = clock
        self._wall_s = wall_s
        self._run = run
        self._timer: DelayedCall | None = None
        self._looking: Deferred[None] | None = None
        self._is_stopped = False

    def start(self) -> None:
        """Look now, and every minute."""
        self._timer = None
        looking = self._looking = Deferred.fromCoroutine(self.look())
        looking.addErrback(self._failed)
        looking.addCallback(self._looked)

    def stop(self) -> None:
        """Look no more."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._looking is not None:
            self._looking.cancel()

    async def look(self) -> None:
        """Do what is to be done now; what fails is done the next time."""
        try:
            await self._keep_address()
            await self._renew()
            await self._take_out_old()
        except CsvdError as error:
            self._log.info("what the register says of this node is not right yet: {error}", error=error)

    def _failed(self, failure: Failure) -> None:
        if not self._is_stopped:
            self._log.failure("this node's record could not be kept", failure)

    def _looked(self, _: None) -> None:
        self._looking = None
        if not self._is_stopped:
            self._timer = self._clock.callLater(LOOK_S, self.start)

    def _member(self) -> Member | None:
        return self._cluster.register.members.get(self.identity.node)

    async def _keep_address(self) -> None:
        member = self._member()
        if member is not None and self._address and member.address != self._address:
            await self._set({"address": self._address})

    async def _renew(self) -> None:
        """Go through the steps of a renewal, where one is due or was begun."""
        member, identity = self._member(), self.identity
        if member is None:
            return
        renewed = await self._run(lambda: load_renewal(self._directory, identity))
        if renewed is None:
            if self._wall_s() < identity.renew_at_s:
                return
            renewed = await self._run(self._made)
        if renewed.fingerprint not in member.fingerprints:
            await self._set({"fingerprints": [identity.fingerprint, renewed.fingerprint]})
        await deferLater(self._clock, SETTLE_S)  # type: ignore[arg-type]
        await self._run(lambda: use_renewal(self._directory))
        self.identity = renewed
        self._network.set_identity(renewed)
        self._network.renew_links()
        self._log.info("the certificate of this node was renewed; it is valid until {end}", end=_day(renewed))

    def _made(self) -> NodeIdentity:
        renewed = self.identity.renewed(now_s=self._wall_s())
        store_renewal(self._directory, renewed)
        return renewed

    async def _take_out_old(self) -> None:
        """Leave only the fingerprint that is in use; also the first time, where the register has none yet."""
        member, own = self._member(), self.identity.fingerprint
        if member is None or member.fingerprints == (own,):
            return
        if own not in member.fingerprints and len(self._cluster.register.members) > 1:
            raise ClusterError("the register has other keys of this node than it has itself", where=member.id)
        if not self._network.shows_old:
            await self._set({"fingerprints": [own]})

    async def _set(self, changes: dict[str, Any]) -> None:
        command = {"op": "member_set", "id": self.identity.node, **changes}
        await self._cluster.submit(command, timeout_s=COMMAND_TIMEOUT_S)


def _day(identity: NodeIdentity) -> str:
    return f"{identity.certificate.not_valid_after_utc:%Y-%m-%d}"
