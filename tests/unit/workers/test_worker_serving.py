"""A node's targets over several workers: who gets what, in which order, and what is undone when one can not."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred

from csvd.config.load import parse
from csvd.errors import ConfigError
from csvd.exports.serving import Plan, plan_of
from csvd.iscsi.codes import LoginStatus
from csvd.iscsi.errors import LoginFailure
from csvd.target.service import TargetService
from csvd.workers.serving import WorkerServing
from csvd.workers.slot import Heard, Place, Slot
from tests.unit.target.fake_reactor import FakeReactor

A, B, C = (f"iqn.2026-11.org.example:{letter}" for letter in "abc")


class FakeSlot:
    """A worker that does at once what it is told, and notes it for all of them."""

    def __init__(self, number: int, log: list[Any], counted: Callable[[Any], None]) -> None:
        self.number = number
        self.log = log
        self.counted = counted
        self.sockets: dict[Place, socket.socket] = {}
        self.heard = Heard()
        self.fails: Exception | None = None
        self.plan = Plan()
        self.prepared: Plan | None = None
        self.count = 0

    async def start(self, plan: Plan) -> None:
        self._serve(plan)

    def _serve(self, plan: Plan) -> None:
        self.plan = plan
        self.heard.units = {
            section.name: [{"number": lun.number, "disk": lun.disk} for lun in section.lun] for section in plan.targets
        }

    async def prepare(self, plan: Plan, later: tuple[str, ...]) -> None:
        if self.fails is not None:
            raise self.fails
        self.prepared = plan
        self.log.append(("prepare", self.number, names(plan), later))

    async def commit(self, plan: Plan) -> None:
        assert plan is self.prepared
        self._serve(plan)
        self.log.append(("commit", self.number, names(plan)))

    async def abandon(self) -> None:
        if self.prepared is not None:
            self.log.append(("abandon", self.number))
        self.prepared = None

    async def set_sockets(self, wanted: Mapping[Place, socket.socket]) -> None:
        for place, listening in self.sockets.items():
            if place not in wanted:
                listening.close()
        self.sockets = dict(wanted)

    async def report(self) -> None:
        row = {"count": self.count, "bytes_in": 0, "bytes_out": 0, "seconds": 0.0, "errors": {}, "buckets": []}
        self.counted(
            {"units": [{"target": name, "lun": 0, **row} for name in names(self.plan)], "commands": []},
        )

    async def stop(self, drain_s: float) -> None:
        self.log.append(("stop", self.number))


def names(plan: Plan) -> list[str]:
    return [section.name for section in plan.targets]


class Rig:
    """Two workers behind a portal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log: list[Any] = []
        self.slots: list[FakeSlot] = []
        self.reactor = FakeReactor()
        self.front = TargetService(self.reactor, [])
        self.serving = WorkerServing(self.reactor, self.front, 2, self._make_slot)

    def _make_slot(self, number: int, counted: Callable[[Any], None], ended: Callable[[], None]) -> Slot:
        self.slots.append(FakeSlot(number, self.log, counted))
        return cast(Slot, self.slots[-1])

    def plan(self, **disks: list[str]) -> Plan:
        """Targets a, b and c, with these disks."""
        text = '[node]\nname = "n"\n'
        for letter, of in disks.items():
            text += f'[[target]]\nname = "iqn.2026-11.org.example:{letter}"\nportals = ["127.0.0.1:0"]\n'
            secret = self.folder / f"{letter}.secret"
            if secret.exists():
                text += f'chap = {{ user = "{letter}", secret_file = "{secret}" }}\n'
            for number, disk in enumerate(of):
                text += f'[[target.lun]]\nnumber = {number}\ndisk = "{disk}.img"\n'
        return plan_of(parse(text, where="x", directory=self.folder))

    def do(self, doing: Any) -> None:
        """Do it all; raises what it fails with."""
        results: list[Any] = []
        Deferred.fromCoroutine(doing).addBoth(results.append)
        for _ in range(20):
            self.reactor.advance(0.05)
        assert len(results) == 1
        if results[0] is not None and not isinstance(results[0], list):
            results[0].raiseException()

    def change(self, plan: Plan) -> None:
        self.do(self.serving.prepare(plan))
        self.do(self.serving.commit())

    def sent_to(self, target: str) -> int:
        """The port to which a login at the portal is sent on."""
        (portal,) = self.serving.portals
        with pytest.raises(LoginFailure) as failure:
            self.front.entity.targets[target].check_place(portal, 1, joins=False)
        assert failure.value.status == LoginStatus.TARGET_MOVED_TEMPORARILY
        ((_, address),) = failure.value.pairs
        return int(address.rpartition(":")[2])

    def port_of(self, number: int) -> int:
        (listening,) = self.slots[number].sockets.values()
        port: int = listening.getsockname()[1]
        return port


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.do(rig.serving.stop())
    assert rig.log[-2:] == [("stop", 0), ("stop", 1)]
    for slot in rig.slots:
        for listening in slot.sockets.values():
            listening.close()


