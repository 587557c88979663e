"""The guests of a node: from the register to the process, and back after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.cluster.errors import CommandRefused, OutcomeUnknown
from csvd.vm.errors import GuestBusy, GuestNotHere, ImageFileError, VmError
from csvd.vm.files import LocalState, Note
from csvd.vm.spec import GuestSpec
from tests.unit.migration.fakes import Fate
from tests.unit.vm.fakes import SPEC, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_guest_is_registered_first_and_runs_then(bench: Bench) -> None:
    description = bench.create()
    assert bench.fabric.commands[0]["op"] == "guest_create"
    assert bench.driver.did == ["start", "cont", "query_status"]
    assert description == {
        "name": "g",
        "owner": "node1",
        "epoch": 1,
        "state": "running",
        "reason": "",
        "operation": "",
        "image": str(bench.directory / "g.ram"),
        "spec": SPEC.to_json(),
        "counter": 42,
        "pages_rewritten": 7,
        "process_id": 4711,
    }
    assert bench.record() == ("node1", 1, "running")
    assert bench.note().state is LocalState.RUNNING
    assert bench.left() == ["g.json", "g.ram"]


def test_a_guest_may_begin_paused(bench: Bench) -> None:
    assert bench.create(paused=True)["state"] == "paused"
    assert "cont" not in bench.driver.did


def test_a_name_that_is_taken_is_refused_before_anything_is_made(bench: Bench) -> None:
    bench.apply("guest_create", owner="node2", spec={})
    with pytest.raises(CommandRefused, match="exists already, owned by node2"):
        bench.create()
    assert bench.left() == []
    bench.create("h")
    with pytest.raises(GuestBusy):
        bench.create("h")


def test_no_guest_runs_while_its_registration_is_unknown(bench: Bench) -> None:
    bench.fabric.fate = lambda command: Fate.ANSWER_LOST
    with pytest.raises(OutcomeUnknown):
        bench.create()
    assert bench.drivers == []
    assert bench.show()["reason"] == "there is no image of it on node1"
    # It can be started, as any stopped guest.
    bench.fabric.fate = lambda command: Fate.CARRIED_OUT
    assert bench.do(bench.guests.start("g"))["state"] == "running"
    assert bench.record()[:2] == ("node1", 2)


def test_too_little_room_is_told_before_the_name_is_registered(bench: Bench) -> None:
    with pytest.raises(ImageFileError, match="not enough space"):
        bench.do(bench.guests.create("g", GuestSpec(1 << 44)))
    assert bench.fabric.commands == []


def test_a_guest_that_does_not_start_is_there_stopped_with_the_reason(bench: Bench) -> None:
    bench.fails["cont"] = VmError("the guest refused", why="no space for the working set")
    with pytest.raises(VmError, match="no space"):
        bench.create()
    assert bench.driver.did[-1] == "kill"
    description = bench.show()
    assert description["state"] == "stopped"
    assert "no space for the working set" in description["reason"]
    assert bench.record()[2] == "stopped"
    del bench.fails["cont"]
    assert bench.do(bench.guests.start("g"))["state"] == "running"


def test_a_stopped_guest_is_started_only_after_proof_that_it_is_still_here(bench: Bench) -> None:
    bench.create()
    bench.do(bench.guests.stop("g"))
    assert bench.driver.did[-1] == "quit"
    assert bench.show()["state"] == "stopped"
    assert bench.show()["reason"] == "stopped on request"
    image = bench.directory / "g.ram"
    image.write_bytes(b"x" * (1 << 20))
    bench.do(bench.guests.start("g"))
    assert bench.record()[:2] == ("node1", 2)
    assert bench.note().epoch == 2
    assert image.read_bytes() == b"x" * (1 << 20)


def test_a_guest_moved_away_meanwhile_is_not_started(bench: Bench) -> None:
    """This node has not applied the move yet: its record is old, and the compare-and-set says so."""
    bench.create()
    bench.do(bench.guests.stop("g"))
    runs = len(bench.drivers)
    bench.fabric.watchers.clear()

    def moved_first(command: dict[str, Any]) -> Fate:
        if command["op"] == "guest_move" and command["new_owner"] == "node1":
            bench.fabric.register.apply({**command, "new_owner": "node2"})
        return Fate.CARRIED_OUT

    bench.fabric.fate = moved_first
    with pytest.raises(CommandRefused, match="owned by node2 with epoch 2"):
        bench.do(bench.guests.start("g"))
    assert len(bench.drivers) == runs


def test_a_running_guest_is_not_started_again(bench: Bench) -> None:
    bench.create()
    with pytest.raises(VmError, match="not stopped"):
        bench.do(bench.guests.start("g"))
    with pytest.raises(VmError, match="has to be stopped"):
        bench.do(bench.guests.remove("g"))


def test_a_stopped_guest_can_do_nothing_but_start(bench: Bench) -> None:
    bench.create()
    bench.do(bench.guests.stop("g"))
    for asked in (bench.guests.stop, bench.guests.pause, bench.guests.resume, bench.guests.verify):
        with pytest.raises(VmError, match="stopped"):
            bench.do(asked("g"))
    with pytest.raises(VmError, match="stopped"):
        bench.host.depart("g")


def test_a_guest_is_paused_and_resumed(bench: Bench) -> None:
    bench.create()
    assert bench.do(bench.guests.pause("g"))["state"] == "paused"
    assert bench.record()[2] == "paused"
    assert bench.do(bench.guests.resume("g"))["state"] == "running"
    assert [word for word in bench.driver.did if word != "query_status"] == ["start", "cont", "stop", "cont"]
    assert bench.note().state is LocalState.RUNNING


def test_a_guest_is_verified(bench: Bench) -> None:
    bench.create()
    assert bench.do(bench.guests.verify("g")).is_intact


def test_a_removed_guest_leaves_nothing(bench: Bench) -> None:
    bench.create()
    bench.do(bench.guests.stop("g"))
    bench.do(bench.guests.remove("g"))
    assert bench.left() == []
    assert bench.fabric.register.guest("g") is None
    with pytest.raises(GuestNotHere, match="no such guest"):
        bench.show()


def test_a_guest_without_an_image_here_can_be_removed(bench: Bench) -> None:
    bench.apply("guest_create", owner="node1", spec=SPEC.to_json())
    bench.do(bench.guests.remove("g"))
    assert bench.fabric.register.guest("g") is None


def test_a_guest_of_another_node_is_shown_and_left_alone(bench: Bench) -> None:
    bench.apply("guest_create", owner="node2", spec=SPEC.to_json())
    bench.apply("guest_state", owner="node2", epoch=1, state="running")
    (description,) = bench.guests.list_guests()
    assert (description["owner"], description["state"], description["image"]) == ("node2", "running", None)
    for asked in (bench.guests.start, bench.guests.stop, bench.guests.remove, bench.guests.verify):
        with pytest.raises(GuestNotHere, match="it is on node2"):
            bench.do(asked("g"))


def test_a_process_that_ends_by_itself_leaves_a_stopped_guest_with_the_reason(bench: Bench) -> None:
    bench.create()
    bench.driver.end()
    assert (bench.show()["state"], bench.show()["reason"]) == ("stopped", "killed by SIGKILL")
    assert bench.record()[2] == "stopped"
    assert bench.do(bench.guests.start("g"))["state"] == "running"


def test_a_status_that_does_not_come_is_the_reason_shown(bench: Bench) -> None:
    bench.create()
    bench.fails["query_status"] = VmError("an answer did not come")
    assert bench.show()["reason"] == "an answer did not come"
    assert bench.show()["state"] == "running"


def test_a_register_that_cannot_be_told_of_a_state_changes_nothing(bench: Bench) -> None:
    bench.fabric.fate = lambda command: Fate.REQUEST_LOST if command["op"] == "guest_state" else Fate.CARRIED_OUT
    assert bench.create()["state"] == "running"
    assert bench.record()[2] == "created"


# Restarts of the daemon.


def test_after_a_crash_a_guest_is_stopped_with_the_reason_and_can_go_on(bench: Bench) -> None:
    bench.create()
    bench.crash()
    description = bench.show()
    assert description["state"] == "stopped"
    assert description["reason"] == "the daemon of node1 ended while the guest was running"
    bench.do(bench.guests.start("g"))
    assert bench.record()[:2] == ("node1", 2)


def test_a_second_start_while_the_first_waits_for_its_claim_makes_no_second_copy(bench: Bench) -> None:
    bench.apply("guest_create", owner="node1", spec=SPEC.to_json())
    outcomes: list[Any] = []
    for _ in range(2):
        Deferred.fromCoroutine(bench.guests.start("g")).addBoth(outcomes.append)
    bench.clock.pump([0.01] * 50)
    refused, started = sorted(outcomes, key=lambda outcome: isinstance(outcome, dict))
    assert started["state"] == "running"
    assert refused.check(GuestBusy)
    assert len(bench.drivers) == 1


def test_a_start_that_is_refused_leaves_the_name_free(bench: Bench) -> None:
    bench.apply("guest_create", owner="node1", spec=SPEC.to_json())
    bench.fabric.fate = lambda command: Fate.REFUSED if command["op"] == "guest_move" else Fate.CARRIED_OUT
    with pytest.raises(CommandRefused):
        bench.do(bench.guests.start("g"))
    bench.fabric.fate = lambda command: Fate.CARRIED_OUT
    assert bench.do(bench.guests.start("g"))["state"] == "running"


def test_of_a_guest_without_an_image_here_the_register_hears_that_it_is_stopped(bench: Bench) -> None:
    bench.apply("guest_create", owner="node1", spec=SPEC.to_json())
    assert bench.record() == ("node1", 1, "stopped")


def test_an_image_whose_guest_is_gone_from_the_register_makes_way_for_a_new_one(bench: Bench) -> None:
    bench.create()
    bench.do(bench.guests.stop("g"))
    bench.fabric.fate = lambda command: Fate.ANSWER_LOST if command["op"] == "guest_remove" else Fate.CARRIED_OUT
    with pytest.raises(OutcomeUnknown):
        bench.do(bench.guests.remove("g"))
    assert bench.left() == ["g.json", "g.ram"]
    assert bench.create()["state"] == "running"


def test_a_state_is_told_again_when_nobody_answered(bench: Bench) -> None:
    lost = [True, True]
    bench.fabric.fate = lambda command: (
        Fate.REQUEST_LOST if command["op"] == "guest_state" and lost and lost.pop() else Fate.CARRIED_OUT
    )
    bench.create()
    bench.clock.pump([0.01] * 50)
    assert bench.record() == ("node1", 1, "running")


def test_after_a_crash_the_register_hears_that_the_guest_is_stopped(bench: Bench) -> None:
    bench.create()
    assert bench.record() == ("node1", 1, "running")
    bench.crash()
    assert bench.record() == ("node1", 1, "stopped")


def test_a_daemon_that_is_stopped_ends_its_guests_in_good_order(bench: Bench) -> None:
    bench.create()
    bench.create("h")
    bench.do(bench.guests.stop("h"))
    bench.do(bench.guests.close())
    assert bench.fabric.watchers == []
    assert [driver.did[-1] for driver in bench.drivers] == ["quit", "quit"]
    bench.begin()
    assert bench.show()["reason"] == "the daemon of node1 was stopped while the guest was running"
    assert bench.show("h")["reason"] == "stopped on request"


def test_an_image_that_is_gone_is_made_anew(bench: Bench) -> None:
    bench.create()
    bench.do(bench.guests.stop("g"))
    (bench.directory / "g.ram").unlink()
    assert bench.do(bench.guests.start("g"))["state"] == "running"


def test_a_guest_that_was_moved_while_the_daemon_was_down_is_deleted(bench: Bench) -> None:
    bench.create()
    bench.fabric.watchers.clear()
    bench.given_away()
    bench.crash()
    assert bench.left() == []


def test_a_register_that_is_not_read_yet_deletes_nothing(bench: Bench) -> None:
    bench.create()
    bench.fabric.register.restore(type(bench.fabric.register)().snapshot())
    bench.crash()
    assert bench.left() == ["g.json", "g.ram"]
    description = bench.show()
    assert (description["state"], description["owner"]) == ("stopped", None)


def test_an_old_view_of_the_register_deletes_nothing(bench: Bench) -> None:
    """The guest was on node2 once, and came here with epoch 6; this node's view is from before."""
    bench.apply("guest_create", owner="node2", spec=SPEC.to_json())
    bench.files.create_image("g", SPEC)
    bench.files.write_note(Note("g", 6, LocalState.PAUSED, "", str(bench.directory / "g.ram"), SPEC.to_json()))
    bench.crash()
    assert bench.left() == ["g.json", "g.ram"]


# The register speaks while it runs.


def test_a_guest_that_the_register_gives_away_is_ended_and_deleted(bench: Bench) -> None:
    bench.create()
    bench.given_away()
    assert "kill" in bench.driver.did
    assert bench.left() == []
    assert bench.show()["owner"] == "node2"


def test_an_epoch_raised_without_a_move_is_taken_over(bench: Bench) -> None:
    bench.create()
    bench.apply("guest_move", owner="node1", epoch=1, new_owner="node1")
    assert bench.note().epoch == 2
    assert bench.show()["state"] == "running"
    bench.do(bench.guests.pause("g"))
    assert bench.record() == ("node1", 2, "paused")
