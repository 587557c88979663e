"""Serving by worker processes: this process answers discovery and sends logins on; the workers serve."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from twisted.internet import task
from twisted.internet.defer import Deferred, DeferredList

from csvd.config.targets import TargetSection
from csvd.exports.build import export_of
from csvd.exports.difference import Difference, difference_of
from csvd.exports.local import Portals
from csvd.exports.serving import Plan
from csvd.iscsi.portals import PortRedirect, join_address, split_address
from csvd.scsi.logical_unit import naa_of
from csvd.storage.open import place_of
from csvd.target.export import Export
from csvd.target.listener import listening_socket
from csvd.target.service import DRAIN_S, TargetService
from csvd.target.statistics import bounds_s
from csvd.workers.assignment import Demand, assign
from csvd.workers.ledger import Ledger
from csvd.workers.protocol import DropSession, Resize
from csvd.workers.slot import Place, Slot

REPORT_EVERY_S: Final = 5.0
"""How often workers are asked what they have counted, so that little is lost when one ends."""

Json = dict[str, Any]


@dataclass(slots=True)
class _Prepared:
    """A plan that the workers have prepared.

    Args:
        moved: targets that another worker is to serve.
        sockets: for each worker, where it is to accept.
    """

    plan: Plan
    difference: Difference
    assignment: dict[str, int]
    parts: list[Plan]
    moved: set[str]
    sockets: list[dict[Place, socket.socket]]


class WorkerServing:
    """Serves with workers; see `Serving`.

    Args:
        front: serves what no worker does: it listens at the portals, answers discovery, and redirects.
        make_slot: makes a worker's place: its number, given its statistics, and called when a process of it ended.
    """

    def __init__(
        self,
        reactor: Any,
        front: TargetService,
        workers: int,
        make_slot: Callable[[int, Callable[[Json], None], Callable[[], None]], Slot],
    ) -> None:
        self._front = front
        self._listening = Portals(front)
        self._ledger = Ledger()
        self.slots = [self._slot(number, make_slot) for number in range(workers)]
        self._plan = Plan()
        self._assignment: dict[str, int] = {}
        self._ports: list[dict[str, int]] = [{} for _ in self.slots]
        """For each worker its ports by the portals behind which they are; the front's redirects look here."""
        self._prepared: _Prepared | None = None
        self._ticker = task.LoopingCall(self.refresh)
        self._ticker.clock = reactor

    def _slot(self, number: int, make_slot: Callable[[int, Callable[[Json], None], Callable[[], None]], Slot]) -> Slot:
        return make_slot(
            number, lambda statistics: self._ledger.said(number, statistics), lambda: self._ledger.ended(number)
        )

    @property
    def portals(self) -> list[str]:
        """The addresses at which logins are sent on to workers."""
        return self._front.portals

    def groups(self) -> dict[int, dict[str, str]]:
        """These addresses by portal group tag and as they are written."""
        return self._front.groups()

    # The beginning and the end

    async def start(self, plan: Plan) -> list[str]:
        """Start the workers, then listen."""
        self._assignment = self._assign(plan)
        parts = self._parts(plan, self._assignment)
        await _all(Deferred.fromCoroutine(slot.start(part)) for slot, part in zip(self.slots, parts, strict=True))
        self._plan = plan
        for section in plan.targets:
            self._front.add_target(self._redirecting(section))
        self._front.entity.discovery_access = plan.discovery_access
        self._front.start(())
        self._listening.open(plan.targets)
        await self._set_sockets(self._sockets())
        self._ticker.start(REPORT_EVERY_S, now=False)
        return self._front.portals

    async def stop(self) -> None:
        """Take no more logins, and have the workers end."""
        if self._ticker.running:
            self._ticker.stop()
        stopping = [Deferred.fromCoroutine(self._front.stop(DRAIN_S))]
        stopping += [Deferred.fromCoroutine(slot.stop(DRAIN_S)) for slot in self.slots]
        await _all(stopping)

    # What there is

    async def refresh(self) -> None:
        """Have every worker say what it is at."""
        await _all(Deferred.fromCoroutine(slot.report()) for slot in self.slots)

    def sessions(self) -> list[Json]:
        """The sessions of all workers, target by target."""
        return [
            session
            for section in self._plan.targets
            for session in self._slot_of(section.name).heard.sessions
            if session["target"] == section.name
        ]

    def statistics(self) -> Json:
        """What the commands came to, those of processes that have ended, too."""
        sessions = [
            {**{key: face[key] for key in ("target", "initiator", "tsih")}, **face["statistics"]}
            for face in self.sessions()
        ]
        units, commands = self._ledger.rows("units"), self._ledger.rows("commands")
        return {"bounds_s": bounds_s(), "units": units, "commands": commands, "sessions": sessions}

    def workers(self) -> list[Json]:
        """The workers."""
        return [slot.face() for slot in self.slots]

    def unit_face(self, target: str, number: int) -> Json | None:
        """A logical unit, as its worker said last."""
        if target not in self._assignment:
            return None
        faces = self._slot_of(target).heard.units.get(target, [])
        return next((face for face in faces if face["number"] == number), None)

    def _slot_of(self, target: str) -> Slot:
        return self.slots[self._assignment[target]]

    # Changes

    async def prepare(self, plan: Plan) -> None:
        """Have the workers open what a plan takes, and listen where it says."""
        assignment = self._assign(plan)
        moved = {name for name, slot in assignment.items() if self._assignment.get(name, slot) != slot}
        parts = self._parts(plan, assignment)
        sockets: list[dict[Place, socket.socket]] = []
        try:
            self._listening.open(plan.targets)
            sockets = self._sockets()
            await _all(
                Deferred.fromCoroutine(slot.prepare(part, tuple(moved)))
                for slot, part in zip(self.slots, parts, strict=True)
            )
        except BaseException:
            await self._undo(sockets)
            raise
        difference = difference_of(self._plan.targets, plan.targets)
        self._prepared = _Prepared(plan, difference, assignment, parts, moved, sockets)

    async def abandon(self) -> None:
        """Close what was opened for the plan that was prepared."""
        prepared, self._prepared = self._prepared, None
        assert prepared is not None
        await self._undo(prepared.sockets)

    async def _undo(self, sockets: Sequence[Mapping[Place, socket.socket]]) -> None:
        for slot, wanted in zip(self.slots, sockets, strict=bool(sockets)):
            for place in wanted.keys() - slot.sockets.keys():
                wanted[place].close()
        self._listening.close_others(self._plan.targets)
        await _all(Deferred.fromCoroutine(slot.abandon()) for slot in self.slots)

    async def commit(self) -> None:
        """Have the workers serve the plan that was prepared: those first that lose a target to another one."""
        prepared, self._prepared = self._prepared, None
        assert prepared is not None
        if prepared.moved:
            await self.refresh()
        for name in prepared.moved:
            self._front.entity.targets[name].draining = True
        losing = {self._assignment[name] for name in prepared.moved}
        await self._commit(prepared, losing)
        for name in prepared.moved:
            self._ledger.released(self._assignment[name], name)
        await self._commit(prepared, set(range(len(self.slots))) - losing)
        self._plan, self._assignment = prepared.plan, prepared.assignment
        await self._change_front(prepared)
        await self._set_sockets(prepared.sockets)

    async def _commit(self, prepared: _Prepared, numbers: Collection[int]) -> None:
        await _all(Deferred.fromCoroutine(self.slots[number].commit(prepared.parts[number])) for number in numbers)

    async def _change_front(self, prepared: _Prepared) -> None:
        difference = prepared.difference
        for section in difference.gone:
            await self._front.remove_target(section.name)
            self._ledger.forget(section.name)
        for name, lun in difference.units_gone:
            self._ledger.forget(name, lun.number)
        for section in difference.new:
            self._front.add_target(self._redirecting(section))
        changed = {section.name for section in difference.other} | prepared.moved
        for section in prepared.plan.targets:
            if section.name in changed:
                self._front.change_target(self._redirecting(section))
                self._front.entity.targets[section.name].draining = False
        self._front.entity.discovery_access = prepared.plan.discovery_access
        self._listening.close_others(prepared.plan.targets)

    def _redirecting(self, section: TargetSection) -> Export:
        """A target of the front: it knows who may come, and sends them on."""
        plan = self._plan
        export = export_of(section, [], plan.secret)
        ports = self._ports[self._assignment[section.name]]
        return replace(export, redirect=PortRedirect(ports, before=export.redirect))

    async def note(self, targets: Sequence[TargetSection]) -> None:
        """What is served is said in other words by now."""
        self._plan = replace(self._plan, targets=targets)
        parts = self._parts(self._plan, self._assignment)
        await _all(Deferred.fromCoroutine(slot.note(part)) for slot, part in zip(self.slots, parts, strict=True))

    async def resize(self, target: str, number: int, size_bytes: int | None, *, full: bool) -> None:
        """Give the disk of a logical unit another size."""
        await self._slot_of(target).resize(Resize(target, number, size_bytes, full))

    async def drop_session(self, target: str, tsih: int, *, grace_s: int) -> bool:
        """End a session, or ask its initiator to log out first."""
        return await self._slot_of(target).drop_session(DropSession(target, tsih, grace_s))

    # Who serves what, and where

    def _assign(self, plan: Plan) -> dict[str, int]:
        demands = [Demand(section.name, len(section.lun), _shares(section)) for section in plan.targets]
        return assign(demands, len(self.slots), self._assignment)

    def _parts(self, plan: Plan, assignment: dict[str, int]) -> list[Plan]:
        """The part of each worker, with no secrets but those of its targets."""
        parts = []
        for slot in self.slots:
            sections = tuple(section for section in plan.targets if assignment[section.name] == slot.number)
            paths = {str(path) for section in sections for path in _secret_files(section)}
            parts.append(Plan(sections, {path: plan.secrets[path] for path in paths}))
        return parts

    def _sockets(self) -> list[dict[Place, socket.socket]]:
        """For each worker, a socket behind every portal that is listened at; those that it has stay.

        Raises:
            PortalError: one can not be opened; none is left open that was opened here.
        """
        places = [(tag, address) for tag, group in self._front.groups().items() for address in group.values()]
        opened: list[socket.socket] = []
        wanted: list[dict[Place, socket.socket]] = []
        try:
            for slot in self.slots:
                mine: dict[Place, socket.socket] = {}
                for place in places:
                    if place in slot.sockets:
                        mine[place] = slot.sockets[place]
                    else:
                        mine[place] = listening_socket(join_address(split_address(place[1])[0], 0))
                        opened.append(mine[place])
                wanted.append(mine)
        except BaseException:
            for listening in opened:
                listening.close()
            raise
        return wanted

    async def _set_sockets(self, sockets: Sequence[Mapping[Place, socket.socket]]) -> None:
        """Accept behind the portals that are listened at, and send logins there."""
        places = {(tag, address) for tag, group in self._front.groups().items() for address in group.values()}
        setting = []
        for slot, ports, opened in zip(self.slots, self._ports, sockets, strict=True):
            wanted = {place: listening for place, listening in opened.items() if place in places}
            ports.clear()
            ports.update({address: listening.getsockname()[1] for (_, address), listening in wanted.items()})
            setting.append(Deferred.fromCoroutine(slot.set_sockets(wanted)))
        await _all(setting)


def _shares(section: TargetSection) -> frozenset[str]:
    """What a target has that only one process may serve: disks, and names of logical units, which share what is kept
    of them and their reservations."""
    shares = {f"disk {place_of(lun.disk)}" for lun in section.lun}
    for lun in section.lun:
        naa = lun.naa or (naa_of(lun.serial) if lun.serial else b"")
        if naa:
            shares.add(f"naa {naa.hex()}")
    return frozenset(shares)


def _secret_files(section: TargetSection) -> Iterator[Path]:
    for chap in (section.chap, *(entry.chap for entry in section.acl)):
        if chap is not None:
            yield chap.secret_file
            if chap.mutual_secret_file is not None:
                yield chap.mutual_secret_file
    for lun in section.lun:
        if lun.disk_secret_file is not None:
            yield lun.disk_secret_file


async def _all(doings: Iterable[Deferred[Any]]) -> None:
    """Wait for all of them, and only then raise what one of them failed with."""
    for success, result in await DeferredList(list(doings), consumeErrors=True):
        if not success:
            result.raiseException()
