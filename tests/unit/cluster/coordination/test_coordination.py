"""The whole of coordination on a clock of the test: an office, its failover, sessions; nothing acknowledged is lost."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import cast

import pytest
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.cluster.coordination.asked import _Heard
from csvd.cluster.coordination.asking import AskKey
from csvd.cluster.coordination.faces import Json
from csvd.cluster.coordination.promises import Promises
from csvd.cluster.coordination.records import ANSWERS
from csvd.cluster.errors import CommandRefused, PeerUnreachable
from csvd.shared_disk import NO_FENCE, PERSISTENT_RESERVATION
from tests.unit.cluster.coordination.rig import Rig
from tests.unit.cluster.simulated_files import SimulatedFiles


def begun(count: int = 3, **options: object) -> Rig:
    """A cluster whose disk has a coordinator, and all nodes their sessions."""
    rig = Rig(count, **options)  # type: ignore[arg-type]
    rig.add_disk()
    rig.run_until_acting()
    rig.run_until_all_live()
    return rig


def test_a_disk_gets_a_coordinator_and_every_node_a_session() -> None:
    rig = begun()
    asked = rig.ask("n2")
    rig.run_until(lambda: bool(asked))
    assert asked == [{"value": 1}]
    assert all(node.seen[-1] == 1 for node in rig.nodes.values())
    assert all(node.gate_is_open() for node in rig.nodes.values())
    assert rig.platter.owner.epoch == 1


def test_when_the_coordinator_dies_the_next_acts_within_a_second_and_knows_what_was_kept() -> None:
    rig = begun()
    first = rig.acting()
    assert first is not None
    survivor = next(name for name in rig.names if name != first.node)
    asked = rig.ask(survivor)
    rig.run_until(lambda: bool(asked))
    first.crash()
    rig.leader = survivor
    asked = rig.ask(survivor)
    took_s = rig.run_until(lambda: bool(asked))
    assert asked == [{"value": 2}]
    assert took_s < 0.5
    second = rig.acting()
    assert second is not None
    assert second.node != first.node


def test_the_session_of_a_dead_coordinator_ends_by_the_proof_that_its_office_has_ended_by() -> None:
    """On a loaded machine every look at the disk takes its time, and all others wait for this one."""
    rig = begun()
    first = rig.run_until_acting()
    first.crash()
    rig.leader = next(name for name in rig.names if name != first.node)
    second = rig.run_until_acting(but=first.node)
    assert second.office is not None
    assert second.office.sessions.last_proof is second.office.proof
    assert second.counting.gone == []
    assert first.node not in second.office.nodes
    assert any(f"{first.node} is off system: file lock" in event for event in second.events)


def test_a_coordinator_that_is_cut_off_stops_before_its_successor_acts() -> None:
    rig = begun()
    first = rig.acting()
    assert first is not None
    rig.leader = next(name for name in rig.names if name != first.node)
    rig.isolate(first.node)
    rig.run_until_acting(but=first.node)
    assert not first.gate_is_open()
    assert first.session.state == "lapsed"
    rig.heal()
    rig.run_until_all_live()
    assert first.gate_is_open()
    assert rig.acting() is not first


def test_an_office_is_moved_by_hand_within_100_ms_and_asks_go_on() -> None:
    rig = begun(disk_s=0.005)
    first = rig.acting()
    assert first is not None
    target = next(name for name in rig.names if name != first.node)
    done: list[float] = []
    rig.run_now(asking(rig, done, until_s=rig.clock.seconds() + 3))
    rig.run(0.2)
    (moved,) = rig.wait(first.coordination.move("system", target))
    assert moved["epoch"] == 2
    assert rig.run_until_acting(but=first.node).node == target
    rig.run(1)
    gaps = [later - earlier for earlier, later in pairwise(done)]
    assert max(gaps) < 0.1
    assert rig.register.disks["system"].is_pinned


async def asking(rig: Rig, done: list[float], *, until_s: float) -> None:
    while rig.clock.seconds() < until_s:
        await rig.nodes["n3"].session.ask("counting", "add", {}, timeout_s=20)
        done.append(rig.clock.seconds())


def test_a_node_that_dies_is_gone_at_once_and_no_push_waits_for_its_lease() -> None:
    rig = begun()
    office = rig.acting()
    assert office is not None
    victim, other = (name for name in rig.names if name != office.node)
    rig.nodes[victim].crash()
    asked = rig.ask(other)
    took_s = rig.run_until(lambda: bool(asked))
    assert asked == [{"value": 1}]
    assert took_s < 0.2
    assert office.counting.gone == [victim]


def test_a_coordinator_that_died_is_off_the_disks_of_services_before_they_begin_elsewhere() -> None:
    rig = begun()
    first = rig.acting()
    assert first is not None
    number = rig.register.members[first.node].number
    first.crash()
    rig.leader = next(name for name in rig.names if name != first.node)
    second = rig.run_until_acting(but=first.node)
    assert second.counting.fenced == [(first.node, number, 0)]


def test_a_node_that_is_started_again_comes_as_a_new_one() -> None:
    rig = begun()
    office = rig.acting()
    assert office is not None
    victim = next(name for name in rig.names if name != office.node)
    rig.nodes[victim].crash()
    office.counting.come.clear()
    node = rig.restart(victim)
    rig.run_until_all_live()
    assert office.counting.gone == [victim]
    assert office.counting.come == [victim]
    assert node.gate_is_open()


def test_a_node_that_is_cut_off_closes_its_gate_and_comes_back() -> None:
    rig = begun()
    office = rig.acting()
    assert office is not None
    victim, other = (name for name in rig.names if name != office.node)
    rig.leader = office.node
    rig.isolate(victim)
    asked = rig.ask(other)
    rig.run(4.5)
    assert asked == []  # The node that is cut off may still act.
    assert rig.nodes[victim].session.is_live
    rig.run_until(lambda: bool(asked))
    assert not rig.nodes[victim].gate_is_open()
    assert rig.nodes[victim].session.state == "lapsed"
    assert rig.nodes[victim].watchdog.deadline_s is None
    rig.heal()
    rig.run_until_all_live()
    assert rig.nodes[victim].gate_is_open()
    asked = rig.ask(victim)
    rig.run_until(lambda: bool(asked))
    assert asked == [{"value": 2}]


def test_a_write_that_does_not_end_keeps_the_disk_joined_and_the_watchdog_armed() -> None:
    rig = begun()
    office = rig.acting()
    assert office is not None
    victim = next(name for name in rig.names if name != office.node)
    rig.leader = office.node
    node = rig.nodes[victim]
    node.gate.held = held = cast("Deferred[None]", Deferred())
    lease_until_s = node.session.lease_until_s
    rig.isolate(victim)
    rig.run(6)
    assert node.session.state == "lapsed"
    assert office.counting.gone == []
    assert node.watchdog.deadline_s is not None
    assert node.watchdog.deadline_s <= lease_until_s + 1 + rig.timeouts.release_s
    held.callback(None)
    rig.run(0.1)
    assert office.counting.gone == [victim]
    assert node.watchdog.deadline_s is None


def test_a_node_that_is_not_let_in_leaves_the_disk_again_before_the_watchdog_bites(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it is told on coming is not answered, so that its session does not begin: it was killed for that."""
    rig = begun()
    acting = rig.acting()
    assert acting is not None
    node = rig.nodes[next(name for name in rig.names if name != acting.node)]
    rig.isolate(node.node)
    rig.run_until(lambda: node.session.state == "lapsed" and not node.session.is_joined)
    stuck: list[Deferred[None]] = []

    async def pushed(method: str, params: Json) -> Json:
        if params["value"] == -1:
            stuck.append(Deferred())
            await stuck[-1]
        return {}

    def come(name: str) -> None:
        assert acting.counting.office is not None
        rig.run_now(acting.counting.office.push("counting", "is", {"value": -1}, to=name))

    monkeypatch.setattr(acting.counting, "node_come", come)
    monkeypatch.setitem(node.session._handlers, "counting", pushed)
    rig.heal()
    joined = 0
    for _ in range(20_000):
        was_joined = node.session.is_joined
        rig.clock.advance(0.001)
        joined += node.session.is_joined and not was_joined
        assert node.watchdog.deadline_s is None or rig.clock.seconds() < node.watchdog.deadline_s, rig.story()
    assert stuck
    assert joined > 1, "it tries again"
    assert node.session.state == "lapsed"
    monkeypatch.setattr(acting.counting, "node_come", lambda name: None)
    rig.run_until_all_live()


