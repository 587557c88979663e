"""Who owns a guest at the end of a hand-over."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.cluster.errors import CommandRefused, OutcomeUnknown
from csvd.migration.errors import one_line
from csvd.migration.handover import HandOver
from csvd.migration.precopy import Verdict
from tests.unit.migration.fakes import LATE_S, Fabric, Fate, errors_of, is_fired

MOVE = {"op": "guest_move", "name": "g", "owner": "a", "epoch": 1, "new_owner": "b"}
KEEP = {**MOVE, "new_owner": "a"}


class World:
    """A guest of node a that may go to node b."""

    def __init__(self, *, is_under_way: bool = False) -> None:
        self.clock = Clock()
        self.fabric = Fabric(self.clock)
        self.node = self.fabric.node("a")
        self.fabric.apply({"op": "guest_create", "name": "g", "owner": "a", "spec": {}})
        self.hand_over = HandOver(
            self.node, self.clock, guest="g", source="a", destination="b", epoch=1, is_under_way=is_under_way
        )

    def settle(self, new_owner: str) -> Deferred[Verdict]:
        return Deferred.fromCoroutine(self.hand_over.settle(lambda: new_owner))

    def pass_s(self, seconds: float) -> None:
        self.clock.pump([0.01] * round(seconds * 100))

    def owner(self) -> tuple[str, int]:
        record = self.fabric.register.guest("g")
        assert record is not None
        return record.owner, record.epoch


def test_a_fault_in_the_answer_to_a_move_leaves_it_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    async def faulty(*_: object, **__: object) -> None:
        raise KeyError("revision")

    monkeypatch.setattr(world.node, "submit", faulty)
    errors_of(Deferred.fromCoroutine(world.hand_over.submit("b")))
    assert world.hand_over.is_under_way


@pytest.mark.parametrize(
    ("owner", "epoch", "verdict"),
    [
        ("a", 1, None),
        ("x", 0, None),
        ("b", 2, Verdict.MOVED),
        ("a", 2, Verdict.KEPT),
        ("a", 9, Verdict.KEPT),
        ("b", 3, Verdict.ELSEWHERE),
        ("c", 2, Verdict.ELSEWHERE),
        (None, 0, Verdict.ELSEWHERE),
    ],
)
def test_the_record_is_judged(owner: str | None, epoch: int, verdict: Verdict | None) -> None:
    assert World().hand_over.judge(owner, epoch) is verdict


def test_no_record_applied_here_decides_nothing() -> None:
    clock = Clock()
    hand_over = HandOver(Fabric(clock).node("a"), clock, guest="g", source="a", destination="b", epoch=1)
    assert hand_over.judge_applied() is None


def test_a_refused_move_leaves_the_guest_without_a_new_epoch() -> None:
    world = World()
    settled = world.settle("b")
    world.pass_s(0.1)
    assert settled.result is Verdict.KEPT
    assert world.owner() == ("a", 1)
    assert [command["op"] for command in world.fabric.commands] == ["guest_read"]


@pytest.mark.parametrize(("proposed", "verdict"), [("b", Verdict.MOVED), ("a", Verdict.KEPT)])
def test_a_move_that_may_be_under_way_is_settled_by_another_compare_and_set(proposed: str, verdict: Verdict) -> None:
    world = World(is_under_way=True)
    settled = world.settle(proposed)
    world.pass_s(0.1)
    assert settled.result is verdict
    assert world.owner() == (proposed, 2)


@pytest.mark.parametrize("proposed", ["a", "b"])
def test_a_late_move_and_a_proposal_never_both_win(proposed: str) -> None:
    """The submit is lost for now; the source settles; then the first submit is carried out after all."""
    world = World()
    world.fabric.fate = lambda command: Fate.LATE if len(world.fabric.commands) == 1 else Fate.CARRIED_OUT
    errors = errors_of(Deferred.fromCoroutine(world.hand_over.submit("b")))
    world.pass_s(0.01)
    assert [type(error) for error in errors] == [OutcomeUnknown]
    assert world.hand_over.is_under_way
    settled = world.settle(proposed)
    world.pass_s(LATE_S + 0.1)
    assert settled.result is (Verdict.MOVED if proposed == "b" else Verdict.KEPT)
    assert world.owner() == (proposed, 2)


def test_it_asks_again_until_the_register_answers() -> None:
    world = World(is_under_way=True)
    world.fabric.fate = lambda command: Fate.REQUEST_LOST
    settled = world.settle("a")
    world.pass_s(20)
    assert not is_fired(settled)
    asked = len(world.fabric.commands)
    assert 10 <= asked <= 25
    world.fabric.fate = lambda command: Fate.CARRIED_OUT
    world.pass_s(2.1)
    assert settled.result is Verdict.KEPT


def test_a_change_that_is_applied_here_ends_the_wait_at_once() -> None:
    world = World(is_under_way=True)
    world.fabric.fate = lambda command: Fate.REQUEST_LOST
    settled = world.settle("a")
    world.pass_s(10)
    world.fabric.apply(MOVE)
    world.pass_s(0.01)
    assert settled.result is Verdict.MOVED


def test_a_lost_answer_to_the_proposal_is_read_from_the_record() -> None:
    world = World(is_under_way=True)

    def fate(command: dict[str, object]) -> Fate:
        return Fate.ANSWER_LOST if command["op"] == "guest_move" else Fate.CARRIED_OUT

    world.fabric.fate = fate
    settled = world.settle("b")
    world.pass_s(0.2)
    assert settled.result is Verdict.MOVED


def test_a_removed_guest_is_elsewhere() -> None:
    world = World(is_under_way=True)
    world.fabric.apply({"op": "guest_remove", "name": "g", "owner": "a", "epoch": 1})
    settled = world.settle("a")
    world.pass_s(0.1)
    assert settled.result is Verdict.ELSEWHERE


@pytest.mark.parametrize(
    ("fate", "error", "is_under_way"),
    [(Fate.REFUSED, CommandRefused, False), (Fate.ANSWER_LOST, OutcomeUnknown, True)],
)
def test_only_a_definite_no_leaves_nothing_under_way(fate: Fate, error: type[Exception], is_under_way: bool) -> None:
    world = World()
    world.fabric.fate = lambda command: fate
    errors = errors_of(Deferred.fromCoroutine(world.hand_over.submit("b")))
    world.pass_s(0.01)
    assert [type(caught) for caught in errors] == [error]
    assert world.hand_over.is_under_way is is_under_way


def test_waiting_for_a_change_leaves_no_watcher_behind() -> None:
    world = World()
    endings: list[Callable[[], object]] = [lambda: world.fabric.apply(KEEP), lambda: world.clock.advance(1.0)]
    for end in endings:
        changed = world.hand_over.changed(1.0)
        assert len(world.fabric.watchers) == 1
        end()
        assert changed.called
        assert world.fabric.watchers == []
    assert world.clock.getDelayedCalls() == []


def test_any_error_is_one_line() -> None:
    assert one_line(CommandRefused("no", where="x")) == "x: no"
    assert one_line(ZeroDivisionError("oops")) == "ZeroDivisionError: oops"
