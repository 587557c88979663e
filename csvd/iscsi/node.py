"""The target node and the network entity that holds it (RFC 7143 section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from csvd.iscsi.chap import Credentials
from csvd.iscsi.codes import LoginStatus
from csvd.iscsi.errors import LoginFailure
from csvd.iscsi.keys import OFFER, SessionParameters
from csvd.iscsi.names import normalize
from csvd.iscsi.session import EXECUTING, QUEUE_DEPTH, Session, Task, abort

MAX_SESSIONS = 512
"""Sessions of one target; with the window of a session it bounds what initiators can make the node hold."""


class TaskRouter(Protocol):
    """What the iSCSI layer asks of the SCSI target device behind a target."""

    def nexus_opened(self, nexus: str, initiator_name: str, isid: bytes, portal_group_tag: int) -> None: ...
    def nexus_lost(self, nexus: str) -> None: ...
    def data_out_length(self, lun: int, cdb: bytes) -> int: ...
    def logical_unit_reset(self, lun: int, by_nexus: str) -> bool: ...
    def target_reset(self, by_nexus: str) -> None: ...
    def commands_cleared(self, lun: int, nexuses: Iterable[str]) -> bool: ...


@dataclass(frozen=True, slots=True)
class Access:
    """Who may log in to a target. Without credentials anyone who may reach the portal may."""

    credentials: Mapping[str, Credentials] = field(default_factory=dict)
    """CHAP users by name; when there is one, CHAP is demanded."""
    initiators: frozenset[str] | None = None
    """Names of the initiators let in; None lets in all."""

    @property
    def needs_chap(self) -> bool:
        return bool(self.credentials)

    def admits(self, initiator_name: str) -> bool:
        """Whether an initiator of this name is let in, as far as its name goes."""
        return self.initiators is None or initiator_name in self.initiators


OPEN = Access()


class TargetNode:
    """An iSCSI target: its name, portal group, sessions and the SCSI device behind it."""

    def __init__(
        self,
        name: str,
        router: TaskRouter,
        *,
        alias: str = "",
        portal_group_tag: int = 1,
        access: Access = OPEN,
        offer: SessionParameters = OFFER,
        queue_depth: int = QUEUE_DEPTH,
        max_sessions: int = MAX_SESSIONS,
    ) -> None:
        self.name = normalize(name)
        self.router = router
        self.alias = alias
        self.portal_group_tag = portal_group_tag
        self.access = access
        self.offer = offer
        self.queue_depth = queue_depth
        self.max_sessions = max_sessions
        self.sessions: dict[int, Session] = {}
        self.leaving: set[Task] = set()
        """Tasks of sessions that have ended, with which a disk is not done."""
        self._last_tsih = 0

    def open_session(self, initiator_name: str, isid: bytes, parameters: SessionParameters, cmd_sn: int) -> Session:
        """Make the session of a login with TSIH 0; one of the same initiator port is reinstated: it ends first
        (RFC 7143 section 6.3.5).

        Raises:
            LoginFailure: the target has as many sessions as it takes.
        """
        for old in [s for s in self.sessions.values() if s.initiator_name == initiator_name and s.isid == isid]:
            self.close_session(old)
        if len(self.sessions) >= self.max_sessions:
            raise LoginFailure(LoginStatus.OUT_OF_RESOURCES, f"{self.name} has {self.max_sessions} sessions already")
        session = Session(
            self,
            initiator_name,
            isid,
            self._new_tsih(),
            parameters,
            cmd_sn,
            queue_depth=self.queue_depth,
        )
        session.follow(
            [
                task
                for task in self.leaving
                if task.session.initiator_name == initiator_name and task.session.isid == isid
            ]
        )
        self.sessions[session.tsih] = session
        self.router.nexus_opened(session.nexus, initiator_name, isid, self.portal_group_tag)
        return session

    def _new_tsih(self) -> int:
        while True:
            self._last_tsih = self._last_tsih % 0xFFFF + 1
            if self._last_tsih not in self.sessions:
                return self._last_tsih

    def close_session(self, session: Session) -> None:
        """End a session and its connections; its tasks are aborted without an answer."""
        if self.sessions.pop(session.tsih, None) is None:
            return
        session.held.clear()
        session.r2t_waiting.clear()
        for task in list(session.tasks.values()):
            task.aborted = True
            if task.state == EXECUTING:
                self._leave(task)
            else:
                session.end(task)
        session.tasks.clear()
        for connection in list(session.connections.values()):
            connection.close()
        session.connections.clear()
        self.router.nexus_lost(session.nexus)

    def _leave(self, task: Task) -> None:
        self.leaving.add(task)
        task.on_end += (lambda: self.leaving.discard(task),)

    def abort_tasks(self, luns: Collection[int], nexuses: Collection[str], done: Callable[[], None]) -> None:
        """Abort the tasks of other nexuses on a logical unit, as PREEMPT AND ABORT demands (SPC-4 5.13.11.2.6).

        Args:
            luns: every LUN field that addresses it.
            nexuses: whose.
            done: called when none of them can touch the disk any more.
        """
        tasks = [*(task for session in self.sessions.values() for task in session.tasks.values()), *self.leaving]
        abort([task for task in tasks if task.lun in luns and task.session.nexus in nexuses], done)


class NetworkEntity:
    """Targets that are reached through the same portals."""

    def __init__(
        self,
        targets: Iterable[TargetNode],
        *,
        portals: Iterable[str] = (),
        discovery_access: Access = OPEN,
        entropy: Callable[[int], bytes],
    ) -> None:
        self.targets = {target.name: target for target in targets}
        self.portals = tuple(portals)
        """Addresses (``host:port``) that SendTargets names beside the one it was asked at."""
        self.discovery_access = discovery_access
        self.entropy = entropy
        """Unpredictable bytes, for CHAP challenges."""

    def send_targets(self, asked: str, session: Session, local_address: str) -> list[tuple[str, str]]:
        """Answer SendTargets (RFC 7143 appendix C): ``All``, a target's name, or nothing for the session's own.

        An initiator is not told of targets that would not let it in.
        """
        current = session.target
        if asked == "All":
            chosen = list(self.targets.values()) if current is None else [current]
        elif asked == "":
            chosen = [] if current is None else [current]
        else:
            named = self.targets.get(normalize(asked))
            chosen = [named] if named is not None and current in (None, named) else []
        pairs: list[tuple[str, str]] = []
        for target in chosen:
            if not target.access.admits(session.initiator_name):
                continue
            pairs.append(("TargetName", target.name))
            addresses = dict.fromkeys((local_address, *self.portals))
            pairs.extend(("TargetAddress", f"{address},{target.portal_group_tag}") for address in addresses)
        return pairs
