"""A sanitize operation over the stop and the start of the target that serves its disk."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed

from csvd.scsi.background import KEPT_NAME
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.storage.memory import MemoryDisk
from csvd.target.service import Export, TargetService
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
