"""Writes that were left behind on lost paths, and the proofs that they are over (see :mod:`initiator.multipath`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from csvd.iscsi.codes import TaskManagementFunction
from initiator import path_check
from initiator.engine.requests import Command
from initiator.engine.stale_writes import StaleWrites
from initiator.errors import InitiatorError
from initiator.multipath_options import StalePolicy
from initiator.path import DiskPath, Nexus
from initiator.path_group import PathGroup
from initiator.scsi.footprint import Footprint

ABORT_POLL_S: Final = 0.1
_DRAIN_S: Final = 2.0
_DRAIN_POLL_S: Final = 0.02
_RESET_AFTER_FAILURES: Final = 2
"""Logins of a path that fail before its logical unit is reset through another."""


class StaleProofs:
    """What was left behind, by the nexus that it was sent on.

    Args:
        released: called when there is less of it than before.
    """

    def __init__(self, group: PathGroup, released: Callable[[], None]) -> None:
        self.writes = StaleWrites(group.how.forget_stale_after_s)
        self.draining = 0
        """Logical unit resets that wait until nothing is under way: nothing may be sent."""
        self.log = Logger()
        self._group = group
        self._released = released
        self._policy = group.how.stale_writes
        self._in_doubt: list[tuple[Any, Command, Nexus]] = []

    @property
    def any(self) -> bool:
        """Whether a command must be looked at before it is sent."""
        return bool(self.draining) or bool(len(self.writes))

    def why_held(self, call: Any, changed: Footprint) -> str:
        """Give why a call that changes these blocks must wait; nothing where it need not."""
        if not len(self.writes) or self._policy is StalePolicy.IGNORE:
            return ""
        own = call if self._policy is StalePolicy.HOLD_OVERLAPPING else None
        write = self.writes.hold(changed, apart_from=own)
        if write is None:
            return ""
        at = f"at {write.nexus.portal} " if isinstance(write.nexus, Nexus) else ""
        return f"a write to the same blocks was left behind {at}and may still be executed"

    # --- what is left behind

    def leave_behind(self, call: Any, changed: Footprint, path: DiskPath) -> None:
        """A command was sent on a path that is lost, and has no answer."""
        if path.nexus is not None:
            self.writes.left_behind(path.nexus, call, changed, self._group.now)

    def doubt(self, call: Any, attempt: Command, changed: Footprint, path: DiskPath) -> None:
        """The caller waits no more for a command on a path that is up: it counts as left behind while its ABORT TASK
        is under way, for a command on another path does not wait for that."""
        if path.nexus is not None and attempt.was_sent and not attempt.done and changed[0] < changed[1]:
            self.leave_behind(call, changed, path)
            self._in_doubt.append((call, attempt, path.nexus))

    # --- when it is over

    def proven_over(self, nexus: Nexus) -> None:
        """A nexus was reinstated and its new session had a command answered, or its logical unit was reset."""
        if self.writes.proven_over(nexus):
            self.log.info("what was left behind at {portal} is over", portal=str(nexus.portal))
            self._released()

    def settle(self) -> None:
        """See what has been ended by the target since, and what is not believed in any longer."""
        doubts, self._in_doubt = self._in_doubt, []
        fewer = False
        for doubt in doubts:
            call, attempt, nexus = doubt
            if attempt.done:
                fewer |= self.writes.over(nexus, call)
            elif nexus in self.writes.nexuses():
                self._in_doubt.append(doubt)
        if self.writes.expire(self._group.now):
            self.log.warn("writes that were left behind are taken to be over: no proof came in time")
            fewer = True
        if fewer:
            self._released()

    def next_s(self) -> float | None:
        """When :meth:`settle` may have something to do."""
        expiry_s = self.writes.next_expiry_s()
        if not self._in_doubt:
            return expiry_s
        poll_s = self._group.now + ABORT_POLL_S
        return poll_s if expiry_s is None else min(poll_s, expiry_s)

    # --- having it proven

    async def prove(self, path: DiskPath) -> None:
        """Have what a path has left behind proven over through another path. Does nothing where that is not to be had;
        then the path's own login is the proof."""
        nexus = path.nexus
        if nexus is None or nexus not in self.writes.nexuses():
            return
        of_device = [other for other in self._group.paths if await self._is_of_device(other, nexus)]
        for other in of_device:
            if _tag(other) == nexus.portal_group_tag and await self._reinstate(path, other, nexus):
                return
        if self._group.how.unit_reset and self._group.choice[path.index].failures >= _RESET_AFTER_FAILURES:
            for other in of_device:
                if _tag(other) != nexus.portal_group_tag and await self._reset_unit(other, nexus):
                    return

    async def _is_of_device(self, other: DiskPath, nexus: Nexus) -> bool:
        """Whether a path that is up is with the same target device as a lost nexus, by the target's own word: it says
        that the other portal is its own."""
        if other.session is None or other.nexus is None or other.nexus.target_name != nexus.target_name:
            return False
        if other.nexus.isid == nexus.isid:
            return False
        try:
            return nexus.address in await self._group.addresses(other.place)
        except InitiatorError as error:
            self.log.info("{at}: discovery: {error}", at=str(other.place), error=str(error))
            return False

    async def _reinstate(self, path: DiskPath, other: DiskPath, nexus: Nexus) -> bool:
        """Log in as the lost nexus at the portal of another path, and out again."""
        try:
            session = await self._group.opener(path.at(other.place.portal), path.isid)
            try:
                if (session.target_name, session.portal_group_tag) != (nexus.target_name, nexus.portal_group_tag):
                    return False
                timeout_s = self._group.how.check_timeout_s
                await path_check.touch(session, path.place.lun, timeout_s, lambda _: None)
                self.proven_over(nexus)
                return True
            finally:
                Deferred.fromCoroutine(session.close()).addErrback(self._logout_failed)
        except InitiatorError as error:
            self.log.info("{at}: no reinstatement: {error}", at=str(other.place), error=str(error))
            return False

    async def _reset_unit(self, other: DiskPath, nexus: Nexus) -> bool:
        """Reset the logical unit when nothing of ours is under way; give whether it was done."""
        group, session = self._group, other.session
        if session is None:
            return False
        self.draining += 1
        try:
            end_s = group.now + _DRAIN_S
            while any(path.in_flight for path in group.choice):
                if group.now >= end_s:
                    return False
                await deferLater(group.reactor, _DRAIN_POLL_S, lambda: None)
            function = TaskManagementFunction.LOGICAL_UNIT_RESET
            await session.task_management(function, lun=other.place.lun, timeout_s=group.how.check_timeout_s)
            self.proven_over(nexus)
            return True
        except InitiatorError as error:
            self.log.info("{at}: no LOGICAL UNIT RESET: {error}", at=str(other.place), error=str(error))
            return False
        finally:
            self.draining -= 1
            group.owner.paths_changed()

    def _logout_failed(self, failure: Any) -> None:
        self.log.failure("logout of a session that served as a proof", failure)


def _tag(path: DiskPath) -> int | None:
    return None if path.nexus is None else path.nexus.portal_group_tag
