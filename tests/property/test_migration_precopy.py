"""The pre-copy machine among random outcomes: it comes to one end, and never do both sides run."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from csvd.migration.errors import TransitionError
from csvd.migration.precopy import (
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

PAGE = 4096
MEMORY = 64 << 20


INTERRUPTS: list[Input] = [Cancel(), TransferFailed("lost"), GuestFailed("killed")]


class World:
    """Carries out the machine's tasks, with a register, a destination that obeys it alone, and much that goes wrong."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        policy = Policy(
            downtime_target_s=self.random.choice([0.001, 0.3, 10.0]),
            maximum_rounds=self.random.randint(1, 5),
            stalled_rounds=self.random.randint(1, 3),
            no_convergence=self.random.choice(list(NoConvergence)),
        )
        self.machine = Precopy(MEMORY, PAGE, policy)
        self.record = ("source", 1)
        self.late_move = False
        self.source_runs = True
        self.copy_is_ready = False
        self.copy_is_gone = False
        self.destination_runs = False

    def happens(self, probability: float) -> bool:
        return self.random.random() < probability

    def move(self, new_owner: str) -> bool:
        """Compare-and-set from (source, 1)."""
        if self.record != ("source", 1):
            return False
        self.record = (new_owner, 2)
        return True

    def look(self) -> None:
        """The destination looks at the register; a late command is carried out at last."""
        if self.late_move and self.happens(0.3):
            self.late_move = False
            self.move("destination")
        if self.copy_is_ready and not self.copy_is_gone:
            if self.record == ("destination", 2):
                self.destination_runs = True
            elif self.record[1] == 2:
                self.copy_is_gone = True
        assert not (self.source_runs and self.destination_runs)

    def outcome(self, task: Task) -> Input | None:
        broken = TransferFailed("x") if self.happens(0.05) else None
        match task:
            case Task.PREPARE:
                return broken or Prepared()
            case Task.SEND_ROUND | Task.SEND_LAST_ROUND:
                dirty = self.random.randrange(MEMORY // PAGE)
                seconds = self.random.uniform(0.0, 2.0)
                return broken or RoundFinished(MEMORY // PAGE, dirty, 0, 0, dirty * PAGE, seconds, seconds / 3)
            case Task.STOP_GUEST:
                # One that times out may be obeyed.
                self.source_runs = self.source_runs and self.happens(0.02)
                return GuestFailed("no answer") if self.source_runs or self.happens(0.03) else Stopped()
            case Task.SEND_END:
                self.copy_is_ready = not self.happens(0.1)
                return broken or (Verified() if self.copy_is_ready else TransferFailed("digest"))
            case Task.SUBMIT_MOVE:
                return self.submitted()
            case Task.SETTLE:
                return Settled(self.settled())
            case Task.RELEASE_GUEST | Task.END_GUEST:
                self.source_runs = False
                return None
            case Task.AWAIT_RUNNING:
                self.look()
                return broken or DestinationRunning()
            case Task.ABORT_DESTINATION:
                self.copy_is_gone = self.copy_is_gone or self.happens(0.7)
                # One that does not hear of it makes the move impossible before it throws its copy away.
                if not self.copy_is_gone and not self.late_move:
                    self.move("source")
                return None
            case Task.RESUME_GUEST:
                if self.happens(0.05):
                    return GuestFailed("dead")
                self.source_runs = True
                return Resumed()

    def submitted(self) -> Input:
        fate = self.random.choice(["done", "refused", "lost", "unheard", "late", "taken"])
        if fate == "taken":
            self.record = ("third", 2)
            return MoveRefused("not yours")
        if fate == "refused":
            return MoveRefused("no")
        if fate in ("done", "unheard"):
            assert self.move("destination")
        self.late_move = fate == "late"
        return MoveAccepted() if fate == "done" else MoveUnknown("no answer")

    def settled(self) -> Verdict:
        for _ in range(self.random.randrange(3)):
            self.look()
        self.move(self.random.choice(["source", "destination"]))
        if self.record == ("destination", 2):
            return Verdict.MOVED
        return Verdict.KEPT if self.record[0] == "source" else Verdict.ELSEWHERE

    def run(self) -> None:
        tasks = list(self.machine.begin())
        steps = 0
        while tasks:
            steps += 1
            assert steps < 500
            task = tasks.pop(0)
            if not self.machine.is_over and self.happens(0.08):
                interrupt = self.random.choice(INTERRUPTS)
                before = str(self.machine)
                new = self.machine.handle(interrupt)
                if new or self.machine.is_over:
                    tasks = list(new)
                    continue
                assert str(self.machine) == before
            event = self.outcome(task)
            self.look()
            if event is not None:
                tasks += self.machine.handle(event)
        for _ in range(100):
            self.look()


@settings(max_examples=1500, deadline=None)
@given(seed=st.integers(0, 2**48))
def test_it_comes_to_one_end_in_which_one_side_may_run(seed: int) -> None:
    world = World(seed)
    world.run()
    machine = world.machine
    assert machine.state in (State.COMPLETED, State.FAILED, State.CANCELLED)
    assert not machine.is_cancellable
    assert (
        machine.owner
        is {
            "source": Owner.SOURCE,
            "destination": Owner.DESTINATION,
            "third": Owner.ELSEWHERE,
        }[world.record[0]]
    )
    assert (machine.state is State.COMPLETED) is (machine.owner is Owner.DESTINATION)
    assert machine.state is State.COMPLETED or machine.reason
    if machine.owner is Owner.DESTINATION:
        assert world.destination_runs
        assert not world.source_runs
    else:
        assert not world.destination_runs
    if machine.owner is Owner.ELSEWHERE:
        assert not world.source_runs
    if machine.owner is Owner.SOURCE and not world.source_runs:
        assert "did not go on" in machine.notes[-1]


EVENTS: list[Input] = [
    Prepared(),
    RoundFinished(1, 1, 0, 0, PAGE, 0.1, 0.1),
    Stopped(),
    Verified(),
    MoveAccepted(),
    MoveRefused("x"),
    MoveUnknown("x"),
    *(Settled(verdict) for verdict in Verdict),
    DestinationRunning(),
    TransferFailed("x"),
    GuestFailed("x"),
    Resumed(),
    Cancel(),
]


@settings(max_examples=500)
@given(events=st.lists(st.sampled_from(EVENTS), max_size=40))
def test_any_input_at_any_time_moves_it_by_a_row_or_is_refused_without_a_change(events: list[Input]) -> None:
    machine = Precopy(MEMORY, PAGE)
    was_submitted = False
    for event in events:
        before = (str(machine), machine.owner, machine.reason)
        try:
            tasks = machine.handle(event)
        except TransitionError:
            assert (str(machine), machine.owner, machine.reason) == before
            continue
        was_submitted |= Task.SUBMIT_MOVE in tasks
        # The source is told to resume only when no move was submitted, or the register has said that it keeps the
        # guest.
        if Task.RESUME_GUEST in tasks and was_submitted:
            assert event == Settled(Verdict.KEPT)
        if Task.RELEASE_GUEST in tasks:
            assert event in (MoveAccepted(), Settled(Verdict.MOVED))
        assert str(machine)
