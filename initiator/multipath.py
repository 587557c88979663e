"""Several paths to one disk behind the face of one :class:`Road <initiator.road.Road>`.

Each path is a session with one portal: of one target, or of several that serve the same disk, as the nodes of a cluster
do. A path is used only while the disk at its end is the one of all others, by VPD page 83h and by size. Which path a
command takes is decided by :class:`initiator.engine.paths.Paths`. A path that fails is left at once, and logs in again
by itself; what was under way on it goes to another: commands that were not sent, and those that may be executed twice.
Of others it is reported that their outcome is unknown. While there is no path commands wait, up to their deadlines.

**Writes that are left behind.** A write that was sent on a path and has no answer may still be executed after the path
is gone: a target process that was stopped goes on and reads what its socket holds, even after a reset; a task waits for
a slow disk. Let it be sent again on another path, acknowledged, and be followed by a newer write to the same blocks:
then the one that was left behind undoes the newer one. That is no theory: NVMe lost data by it, and got against it the
Command Quiesce Time and Cross-Controller Reset. dm-multipath does not look at it.

Nothing in RFC 7143 or SAM-5 says when such a write is over, except these:

1. *The nexus is reinstated*: a login of the same initiator name and ISID to the same target port (target name and
   portal group tag) ends the old session, and with it its tasks (RFC 7143 sections 4.4.3 and 6.3.5; I_T nexus loss in
   SAM-5 section 6.3.4). Each path keeps its ISID for that. It is believed when the new session has had a command
   answered, for a target may let the new session begin while it waits for the tasks of the old. It may come about at
   the same portal, or at another of the same group through a path that is up.
2. *LOGICAL UNIT RESET* through a path that is up to the same target device ends the tasks of all nexuses (SAM-5 section
   7.7). It ends those of other initiators, too, so it is done only when two logins at the portal have failed, and with
   nothing of our own under way, for whose command it ends is not always told.
3. *The target has answered*: the command, or the ABORT TASK for it.

That portals are of one group or one device is believed when the target says so itself (SendTargets, at a portal that is
up): two nodes of a cluster may well have the same names and know nothing of each other's tasks. Time proves nothing. So
until one of the three has come about, a write that was left behind is not sent again, and no other write to the same
blocks is sent; reads, and writes to other blocks, go on. That is ``StalePolicy.PROVE``, the default. Where nobody else
writes to the disk, ``HOLD_OVERLAPPING`` may do: it sends the write again at once, for the same data twice harms nobody,
and holds only other ones. ``forget_stale_after_s`` puts an end to the waiting where a portal never comes back, at the
price that its target must not run a write after that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred

from csvd.iscsi.codes import TaskManagementFunction
from initiator.engine.requests import CHECK_CONDITION, GOOD, Command
from initiator.errors import CommandAborted, InitiatorError, NoPath, SessionClosed, SessionLost, TimedOut
from initiator.multipath_options import DEFAULT_OPTIONS, MultipathOptions, PathListener, PathStatus
from initiator.options import SessionOptions
from initiator.path import Addresses, DiskPath, Nexus, Opener
from initiator.path_call import PathCall
from initiator.path_group import PathGroup
from initiator.road import Finished
from initiator.scsi import cdb as cdbs
from initiator.scsi import lun as luns
from initiator.scsi import port_groups, sense
from initiator.scsi.sense import Sense, SenseKey
from initiator.scsi.target_ports import AccessState
from initiator.session import Session
from initiator.stale_proofs import StaleProofs
from initiator.url import IscsiUrl
from initiator.waiting import follow

MAX_ATTEMPTS: Final = 32
"""So often a command that a target refuses for its access state goes around; then the refusal is its answer."""

_LUN_NOT_SUPPORTED: Final = (0x25, 0x00)


class Multipath:
    """A road over several paths to one logical unit. Made by :meth:`open`.

    What belongs to a nexus stays with its path: persistent reservations are registered on the one that the command
    happens to take, and each path has unit attentions of its own. The write cache belongs to the disk, as SAM-5 has it:
    a flush on one path is believed to hold for the writes of all. Nodes that keep a volatile cache each are not such a
    disk; :class:`initiator.recovery.Recovery`, over one path, finds out a target that lost power with what it had.
    """

    def __init__(
        self,
        places: Sequence[tuple[IscsiUrl, bytes]],
        opener: Opener,
        addresses: Addresses,
        *,
        reactor: Any,
        options: SessionOptions,
        how: MultipathOptions = DEFAULT_OPTIONS,
        listener: PathListener | None = None,
    ) -> None:
        self.reactor = reactor
        self.options = options
        self.how = how
        self.group = PathGroup(self, places, opener, addresses, how, listener, reactor=reactor)
        self._choice = self.group.choice
        self._paths = self.group.paths
        self._proofs = StaleProofs(self.group, self._release)
        self._lun_field = luns.encode(places[0][0].lun)
        self._waiting: deque[PathCall] = deque()
        """Calls for which no path takes commands."""
        self._held: list[PathCall] = []
        """Calls that must not be sent yet for writes that were left behind."""
        self._calls = 0
        self._closed = False
        self._aborted = False
        self._idle: Deferred[None] | None = None
        self._timer: Any = None
        self._timer_at = 0.0

    @classmethod
    async def open(
        cls,
        places: Sequence[IscsiUrl],
        opener: Opener,
        addresses: Addresses,
        *,
        isid: Callable[[], bytes],
        reactor: Any,
        options: SessionOptions,
        how: MultipathOptions = DEFAULT_OPTIONS,
        listener: PathListener | None = None,
    ) -> Multipath:
        """Log in through all paths; return when those that answer are up.

        Args:
            places: where the disk is; each path has the LUN of its own.
            opener: logs in to one of them.
            addresses: asks at one of them for the portals of its target.
            isid: makes an ISID that no other session of ours has.
            listener: told of every change of a path.

        Raises:
            DifferentDisk: two paths lead to different disks.
            NoPath: none leads to the disk; it names each and why.
        """
        named = [(place, isid()) for place in places]
        road = cls(named, opener, addresses, reactor=reactor, options=options, how=how, listener=listener)
        try:
            await road.group.open()
        except BaseException:
            road.abort()
            raise
        return road

    # --- what it is

    @property
    def where(self) -> str:
        """All paths, for messages."""
        return self.group.where

    @property
    def alive(self) -> bool:
        """Whether commands can be started: until it is closed, for paths come back."""
        return not self._closed

    @property
    def session(self) -> Session:
        """The session of the first path that takes commands; where none does, one that did.

        Raises:
            SessionClosed: none ever did.
        """
        session = self.group.session
        if session is None:
            raise SessionClosed("no path has been up", where=self.where)
        return session

    @property
    def paths(self) -> tuple[PathStatus, ...]:
        """Each path as it is now, in the order in which they were named."""
        return self.group.status()

    @property
    def stale_write_count(self) -> int:
        """Writes that were left behind and are not proven over."""
        return len(self._proofs.writes)

    def __repr__(self) -> str:
        return f"<Multipath {self._choice!r} waiting={len(self._waiting)} held={len(self._held)}>"

    # --- calls

    def start(self, command: Command, deadline_s: float, finished: Finished) -> None:
        """Send a command on the path whose turn it is: :meth:`Road.start <initiator.road.Road.start>`.

        Raises:
            SessionClosed: the road is closed.
            InitiatorError: the command is for another LUN than the disk's.
        """
        if self._closed:
            raise SessionClosed("this side has closed the disk", where=self.where)
        if command.lun != self._lun_field:
            raise InitiatorError("several paths lead to one LUN, and this command is for another", where=self.where)
        call = PathCall(command, deadline_s, finished)
        command.above = call
        self._calls += 1
        if self._proofs.any:
            self._offer(call)
        else:
            self._send(call)

    def cancel(self, command: Command) -> None:
        """Abort a command that nobody waits for any more."""
        call = command.above
        if not isinstance(call, PathCall) or call.finished is None:
            return
        call.finished = None
        if call.session is not None:
            call.session.cancel(call.attempt)
            path = self._take_off(call)
            self._doubt(call, path)
        elif call in self._held:
            self._held.remove(call)
        elif call in self._waiting:
            self._waiting.remove(call)
        self._one_ended()

    async def nop(self, *, timeout_s: float | None = None) -> float:
        """Ping the target of a path that takes commands; give the seconds until its answer."""
        return await self._active_session().nop(timeout_s=timeout_s)

    async def task_management(
        self, function: TaskManagementFunction, *, lun: int = 0, timeout_s: float | None = None
    ) -> None:
        """Have the target of a path that takes commands run a task management function on the disk; its number there
        goes before ``lun``."""
        session = self._active_session()
        number = next((path.place.lun for path in self._paths if path.session is session), lun)
        await session.task_management(function, lun=number, timeout_s=timeout_s)

    def _active_session(self) -> Session:
        session = self.group.active_session
        if session is None:
            raise SessionClosed("no path takes commands", why=self.group.explain())
        return session

    async def close(self) -> None:
        """Let the calls under way end, and log out of all paths. Never raises."""
        self._closed = True
        if self._calls:
            self._idle = self._idle or Deferred()
            await follow(self._idle)
        self._stop_timer()
        await self.group.close()

    def abort(self) -> None:
        """End at once, without a logout; calls under way fail with SessionLost."""
        self._closed = self._aborted = True
        self._stop_timer()
        self.group.abort()
        left = [*self._waiting, *self._held]
        self._waiting.clear()
        self._held.clear()
        for call in left:
            self._fail(call, self._aborted_error(call))

    def _aborted_error(self, call: PathCall) -> SessionLost:
        error = SessionLost("this side has closed the disk", where=self.where)
        error.outcome_unknown = call.attempts > 0
        return error

    # --- a call's way

    def _send(self, call: PathCall) -> None:
        while True:
            index = self._choice.choose()
            if index is None:
                self._wait(call)
                return
            path = self._paths[index]
            session, attempt = path.session, call.attempt
            assert session is not None
            attempt.lun = path.lun_field
            call.path, call.session = path, session
            try:
                session.start(attempt, call.deadline_s, self._ended, self._attempt_s(call.deadline_s))
                return
            except SessionClosed as error:
                self._take_off(call)
                path.retire(error.why or error.what)

    def _attempt_s(self, deadline_s: float) -> float | None:
        """When an attempt without an answer is aborted, to be made on another path."""
        limit_s = self.options.command_timeout_s
        if not limit_s:
            return None
        now_s: float = self.reactor.seconds()
        return max(now_s + limit_s, deadline_s - (deadline_s - now_s) / 3)

    def _ended(self, attempt: Command) -> None:
        """An attempt came back."""
        call: PathCall = attempt.above
        path = self._take_off(call)
        if attempt.error is not None:
            self._lost(call, path, attempt.error)
        elif attempt.status == GOOD and not attempt.response:
            self._deliver(call)
        else:
            self._refused(call, path)

    def _take_off(self, call: PathCall) -> DiskPath:
        path = call.path
        assert path is not None
        call.path = call.session = None
        self._choice.ended(path.index)
        return path

    def _deliver(self, call: PathCall) -> None:
        command, attempt = call.command, call.attempt
        if attempt is not command:
            command.status, command.response, command.sense = attempt.status, attempt.response, attempt.sense
            command.residual, command.received, command.error = attempt.residual, attempt.received, None
        self._finish(call)

    def _finish(self, call: PathCall) -> None:
        finished, call.finished = call.finished, None
        if finished is not None:
            call.command.above = None
            finished(call.command)
            self._one_ended()

    def _fail(self, call: PathCall, error: InitiatorError) -> None:
        call.command.error = error
        self._finish(call)

    def _one_ended(self) -> None:
        self._calls -= 1
        if not self._calls and self._idle is not None:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def _again(self, call: PathCall) -> None:
        """Send a call anew: an attempt that ended is not to be started again."""
        command = call.command
        data_out = command.data_out if len(command.data_out) else None
        attempt = Command(command.lun, command.cdb, data_in=call.data_in, data_out=data_out)
        attempt.idempotent, attempt.above = command.idempotent, call
        call.attempt = attempt
        call.attempts += 1
        if self._aborted:
            self._fail(call, self._aborted_error(call))
        else:
            self._offer(call)

    def _offer(self, call: PathCall) -> None:
        """Send a call, unless it must wait for writes that were left behind."""
        call.held = self._proofs.why_held(call, call.footprint)
        if call.held:
            self._held.append(call)
            self._arm(call.deadline_s)
        elif self._proofs.draining:
            self._wait(call)
        else:
            self._send(call)

    def _wait(self, call: PathCall) -> None:
        self._waiting.append(call)
        self._arm(self.group.now if self._in_vain else call.deadline_s)

    @property
    def _in_vain(self) -> bool:
        return not (self.how.queue_if_no_path or self._choice.any_hope)

    def _release(self) -> None:
        """Fewer writes are left behind: see who need not wait any longer."""
        held, self._held = self._held, []
        for call in held:
            self._offer(call)

    # --- what came instead of GOOD

    def _refused(self, call: PathCall, path: DiskPath) -> None:
        """A status other than GOOD: either it is of the path, and the command goes to another, or it is the answer."""
        attempt = call.attempt
        found = sense.parse(attempt.sense) if attempt.status == CHECK_CONDITION and not attempt.response else None
        if found is None or found.deferred or call.attempts >= MAX_ATTEMPTS or not self._is_of_path(path, found):
            self._deliver(call)
        else:
            self._again(call)

    def _is_of_path(self, path: DiskPath, found: Sense) -> bool:
        """Whether a refusal says something of the path and nothing of the command, which was not executed."""
        if port_groups.states_changed(found):
            self.group.attention(path, found)
            self._choice.suspect(path.index, self.group.now)
            self.paths_changed()
            return True
        state = port_groups.state_refused_by(found)
        if state is None:
            lun_gone = found.key is SenseKey.ILLEGAL_REQUEST and (found.asc, found.ascq) == _LUN_NOT_SUPPORTED
            if not lun_gone and found.key is not SenseKey.NOT_READY:
                return False
            if not any(other.active and other.index != path.index for other in self._choice):
                return False  # no path says anything else: it is the disk's
            state = AccessState.UNAVAILABLE
        self.group.refused(path, state, str(found))
        return True

    def _lost(self, call: PathCall, path: DiskPath, error: InitiatorError) -> None:
        """An attempt came to no status."""
        attempt = call.attempt
        if isinstance(error, SessionLost):
            path.leave(error.why or error.what)
            if not attempt.was_sent:
                self._again(call)
                return
            self._proofs.leave_behind(call, call.footprint, path)
            if call.idempotent:
                self._again(call)
                return
        elif isinstance(error, CommandAborted) and (call.idempotent or not attempt.was_sent):
            self._again(call)  # its task is over, whoever ended it
            return
        elif isinstance(error, TimedOut):
            self._doubt(call, path)
        self._fail(call, error)

    def _doubt(self, call: PathCall, path: DiskPath) -> None:
        self._proofs.doubt(call, call.attempt, call.footprint, path)
        self._arm_next()

    # --- what the paths tell (path_group.GroupOwner)

    def paths_changed(self) -> None:
        """Send what waits for a path, where there is one now."""
        while self._waiting and self._choice.any_active and not self._proofs.draining:
            self._offer(self._waiting.popleft())
        self._arm_next()

    def proven_over(self, nexus: Nexus) -> None:
        """A nexus was reinstated, and the new session had a command answered."""
        self._proofs.proven_over(nexus)

    async def prove_stale_writes(self, path: DiskPath) -> None:
        """Have what a path has left behind proven over through another path."""
        await self._proofs.prove(path)

    # --- time

    def _tick(self) -> None:
        self._timer = None
        self.group.work()
        self._proofs.settle()
        now, in_vain = self.group.now, self._in_vain
        for call in [call for call in self._waiting if in_vain or call.deadline_s <= now]:
            self._waiting.remove(call)
            self._fail(call, self._no_path(call))
        for call in [call for call in self._held if call.deadline_s <= now]:
            self._held.remove(call)
            self._fail(call, self._no_path(call))
        self._arm_next()

    def _no_path(self, call: PathCall) -> NoPath:
        name = cdbs.name_of(call.command.cdb)
        hint = "forget_stale_after_s ends the waiting without a proof" if call.held else ""
        error = NoPath(f"no path took {name} in its time", why=call.held or self.group.explain(), hint=hint)
        error.outcome_unknown = call.attempts > 0
        return error

    def _arm_next(self) -> None:
        times = [self._choice.next_due_s(), self._proofs.next_s()]
        times += [call.deadline_s for call in (*self._waiting, *self._held)]
        wanted = [time for time in times if time is not None]
        if wanted:
            self._arm(min(wanted))

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
            self._timer = None
        if not self._closed or self._calls:
            self._timer_at = at
            self._timer = self.reactor.callLater(max(0.0, at - self.group.now), self._tick)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