def started(rig: Rig, **disks: list[str]) -> None:
    rig.do(rig.serving.start(rig.plan(**disks)))


def test_logins_are_sent_to_the_worker_that_has_the_target(rig: Rig) -> None:
    started(rig, a=["1"], b=["2"], c=["1"])
    assert [names(slot.plan) for slot in rig.slots] == [[A, C], [B]]
    assert [rig.sent_to(name) for name in (A, B, C)] == [rig.port_of(0), rig.port_of(1), rig.port_of(0)]
    face = rig.serving.unit_face(B, 0)
    assert face is not None
    assert face["disk"] == str(rig.folder / "2.img")
    assert rig.serving.unit_face(B, 1) is None
    assert rig.serving.unit_face("iqn.2026-11.org.example:d", 0) is None


def test_a_worker_gets_no_secrets_but_those_of_its_targets(rig: Rig) -> None:
    for letter in "ab":
        path = rig.folder / f"{letter}.secret"
        path.touch(0o600)
        path.write_text(f"the secret of {letter}")
    started(rig, a=["1"], b=["2"])
    assert [list(slot.plan.secrets.values()) for slot in rig.slots] == [[b"the secret of a"], [b"the secret of b"]]


def test_a_target_that_moves_is_let_go_before_another_worker_has_it_and_counts_on(rig: Rig) -> None:
    started(rig, a=["1"], b=["2"])
    for slot in rig.slots:
        slot.count = 5
    rig.change(rig.plan(a=["1"], b=["2", "1"]))
    assert rig.log == [
        ("prepare", 0, [A, B], (B,)),
        ("prepare", 1, [], (B,)),
        ("commit", 1, []),
        ("commit", 0, [A, B]),
    ]
    assert rig.sent_to(B) == rig.port_of(0)
    assert not rig.front.entity.targets[B].draining
    rig.do(rig.serving.refresh())
    assert {row["target"]: row["count"] for row in rig.serving.statistics()["units"]} == {A: 5, B: 10}


def test_a_target_that_is_gone_is_forgotten_with_its_counts(rig: Rig) -> None:
    started(rig, a=["1"], b=["2"])
    rig.do(rig.serving.refresh())
    rig.change(rig.plan(a=["1"]))
    assert list(rig.front.entity.targets) == [A]
    assert [row["target"] for row in rig.serving.statistics()["units"]] == [A]
    assert names(rig.slots[1].plan) == []


def test_what_one_worker_can_not_is_done_by_none(rig: Rig) -> None:
    started(rig, a=["1"], b=["2"])
    rig.slots[1].fails = ConfigError("can not be opened")
    with pytest.raises(ConfigError, match="can not be opened"):
        rig.do(rig.serving.prepare(rig.plan(a=["1"], b=["2"], c=["3"])))
    assert rig.log == [("prepare", 0, [A, C], ()), ("abandon", 0)]
    assert list(rig.front.entity.targets) == [A, B]
    rig.slots[1].fails = None
    rig.change(rig.plan(a=["1"], b=["2"], c=["3"]))
    assert rig.sent_to(C) == rig.port_of(0)


def test_a_plan_that_is_abandoned_leaves_no_portal_behind(rig: Rig) -> None:
    started(rig, a=["1"], b=["2"])
    before = (rig.serving.portals, rig.port_of(0), rig.port_of(1))
    text = '[node]\nname = "n"\n[[target]]\nname = "iqn.2026-11.org.example:a"\n'
    text += 'portals = ["127.0.0.1:0"]\nportal_group_tag = 7\n[[target.lun]]\nnumber = 0\ndisk = "1.img"\n'
    plan = plan_of(parse(text, where="x", directory=rig.folder))
    rig.do(rig.serving.prepare(plan))
    assert len(rig.serving.portals) == 2
    rig.do(rig.serving.abandon())
    assert (rig.serving.portals, rig.port_of(0), rig.port_of(1)) == before
    rig.change(plan)
    assert list(rig.serving.groups()) == [7]
    assert rig.port_of(0) != before[1]
