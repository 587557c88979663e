"""The target node and the network entity that holds it (RFC 7143 section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from csvd.iscsi.access import OPEN, Access, Origin
from csvd.iscsi.async_messages import announce_session_drop
from csvd.iscsi.chap import Credentials
from csvd.iscsi.codes import LoginStatus
from csvd.iscsi.errors import LoginFailure
from csvd.iscsi.keys import OFFER, SessionParameters
from csvd.iscsi.names import normalize
from csvd.iscsi.portals import PortalGroup, Redirection
from csvd.iscsi.session import EXECUTING, QUEUE_DEPTH, Session, Task, abort, withdraw

if TYPE_CHECKING:
    from csvd.iscsi.connection import TargetConnection

MAX_SESSIONS: Final = 512
"""Sessions of one target; with the window of a session it bounds what initiators can make the node hold."""
MAX_REMOVED: Final = 256
"""Names of removed targets that are remembered, to tell their initiators."""

TARGET_OFFER: Final = replace(OFFER, max_connections=8)
"""What a target wants: a session may have several connections."""


class TaskRouter(Protocol):
    """What the iSCSI layer asks of the SCSI target device behind a target."""

    def nexus_opened(
        self, nexus: str, initiator_name: str, isid: bytes, portal_group_tag: int, protocol_level: int
    ) -> None: ...
    def nexus_lost(self, nexus: str) -> None: ...
    def data_out_length(self, lun: int, cdb: bytes) -> int:
        """Bytes of Data-Out that a command takes; negative: the CDB does not say, but no more than that many."""

    def logical_unit_reset(self, lun: int, by_nexus: str) -> bool: ...
    def target_reset(self, by_nexus: str) -> None: ...
    def reset_elsewhere(self, luns: Collection[int] | None, done: Callable[[], None]) -> None:
        """Have other nodes that export these logical units, or all, reset them, too; calls back when they have."""

    def clear_elsewhere(self, luns: Collection[int], nexus: str, done: Callable[[], None]) -> None:
        """The same for CLEAR TASK SET."""

    def release_elsewhere(self, nexus: str, done: Callable[[], None]) -> None:
        """Have the other nodes know that an I_T nexus has given up what it had reserved without registering; calls back
        when they do, at once where it had nothing, and in any case before an initiator would give up."""

    def commands_cleared(self, lun: int, nexuses: Iterable[str]) -> bool: ...
    def tasks_terminated(self, nexus: str, luns: Iterable[int]) -> None: ...
    def luns_of(self, nexus: str, lun: int) -> Collection[int]: ...
    def sees_every_lun(self, nexus: str) -> bool: ...
    def aborted_status(self, lun: int) -> bool: ...
    def i_t_nexus_reset(self, nexus: str) -> None: ...
    def pending_attention(self, nexus: str, lun: int) -> bytes | None: ...


class TargetNode:
    """An iSCSI target: its name, its portal groups, its sessions and the SCSI device behind it.

    Args:
        portal_group_tags: the portal groups that it is reached through; None for every one of the node.
        redirect: where logins are sent on to.
    """

    def __init__(
        self,
        name: str,
        router: TaskRouter,
        *,
        alias: str = "",
        portal_group_tags: Collection[int] | None = None,
        access: Access = OPEN,
        offer: SessionParameters = TARGET_OFFER,
        queue_depth: int = QUEUE_DEPTH,
        max_sessions: int = MAX_SESSIONS,
        redirect: Redirection | None = None,
    ) -> None:
        self.name = normalize(name)
        self.router = router
        self.alias = alias
        self.portal_group_tags = None if portal_group_tags is None else frozenset(portal_group_tags)
        self.access = access
        self.offer = offer
        self.queue_depth = queue_depth
        self.max_sessions = max_sessions
        self.redirect = redirect
        self.elsewhere: Mapping[int, Collection[str]] = {}
        """The portals of other nodes that serve this target, too, by portal group tag."""
        self.draining = False
        """No new sessions: the target is going to be stopped, for a while."""
        self.sessions: dict[int, Session] = {}
        self.leaving: set[Task] = set()
        """Tasks of sessions and connections that have ended, with which a disk is not done."""
        self._last_tsih = 0

    def reached_through(self, portal_group_tag: int) -> bool:
        """Whether this target is reached through the portals of a group."""
        return self.portal_group_tags is None or portal_group_tag in self.portal_group_tags

    def check_place(self, local_address: str, portal_group_tag: int, *, joins: bool) -> None:
        """Check that a login that came through a portal is served here; see `Redirection.moved`.

        Raises:
            LoginFailure: it is sent on; TargetAddress goes without a portal group tag there (RFC 7143 section 13.8).
        """
        if self.redirect is None:
            return
        moved = self.redirect.moved(local_address, portal_group_tag, joins=joins)
        if moved is not None:
            status = LoginStatus.TARGET_MOVED_TEMPORARILY
            if moved.permanent:
                status = LoginStatus.TARGET_MOVED_PERMANENTLY
            raise LoginFailure(status, f"{self.name} is at {moved.address}", pairs=(("TargetAddress", moved.address),))

    # Sessions

    def open_session(
        self,
        initiator_name: str,
        isid: bytes,
        parameters: SessionParameters,
        cmd_sn: int,
        *,
        portal_group_tag: int = 1,
        proven: Credentials | None = None,
    ) -> Session:
        """Make the session of a login with TSIH 0; one of the same initiator port to the same target port is
        reinstated: it ends first (RFC 7143 section 6.3.5).

        Raises:
            LoginFailure: the target has as many sessions as it takes.
        """
        for old in list(self.sessions.values()):
            if (old.initiator_name, old.isid, old.portal_group_tag) == (initiator_name, isid, portal_group_tag):
                self.close_session(old)
        # Those that have ended count for as long as a disk is at their tasks, which hold memory; not this port's own,
        # for the new session waits for them.
        ended = {task.session for task in self.leaving if task.session.initiator_port != (initiator_name, isid)}
        if len(self.sessions) + len(ended - set(self.sessions.values())) >= self.max_sessions:
            raise LoginFailure(LoginStatus.OUT_OF_RESOURCES, f"{self.name} has {self.max_sessions} sessions already")
        session = Session(
            self,
            initiator_name,
            isid,
            self._new_tsih(),
            parameters,
            cmd_sn,
            queue_depth=self.queue_depth,
            portal_group_tag=portal_group_tag,
            proven=proven,
        )
        session.follow([task for task in self.leaving if task.session.initiator_port == (initiator_name, isid)])
        self.sessions[session.tsih] = session
        level = parameters.iscsi_protocol_level
        self.router.nexus_opened(session.nexus, initiator_name, isid, portal_group_tag, level)
        # What the port had reserved by the session before is not the new one's.
        session.begin_after(partial(self.router.release_elsewhere, session.nexus))
        return session

    def joinable(self, initiator_name: str, isid: bytes, tsih: int, cid: int, portal_group_tag: int) -> Session:
        """Give the session that a login with this TSIH may join; one whose CID it has is joined in its place
        (RFC 7143 sections 6.3.1 and 6.3.4).

        Raises:
            LoginFailure: there is none, it is another portal group's, or it has all its connections.
        """
        session = self.sessions.get(tsih)
        if session is None or (session.initiator_name, session.isid) != (initiator_name, isid):
            raise no_such_session(tsih)
        if session.portal_group_tag != portal_group_tag:
            raise LoginFailure(
                LoginStatus.CANNOT_INCLUDE_IN_SESSION, f"session {tsih:#06x} has another portal group's connections"
            )
        most = session.parameters.max_connections
        if cid not in session.connections and len(session.connections) >= most:
            raise LoginFailure(LoginStatus.TOO_MANY_CONNECTIONS, f"session {tsih:#06x} has {most} connections")
        return session

    def _new_tsih(self) -> int:
        while True:
            self._last_tsih = self._last_tsih % 0xFFFF + 1
            if self._last_tsih not in self.sessions:
                return self._last_tsih

    def drop_session(self, session: Session, why: str) -> None:
        """End a session on the target's own account: its initiator is told, by an Async Message, before the
        connections close (RFC 7143 section 11.9.1)."""
        announce_session_drop(session, why)
        self.close_session(session)

    def drop_all_sessions(self, why: str = "the target is reset") -> None:
        """End every session (a cold reset does so: RFC 7143 section 11.5.1)."""
        for session in list(self.sessions.values()):
            self.drop_session(session, why)

    def close_session(self, session: Session) -> None:
        """End a session and its connections; its tasks are aborted without an answer."""
        if self.sessions.get(session.tsih) is not session:
            return
        del self.sessions[session.tsih]
        session.held.clear()
        session.fences.clear()
        session.r2t_waiting.clear()
        self._end_tasks(session, list(session.tasks.values()))
        session.tasks.clear()
        for connection in list(session.connections.values()):
            connection.close()
        session.connections.clear()
        self.router.nexus_lost(session.nexus)

    def connection_lost(self, session: Session, connection: TargetConnection) -> None:
        """End the tasks of a connection that is gone while its session goes on: at ErrorRecoveryLevel 0 nothing
        takes them over (RFC 7143 section 11.14.5). What it waits for in CmdSN order may come by another connection."""
        for cmd_sn, (_, owner) in list(session.held.items()):
            if owner is connection:
                del session.held[cmd_sn]
        lost = [task for task in session.tasks.values() if task.connection is connection]
        # Before anything else is executed they have ended: an old write must not land on a new one.
        session.follow(self._end_tasks(session, lost))
        if lost:
            self.router.tasks_terminated(session.nexus, {task.lun for task in lost})
        session.open_window()

    def _end_tasks(self, session: Session, tasks: list[Task]) -> list[Task]:
        """End tasks without an answer; give those that a disk is not done with."""
        left = []
        for task in tasks:
            task.aborted = True
            if task.state == EXECUTING:
                session.tasks.pop(task.initiator_task_tag, None)
                self.leaving.add(task)
                task.on_end += (partial(self.leaving.discard, task),)
                left.append(task)
            else:
                session.end(task)
        withdraw(left)
        return [task for task in left if task.state == EXECUTING]

    def is_executing(self, luns: Collection[int]) -> bool:
        """Whether a task on one of these LUN fields is with the device server, of a session that has ended, too."""
        tasks = (task for session in self.sessions.values() for task in session.tasks.values())
        return any(task.lun in luns and task.state == EXECUTING for task in (*tasks, *self.leaving))

    def abort_tasks(self, luns: Collection[int], nexuses: Collection[str] | None, done: Callable[[], None]) -> None:
        """Abort the tasks of other nexuses on a logical unit, as PREEMPT AND ABORT demands (SPC-4 5.13.11.2.6), or a
        reset by an initiator at another node.

        Args:
            luns: every LUN field that addresses it.
            nexuses: whose; None for all.
            done: called when none of them can touch the disk any more.
        """
        tasks = [
            task for task in self.all_tasks() if task.lun in luns and (nexuses is None or task.session.nexus in nexuses)
        ]
        for task in tasks:
            # Who has aborted it before has settled that: one of the nexus that asks for a reset is not answered.
            if not task.aborted:
                task.abort_is_told = self.router.aborted_status(task.lun)
        abort(tasks, done)

    def all_tasks(self) -> list[Task]:
        """The tasks of all sessions, those that have ended too: what a disk still works on can still land."""
        return [*(task for session in self.sessions.values() for task in session.tasks.values()), *self.leaving]


class NetworkEntity:
    """The targets of a node and the portal groups through which they are reached. All of it may change at run time."""

    def __init__(
        self,
        targets: Iterable[TargetNode] = (),
        *,
        groups: Iterable[PortalGroup] = (),
        discovery_access: Access = OPEN,
        entropy: Callable[[int], bytes],
    ) -> None:
        self.targets = {target.name: target for target in targets}
        self.groups = {group.tag: group for group in groups}
        """The portals that SendTargets names, beside the one it was asked at."""
        self.discovery_access = discovery_access
        self.entropy = entropy
        """Unpredictable bytes, for CHAP challenges."""
        self.draining = False
        """No new sessions: the node is being stopped."""
        self.stands_behind_a_portal = False
        """Logins to targets that are not here are sent to the portal that this one stands behind: it knows where they
        are by now."""
        self._removed: dict[str, None] = {}

    # Changes at run time

    def add_target(self, target: TargetNode) -> None:
        """Serve another target; its name must be free."""
        assert target.name not in self.targets
        self._removed.pop(target.name, None)
        self.targets[target.name] = target

    def remove_target(self, name: str) -> TargetNode:
        """Serve a target no more: its sessions end. What a disk still works on for it is in its ``leaving``."""
        target = self.targets.pop(name)
        target.drop_all_sessions("the target is removed")
        self._removed[name] = None
        if len(self._removed) > MAX_REMOVED:
            del self._removed[next(iter(self._removed))]
        return target

    def change_access(self, target: TargetNode, access: Access) -> None:
        """Change who may log in; a session that would not be let in any more ends."""
        target.access = access
        for session in list(target.sessions.values()):
            origins = [connection.origin for connection in session.connections.values()]
            if not all(access.keeps(session.initiator_name, origin, session.proven) for origin in origins):
                target.drop_session(session, "its initiator has no right to the target any more")

    # Login and discovery

    def check_admission(
        self, target: TargetNode | None, initiator_name: str, origin: Origin, proven: Credentials | None
    ) -> None:
        """Check at the end of a login what may have changed since it began.

        Args:
            target: None for a discovery session.
            proven: what the initiator has proved to know.

        Raises:
            LoginFailure: the target is served no more, or its initiator has lost its right.
        """
        if self.draining:
            raise LoginFailure(LoginStatus.SERVICE_UNAVAILABLE, "this node is being stopped")
        if target is not None and self.target_for_login(target.name, origin.portal_group_tag) is not target:
            raise LoginFailure(LoginStatus.TARGET_REMOVED, f"{target.name!r} is another target by now")
        access = self.discovery_access if target is None else target.access
        if not access.keeps(initiator_name, origin, proven):
            raise LoginFailure(
                LoginStatus.AUTHORIZATION_FAILURE, f"{initiator_name} has lost its right while it logged in"
            )

    def target_for_login(self, name: str, portal_group_tag: int) -> TargetNode:
        """Give the target of this name.

        Raises:
            LoginFailure: there is none (any more) at these portals, or it takes no sessions for now.
        """
        target = self.targets.get(normalize(name))
        if target is None and normalize(name) in self._removed:
            raise LoginFailure(LoginStatus.TARGET_REMOVED, f"the target {name[:240]!r} was removed")
        if target is None or not target.reached_through(portal_group_tag):
            raise LoginFailure(LoginStatus.NOT_FOUND, f"no target {name[:240]!r} at this portal")
        if target.draining:
            raise LoginFailure(LoginStatus.SERVICE_UNAVAILABLE, f"{target.name} takes no sessions for now")
        return target

    def send_targets(self, asked: str, session: Session, origin: Origin, local_address: str) -> list[tuple[str, str]]:
        """Answer SendTargets (RFC 7143 appendix C): ``All`` in a discovery session, a target's name, or nothing for the
        session's own.

        An initiator is told of the targets, and of their portals, that would let it in; the portal that it asked at
        comes first.
        """
        current = session.target
        if asked == "All" and current is not None:
            return [("SendTargets", "Reject")]  # it is for discovery alone
        if asked == "All":
            chosen = list(self.targets.values())
        elif asked == "":
            chosen = [] if current is None else [current]
        else:
            named = self.targets.get(normalize(asked))
            chosen = [named] if named is not None and current in (None, named) else []
        pairs: list[tuple[str, str]] = []
        for target in chosen:
            addresses = self._addresses(target, session.initiator_name, origin, local_address)
            if addresses:
                pairs.append(("TargetName", target.name))
                pairs.extend(("TargetAddress", address) for address in addresses)
        return pairs

    def _addresses(
        self, target: TargetNode, initiator_name: str, origin: Origin, local_address: str
    ) -> dict[str, None]:
        """Give the addresses of a target that an initiator may use, with their portal group tags."""
        own_tag = origin.portal_group_tag
        addresses: dict[str, None] = {}
        for tag in (own_tag, *sorted(self.groups.keys() - {own_tag})):
            there = origin._replace(portal_group_tag=tag)
            if not target.reached_through(tag) or not target.access.admits(initiator_name, there):
                continue
            if tag == own_tag:
                addresses[f"{local_address},{tag}"] = None
            if tag in self.groups:
                named = self.groups[tag].addresses(local_address)
                addresses |= dict.fromkeys(f"{address},{tag}" for address in named)
        for tag, portals in sorted(target.elsewhere.items()):
            if tag not in self.groups and target.access.admits(initiator_name, origin._replace(portal_group_tag=tag)):
                addresses |= dict.fromkeys(f"{address},{tag}" for address in portals)
        return addresses


def no_such_session(tsih: int) -> LoginFailure:
    """How a login is refused that wants to join what is not there."""
    return LoginFailure(LoginStatus.SESSION_DOES_NOT_EXIST, f"no session with TSIH {tsih:#06x}")
