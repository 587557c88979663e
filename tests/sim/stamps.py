"""A service and its nodes' side, to see by what coordination promises to services.

The service counts, in the records of the disk; every change is pushed to all nodes before it is answered. The nodes
write blocks with the value that they were told to a raw disk, under their gate. So whatever comes to the raw disk
after a push has returned must have the new value, whoever sent it: that is what PREEMPT needs, and a change of an
access list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from csvd.cluster.bell import pause, spawn
from csvd.cluster.coordination.faces import DiskSession, Json, Office, OfficeOver
from csvd.cluster.errors import CommandRefused, OutcomeUnknown
from csvd.errors import CsvdError
from csvd.shared_disk import NO_FENCE
from tests.sim.disk_checks import DiskChecks, pack_stamp
from tests.sim.stores import BLOCK_BYTES, SimDisk

if TYPE_CHECKING:
    from tests.sim.node import SimNode

NAME = "stamps"
_VALUE = f"{NAME}/value"


class StampService:
    """The coordinator's side."""

    name = NAME

    def __init__(self, node: SimNode, disk: str, raw: SimDisk, checks: DiskChecks) -> None:
        self._node = node
        self._disk = disk
        self._raw = raw
        self._checks = checks
        self._office: Office | None = None
        self._value = 0

    async def begin(self, office: Office) -> None:
        """Tell all what was kept."""
        self._office = office
        self._value = office.records.get(_VALUE, 0)
        self._checks.begun(self._disk, self._value)
        await self._push(office, self._value)

    def end(self) -> None:
        """Forget it."""
        self._office = None

    async def asked(self, node: str, method: str, params: Json) -> Json:
        """Count one more."""
        office = self._office
        if office is None:
            raise OfficeOver("the office has ended")
        self._value += 1
        value = self._value
        answer = {"value": value}
        await office.keep({_VALUE: value}, answer=answer)
        self._checks.kept(self._disk, params["token"], value)
        await self._push(office, value)
        return answer

    def node_gone(self, node: str) -> None:
        """Nothing of it can act."""

    def node_come(self, node: str) -> None:
        """It starts from nothing: tell it the value."""
        office = self._office
        if office is not None:
            spawn(self._tell(office, node), "telling a node the value")

    async def fence_node(self, node: str, number: int) -> None:
        """Keep a node off the raw disk."""
        if self._raw.store.fence_kind != NO_FENCE:
            await self._raw.fence(node, number)

    async def _tell(self, office: Office, node: str) -> None:
        try:
            await office.push(NAME, "set", {"value": self._value}, to=node)
        except OfficeOver:
            return

    async def _push(self, office: Office, value: int) -> None:
        await office.push(NAME, "set", {"value": value})
        self._checks.pushed(self._disk, value)


class StampWriter:
    """A node's side: a gate, and writes under it."""

    def __init__(self, node: SimNode, session: DiskSession, raw: SimDisk, sequence: Callable[[], int]) -> None:
        self._node = node
        self._session = session
        self._raw = raw
        self._sequence = sequence
        self._random = node.process.world.random(f"stamps {node.name} {node.process.world.now_s}")
        self._value: int | None = None
        self._is_open = False
        self._under_way: list[tuple[int, int, Deferred[Any]]] = []
        session.on_pushed(NAME, self._pushed)
        session.add_gate(self)
        self._later()

    async def open(self) -> None:
        """Join the raw disk."""
        self._value = None
        await self._raw.join(self._node.name, self._node.number_of(self._node.name))
        self._is_open = True

    async def close(self) -> None:
        """Begin nothing more, wait, and leave."""
        self._is_open = False
        self._value = None
        await self._ended(None)
        while True:
            try:
                await self._raw.leave()
                return
            except CsvdError:
                await pause(self._node.process.clock, 0.1)

    async def _pushed(self, method: str, params: Json) -> Json:
        """From now on by this value; what is under way by another has ended when this is acknowledged."""
        value = int(params["value"])
        self._value = max(value, self._value or 0)
        await self._ended(value)
        return {}

    async def _ended(self, value: int | None) -> None:
        """Wait until no write by a lower value is under way; by any, without one."""
        while waiting := [done for one, _, done in self._under_way if value is None or one < value]:
            ended: Deferred[None] = Deferred()
            waiting[0].addBoth(_passed_on, ended)
            await ended

    def may_write(self) -> bool:
        """The gate."""
        return self._value is not None and self._is_open and self._session.is_live

    def _later(self) -> None:
        self._node.process.clock.callLater(self._random.uniform(0.05, 0.3), self._write)

    def _write(self) -> None:
        self._later()
        value = self._value
        if value is None or not self.may_write():
            return
        number = self._node.number_of(self._node.name)
        block = number * 4 + self._random.randrange(4)
        if any(block == other for _, other, _ in self._under_way):
            return  # Of two at once nobody could say which is the later.
        done = self._raw.write_from((pack_stamp(value, self._sequence(), number),), block * BLOCK_BYTES)
        entry = (value, block, done)
        self._under_way.append(entry)

        def over(result: Any) -> None:
            self._under_way.remove(entry)

        done.addBoth(over)
        self._node.count("raw writes")


def _passed_on(result: Any, ended: Deferred[None]) -> Any:
    ended.callback(None)
    return result


async def ask(session: DiskSession, checks: DiskChecks, token: str, timeout_s: float) -> str:
    """Ask for one more; gives what became of it."""
    try:
        answer = await session.ask(NAME, "add", {"token": token}, timeout_s=timeout_s)
    except CommandRefused:
        checks.refused(session.disk, token)
        return "refused"
    except OutcomeUnknown:
        return "unknown"
    except CsvdError as error:
        return f"failed: {error}"
    checks.kept(session.disk, token, answer["value"])
    return "acknowledged"
