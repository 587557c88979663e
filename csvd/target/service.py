"""The targets of a node: portals, connections, and how they stop."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from twisted.internet import task
from twisted.logger import Logger

from csvd.all_done import for_each
from csvd.iscsi.access import OPEN, Access
from csvd.iscsi.connection import TargetConnection
from csvd.iscsi.keepalive import KEEPALIVE, Keepalive
from csvd.iscsi.node import NetworkEntity, TargetNode
from csvd.iscsi.portals import PortalGroup
from csvd.iscsi.session import Session
from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.lun import lun_spellings
from csvd.scsi.reservation_store import ReservationStore
from csvd.scsi.target_device import LunMask, TargetDevice
from csvd.scsi.target_ports import AccessState
from csvd.target.cluster_ports import ClusterPorts, tell_ports
from csvd.target.connection import ServerConnection
from csvd.target.crowd import oldest_of_crowd
from csvd.target.executor import Executor
from csvd.target.export import Export
from csvd.target.listener import Portal, PortalError, bound_silence, descriptors_for_connections, listening_socket
from csvd.target.sessions import session_face
from csvd.target.shared_reservations import SharedReservations
from csvd.target.statistics import bounds_s, number_face
from csvd.target.steps import Keeper, StepRunner

MAX_CONNECTIONS: Final = 1024
MAX_HALF_OPEN: Final = 128
"""Connections that have not logged in. When there are more, the oldest goes of the address that has the most: slow
logins lock nobody out, and a crowd from one address only crowds itself out."""
DRAIN_S: Final = 10.0
FAREWELL_S: Final = 1.0
"""How long initiators may take to read that their session ends."""


@dataclass(frozen=True, slots=True)
class _Served:
    """A target that is served: its two faces, and what executes its tasks.

    Args:
        is_clustered: whether all nodes of the cluster serve it.
        said: the access states that its export says.
        due: those of them that are to be set as soon as their portal group is there.
    """

    node: TargetNode
    device: TargetDevice
    executor: Executor
    is_clustered: bool
    said: dict[int, AccessState]
    due: dict[int, AccessState]


Tell: TypeAlias = Callable[[str, str, str], None]
"""Told what happened: a word for programs, a sentence for people, whom it is about."""


def _tell_nobody(_kind: str, _text: str, _subject: str) -> None:
    return None


class TargetService:
    """Serves targets at portals. Targets, logical units, portals and rights may change at run time.

    Args:
        cluster_reservations: gives the reservations of a logical unit that all nodes of the cluster serve; the same
            on every node. None: there is no such unit.
        tell: told of logins, logouts, rejects and resets.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        exports: Iterable[Export],
        *,
        discovery_access: Access = OPEN,
        keeper: Keeper | None = None,
        keepalive: Keepalive = KEEPALIVE,
        cluster_reservations: Callable[[LogicalUnit], ReservationStore] | None = None,
        tell: Tell = _tell_nobody,
    ) -> None:
        self._reactor = reactor
        self._keepalive = keepalive
        self._tell = tell
        self._served: dict[str, _Served] = {}
        self._portals: dict[int, dict[tuple[str, int], Portal]] = {}
        """By portal group tag, as they are written."""
        self._connections: dict[ServerConnection, None] = {}
        self._half_open: dict[ServerConnection, None] = {}
        # Below the limit on open files, at which nobody could come in any more, not even by the control API.
        self._most_connections = min(MAX_CONNECTIONS, descriptors_for_connections())
        self._turned_away = 0
        """Connections that were closed for want of room since the last tick."""
        self._ticker = task.LoopingCall(self._tick)
        self._ticker.clock = reactor
        self._keeper = keeper
        self._reservations = SharedReservations()
        self._cluster_reservations = cluster_reservations or self._reservations.of
        self._cluster_ports: ClusterPorts = {}
        self.entity = NetworkEntity(discovery_access=discovery_access, entropy=os.urandom)
        for export in exports:
            self.add_target(export)

    def start(self, groups: Iterable[PortalGroup]) -> list[str]:
        """Listen at the portals of groups; give their addresses.

        Raises:
            PortalError: one can not be opened; none is left open then.
        """
        try:
            for group in groups:
                self.set_group(group)
        except PortalError:
            self._close_portals()
            raise
        self._ticker.start(1.0, now=False)
        return self.portals

    # Changes at run time

    def set_group(self, group: PortalGroup) -> list[str]:
        """Listen at the portals of a group, and at no others of it; give their addresses. Connections go on.

        Raises:
            PortalError: one can not be opened; the group is as it was then.
        """
        before = self._portals.get(group.tag, {})
        # Port 0 may be asked for several times, and is another port each time.
        wanted = [(text, group.portals[:place].count(text)) for place, text in enumerate(group.portals)]
        opened: dict[tuple[str, int], Portal] = {}
        with contextlib.ExitStack() as undo:
            for key in wanted:
                if key not in before:
                    accepted = partial(self._accepted, group.tag)
                    opened[key] = Portal(self._reactor, listening_socket(key[0]), accepted)
                    undo.callback(opened[key].close)
            undo.pop_all()
        for key in before.keys() - set(wanted):
            before[key].close()
        self._set_portals(group.tag, {key: before.get(key) or opened[key] for key in wanted})
        for portal in opened.values():
            portal.startReading()
        return [portal.address for portal in self._portals[group.tag].values()]

    def _set_portals(self, tag: int, portals: dict[tuple[str, int], Portal]) -> None:
        self._portals[tag] = portals
        self.entity.groups[tag] = PortalGroup(tag, tuple(portal.address for portal in portals.values()))
        self._ports_changed()

    def adopt_portal(self, portal_group_tag: int, portal: str, listening: socket.socket) -> None:
        """Accept at a socket that listens already, behind a portal (``host:port``) that initiators know; in the
        place of the socket that was adopted for it before."""
        key = (portal, 0)
        group = self._portals.get(portal_group_tag, {})
        if key in group:
            group[key].close()
        accepted = partial(self._accepted, portal_group_tag)
        adopted = Portal(self._reactor, listening, accepted, stands_for=portal)
        self._set_portals(portal_group_tag, {**group, key: adopted})
        adopted.startReading()

    def drop_portal(self, portal_group_tag: int, portal: str) -> None:
        """Accept no more at a socket that was adopted; one that was not is no error."""
        group = dict(self._portals.get(portal_group_tag, {}))
        dropped = group.pop((portal, 0), None)
        if dropped is None:
            return
        if not group:
            self.close_group(portal_group_tag)
            return
        dropped.close()
        self._set_portals(portal_group_tag, group)

    def close_group(self, portal_group_tag: int) -> None:
        """Listen at the portals of a group no more; its connections go on."""
        del self.entity.groups[portal_group_tag]
        for portal in self._portals.pop(portal_group_tag).values():
            portal.close()
        self._ports_changed()

    def _ports_changed(self) -> None:
        """The portal groups through which a target is reached are its target ports."""
        for served in self._served.values():
            tags = [tag for tag in self._portals if served.node.reached_through(tag)]
            served.device.set_ports(tags)
            due = {tag: served.due.pop(tag) for tag in tags if tag in served.due}
            if due:
                served.device.set_access_states(due)
            if served.is_clustered:
                tell_ports(self._cluster_ports, tags, served.node, served.device)

    def set_cluster_ports(self, ports: ClusterPorts) -> None:
        """Tell the initiators of targets that all nodes serve where these are, and how."""
        self._cluster_ports = ports
        self._ports_changed()

    def add_target(self, export: Export) -> None:
        """Serve one more target; its name must be free."""
        device = TargetDevice(
            {unit.number: unit for unit in export.logical_units},
            name=export.name,
            reservations=self._cluster_reservations if export.is_clustered else self._reservations.of,
        )
        node = TargetNode(
            export.name,
            device,
            alias=export.alias,
            portal_group_tags=export.portal_group_tags,
            access=export.access,
            redirect=export.redirect,
            queue_depth=export.queue_depth,
        )
        device.set_mask(_mask_of(node))
        executor = Executor(device, StepRunner(self._reactor, self._keeper, self._abort))
        states = dict(export.access_states)
        self._served[node.name] = _Served(node, device, executor, export.is_clustered, states, states.copy())
        executor.resume()
        self.entity.add_target(node)
        self._ports_changed()

    async def remove_target(self, name: str, drain_s: float = DRAIN_S) -> list[LogicalUnit]:
        """Serve a target no more: its sessions end at once, and what its disks are at is waited for; gives its
        logical units."""
        self.entity.remove_target(name)
        served = self._served[name]
        served.executor.stop()
        await self._until(lambda: not served.executor.busy, drain_s)
        del self._served[name]
        return [server.unit for server in served.device.servers.values()]

    def change_target(self, export: Export) -> None:
        """Take over what is not a logical unit of a target. Sessions that lost their right end; others go on as they
        are, and what is settled at login holds for later ones."""
        served = self._served[export.name]
        served.node.alias = export.alias
        served.node.queue_depth = export.queue_depth
        served.node.redirect = export.redirect
        served.node.portal_group_tags = export.portal_group_tags
        self.entity.change_access(served.node, export.access)
        served.device.set_mask(_mask_of(served.node))
        # A state that initiators have set stays, unless another one than before is said.
        served.due.update({tag: state for tag, state in export.access_states.items() if served.said.get(tag) != state})
        served.said.clear()
        served.said.update(export.access_states)
        self._ports_changed()

    def add_unit(self, name: str, unit: LogicalUnit) -> None:
        """Serve one more logical unit of a target; its LUN must be free."""
        served = self._served[name]
        served.device.add_unit(unit)
        served.executor.resume()

    async def remove_unit(self, name: str, number: int, drain_s: float = DRAIN_S) -> LogicalUnit:
        """Serve a logical unit no more. New commands find it gone; those that it is at are answered first."""
        served = self._served[name]
        unit = served.device.remove_unit(number)
        served.executor.statistics.forget(number)
        luns = set(lun_spellings(number))
        await self._until(lambda: not served.node.is_executing(luns), drain_s)
        return unit

    def resized(self, unit: LogicalUnit) -> None:
        """The disk of a logical unit has another size."""
        for served in self._served.values():
            server = served.device.servers.get(unit.number)
            if server is not None and server.unit is unit:
                served.device.resized(unit.number, unit.device.size_bytes // unit.block_bytes)

    def unit(self, name: str, number: int) -> LogicalUnit | None:
        """A logical unit of a target; None where there is none."""
        served = self._served.get(name)
        server = served.device.servers.get(number) if served is not None else None
        return server.unit if server is not None else None

    def device(self, name: str) -> TargetDevice:
        """The SCSI device of a target."""
        return self._served[name].device

    def units(self, name: str) -> list[LogicalUnit]:
        """The logical units of a target, by number."""
        servers = self._served[name].device.servers
        return [servers[number].unit for number in sorted(servers)]

    async def _until(self, is_so: Callable[[], bool], most_s: float) -> None:
        deadline_s = self._reactor.seconds() + most_s
        while not is_so() and self._reactor.seconds() < deadline_s:
            await task.deferLater(self._reactor, 0.01)

    @property
    def portals(self) -> list[str]:
        """The addresses that this node listens at."""
        return [portal.address for group in self._portals.values() for portal in group.values()]

    def groups(self) -> dict[int, dict[str, str]]:
        """The addresses that this node listens at, by portal group tag and as they are written."""
        return {
            tag: {text: portal.address for (text, _), portal in group.items()} for tag, group in self._portals.items()
        }

    def sessions(self) -> list[dict[str, Any]]:
        """The sessions of all targets, as the control API shows them."""
        by_session: dict[Session, list[ServerConnection]] = {}
        for connection in self._connections:
            if connection.engine.session is not None:
                by_session.setdefault(connection.engine.session, []).append(connection)
        return [
            session_face(session, by_session.get(session, []), self._reactor.seconds())
            for served in self._served.values()
            for session in served.node.sessions.values()
        ]

    def drop_session(self, target: str, tsih: int, why: str = "an operator drops it") -> bool:
        """End a session now: its initiator is told, and what a disk works on for it ends without an answer.

        Returns:
            False where there is no such session.
        """
        session = self._session(target, tsih)
        if session is None:
            return False
        self.entity.targets[target].drop_session(session, why)
        return True

    def request_logout(self, target: str, tsih: int, grace_s: int) -> bool:
        """Ask the initiator of a session to log out; it is dropped when it has not after ``grace_s`` (0 to 3600).

        open-iscsi and libiscsi log out and at once in again: to keep an initiator out, change its rights first.

        Returns:
            False where there is no such session.
        """
        session = self._session(target, tsih)
        if session is None:
            return False
        for connection in list(session.connections.values()):
            connection.request_logout(grace_s, self._reactor.seconds())
        return True

    def _session(self, target: str, tsih: int) -> Session | None:
        node = self.entity.targets.get(target)
        return None if node is None else node.sessions.get(tsih)

    def statistics(self) -> dict[str, Any]:
        """What the commands came to, as the control API shows it: by logical unit, by command and by session."""
        units, commands = [], []
        for name, served in self._served.items():
            counted = served.executor.statistics
            for number, totals in counted.units():
                units.append({"target": name, "lun": number_face(number), **totals.to_json()})
            for number, command, totals in counted.commands():
                commands.append({"target": name, "lun": number_face(number), "command": command, **totals.to_json()})
        sessions = [
            {**{key: face[key] for key in ("target", "initiator", "tsih")}, **face["statistics"]}
            for face in self.sessions()
        ]
        return {"bounds_s": bounds_s(), "units": units, "commands": commands, "sessions": sessions}

    def _accepted(self, portal_group_tag: int, sock: socket.socket, peer: str, local: str) -> None:
        if len(self._connections) >= self._most_connections:
            self._drop_discovery()
        if len(self._connections) >= self._most_connections:
            self._turned_away += 1
            sock.close()
            return
        engine = TargetConnection(
            self.entity,
            local_address=local,
            peer=peer,
            now_s=self._reactor.seconds(),
            portal_group_tag=portal_group_tag,
            keepalive=self._keepalive,
        )
        bound_silence(sock, self._keepalive)
        connection = ServerConnection(self._reactor, sock, engine, self._executor_of, self._lost)
        connection.tell = self._tell
        self._connections[connection] = None
        self._half_open[connection] = None
        if len(self._half_open) > MAX_HALF_OPEN:
            self._drop_half_open()

    def _drop_discovery(self) -> None:
        """Make room: a discovery session is over as soon as it has its answer, and can be had again."""
        sessions = [c for c in self._connections if c.engine.session is not None and c.engine.session.discovery]
        if sessions:
            min(sessions, key=lambda connection: connection.engine.heard_s).abort()

    def _drop_half_open(self) -> None:
        for connection in list(self._half_open):
            if connection.engine.session is not None:
                del self._half_open[connection]
        while len(self._half_open) > MAX_HALF_OPEN:
            self._turned_away += 1
            oldest_of_crowd(self._half_open).abort()

    def _abort(self, unit: LogicalUnit, nexuses: Sequence[str], done: Callable[[], None]) -> None:
        """See `steps.Abort`."""
        self.abort(unit.identity.naa, nexuses, done)

    def abort(self, naa: bytes, nexuses: Sequence[str] | None, done: Callable[[], None]) -> None:
        """Abort the tasks of I_T nexuses, or with None of all, on a logical unit, at all targets that export it; calls
        back when none of them can touch its disk any more."""
        aborts = []
        for served in self._served.values():
            servers = served.device.servers
            numbers = [n for n, server in servers.items() if server.unit.identity.naa == naa]
            luns = {spelling for number in numbers for spelling in lun_spellings(number)}
            aborts.append(partial(served.node.abort_tasks, luns, nexuses))
        for_each(aborts, done)

    def _executor_of(self, engine: TargetConnection) -> Executor:
        assert engine.session is not None
        assert engine.session.target is not None
        return self._served[engine.session.target.name].executor

    def _lost(self, connection: ServerConnection) -> None:
        self._connections.pop(connection, None)
        self._half_open.pop(connection, None)

    def _tick(self) -> None:
        now_s = self._reactor.seconds()
        if self._turned_away:
            # One line a second: who comes in thousands shall not fill the log, too.
            self.log.warn(
                "{count} connections turned away in a second: more than {half_open} are logging in, or {all} are open",
                count=self._turned_away,
                half_open=MAX_HALF_OPEN,
                all=self._most_connections,
            )
            self._turned_away = 0
        for connection in list(self._connections):
            if connection.engine.session is not None:
                self._half_open.pop(connection, None)
            connection.tick(now_s)

    def _close_portals(self) -> None:
        for tag in list(self._portals):
            self.close_group(tag)

    @property
    def _drained(self) -> bool:
        executing = any(served.executor.busy for served in self._served.values())
        return not executing and all(connection.drained for connection in self._connections)

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Stop: no new connections, and what is under way is answered. The disks are closed by who opened them."""
        self.entity.draining = True
        self._close_portals()
        if self._ticker.running:
            self._ticker.stop()
        for connection in self._connections:
            connection.drain()
        for served in self._served.values():
            served.executor.stop()
        await self._until(lambda: self._drained, drain_s)
        # Not a request to log out: open-iscsi, libiscsi and Windows answer it by a logout and a login, as they do
        # when the session is dropped; but meanwhile they would go on with their commands, and who does not know the
        # message (iPXE) would hold up the end for as long as the grace. What was taken is answered by now, so the
        # notice loses nothing: what an initiator has sent since, it sends again after its login.
        for node in self.entity.targets.values():
            node.drop_all_sessions("the node stops")
        for connection in list(self._connections):
            session = connection.engine.session
            if session is None or session.discovery:
                connection.abort()
        await self._until(lambda: not self._connections, FAREWELL_S)
        for connection in list(self._connections):
            connection.abort()


def _mask_of(node: TargetNode) -> LunMask:
    """Which LUNs an initiator sees, as the target's access says."""
    return lambda identity, number: node.access.shows(identity.initiator_name, number)