def test_heartbeats_that_are_answered_late_renew_the_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a loaded machine an answer may take longer than the time from one heartbeat to the next."""
    rig = begun(2)
    acting = rig.run_until_acting()
    began_s, epoch = rig.clock.seconds(), acting.office.epoch if acting.office is not None else 0
    rig.delay_s = 0.7
    rig.run(30.0)
    assert [node.session.state for node in rig.nodes.values()] == ["live", "live"], rig.story()
    assert not [event for node in rig.nodes.values() for event in node.events if float(event.split()[0]) > began_s]
    assert acting.office is not None
    assert acting.office.epoch == epoch


def test_a_node_that_can_not_let_go_says_why_before_the_watchdog_bites() -> None:
    rig = begun()
    acting = rig.acting()
    assert acting is not None
    node = rig.nodes[next(name for name in rig.names if name != acting.node)]
    node.gate.held = Deferred()
    rig.isolate(node.node)
    rig.run_until(lambda: node.session.state == "lapsed")
    assert node.watchdog.deadline_s is not None
    rig.run(node.watchdog.deadline_s - rig.clock.seconds() - 0.1)
    told = [event for event in node.events if " watchdog: " in event]
    assert len(told) == 1
    assert (
        "waits for the end of what is under way at its logical units; the kernel ends this process in 1.0 s" in told[0]
    )


def test_without_a_fence_a_successor_waits_for_the_lease() -> None:
    rig = begun(fence_kind=NO_FENCE)
    first = rig.acting()
    assert first is not None
    first.crash()
    rig.leader = next(name for name in rig.names if name != first.node)
    took_s = rig.run_until(lambda: rig.acting() is not None)
    # The office before: a coordinator's lease. The node: a node's lease after that.
    assert 7 < took_s < 9


def test_a_destructive_fence_is_used_when_the_lease_is_out_and_not_before() -> None:
    rig = begun(fence_kind=PERSISTENT_RESERVATION)
    first = rig.acting()
    assert first is not None
    rig.isolate(first.node)
    rig.leader = next(name for name in rig.names if name != first.node)
    rig.run(1.9)
    assert rig.platter.fenced == set()
    rig.run_until(lambda: rig.acting() not in (None, first))
    assert rig.platter.fenced == {first.node}
    rig.heal()
    rig.run_until_all_live()
    assert rig.platter.fenced == set()


def test_an_ask_that_was_kept_is_not_carried_out_twice_when_the_coordinator_dies() -> None:
    rig = begun()
    first = rig.acting()
    assert first is not None
    asker, other = (name for name in rig.names if name != first.node)
    rig.isolate(other)  # so that the push waits
    rig.cut = {frozenset((first.node, other))}
    asked = rig.ask(asker)
    rig.run(0.05)
    assert asked == []
    first.crash()
    rig.leader = asker
    rig.heal()
    rig.run_until(lambda: bool(asked))
    assert asked == [{"value": 1}]
    asked = rig.ask(asker)
    rig.run_until(lambda: bool(asked))
    assert asked == [{"value": 2}]


def test_a_node_that_joins_anew_with_an_empty_state_has_a_run_of_a_higher_number() -> None:
    """Else its asks would have the keys, and get the answers, of asks of its former life."""
    first = Promises(SimulatedFiles(), "n1", run_blocking=defer.execute, clock=Clock(), now_ms=1000)
    again = Promises(SimulatedFiles(), "n1", run_blocking=defer.execute, clock=Clock(), now_ms=2000)
    assert (first.incarnation, again.incarnation) == (1000, 2000)


def kept_answers(rig: Rig) -> list[str]:
    acting = rig.acting()
    assert acting is not None
    assert acting.office is not None
    return sorted(acting.office.kept.table(ANSWERS))


def test_answers_that_were_kept_outlive_a_later_ask_that_comes_first_after_a_takeover() -> None:
    """The next coordinator has not heard of the earlier asks yet: that is no reason to forget their answers."""
    rig = begun()
    first = rig.acting()
    assert first is not None
    asker = next(name for name in rig.names if name != first.node)

    def ask(number: int, *waiting: int) -> list[object]:
        acting = rig.run_until_acting()
        assert acting.office is not None
        return rig.wait(acting.office.asked.ask(AskKey(asker, 7, number), frozenset(waiting), "counting", "add", {}))

    assert ask(1, 1) == [{"answer": {"value": 1}}]
    assert ask(2, 1, 2) == [{"answer": {"value": 2}}]
    first.crash()
    rig.leader = asker
    rig.run_until_acting(but=first.node)
    assert ask(3, 1, 2, 3) == [{"answer": {"value": 3}}]
    assert ask(1, 1, 2, 3) == [{"answer": {"value": 1}}]
    assert ask(2, 1, 2, 3) == [{"answer": {"value": 2}}]
    assert ask(4, 4) == [{"answer": {"value": 4}}]
    assert kept_answers(rig) == [f"{asker}/7/4"]
    assert ask(2, 1, 2) == [{"again": "it came late: nobody waits for it any more", "is_begun": True}]


def test_an_ask_that_waits_for_long_does_not_have_the_answers_of_all_later_ones_remembered() -> None:
    """With 256 that were remembered for it nothing was carried out any more, not even what it waited for."""
    rig = begun()
    acting = rig.acting()
    assert acting is not None
    assert acting.office is not None
    node = next(name for name in rig.names if name != acting.node)
    acting.counting.stuck = Deferred()
    stuck = rig.ask(node, "wait", timeout_s=600.0)
    for number in range(1, 301):
        assert rig.wait(rig.nodes[node].session.ask("counting", "add", {}, timeout_s=5.0)) == [{"value": number}]
    assert len(kept_answers(rig)) == 1
    assert not stuck
    acting.counting.stuck.callback(None)
    rig.run(0.1)
    assert stuck == [{}]


def test_what_a_node_is_done_with_is_carried_out_no_more_in_whatever_order_its_asks_come() -> None:
    chance = random.Random(1)
    for _ in range(200):
        heard = _Heard(1)
        waiting: set[int] = set()
        sent: list[tuple[int, frozenset[int]]] = []
        for number in range(1, 30):
            waiting.add(number)
            sent.append((number, frozenset(waiting)))
            waiting -= {n for n in waiting if chance.random() < 0.3}
            again = chance.choice([*waiting, None]) if waiting else None
            if again is not None:
                sent.append((again, frozenset(waiting)))
        for at in range(len(sent) - 1):
            if chance.random() < 0.3:
                sent[at], sent[at + 1] = sent[at + 1], sent[at]
        heards = []
        for number, told in sent:
            if not heard.is_done_with(AskKey("n", 1, number)):
                heard.hear(number, told)
                heards.append((number, told))
            for n in range(1, 30):
                is_done = any(n < number and n not in told for number, told in heards)
                assert heard.is_done_with(AskKey("n", 1, n)) == is_done


def test_asks_of_a_node_that_is_cut_off_do_not_wake_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = begun()
    acting = rig.acting()
    assert acting is not None
    name = next(name for name in rig.names if name != acting.node)
    node = rig.nodes[name]
    rig.isolate(name)
    tries = 0

    async def call(target: str, method: str, params: Json, *, timeout_s: float) -> Json:
        nonlocal tries
        tries += 1
        assert tries < 200, "they go in circles"
        raise PeerUnreachable("there is no link to the node", where=target)

    monkeypatch.setattr(node, "call", call)
    asked = [rig.ask(name, timeout_s=1.0) for _ in range(3)]
    rig.run(1.5)
    assert [type(outcome[0].value) for outcome in asked] == [CommandRefused] * 3


def test_a_node_that_stops_in_order_leaves_at_once_and_its_office_moves() -> None:
    rig = begun()
    first = rig.acting()
    assert first is not None
    rig.leader = next(name for name in rig.names if name != first.node)
    rig.wait(first.coordination.stop())
    first.crash()
    assert rig.platter.owner.is_released
    took_s = rig.run_until(lambda: rig.acting() is not None)
    assert took_s < 0.5


def test_a_draining_node_gives_its_office_away() -> None:
    rig = begun()
    first = rig.acting()
    assert first is not None
    rig.leader = next(name for name in rig.names if name != first.node)
    rig.change({"op": "member_set", "id": first.node, "is_draining": True})
    rig.run_until_acting(but=first.node, timeout_s=3)
    assert first.session.state in ("live", "reclaiming")


def test_a_disk_that_fails_under_the_coordinator_is_taken_by_another_node() -> None:
    rig = begun()
    first = rig.acting()
    assert first is not None
    rig.platter.failing = {first.node}
    asked = rig.ask(first.node)
    rig.run_until(lambda: bool(asked))
    assert asked == [{"value": 1}]
    assert rig.acting() is not first


def test_a_person_fences_a_node() -> None:
    rig = begun()
    office = rig.acting()
    assert office is not None
    victim = next(name for name in rig.names if name != office.node)
    (failure,) = rig.wait(office.coordination.fence("system", victim, force=False, is_vouched_for=False))
    assert "is alive" in str(failure.value)
    (told,) = rig.wait(office.coordination.fence("system", victim, force=True, is_vouched_for=False))
    assert told["proof"]["kind"] == "file lock"
    assert office.counting.gone == [victim]
    rig.run_until_all_live()


def test_a_cluster_of_one_has_an_office_too() -> None:
    rig = begun(1)
    asked = rig.ask("n1")
    rig.run(0.1)
    assert asked == [{"value": 1}]


def test_a_node_that_takes_the_office_already_does_not_claim_it_again() -> None:
    rig = begun()
    first = rig.acting()
    assert first is not None
    params = {"disk": "system", "epoch": 1, "is_pinned": False}
    assert rig.wait(rig.call(first, first.node, "office.take", params, 5)) == [{"epoch": 1}]
    target = next(name for name in rig.names if name != first.node)
    taking = [rig.run_now(rig.call(first, target, "office.take", params, 5)) for _ in range(3)]
    rig.run_until(lambda: all(taking))
    assert taking[0] == [{"epoch": 2}]
    assert all("is claiming" in str(refused[0].value) for refused in taking[1:])
    assert rig.run_until_acting(but=first.node).node == target
    assert rig.register.disks["system"].epoch == 2
