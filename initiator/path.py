"""One path to a disk: logs in, looks at what is there, is checked, and comes back by itself."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from initiator import path_check
from initiator.engine.discovery import TargetAddress
from initiator.engine.paths import PathState
from initiator.errors import CommandFailed, InitiatorError, SessionClosed
from initiator.path_check import Access, Findings
from initiator.scsi import lun as luns
from initiator.scsi.sense import Sense
from initiator.scsi.target_ports import AccessState
from initiator.session import Session
from initiator.url import IscsiUrl, Portal

if TYPE_CHECKING:
    from initiator.path_group import PathGroup

Opener = Callable[[IscsiUrl, bytes], Coroutine[Deferred[Any], Any, Session]]
"""Logs in to the target of a URL with this ISID; one session of it that is there already is reinstated."""

Addresses = Callable[[IscsiUrl], Coroutine[Deferred[Any], Any, frozenset[TargetAddress]]]
"""Asks the portal of a URL, by discovery, at which portals its target is."""


@dataclass(frozen=True, slots=True)
class Nexus:
    """An I_T nexus, and the portal that it was reached at. Logging in anew with the same names reinstates it (RFC 7143
    sections 4.4.3 and 6.3.5)."""

    target_name: str
    portal_group_tag: int | None
    isid: bytes
    portal: Portal

    @classmethod
    def of(cls, session: Session, isid: bytes) -> Nexus:
        """Give the nexus of a session."""
        return cls(session.target_name, session.portal_group_tag, isid, session.peer or session.portal)

    @property
    def address(self) -> TargetAddress:
        """Its portal, as SendTargets names it."""
        return TargetAddress(self.portal, self.portal_group_tag or 0)


class DiskPath:
    """One path. What state it is in stands in the machine of its owner (:class:`initiator.engine.paths.Paths`)."""

    def __init__(self, owner: PathGroup, index: int, place: IscsiUrl, isid: bytes) -> None:
        self.owner = owner
        self.index = index
        self.place = place
        self.isid = isid
        self.lun_field = luns.encode(place.lun)
        self.session: Session | None = None
        """The session that commands take; None when the path is not up."""
        self.nexus: Nexus | None = None
        """That of the session that commands take, or took last."""
        self.findings: Findings | None = None
        self._retired: Session | None = None
        self.log = Logger()
        self._work: Deferred[None] | None = None

    def __repr__(self) -> str:
        return f"<DiskPath {self.place} {self.owner.choice[self.index].words}>"

    # --- coming up

    def log_in(self) -> None:
        """Begin to log in; the owner is told what comes of it."""
        self._begin(self._log_in())

    async def _log_in(self) -> None:
        owner = self.owner
        owner.choice.logging_in(self.index, owner.now)
        session = None
        try:
            await self._let_go()
            await owner.owner.prove_stale_writes(self)
            session = await owner.opener(self.place, self.isid)
            owner.choice.checking(self.index, owner.now)
            timeout_s = owner.how.check_timeout_s
            ready = await path_check.touch(session, self.place.lun, timeout_s, self._attention)
            owner.owner.proven_over(Nexus.of(session, self.isid))
            findings = await path_check.examine(session, self.place.lun, timeout_s)
            access = await path_check.access_of(session, self.place.lun, findings, ready, timeout_s)
            await owner.admit(self, findings)
        except InitiatorError as error:
            if session is not None:
                session.abort()
            owner.path_failed(self, error)
            return
        except BaseException:
            if session is not None:
                session.abort()
            raise
        self.session, self.nexus, self.findings = session, Nexus.of(session, self.isid), findings
        session.on_end = self._session_ended
        if session.alive:
            owner.path_up(self, access)
            if access.state is AccessState.STANDBY:
                await self._activate_if_wanted()
        else:  # it ended between the last answer and now
            self._left("the session ended")

    # --- being up

    def check(self) -> None:
        """Begin to check it; the owner is told what comes of it."""
        self._begin(self._check())

    async def _check(self) -> None:
        session, findings = self.session, self.findings
        if session is None or findings is None:
            return
        try:
            access = await self._access(session, findings)
        except SessionClosed as error:
            if session is self.session:
                self.retire(str(error))
            return
        except InitiatorError as error:
            if session is self.session:
                self.leave(f"check failed: {error}")
            return
        if session is self.session:
            self.owner.path_up(self, access)
            await self._activate_if_wanted()

    async def _access(self, session: Session, findings: Findings) -> Access:
        timeout_s = self.owner.how.check_timeout_s
        ready = await path_check.touch(session, self.place.lun, timeout_s, self._attention)
        return await path_check.access_of(session, self.place.lun, findings, ready, timeout_s)

    async def _activate_if_wanted(self) -> None:
        """Have the target make this path's group active, where that is wanted and no other path takes commands."""
        session, findings, owner = self.session, self.findings, self.owner
        if not owner.how.explicit_alua or owner.choice.any_active or session is None or findings is None:
            return
        if not findings.explicit or findings.port_group is None:
            return
        if owner.choice[self.index].access not in (AccessState.STANDBY, AccessState.UNAVAILABLE):
            return
        try:
            await path_check.activate(session, self.place.lun, findings.port_group, owner.how.check_timeout_s)
            access = await self._access(session, findings)
        except CommandFailed as error:
            self.log.info("{path}: SET TARGET PORT GROUPS: {error}", path=str(self.place), error=str(error))
        except InitiatorError as error:
            self.leave(f"SET TARGET PORT GROUPS failed: {error}")
        else:
            if session is self.session:
                owner.path_up(self, access)

    def _attention(self, found: Sense) -> None:
        """A unit attention of this nexus was cleared: a reset is what every login brings, the rest is news."""
        if not found.is_reset:
            self.owner.attention(self, found)

    # --- going down

    def leave(self, why: str) -> None:
        """Use the path no more: its commands come back as SessionLost before this returns."""
        session = self.session
        if session is not None:
            self._left(why)
            session.abort()

    def retire(self, why: str) -> None:
        """Use the path no more: its session is logging out, or has ended. What is under way on it may end."""
        session = self.session
        if session is not None:
            session.on_end = None
            self._retired = session
            self._left(why)

    async def _let_go(self) -> None:
        """Let a session that was retired come to its end: a login of its nexus would cut it short."""
        session, self._retired = self._retired, None
        if session is not None:
            await session.close()

    def _session_ended(self, session: Session) -> None:
        if session is self.session:
            self._left(str(session.ended or "the session ended"))

    def _left(self, why: str) -> None:
        # The owner has to know before the commands come back, or it would send them here again.
        self.session = None
        self.owner.path_left(self, why)

    # --- its end

    async def close(self) -> None:
        """Log out. Never raises."""
        session = self._end()
        if session is not None:
            await session.close()

    def abort(self) -> None:
        """End at once, without a logout."""
        session = self._end()
        if session is not None:
            session.abort()

    def _end(self) -> Session | None:
        if self._work is not None:
            self._work.cancel()
        session, self.session = self.session, None
        if session is not None:
            session.on_end = None
        return session

    def at(self, portal: Portal) -> IscsiUrl:
        """Give this path's place at another portal."""
        return replace(self.place, portal=portal)

    @property
    def coming(self) -> bool:
        """Whether it is on its way up."""
        return self.owner.choice[self.index].state in (PathState.LOGGING_IN, PathState.CHECKING)

    def _begin(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        self._work = Deferred.fromCoroutine(work)
        self._work.addErrback(self._unexpected)

    def _unexpected(self, failure: Any) -> None:
        if failure.check(CancelledError) is not None:
            return
        self.log.failure("{path}: a fault of this program", failure, path=str(self.place))
        if self.session is not None:
            self.leave("a fault of this program")
        elif self.coming:
            self.owner.path_failed(self, InitiatorError("a fault of this program", why=repr(failure.value)))
