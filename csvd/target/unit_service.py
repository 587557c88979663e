"""What the coordinator of the system disk decides for the logical units that all nodes export: the service "units".

Of each logical unit, by its NAA designator, there is one record (`csvd.scsi.unit_record`). A node asks for a change;
the coordinator makes the next record, keeps it on the disk, pushes it to all nodes, and answers when each of them
refuses by it, or is gone (see `unit_changes`).

What must hold on all nodes for a command that claims a range for itself, such as COMPARE AND WRITE, is a *hold*: it is
granted here in the order of asking, where ranges meet, and pushed to all nodes, where it is a claim like any other.
That these claims stand in one order on all nodes keeps them from waiting for one another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.logger import Logger
from twisted.python.failure import Failure

from csvd.cluster.coordination.asking import CURRENT_ASK
from csvd.cluster.coordination.faces import Json, Office, OfficeOver
from csvd.cluster.errors import ClusterError
from csvd.scsi.range_locks import Claim, Claims
from csvd.scsi.reservation_codes import (
    SenselessCode,
    decode_action,
    decode_registrant,
    encode_nexuses,
    encode_shared_state,
)
from csvd.scsi.unit_record import Effect, UnitRecord
from csvd.target.unit_changes import RECORDS, SERVICE, CoordinatedUnit, Make

PUBLISHED: Final = "units"
"""Under which a node tells which logical units it exports: the number of their power-on by NAA designator."""
MOST_UNITS: Final = 256
MOST_HOLDS: Final = 8192
"""Commands that claim ranges for themselves, of all nodes at once."""
MOST_RANGES: Final = 64
MOST_HOLD_PUSHES: Final = 24
"""Holds that nodes are told of and have not acknowledged. They wait there for commands that may wait for the end of an
earlier hold: the news of that must find a way past them (see `csvd.cluster.coordination.pushes.MAXIMUM_AT_ONCE`)."""

_log: Final = Logger()


class UnitsRefused(ClusterError):
    """A node asked for what no node asks for."""


class RawDisks(Protocol):
    """The disks of the logical units themselves, as the coordinator's node has them open."""

    async def fence_node(self, node: str, number: int) -> None:
        """Keep a node off all of them.

        Raises:
            CsvdError: not proven now.
        """


@dataclass(slots=True, eq=False)
class _Hold:
    """A command of a node that has, or wants, ranges for itself on all nodes.

    Args:
        ranges: NAA designator, offset and length in bytes.
        is_granted: nobody had these ranges any more, so it was pushed.
    """

    name: str
    node: str
    ranges: Sequence[tuple[str, int, int]]
    claims: Claims
    is_granted: bool = False
    is_over: bool = False
    waiter: Deferred[None] | None = None

    def grant(self) -> None:
        self.is_granted = True
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter.callback(None)

    def code(self) -> Json:
        return {"hold": self.name, "node": self.node, "ranges": [list(each) for each in self.ranges]}


