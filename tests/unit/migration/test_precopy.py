"""The pre-copy machine: its way through, its decisions, its ends."""

from __future__ import annotations

import pytest

from csvd.errors import ConfigError
from csvd.migration.errors import TransitionError
from csvd.migration.precopy import (
    TRANSITIONS,
    Cancel,
    DestinationRunning,
    GuestFailed,
    Input,
    MoveAccepted,
    MoveRefused,
    MoveUnknown,
    NoConvergence,
    Owner,
    Policy,
    Precopy,
    Prepared,
    Resumed,
    RoundFinished,
    Settled,
    State,
    Stopped,
    Task,
    TransferFailed,
    Verdict,
    Verified,
)

MIB = 1 << 20
PAGE = 4096
MEMORY = 256 * MIB


def result(dirty_pages: int, seconds: float = 0.1, *, scan_seconds: float = 0.03) -> RoundFinished:
    return RoundFinished(MEMORY // PAGE, dirty_pages, 0, 0, dirty_pages * PAGE, seconds, scan_seconds)


def machine(policy: Policy | None = None) -> Precopy:
    return Precopy(MEMORY, PAGE, policy or Policy())


def driven(*events: Input, policy: Policy | None = None) -> tuple[Precopy, tuple[Task, ...]]:
    """A machine that was given these events, and its last tasks."""
    precopy = machine(policy)
    tasks = precopy.begin()
    for event in events:
        tasks = precopy.handle(event)
    return precopy, tasks


FIRST = result(32768, 0.5)
QUIET = result(10, 0.05)
TO_STOPPING: tuple[Input, ...] = (Prepared(), FIRST, QUIET)
TO_LAST_ROUND = (*TO_STOPPING, Stopped())
TO_VERIFYING = (*TO_LAST_ROUND, QUIET)
TO_HANDING_OVER = (*TO_VERIFYING, Verified())
TO_DOUBT = (*TO_HANDING_OVER, MoveUnknown("no answer"))
TO_STARTING = (*TO_HANDING_OVER, MoveAccepted())
TO_RESUMING = (*TO_VERIFYING, Cancel())


def test_the_straight_way_leads_through_every_state() -> None:
    precopy = machine()
    assert precopy.begin() == (Task.PREPARE,)
    steps: list[tuple[Input, tuple[Task, ...], str]] = [
        (Prepared(), (Task.SEND_ROUND,), "round 1"),
        (FIRST, (Task.SEND_ROUND,), "round 2"),
        (QUIET, (Task.STOP_GUEST,), "stopping"),
        (Stopped(), (Task.SEND_LAST_ROUND,), "last round"),
        (QUIET, (Task.SEND_END,), "verifying"),
        (Verified(), (Task.SUBMIT_MOVE,), "handing over"),
        (MoveAccepted(), (Task.RELEASE_GUEST, Task.AWAIT_RUNNING), "starting"),
        (DestinationRunning(), (), "completed"),
    ]
    for event, tasks, state in steps:
        assert precopy.handle(event) == tasks
        assert str(precopy) == state
    assert precopy.owner is Owner.DESTINATION
    assert precopy.last_round == 3
    assert len(precopy.rounds) == 3


def test_the_first_round_alone_never_stops_the_guest() -> None:
    precopy, tasks = driven(Prepared(), result(0, 0.05))
    assert tasks == (Task.SEND_ROUND,)
    assert precopy.estimate.downtime_s == float("inf")


def test_the_guest_is_stopped_when_the_rest_fits_the_downtime_target() -> None:
    # 2000 dirty pages in the 0.5 s of round 1: 16.4 MB/s; in the 0.1 s of round 2 1.6 MB are written again.
    precopy, tasks = driven(Prepared(), FIRST, result(2000, 0.1), policy=Policy(downtime_target_s=0.05))
    assert tasks == (Task.STOP_GUEST,)
    assert precopy.estimate.dirty_bytes_per_s == pytest.approx(2000 * PAGE / 0.5)
    assert precopy.estimate.remaining_bytes == pytest.approx(2000 * PAGE / 0.5 * 0.1, abs=1)
    assert precopy.estimate.throughput_bytes_per_s == pytest.approx(32768 * PAGE / 0.5)
    assert precopy.estimate.downtime_s == pytest.approx(0.03 + 2000 * PAGE * 0.2 / (32768 * PAGE / 0.5))


def test_the_guest_goes_on_while_the_rest_does_not_fit() -> None:
    _, tasks = driven(Prepared(), FIRST, result(30000, 0.5), policy=Policy(downtime_target_s=0.05))
    assert tasks == (Task.SEND_ROUND,)


def test_a_quiet_round_does_not_make_the_link_look_slow() -> None:
    precopy, _ = driven(Prepared(), FIRST, result(0, 0.05), policy=Policy(downtime_target_s=0.001))
    assert precopy.estimate.throughput_bytes_per_s == pytest.approx(32768 * PAGE / 0.5)


def test_a_round_that_takes_long_makes_the_link_look_slow() -> None:
    precopy, _ = driven(Prepared(), FIRST, result(1000, 10.0))
    assert precopy.estimate.throughput_bytes_per_s == pytest.approx(1000 * PAGE / (10 - 0.03 - 0.05))


def test_a_faster_round_raises_the_estimate() -> None:
    precopy, _ = driven(Prepared(), FIRST, result(32768, 0.1))
    assert precopy.estimate.throughput_bytes_per_s == pytest.approx(32768 * PAGE / 0.1)


BUSY = result(30000, 0.5)


def test_no_progress_forces_the_stop_when_the_policy_says_so() -> None:
    precopy, tasks = driven(Prepared(), FIRST, BUSY, BUSY, BUSY, policy=Policy(stalled_rounds=3))
    assert tasks == (Task.SEND_ROUND,)
    assert precopy.handle(BUSY) == (Task.STOP_GUEST,)
    assert "no progress in 3 rounds" in precopy.notes[0]


def test_no_progress_leaves_the_guest_running_when_the_policy_says_so() -> None:
    policy = Policy(stalled_rounds=1, no_convergence=NoConvergence.ABORT)
    precopy, tasks = driven(Prepared(), FIRST, BUSY, BUSY, policy=policy)
    assert tasks == (Task.ABORT_DESTINATION,)
    assert precopy.state is State.FAILED
    assert precopy.owner is Owner.SOURCE
    assert "no progress" in precopy.reason


def test_progress_starts_the_count_anew() -> None:
    better = [result(30000 // 2**n, 0.5) for n in range(4)]
    precopy, tasks = driven(
        Prepared(), FIRST, *better, policy=Policy(stalled_rounds=1, downtime_target_s=0.001, maximum_rounds=30)
    )
    assert tasks == (Task.SEND_ROUND,)
    assert precopy.state is State.ROUND


def test_the_number_of_rounds_is_limited() -> None:
    policy = Policy(maximum_rounds=2, stalled_rounds=100, downtime_target_s=0.001)
    precopy, tasks = driven(Prepared(), FIRST, BUSY, policy=policy)
    assert tasks == (Task.STOP_GUEST,)
    assert "not converged after 2 rounds" in precopy.notes[0]


@pytest.mark.parametrize("events", [(), (Prepared(),), (Prepared(), FIRST)])
@pytest.mark.parametrize(
    ("event", "end"),
    [(Cancel("no"), State.CANCELLED), (TransferFailed("x"), State.FAILED), (GuestFailed("x"), State.FAILED)],
)
def test_what_goes_wrong_while_the_guest_runs_leaves_it_running(
    events: tuple[Input, ...], event: Input, end: State
) -> None:
    precopy, tasks = driven(*events, event)
    assert tasks == (Task.ABORT_DESTINATION,)
    assert (precopy.state, precopy.owner) == (end, Owner.SOURCE)
    assert precopy.is_over


@pytest.mark.parametrize("events", [TO_STOPPING, TO_LAST_ROUND, TO_VERIFYING])
@pytest.mark.parametrize(("event", "end"), [(Cancel("no"), State.CANCELLED), (TransferFailed("x"), State.FAILED)])
def test_what_goes_wrong_while_the_guest_is_stopped_lets_it_go_on(
    events: tuple[Input, ...], event: Input, end: State
) -> None:
    precopy, tasks = driven(*events, event)
    assert tasks == (Task.ABORT_DESTINATION, Task.RESUME_GUEST)
    assert precopy.state is State.RESUMING
    assert precopy.handle(Resumed()) == ()
    assert (precopy.state, precopy.owner) == (end, Owner.SOURCE)


def test_a_guest_that_does_not_stop_is_told_to_go_on() -> None:
    _, tasks = driven(*TO_STOPPING, GuestFailed("no answer to stop"))
    assert tasks == (Task.ABORT_DESTINATION, Task.RESUME_GUEST)


@pytest.mark.parametrize("events", [TO_LAST_ROUND, TO_VERIFYING, TO_HANDING_OVER, TO_DOUBT, TO_STARTING])
def test_a_process_that_dies_after_its_last_write_does_not_end_the_migration(events: tuple[Input, ...]) -> None:
    precopy, _ = driven(*events)
    before = precopy.state
    assert precopy.handle(GuestFailed("killed")) == ()
    assert precopy.state is before
    assert precopy.notes[-1] == "too late to change anything: killed"


@pytest.mark.parametrize("events", [TO_HANDING_OVER, TO_DOUBT, TO_STARTING])
def test_it_cannot_be_cancelled_after_the_submit(events: tuple[Input, ...]) -> None:
    precopy, _ = driven(*events)
    assert not precopy.is_cancellable
    assert precopy.handle(Cancel()) == ()
    assert not precopy.is_over


@pytest.mark.parametrize("events", [(), (Prepared(),), TO_STOPPING, TO_LAST_ROUND, TO_VERIFYING])
def test_it_can_be_cancelled_before_the_submit(events: tuple[Input, ...]) -> None:
    precopy, _ = driven(*events)
    assert precopy.is_cancellable
    assert precopy.owner is Owner.SOURCE


@pytest.mark.parametrize("event", [MoveRefused("no"), MoveUnknown("silence")])
def test_without_a_yes_the_register_is_asked_and_nobody_runs(event: Input) -> None:
    precopy, tasks = driven(*TO_HANDING_OVER, event)
    assert tasks == (Task.SETTLE,)
    assert (precopy.state, precopy.owner) == (State.IN_DOUBT, Owner.UNDECIDED)


def test_a_lost_destination_in_doubt_changes_nothing() -> None:
    precopy, _ = driven(*TO_DOUBT)
    assert precopy.handle(TransferFailed("link lost")) == ()
    assert precopy.state is State.IN_DOUBT


def test_settled_for_the_destination_goes_on_there() -> None:
    precopy, tasks = driven(*TO_DOUBT, Settled(Verdict.MOVED))
    assert tasks == (Task.RELEASE_GUEST, Task.AWAIT_RUNNING)
    assert precopy.owner is Owner.DESTINATION


def test_settled_for_the_source_resumes_there() -> None:
    precopy, tasks = driven(*TO_DOUBT, Settled(Verdict.KEPT))
    assert tasks == (Task.ABORT_DESTINATION, Task.RESUME_GUEST)
    assert precopy.owner is Owner.SOURCE
    precopy.handle(Resumed())
    assert precopy.state is State.FAILED
    assert "no answer" in precopy.reason


def test_settled_for_someone_else_ends_the_guest_here() -> None:
    precopy, tasks = driven(*TO_DOUBT, Settled(Verdict.ELSEWHERE))
    assert tasks == (Task.ABORT_DESTINATION, Task.END_GUEST)
    assert (precopy.state, precopy.owner) == (State.FAILED, Owner.ELSEWHERE)


def test_a_destination_lost_after_the_move_still_owns_the_guest() -> None:
    precopy, tasks = driven(*TO_STARTING, TransferFailed("link lost"))
    assert tasks == ()
    assert (precopy.state, precopy.owner) == (State.COMPLETED, Owner.DESTINATION)
    assert "has not said that it runs" in precopy.notes[-1]


def test_a_guest_that_does_not_go_on_is_said_so() -> None:
    precopy, _ = driven(*TO_RESUMING, GuestFailed("it is dead"))
    assert precopy.state is State.CANCELLED
    assert "did not go on at the source: it is dead" in precopy.notes[-1]


def test_an_input_without_a_row_is_an_error_and_changes_nothing() -> None:
    precopy, _ = driven(Prepared())
    with pytest.raises(TransitionError, match="Verified is not an input of the state round 1"):
        precopy.handle(Verified())
    assert str(precopy) == "round 1"


@pytest.mark.parametrize("end", [State.COMPLETED, State.FAILED, State.CANCELLED])
def test_an_end_takes_no_input(end: State) -> None:
    assert not [row for row in TRANSITIONS if row[0] is end]


@pytest.mark.parametrize(
    "arguments",
    [{"downtime_target_s": 0}, {"downtime_target_s": 3601}, {"maximum_rounds": 0}, {"stalled_rounds": 0}],
)
def test_a_policy_out_of_range_is_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Policy(**arguments)  # type: ignore[arg-type]
