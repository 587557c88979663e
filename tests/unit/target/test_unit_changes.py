"""The changes of a logical unit at its coordinator: those that wait at one time share a write and a push."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from csvd.cluster.coordination.asking import AskKey
from csvd.cluster.coordination.faces import OfficeOver
from csvd.cluster.errors import CommandRefused, OutcomeUnknown
from csvd.scsi.reservations import TYPES, Preempt, Register, Registrant, Release, Reserve
from csvd.scsi.sense import Asc, illegal_request
from csvd.scsi.unit_record import Effect, UnitRecord
from csvd.target.unit_changes import CoordinatedUnit, Make
from tests.unit.cluster.loopback import Loopback
from tests.unit.target.test_unit_service import NAA, Rig

WRITE_EXCLUSIVE = TYPES[1]


def nexus(number: int) -> Registrant:
    return Registrant(f"i{number}", "t", 1)


def register(number: int, *, key: int | None = None) -> Make:
    who = nexus(number)
    return acted(Register(who, 0, number if key is None else key, ignores_key=True, aptpl=True))


def acted(action: Any, *, aborts: bool = False) -> Make:
    def make(record: UnitRecord) -> tuple[UnitRecord, Effect, Any]:
        after, effect, _ = record.acted(action, aborts=aborts)
        return after, effect, {"generation": after.reservations.generation}

    return make


class SlowOffice:
    """An `Office` whose writes and pushes end when the test says so."""

    def __init__(self) -> None:
        self.keeps: list[tuple[dict[str, Any], dict[AskKey, Any], Deferred[None]]] = []
        self.pushes: list[tuple[dict[str, Any], Deferred[None]]] = []
        self.most_registrations = 1000

    async def keep(self, changes: Mapping[str, Any], *, answers: Mapping[AskKey, Any]) -> None:
        (code,) = changes.values()
        if len(code["reservations"]["registrations"]) > self.most_registrations:
            raise CommandRefused("the records would be too large")
        done: Deferred[None] = Deferred()
        self.keeps.append((code, dict(answers), done))
        await done

    async def push(self, service: str, method: str, params: Any, **_: Any) -> dict[str, Any]:
        assert (service, method) == ("units", "record")
        done: Deferred[None] = Deferred()
        self.pushes.append((params, done))
        await done
        return {}


class Stage:
    """A logical unit in a `SlowOffice`."""

    def __init__(self) -> None:
        self.office = SlowOffice()
        self.unit = CoordinatedUnit("6" + "0" * 31)
        self.last_ask = 0

    def change(self, make: Make) -> list[Any]:
        """Ask for a change; its answer, or what is wrong, is in the list when it is there."""
        self.last_ask += 1
        office: Any = self.office
        outcome: list[Any] = []
        ask = AskKey("n1", 1, self.last_ask)
        Deferred.fromCoroutine(self.unit.change(office, make, ask)).addBoth(outcome.append)
        return outcome

    def kept(self) -> None:
        """The write that is under way ends."""
        self.office.keeps[-1][2].callback(None)

    def pushed(self, number: int = -1) -> None:
        """The nodes have answered."""
        self.office.pushes[number][1].callback(None)


def versions(effects: Any) -> list[int]:
    return [each["version"] for each in effects]


def test_changes_that_wait_share_one_write_and_one_push() -> None:
    stage = Stage()
    first = stage.change(register(100))
    others = [stage.change(register(number)) for number in range(1, 51)]
    stage.kept()
    assert len(stage.office.keeps) == 1
    stage.pushed()
    assert first == [{"generation": 1}]
    code, answers, _ = stage.office.keeps[1]
    assert len(code["reservations"]["registrations"]) == 51
    assert list(answers.values()) == [{"generation": number} for number in range(2, 52)], "one after the other"
    stage.kept()
    assert not any(others), "durable is not enough"
    pushed, _ = stage.office.pushes[1]
    assert versions(pushed["effects"]) == list(range(2, 52)), "all effects, in their order"
    assert pushed["record"]["version"] == 51
    stage.pushed()
    assert others == [[{"generation": number}] for number in range(2, 52)]
    assert (len(stage.office.keeps), len(stage.office.pushes)) == (2, 2)


def test_each_sees_what_those_before_it_have_made_of_the_unit() -> None:
    stage = Stage()
    stage.change(register(9))
    takes = stage.change(register(1))
    reserves = stage.change(acted(Reserve(nexus(1), 1, WRITE_EXCLUSIVE)))
    too_late = stage.change(acted(Reserve(nexus(9), 9, WRITE_EXCLUSIVE)))
    preempts = stage.change(acted(Preempt(nexus(9), 9, 1, WRITE_EXCLUSIVE), aborts=True))
    stage.kept()
    stage.pushed()
    assert too_late == [], "what it was refused for is not durable yet"
    stage.kept()
    assert too_late == [{"conflict": True}]
    pushed, _ = stage.office.pushes[1]
    assert [each["aborts"] for each in pushed["effects"]] == [False, False, True]
    assert len(pushed["record"]["reservations"]["registrations"]) == 1
    assert [takes, reserves, preempts] == [[], [], []]
    stage.pushed()
    assert [takes, reserves, preempts] == [[{"generation": 2}], [{"generation": 2}], [{"generation": 3}]]


def test_what_changes_nothing_is_answered_when_all_nodes_know_what_it_is_about() -> None:
    stage = Stage()
    stage.change(register(1))
    stage.kept()
    stage.pushed()
    reserves = stage.change(acted(Reserve(nexus(1), 1, WRITE_EXCLUSIVE)))
    again = stage.change(acted(Reserve(nexus(1), 1, WRITE_EXCLUSIVE)))
    stage.kept()
    assert len(stage.office.pushes) == 2
    stage.pushed()
    assert reserves
    assert again, "nothing is kept or pushed for it"
    assert (len(stage.office.keeps), len(stage.office.pushes)) == (2, 2)


def test_effects_that_all_nodes_have_heard_of_are_not_kept_any_more() -> None:
    stage = Stage()
    for number in range(1, 6):
        stage.change(register(number))
        stage.kept()
        stage.pushed()
    stage.change(register(6))
    code, _, _ = stage.office.keeps[-1]
    assert versions(code["effects"]) == [6]
    assert stage.unit.effects == ()


def test_effects_of_which_nodes_hear_during_a_write_do_not_come_back_with_it() -> None:
    stage = Stage()
    stage.change(register(1))
    stage.kept()
    stage.pushed()
    clears = stage.change(lambda record: (*record.was_reset(), {}))
    stage.kept()
    follows = stage.change(register(2))
    code, _, _ = stage.office.keeps[-1]
    assert versions(code["effects"]) == [2, 3], "of the reset not all have heard yet"
    stage.pushed()
    assert clears
    stage.kept()
    assert versions(each.to_json() for each in stage.unit.effects) == [3]
    stage.pushed()
    assert follows
    assert stage.unit.effects == ()


def test_a_change_is_not_held_up_by_nodes_that_wait_for_commands() -> None:
    stage = Stage()
    reset = stage.change(lambda record: (*record.was_reset(), {}))
    stage.kept()
    follows = stage.change(register(1))
    stage.kept()
    stage.pushed(1)
    assert follows == [{"generation": 1}]
    assert reset == []
    stage.pushed(0)
    assert reset == [{}]


def test_where_there_is_no_room_for_all_there_may_be_for_some() -> None:
    stage = Stage()
    stage.office.most_registrations = 2
    stage.change(register(1))
    fits, too_many, fits_too = (stage.change(register(number)) for number in (2, 3, 2))
    stage.kept()
    stage.pushed()
    stage.kept()
    assert too_many[0]["condition"]["asc"] == [0x55, 0x04]
    stage.kept()
    assert (fits, fits_too) == ([], [])
    stage.pushed(1)
    stage.pushed(2)
    assert (fits, fits_too) == ([{"generation": 2}], [{"generation": 3}])


def test_one_that_fails_harms_no_other() -> None:
    stage = Stage()
    stage.change(register(1))

    def fails(_: UnitRecord) -> Any:
        raise TypeError("nonsense")

    def refuses(_: UnitRecord) -> Any:
        raise illegal_request(Asc.INVALID_FIELD_IN_CDB)

    failed, refused, other = stage.change(fails), stage.change(refuses), stage.change(register(2))
    stage.kept()
    stage.pushed()
    (failure,) = failed
    assert failure.check(TypeError)
    stage.kept()
    assert refused[0]["condition"]["asc"] == [0x24, 0x00]
    stage.pushed()
    assert other == [{"generation": 2}]


@pytest.mark.parametrize("error", [OfficeOver("it has ended"), OutcomeUnknown("the disk failed")])
def test_when_the_office_ends_nobody_waits_for_ever(error: Exception) -> None:
    stage = Stage()
    outcomes = [stage.change(register(number)) for number in (1, 2, 3)]
    stage.office.keeps[0][2].errback(error)
    stage.office.keeps[1][2].errback(error)
    for outcome in outcomes:
        (failure,) = outcome
        assert isinstance(failure, Failure)
        assert failure.value is error
    assert stage.unit.record.version == 0, "what is not known to be durable is told to nobody"


def test_when_the_office_ends_before_nodes_have_answered_nobody_is_told_that_they_have() -> None:
    stage = Stage()
    made, follows = stage.change(register(1)), stage.change(register(2))
    stage.kept()
    stage.office.pushes[0][1].errback(OfficeOver("it has ended"))
    stage.office.keeps[1][2].errback(OfficeOver("it has ended"))
    for outcome in (made, follows):
        (failure,) = outcome
        assert failure.check(OfficeOver)


def test_all_that_share_a_write_are_answered_by_the_next_coordinator_and_not_made_twice() -> None:
    rig = Rig()
    rig.ask("n1", "attach", naa=NAA, power=None)
    keeps = rig.loopback.keeps
    turn = rig.services["n1"]._units[NAA].turn
    turn.acquire()
    asking = [begin(rig.loopback, number) for number in range(6)]
    rig.result(rig.loopback.lapse("n3"))
    turn.release()
    assert rig.loopback.keeps == keeps + 1
    assert not any(asking), "n3 has not answered"
    rig.result(rig.loopback.move("n2"))
    assert asking == [[{"preempted": []}]] * 6
    state = rig.ask("n1", "read", naa=NAA)["reservations"]
    assert (len(state["registrations"]), state["generation"]) == (6, 6)


def begin(loopback: Loopback, number: int) -> list[Any]:
    """Ask to register."""
    outcome: list[Any] = []
    action = {
        "action": "register",
        "who": [f"i{number}", "t", 1],
        "key": f"{0:016x}",
        "new_key": f"{number + 1:016x}",
        "ignores_key": True,
        "other_ports": [],
        "specified": None,
        "aptpl": True,
    }
    node = f"n{number % 2 + 1}"
    ask = loopback.session(node).ask("units", "act", {"naa": NAA, "action": action, "aborts": False}, timeout_s=1)
    Deferred.fromCoroutine(ask).addBoth(outcome.append)
    return outcome


def test_release_of_what_was_just_reserved_is_one_push() -> None:
    stage = Stage()
    stage.change(register(1))
    reserves = stage.change(acted(Reserve(nexus(1), 1, WRITE_EXCLUSIVE)))
    releases = stage.change(acted(Release(nexus(1), 1, WRITE_EXCLUSIVE)))
    stage.kept()
    stage.pushed()
    stage.kept()
    stage.pushed()
    assert reserves
    assert releases
    assert len(stage.office.pushes) == 2
    assert stage.office.pushes[1][0]["record"]["reservations"]["type"] is None
