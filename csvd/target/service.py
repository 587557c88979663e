"""The targets of a node: portals, connections, and how they stop."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from twisted.internet import task
from twisted.logger import Logger

from csvd.iscsi.access import OPEN, Access
from csvd.iscsi.connection import TargetConnection
from csvd.iscsi.keepalive import KEEPALIVE, Keepalive
from csvd.iscsi.node import NetworkEntity, TargetNode
from csvd.iscsi.portals import Address, PortalGroup, Redirect
from csvd.iscsi.session import Session
from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.lun import lun_spellings
from csvd.scsi.target_device import LunMask, TargetDevice
from csvd.target.connection import ServerConnection
from csvd.target.executor import Executor
from csvd.target.listener import Portal, bound_silence
from csvd.target.shared_reservations import SharedReservations
from csvd.target.steps import Keeper, StepRunner

MAX_CONNECTIONS: Final = 1024
MAX_HALF_OPEN: Final = 128
"""Connections that have not logged in. When there are more, the oldest goes of the address that has the most: slow
logins lock nobody out, and a crowd from one address only crowds itself out."""
DRAIN_S: Final = 10.0
FAREWELL_S: Final = 1.0
"""How long initiators may take to read that their session ends."""


@dataclass(frozen=True, slots=True)
class Export:
    """One target to serve.

    Args:
        name: its iSCSI name.
        logical_units: its logical units, each with its disk as ``device``.
    """

    name: str
    logical_units: Sequence[LogicalUnit]
    alias: str = ""
    access: Access = OPEN
    portal_group_tags: frozenset[int] | None = None
    """The portal groups that it is reached through; None: every one."""
    redirect: Redirect | None = None
    """Where logins are sent on to."""


class TargetService:
    """Serves targets at portals. Targets, portals and rights may change at run time."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        exports: Iterable[Export],
        *,
        discovery_access: Access = OPEN,
        keeper: Keeper | None = None,
        keepalive: Keepalive = KEEPALIVE,
    ) -> None:
        self._reactor = reactor
        self._keepalive = keepalive
        self._executors: dict[str, Executor] = {}
        self.devices: dict[str, TargetDevice] = {}
        """The SCSI devices by the name of their target."""
        self._portals: dict[int, list[Portal]] = {}
        self._connections: dict[ServerConnection, None] = {}
        self._half_open: dict[ServerConnection, None] = {}
        self._turned_away = 0
        """Connections that were closed for want of room since the last tick."""
        self._ticker = task.LoopingCall(self._tick)
        self._ticker.clock = reactor
        self._keeper = keeper
        self._reservations = SharedReservations()
        self.entity = NetworkEntity(discovery_access=discovery_access, entropy=os.urandom)
        for export in exports:
            self.add_target(export)

    def start(self, portals: Sequence[str], portal_group_tag: int = 1) -> list[str]:
        """Listen at the portals of a group; give their addresses.

        Raises:
            PortalError: one can not be opened; none is left open then.
        """
        opened = self.open_group(PortalGroup(portal_group_tag, tuple(portals)))
        self._ticker.start(1.0, now=False)
        return opened

    # Changes at run time

    def open_group(self, group: PortalGroup) -> list[str]:
        """Listen at the portals of one more group; give their addresses.

        Raises:
            PortalError: one can not be opened; none of the group is left open then.
        """
        assert group.tag not in self._portals
        opened: list[Portal] = []
        with contextlib.ExitStack() as undo:
            for text in group.portals:
                portal = Portal(self._reactor, text, partial(self._accepted, group.tag))
                undo.callback(portal.close)
                opened.append(portal)
            undo.pop_all()
        self._portals[group.tag] = opened
        addresses = [portal.address for portal in opened]
        self.entity.groups[group.tag] = PortalGroup(group.tag, tuple(addresses))
        self._ports_changed()
        for portal in opened:
            portal.startReading()
        return addresses

    def close_group(self, portal_group_tag: int) -> None:
        """Listen at the portals of a group no more; its connections go on."""
        del self.entity.groups[portal_group_tag]
        for portal in self._portals.pop(portal_group_tag):
            portal.close()
        self._ports_changed()

    def _ports_changed(self) -> None:
        """The portal groups through which a target is reached are its target ports."""
        for name, device in self.devices.items():
            node = self.entity.targets[name]
            device.set_ports([tag for tag in self._portals if node.reached_through(tag)])

    def add_target(self, export: Export) -> None:
        """Serve one more target; its name must be free."""
        device = TargetDevice(
            {unit.number: unit for unit in export.logical_units},
            name=export.name,
            reservations=self._reservations.of,
        )
        node = TargetNode(
            export.name,
            device,
            alias=export.alias,
            portal_group_tags=export.portal_group_tags,
            access=export.access,
            redirect=export.redirect,
        )
        device.set_mask(_mask_of(node))
        self.devices[node.name] = device
        executor = Executor(device, StepRunner(self._reactor, self._keeper, self._abort))
        self._executors[node.name] = executor
        executor.resume()
        self.entity.add_target(node)
        self._ports_changed()

    async def remove_target(self, name: str, drain_s: float = DRAIN_S) -> None:
        """Serve a target no more: its sessions end at once, and what its disks are at is waited for."""
        self.entity.remove_target(name)
        executor = self._executors.pop(name)
        executor.stop()
        self.devices.pop(name)
        deadline = self._reactor.seconds() + drain_s
        while executor.busy and self._reactor.seconds() < deadline:
            await task.deferLater(self._reactor, 0.01)

    def change_access(self, name: str, access: Access) -> None:
        """Change who may log in to a target and what each sees; sessions that lost their right end."""
        node = self.entity.targets[name]
        self.entity.change_access(node, access)
        self.devices[name].set_mask(_mask_of(node))

    @property
    def portals(self) -> list[str]:
        """The addresses that this node listens at."""
        return [portal.address for portals in self._portals.values() for portal in portals]

    def sessions(self) -> list[dict[str, Any]]:
        """The sessions of all targets, as the control API shows them."""
        return [
            {
                "target": target.name,
                "initiator": session.initiator_name,
                "tsih": session.tsih,
                "peers": [connection.peer for connection in session.connections.values()],
                "tasks": len(session.tasks),
            }
            for target in self.entity.targets.values()
            for session in target.sessions.values()
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

    def _accepted(self, portal_group_tag: int, sock: socket.socket, peer: str, local: str) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            self._drop_discovery()
        if len(self._connections) >= MAX_CONNECTIONS:
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
        """Abort the tasks of I_T nexuses on a logical unit, at all targets that export it; see `steps.Abort`."""
        aborts = []
        for name, device in self.devices.items():
            numbers = [n for n, server in device.servers.items() if server.unit.identity.naa == unit.identity.naa]
            luns = {spelling for number in numbers for spelling in lun_spellings(number)}
            aborts.append(partial(self.entity.targets[name].abort_tasks, luns, nexuses))
        waiting = len(aborts)

        def one_done() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting == 0:
                done()

        for abort in aborts:
            abort(one_done)

    def _executor_of(self, engine: TargetConnection) -> Executor:
        assert engine.session is not None
        assert engine.session.target is not None
        return self._executors[engine.session.target.name]

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
                all=MAX_CONNECTIONS,
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
        executing = any(executor.busy for executor in self._executors.values())
        return not executing and all(connection.drained for connection in self._connections)

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Stop: no new connections, and what is under way is answered. The disks are closed by who opened them."""
        self.entity.draining = True
        self._close_portals()
        if self._ticker.running:
            self._ticker.stop()
        for connection in self._connections:
            connection.drain()
        for executor in self._executors.values():
            executor.stop()
        deadline = self._reactor.seconds() + drain_s
        while not self._drained and self._reactor.seconds() < deadline:
            await task.deferLater(self._reactor, 0.01)
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
        deadline = self._reactor.seconds() + FAREWELL_S
        while self._connections and self._reactor.seconds() < deadline:
            await task.deferLater(self._reactor, 0.01)
        for connection in list(self._connections):
            connection.abort()


def _mask_of(node: TargetNode) -> LunMask:
    """Which LUNs an initiator sees, as the target's access says."""
    return lambda identity, number: node.access.shows(identity.initiator_name, number)


def oldest_of_crowd(connections: Iterable[ServerConnection]) -> ServerConnection:
    """Give the oldest connection of the address that has the most of these; they stand in the order of their age."""
    by_address: dict[Address | None, list[ServerConnection]] = {}
    for connection in connections:
        by_address.setdefault(connection.engine.origin.address, []).append(connection)
    return max(by_address.values(), key=len)[0]
