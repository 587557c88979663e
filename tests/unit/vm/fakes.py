"""A driver that runs nothing, and a node's guests on it."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.vm.errors import GuestEnded, VmError
from csvd.vm.files import GuestFiles, Note
from csvd.vm.handover import ArrivingGuest, GuestHost
from csvd.vm.interfaces import GuestStatus, GuestVerification
from csvd.vm.ownership import NodeGuests
from csvd.vm.spec import GuestSpec
from tests.unit.migration.fakes import Fabric, run_here

T = TypeVar("T")
SPEC = GuestSpec(1 << 20, 100.0)


class FakeDriver:
    """One run of a guest, as the test wants it."""

    def __init__(self, name: str, image: Path, spec: GuestSpec) -> None:
        self.name = name
        self.image = image
        self.spec = spec
        self.did: list[str] = []
        self.fails: dict[str, VmError] = {}
        self.is_alive = False
        self.status = "prelaunch"
        self._watchers: list[Deferred[GuestEnded]] = []
        self._ended = GuestEnded("its process ended", where=f"guest {name}", why="killed by SIGKILL")

    @property
    def process_id(self) -> int | None:
        return 4711 if self.is_alive else None

    def _do(self, what: str) -> None:
        self.did.append(what)
        if what in self.fails:
            raise self.fails[what]

    async def start(self, *, paused: bool) -> None:
        assert paused
        assert self.image.stat().st_size == self.spec.memory_bytes
        self._do("start")
        self.is_alive = True

    async def stop(self) -> int | None:
        self._do("stop")
        self.status = "paused"
        return 1

    async def cont(self) -> int | None:
        self._do("cont")
        self.status = "running"
        return 2

    async def query_status(self) -> GuestStatus:
        self._do("query_status")
        return GuestStatus(self.status, 42, 7, 8, 8)

    async def verify(self) -> GuestVerification:
        self._do("verify")
        return GuestVerification(8, 0, 0, 0, 42)

    async def quit(self) -> None:
        self._do("quit")
        self.end()

    async def kill(self) -> None:
        self._do("kill")
        self.end()

    def end(self) -> None:
        """The process is gone."""
        self.is_alive = False
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher.callback(self._ended)

    def when_ended(self) -> Deferred[GuestEnded]:
        watcher: Deferred[GuestEnded] = Deferred()
        self._watchers.append(watcher)
        return watcher


class Bench:
    """Node node1 of a cluster, with drivers that run nothing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = Clock()
        self.fabric = Fabric(self.clock)
        self.node = self.fabric.node("node1")
        self.drivers: list[FakeDriver] = []
        self.fails: dict[str, VmError] = {}
        self.files = GuestFiles(directory)
        self.guests: NodeGuests
        self.host: GuestHost
        self.begin()

    def begin(self) -> None:
        """The daemon starts, perhaps again."""
        self.guests = NodeGuests(self.node, self.files, run_here, make_driver=self.make_driver)
        self.host = GuestHost(self.guests, self.files, run_here)
        self.do(self.guests.begin())

    def crash(self) -> None:
        """The daemon dies, and its guests with it."""
        self.fabric.watchers.clear()
        self.begin()

    def make_driver(self, name: str, image: Path, spec: GuestSpec) -> FakeDriver:
        driver = FakeDriver(name, image, spec)
        driver.fails = self.fails
        self.drivers.append(driver)
        return driver

    @property
    def driver(self) -> FakeDriver:
        return self.drivers[-1]

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it to its end."""
        outcome: list[Any] = []
        Deferred.fromCoroutine(work).addBoth(outcome.append)
        self.clock.pump([0.01] * 20)
        (result,) = outcome
        if hasattr(result, "raiseException"):
            result.raiseException()
        ended: T = result
        return ended

    def create(self, name: str = "g", **options: Any) -> dict[str, Any]:
        return self.do(self.guests.create(name, SPEC, **options))

    def show(self, name: str = "g") -> dict[str, Any]:
        self.clock.pump([0.01] * 20)
        return self.do(self.guests.show(name))

    def apply(self, op: str, **fields: Any) -> None:
        """Another node's command."""
        assert self.fabric.apply({"op": op, "name": "g", **fields})["ok"]
        self.clock.pump([0.01] * 20)

    def given_away(self, epoch: int = 1) -> None:
        self.apply("guest_move", owner="node1", epoch=epoch, new_owner="node2")

    def record(self, name: str = "g") -> tuple[str, int, str]:
        record = self.fabric.register.guest(name)
        assert record is not None
        return record.owner, record.epoch, record.state

    def note(self, name: str = "g") -> Note:
        (note,) = [note for note in self.files.read_notes() if note.name == name]
        return note

    def left(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())

    def arrive(self, *, epoch: int = 5, is_running: bool = True, memory_bytes: int = 1 << 20) -> ArrivingGuest:
        return self.do(
            self.host.arrive(
                "g",
                spec=SPEC.to_json(),
                memory_bytes=memory_bytes,
                source="node2",
                epoch=epoch,
                is_running=is_running,
            )
        )