class UnitService:
    """The service of one node; see `csvd.cluster.coordination.faces.Service` and `FencingService`.

    Args:
        disks: None where the logical units have no disks that a node is fenced from.
    """

    name = SERVICE

    def __init__(self, disks: RawDisks | None = None) -> None:
        self._disks = disks
        self._office: Office | None = None
        self._units: dict[str, CoordinatedUnit] = {}
        self._holds: dict[str, _Hold] = {}
        self._pushing_holds = DeferredSemaphore(MOST_HOLD_PUSHES)
        self._methods: dict[str, Callable[[str, Json], Awaitable[Json]]] = {
            "attach": self._attach,
            "detach": self._detach,
            "act": self._act,
            "read": self._read,
            "ports": self._ports,
            "reserve": self._reserve,
            "release": self._release,
            "end legacy": self._end_legacy,
            "mode": self._mode,
            "keep": self._keep_value,
            "reset": self._reset,
            "clear": self._clear,
            "hold": self._hold,
            "unhold": self._unhold,
        }

    # The office

    async def begin(self, office: Office) -> None:
        """Load the records, have all nodes agree on them, and take over the holds of commands that run."""
        self._office = office
        for key, code in office.records.items():
            if key.startswith(RECORDS):
                naa = key.removeprefix(RECORDS)
                effects = tuple(Effect.of(each) for each in code["effects"])
                self._units[naa] = CoordinatedUnit(naa, UnitRecord.of(code), effects)
        for node, published in office.nodes.items():
            self.node_come(node)
            powers = published.get(PUBLISHED)
            for naa, power in powers.items() if isinstance(powers, dict) else ():
                unit = self._units.get(naa)
                if unit is not None and unit.record.power == power:
                    unit.nodes.add(node)
        pushes = [Deferred.fromCoroutine(unit.push(office, unit.effects)) for unit in self._units.values()]
        for push in pushes:
            await push
        for naa, unit in self._units.items():
            holder = unit.record.legacy_holder
            if holder is not None and unit.record.legacy_node not in office.nodes:
                await self._legacy_ends(naa, holder)
        await self._take_over_holds(office)

    async def _take_over_holds(self, office: Office) -> None:
        answers = await office.push(SERVICE, "holds", {})
        for node, answer in answers.items():
            for code in answer.get("running", ()):
                hold = self._new_hold(node, code)
                hold.claims.acquire(hold.grant)
                if not hold.is_granted:
                    # Two that meet can not both run: that would be a fault of ours. The later one is not believed.
                    _log.error("two commands hold the same range, {hold} is not believed", hold=hold.name)
                    self._drop(hold)
        # Nobody waits for the answers: what nodes are told later comes after this.
        self._go_on(office.push(SERVICE, "held", {"holds": list(self._holds)}))

    def end(self) -> None:
        """Forget everything."""
        self._office = None
        self._units.clear()
        holds, self._holds = self._holds, {}
        for hold in holds.values():
            hold.is_over = True
            if hold.waiter is not None:
                waiter, hold.waiter = hold.waiter, None
                waiter.errback(OfficeOver("the office has ended"))

    async def asked(self, node: str, method: str, params: Json) -> Json:
        """A node asks."""
        run = self._methods.get(method)
        if run is None:
            raise UnitsRefused("there is no such method", where=method)
        try:
            return await run(node, params)
        except (AttributeError, LookupError, TypeError, ValueError, SenselessCode) as error:
            raise UnitsRefused("it makes no sense", where=method, why=repr(error)) from error

    def node_come(self, node: str) -> None:
        """It attaches what it exports by itself."""

    def node_gone(self, node: str) -> None:
        """Its holds are over, and it exports nothing any more."""
        for hold in [each for each in self._holds.values() if each.node == node]:
            self._drop(hold)
        for naa, unit in self._units.items():
            unit.nodes.discard(node)
            record = unit.record
            if record.legacy_holder is not None and record.legacy_node == node:
                # Its nexus is lost.
                self._go_on(self._legacy_ends(naa, record.legacy_holder))

    async def fence_node(self, node: str, number: int) -> None:
        """Keep a node off the disks of the logical units."""
        if self._disks is not None:
            await self._disks.fence_node(node, number)

    def _go_on(self, work: Any) -> None:
        """Have something done that nobody waits for."""

        def failed(failure: Failure) -> None:
            if failure.check(ClusterError) is None:
                _log.failure("a fault in the service of logical units", failure)

        Deferred.fromCoroutine(work).addErrback(failed)

    def _its_office(self) -> Office:
        if self._office is None:
            raise OfficeOver("the office has ended")
        return self._office

    # Changes

    def _unit(self, params: Json) -> CoordinatedUnit:
        naa = params["naa"]
        unit = self._units.get(naa)
        if unit is None:
            raise UnitsRefused("no node exports such a logical unit", where=str(naa))
        return unit

    async def _change(self, params: Json, make: Make, *, answers: bool = True) -> Json:
        """Make a change."""
        unit = self._unit(params)
        return await unit.change(self._its_office(), make, CURRENT_ASK.get() if answers else None)

    async def _settled(self, unit: CoordinatedUnit) -> None:
        """All that was decided until now has come to all nodes."""
        await unit.settled()
        self._its_office()

    # Methods

    async def _attach(self, node: str, params: Json) -> Json:
        naa, power = params["naa"], params["power"]
        unit = self._units.get(naa)
        if unit is None:
            if len(bytes.fromhex(naa)) not in (8, 16):
                raise UnitsRefused("is no NAA designator", where=naa)
            if len(self._units) >= MOST_UNITS:
                await self._make_room(naa)
            unit = self._units.setdefault(naa, CoordinatedUnit(naa))
        office = self._its_office()
        await unit.turn.acquire()
        try:
            # A node that has it on asks again, with what it knew before, when an ask of its own was overtaken.
            if not unit.record.power or (not unit.nodes and power != unit.record.power):
                record, effect = unit.record.switched_on()
                refusal = await unit.keep(office, record, [effect], {})
                if refusal is not None:
                    raise UnitsRefused("there is no room to keep what it needs", where=naa)
                self._go_on_deferred(unit.begin_push(office, [effect]))
            unit.nodes.add(node)
            holds = [hold.code() for hold in self._holds.values() if hold.is_granted and _is_of(hold, naa)]
            return {
                "record": unit.record.to_json(),
                "effects": [each.to_json() for each in unit.effects],
                "holds": holds,
            }
        finally:
            unit.turn.release()

    async def _make_room(self, naa: str) -> None:
        """Forget a logical unit that no node exports: best one of which nothing outlives a loss of power."""
        unused = [(_outlives(unit.record), other) for other, unit in self._units.items() if not unit.nodes]
        if not unused:
            raise UnitsRefused(f"there are {MOST_UNITS} logical units", where=naa)
        _, other = min(unused)
        del self._units[other]
        await self._its_office().keep({RECORDS + other: None})

    def _go_on_deferred(self, work: Deferred[None]) -> None:
        work.addErrback(lambda failure: failure.trap(ClusterError) and None)

    async def _detach(self, node: str, params: Json) -> Json:
        unit = self._units.get(params["naa"])
        if unit is not None:
            unit.nodes.discard(node)
        return {}

    async def _act(self, _node: str, params: Json) -> Json:
        action, aborts = decode_action(params["action"]), bool(params["aborts"])

        def make(record: UnitRecord) -> tuple[UnitRecord, Effect, Json]:
            after, effect, change = record.acted(action, aborts=aborts)
            return after, effect, {"preempted": encode_nexuses(change.preempted)}

        return await self._change(params, make)

    async def _read(self, _node: str, params: Json) -> Json:
        """The reservations, such that no node acts by older ones any more."""
        unit = self._unit(params)
        code = encode_shared_state(unit.record.reservations)
        await self._settled(unit)
        return {"reservations": code}

    async def _ports(self, _node: str, params: Json) -> Json:
        """The initiator ports, at all nodes, of initiators by name."""
        self._unit(params)
        names = [str(name) for name in params["names"]]
        answers = await self._its_office().push(SERVICE, "ports", {"naa": params["naa"], "names": names})
        found: dict[str, dict[str, None]] = {name: {} for name in names}
        for _, answer in sorted(answers.items()):
            for name, ports in answer["ports"].items():
                found[name].update(dict.fromkeys(ports))
        return {"ports": {name: list(ports) for name, ports in found.items()}}

    async def _reserve(self, node: str, params: Json) -> Json:
        who = decode_registrant(params["who"])
        return await self._change(params, lambda record: (*record.reserved(who, node), {}))

    async def _release(self, _node: str, params: Json) -> Json:
        who = decode_registrant(params["who"])
        return await self._change(params, lambda record: (*record.released(who), {}))

    async def _end_legacy(self, _node: str, params: Json) -> Json:
        who = decode_registrant(params["who"])
        if params["naa"] not in self._units:
            return {}  # asked for until it is done, and nobody reserves what was forgotten
        return await self._change(params, lambda record: (*record.legacy_ended(who), {}))

    async def _legacy_ends(self, naa: str, who: Any) -> None:
        await self._change({"naa": naa}, lambda record: (*record.legacy_ended(who), {}), answers=False)

    async def _mode(self, _node: str, params: Json) -> Json:
        values = {str(page): bytes.fromhex(body).hex() for page, body in params["values"].items()}
        saves, by = bool(params["saves"]), decode_registrant(params["by"])
        return await self._change(params, lambda record: (*record.selected(values, saves=saves, by=by), {}))

    async def _keep_value(self, _node: str, params: Json) -> Json:
        name, value, by = str(params["name"]), params["value"], decode_registrant(params["by"])
        return await self._change(params, lambda record: (*record.keeping(name, value, by), {}))

    async def _reset(self, _node: str, params: Json) -> Json:
        return await self._change(params, lambda record: (*record.was_reset(), {}))

    async def _clear(self, _node: str, params: Json) -> Json:
        by = decode_registrant(params["by"])
        return await self._change(params, lambda record: (*record.cleared(by), {}))

    # Holds

    def _new_hold(self, node: str, code: Mapping[str, Any]) -> _Hold:
        name = str(code["hold"])
        ranges = [(str(naa), int(offset), int(length)) for naa, offset, length in code["ranges"]]
        if len(ranges) > MOST_RANGES or len(self._holds) >= MOST_HOLDS or name in self._holds:
            raise UnitsRefused("too much is held", where=name)
        claims = [
            Claim(self._units[naa].locks, offset, length, True)
            for naa, offset, length in ranges
            if naa in self._units and length > 0
        ]
        hold = self._holds[name] = _Hold(name, node, ranges, Claims(claims))
        return hold

    async def _hold(self, node: str, params: Json) -> Json:
        hold = self._new_hold(node, params)
        waiter = hold.waiter = Deferred()
        hold.claims.acquire(hold.grant)
        await waiter
        # First come, first served: so holds are pushed in the order in which they were granted.
        await self._pushing_holds.acquire()
        try:
            if not hold.is_over:
                await self._its_office().push(SERVICE, "hold", hold.code())
        finally:
            self._pushing_holds.release()
        return {"granted": not hold.is_over}

    async def _unhold(self, node: str, params: Json) -> Json:
        hold = self._holds.get(params["hold"])
        if hold is not None and hold.node == node:
            self._drop(hold)
        return {}

    def _drop(self, hold: _Hold) -> None:
        """A command is done, was aborted, or its node is gone: others may go on."""
        del self._holds[hold.name]
        hold.is_over = True
        office = self._office
        if hold.is_granted and office is not None:
            self._go_on(_tell(office, hold))
        waiter, hold.waiter = hold.waiter, None
        hold.claims.release()
        if waiter is not None:
            waiter.callback(None)


async def _tell(office: Office, hold: _Hold) -> None:
    await office.push(SERVICE, "unhold", {"hold": hold.name})


def _outlives(record: UnitRecord) -> bool:
    """Whether a loss of power leaves anything of it."""
    return bool(record.saved or record.kept or (record.reservations.aptpl and record.reservations.keys))


def _is_of(hold: _Hold, naa: str) -> bool:
    return any(naa == each for each, _, _ in hold.ranges)
