"""Guests that leave a node and guests that come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from csvd.errors import CsvdError
from csvd.vm.errors import GuestBusy, GuestNotHere, VmError
from csvd.vm.files import LocalState, Note
from csvd.vm.handover import ArrivingGuest, DepartingGuest
from tests.unit.vm.fakes import SPEC, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_departing_guest_is_left_alone_by_everybody_else(bench: Bench) -> None:
    bench.create()
    leaving = bench.host.depart("g")
    for asked in (bench.guests.stop, bench.guests.pause, bench.guests.remove):
        with pytest.raises(GuestBusy, match="migration is under way"):
            bench.do(asked("g"))
    with pytest.raises(GuestBusy):
        bench.host.depart("g")
    bench.given_away()
    assert bench.driver.is_alive
    assert (leaving.epoch, leaving.is_running, leaving.process_id) == (1, True, 4711)
    assert (leaving.memory_bytes, leaving.page_bytes) == (1 << 20, 4096)
    assert leaving.spec == SPEC.to_json()


def departing(bench: Bench, *, paused: bool = False) -> DepartingGuest:
    bench.create(paused=paused)
    bench.driver.did.clear()
    return bench.host.depart("g")


def test_a_departing_guest_is_stopped_and_resumed(bench: Bench) -> None:
    leaving = departing(bench)
    assert bench.do(leaving.stop()) == 1
    bench.do(leaving.resume())
    leaving.stay()
    assert bench.driver.did == ["stop", "cont"]
    assert bench.do(bench.guests.pause("g"))["state"] == "paused"


def test_a_paused_guest_is_not_resumed(bench: Bench) -> None:
    leaving = departing(bench, paused=True)
    assert not leaving.is_running
    bench.do(leaving.stop())
    bench.do(leaving.resume())
    assert bench.driver.did == ["stop"]


def test_a_released_guest_leaves_nothing(bench: Bench) -> None:
    leaving = departing(bench)
    bench.given_away()
    bench.do(leaving.release())
    assert bench.driver.did == ["kill"]
    assert bench.left() == []


def test_an_ended_guest_keeps_its_image_until_the_register_says_more(bench: Bench) -> None:
    leaving = departing(bench)
    bench.do(leaving.end())
    assert bench.driver.did == ["kill"]
    assert bench.left() == ["g.json", "g.ram"]
    bench.given_away()
    assert bench.left() == []


def test_what_the_register_said_during_a_migration_holds_after_it(bench: Bench) -> None:
    leaving = departing(bench)
    bench.given_away()
    assert bench.left() == ["g.json", "g.ram"]
    leaving.stay()
    bench.clock.pump([0.01] * 20)
    assert bench.driver.did == ["kill"]
    assert bench.left() == []


def test_a_guest_whose_process_dies_while_it_departs_is_stopped(bench: Bench) -> None:
    leaving = departing(bench)
    ended = leaving.when_ended()
    bench.driver.end()
    assert ended.called
    leaving.stay()
    assert bench.show()["reason"] == "killed by SIGKILL"


# Arrival.


def arriving(bench: Bench, **options: Any) -> ArrivingGuest:
    bench.apply("guest_create", owner="node2", spec=SPEC.to_json())
    for epoch in range(1, 5):
        bench.apply("guest_move", owner="node2", epoch=epoch, new_owner="node2")
    return bench.arrive(**options)


def test_an_arriving_guest_has_an_image_and_a_paused_process(bench: Bench) -> None:
    coming = arriving(bench)
    assert coming.image_path.stat().st_size == 1 << 20
    assert bench.driver.did == ["start"]
    assert (bench.note().state, bench.note().epoch) == (LocalState.ARRIVING, 6)
    assert bench.show()["state"] == "arriving"
    with pytest.raises(GuestNotHere, match="it is on node2"):
        bench.do(bench.guests.verify("g"))


def test_an_adopted_guest_runs(bench: Bench) -> None:
    coming = arriving(bench)
    bench.do(coming.ready())
    assert bench.note().state is LocalState.COMPLETE
    bench.apply("guest_move", owner="node2", epoch=5, new_owner="node1")
    assert bench.do(coming.adopt()) == 2
    assert bench.driver.did == ["start", "query_status", "cont"]
    assert bench.show()["state"] == "running"
    assert bench.record() == ("node1", 6, "running")
    assert bench.note().state is LocalState.RUNNING
    assert bench.do(bench.guests.pause("g"))["state"] == "paused"


def test_a_guest_that_was_paused_arrives_paused(bench: Bench) -> None:
    coming = arriving(bench, is_running=False)
    bench.do(coming.ready())
    bench.apply("guest_move", owner="node2", epoch=5, new_owner="node1")
    assert bench.do(coming.adopt()) is None
    assert bench.show()["state"] == "paused"


def test_a_process_that_died_while_it_waited_is_replaced_at_adoption(bench: Bench) -> None:
    coming = arriving(bench)
    bench.do(coming.ready())
    bench.driver.end()
    bench.apply("guest_move", owner="node2", epoch=5, new_owner="node1")
    assert bench.do(coming.adopt()) == 2
    assert len(bench.drivers) == 2
    assert bench.show()["state"] == "running"


def test_an_adoption_that_fails_leaves_a_stopped_guest_that_can_be_started(bench: Bench) -> None:
    coming = arriving(bench)
    bench.do(coming.ready())
    bench.apply("guest_move", owner="node2", epoch=5, new_owner="node1")
    bench.fails["cont"] = VmError("the guest refused")
    with pytest.raises(VmError, match="refused"):
        bench.do(coming.adopt())
    assert (bench.show()["state"], bench.show()["reason"]) == ("stopped", "the guest refused")
    bench.fails.clear()
    bench.driver.end()
    assert bench.do(bench.guests.start("g"))["state"] == "running"


def test_a_discarded_guest_leaves_nothing(bench: Bench) -> None:
    coming = arriving(bench)
    bench.do(coming.discard())
    assert bench.driver.did == ["start", "kill"]
    assert bench.left() == []


def test_a_process_that_does_not_come_up_leaves_nothing(bench: Bench) -> None:
    bench.fails["start"] = VmError("its greeting did not come")
    with pytest.raises(VmError, match="greeting"):
        arriving(bench)
    assert bench.left() == []
    del bench.fails["start"]
    bench.arrive()


def test_a_dead_process_is_not_ready(bench: Bench) -> None:
    coming = arriving(bench)
    bench.driver.end()
    with pytest.raises(VmError, match="stopped"):
        bench.do(coming.ready())
    assert bench.note().state is LocalState.ARRIVING


@pytest.mark.parametrize(("memory_bytes", "complaint"), [(1 << 21, "not of one size")])
def test_a_guest_of_another_size_than_its_spec_is_refused(bench: Bench, memory_bytes: int, complaint: str) -> None:
    with pytest.raises(CsvdError, match=complaint):
        arriving(bench, memory_bytes=memory_bytes)
    assert bench.left() == []


def test_a_later_image_is_not_overwritten_by_an_arrival(bench: Bench) -> None:
    bench.files.create_image("g", SPEC)
    bench.files.write_note(Note("g", 6, LocalState.PAUSED, "", str(bench.directory / "g.ram"), SPEC.to_json()))
    bench.crash()
    with pytest.raises(VmError, match="a later image"):
        bench.arrive(epoch=5)
    assert bench.left() == ["g.json", "g.ram"]


def test_an_earlier_image_makes_way_for_an_arrival(bench: Bench) -> None:
    bench.files.create_image("g", SPEC).write_bytes(b"x" * (1 << 20))
    bench.files.write_note(Note("g", 4, LocalState.PAUSED, "", str(bench.directory / "g.ram"), SPEC.to_json()))
    bench.crash()
    coming = bench.arrive(epoch=5)
    assert not any(coming.image_path.read_bytes())


def test_a_busy_guest_is_not_pushed_aside_by_an_arrival(bench: Bench) -> None:
    arriving(bench)
    with pytest.raises(GuestBusy, match="migration is under way"):
        bench.arrive()


def test_after_a_crash_an_incomplete_copy_is_gone(bench: Bench) -> None:
    arriving(bench)
    bench.crash()
    assert bench.left() == []


def test_after_a_crash_a_complete_copy_waits_for_the_register(bench: Bench) -> None:
    coming = arriving(bench)
    bench.do(coming.ready())
    bench.crash()
    assert bench.left() == ["g.json", "g.ram"]
    assert bench.show()["state"] == "arrived"
    bench.apply("guest_move", owner="node2", epoch=5, new_owner="node1")
    assert bench.show()["state"] == "stopped"
    assert "handed over to node1 while the daemon there was down" in bench.show()["reason"]
    assert bench.do(bench.guests.start("g"))["state"] == "running"
    assert bench.record()[:2] == ("node1", 7)


def test_after_a_crash_a_complete_copy_goes_when_the_guest_stays(bench: Bench) -> None:
    coming = arriving(bench)
    bench.do(coming.ready())
    bench.crash()
    bench.apply("guest_move", owner="node2", epoch=5, new_owner="node2")
    assert bench.left() == []


def test_after_a_crash_a_complete_copy_stays_when_the_register_names_this_node(bench: Bench) -> None:
    """A note may be older than what it stands beside (the disk was full); the register is not."""
    coming = arriving(bench)
    bench.do(coming.ready())
    bench.crash()
    bench.fabric.watchers.clear()
    bench.apply("guest_move", owner="node2", epoch=5, new_owner="node2")
    bench.apply("guest_move", owner="node2", epoch=6, new_owner="node1")
    bench.crash()
    assert bench.left() == ["g.json", "g.ram"]
    assert bench.show()["state"] == "stopped"
    assert bench.record() == ("node1", 7, "stopped")


def test_a_guest_that_does_not_run_after_its_hand_over_has_no_process_left(bench: Bench) -> None:
    coming = arriving(bench)
    bench.do(coming.ready())
    bench.apply("guest_move", owner="node2", epoch=5, new_owner="node1")
    bench.fails["cont"] = VmError("an answer did not come")
    with pytest.raises(VmError):
        bench.do(coming.adopt())
    assert not bench.driver.is_alive
    assert bench.show()["state"] == "stopped"
    bench.fails.clear()
    assert bench.do(bench.guests.start("g"))["state"] == "running"


def test_a_complete_copy_left_by_an_earlier_attempt_makes_way(bench: Bench) -> None:
    coming = arriving(bench)
    bench.do(coming.ready())
    bench.crash()
    coming = bench.arrive(epoch=5)
    assert bench.note().state is LocalState.ARRIVING
    bench.do(coming.discard())
