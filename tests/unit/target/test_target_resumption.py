"""A sanitize operation over the stop and the start of the target that serves its disk."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from csvd.scsi.background import KEPT_NAME
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.mode_parameters import ModeParameters
from csvd.scsi.outcome import Reply, Status
from csvd.scsi.procedure import Procedure
from csvd.scsi.target_device import TargetDevice
from csvd.storage.memory import MemoryDisk
from csvd.target.export import Export
from csvd.target.service import TargetService
from csvd.target.steps import StepRunner
from tests.iscsi_wire import TARGET
from tests.unit.target.fake_reactor import FakeReactor

SIZE_BYTES = 4 << 20
CUT_SHORT = {
    KEPT_NAME: {
        "kind": "sanitize",
        "failed": False,
        "restricted": True,
        "description": {"method": "overwrite", "pattern": b"zy".hex(), "count": 1, "invert": False},
    }
}


class Shelf:
    """Keeps values in memory."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = dict(CUT_SHORT)

    def keep(self, _unit: LogicalUnit, name: str, value: Any) -> Deferred[None]:
        self.values[name] = value
        return succeed(None)


class SlowShelf(Shelf):
    """Keeps nothing before the test lets it."""

    def __init__(self) -> None:
        self.values = {}
        self.asked: list[Deferred[None]] = []

    def keep(self, _unit: LogicalUnit, name: str, value: Any) -> Deferred[None]:
        self.values[name] = value
        self.asked.append(Deferred())
        return self.asked[-1]


class Rig:
    """A service that starts after it was cut short in a sanitize operation."""

    def __init__(self) -> None:
        self.reactor = FakeReactor()
        self.shelf = Shelf()
        self.disk = MemoryDisk(SIZE_BYTES)
        unit = LogicalUnit(0, self.disk, 512, SIZE_BYTES // 512, Identity(), keeps=True, kept=dict(self.shelf.values))
        self.service = TargetService(self.reactor, [Export(TARGET, [unit])], keeper=self.shelf)

    def content(self) -> bytes:
        buffer = bytearray(SIZE_BYTES)
        assert self.disk.read_nowait(memoryview(buffer), 0)
        return bytes(buffer)

    def stop(self) -> None:
        stopped = Deferred.fromCoroutine(self.service.stop(drain_s=1.0))
        self.reactor.pump([0.1] * 30)
        assert stopped.called


def test_it_goes_on_when_the_target_is_served_again_and_is_forgotten_at_its_end() -> None:
    rig = Rig()
    rig.reactor.pump([0.1] * 10)
    assert rig.content() == b"zy" * (SIZE_BYTES // 2)
    assert rig.shelf.values == {KEPT_NAME: None}
    rig.stop()


def test_a_stop_in_the_middle_leaves_it_for_the_next_start() -> None:
    rig = Rig()
    rig.stop()
    assert not any(rig.content())
    assert rig.shelf.values == CUT_SHORT


@pytest.mark.parametrize("is_aborted", [False, True])
def test_two_that_save_mode_pages_at_once_lose_nothing_of_one_another(is_aborted: bool) -> None:
    shelf, disk = SlowShelf(), MemoryDisk(SIZE_BYTES)
    unit = LogicalUnit(0, disk, 512, SIZE_BYTES // 512, Identity(), keeps=True)
    device = TargetDevice({0: unit}, name=TARGET)
    device.nexus_opened("nexus")
    device.itl_nexus("nexus", 0).take_attention()
    runner = StepRunner(Clock(), shelf, lambda *_: None)
    aborted: set[int] = set()
    replies: list[Reply | None] = []
    caching, control = bytes((0x08, 0x12)) + bytes(18), bytes((0x0A, 0x0A, 0x06, 0x10)) + bytes(8)
    for number, page in enumerate((caching, control)):
        parameters = bytes(4) + page
        cdb = bytes((0x15, 0x11, 0, 0, len(parameters), 0)).ljust(16, b"\0")
        outcome = device.start("nexus", 0, cdb, memoryview(parameters))
        assert isinstance(outcome, Procedure)
        runner.run(outcome, replies.append, partial(aborted.__contains__, number))
    assert len(shelf.asked) == 1
    if is_aborted:
        aborted.add(0)
    shelf.asked[0].callback(None)
    shelf.asked[1].callback(None)
    assert [reply and reply.status for reply in replies] == [None if is_aborted else Status.GOOD, Status.GOOD]
    mode = device.servers[0].mode
    assert (mode.write_cache, mode.descriptor_sense) == (False, True)
    again = ModeParameters(LogicalUnit(0, disk, 512, 8, Identity(), keeps=True, kept=dict(shelf.values)))
    assert (again.write_cache, again.descriptor_sense) == (False, True)


def test_a_sanitize_that_is_aborted_while_its_begin_is_being_kept_goes_on_all_the_same() -> None:
    clock, shelf, disk = Clock(), SlowShelf(), MemoryDisk(SIZE_BYTES)
    unit = LogicalUnit(0, disk, 512, SIZE_BYTES // 512, Identity(), keeps=True)
    device = TargetDevice({0: unit}, name=TARGET)
    device.nexus_opened("nexus")
    runner = StepRunner(clock, shelf, lambda *_: None)
    parameters = bytes((1, 0, 0, 2)) + b"zy"
    cdb = bytes((0x48, 0x81, 0, 0, 0, 0, 0)) + len(parameters).to_bytes(2)
    device.itl_nexus("nexus", 0).take_attention()
    outcome = device.start("nexus", 0, cdb.ljust(16, b"\0"), memoryview(parameters))
    assert isinstance(outcome, Procedure)
    replies: list[Reply | None] = []
    aborted = False
    runner.run(outcome, replies.append, lambda: aborted)
    clock.advance(0)
    aborted = True
    shelf.asked[0].callback(None)
    clock.pump([0.1] * 10)
    assert replies == [None]
    shelf.asked[1].callback(None)
    assert device.servers[0].medium_operation.kind is None
    assert shelf.values == {KEPT_NAME: None}
    buffer = bytearray(SIZE_BYTES)
    assert disk.read_nowait(memoryview(buffer), 0)
    assert buffer == b"zy" * (SIZE_BYTES // 2)
