"""The pre-copy machine of one migration, at the source: what is done next, and who may run the guest. PURE.

Inputs (what happened) go into `Precopy.handle`, tasks (what to do) come out; the caller carries out each task and hands
back its outcome as the next input. `TRANSITIONS` is the table of (state, input); an input without a row is a fault of
the caller and raises TransitionError.

The rounds: round 1 sends all memory that is not zero while the guest runs, each later round what was found dirty
since. When what is left is expected to fit the downtime target, the guest is stopped and the last round is sent. When
the rounds do not get there, the policy says whether to stop anyway or to leave the guest where it is.

Who may run it: until SUBMIT_MOVE is given out the source alone. From then on nobody, until the register has said who:
the record, not this machine, is the judge. `Precopy.owner` says who it is at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from csvd.errors import ConfigError
from csvd.migration.errors import TransitionError


class State(Enum):
    """Where a migration is; the value is what people and the API are shown."""

    SETUP = "setup"
    ROUND = "round"
    STOPPING = "stopping"
    LAST_ROUND = "last round"
    VERIFYING = "verifying"
    HANDING_OVER = "handing over"
    IN_DOUBT = "in doubt"
    STARTING = "starting"
    RESUMING = "resuming"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Owner(Enum):
    """Which side may run the guest."""

    SOURCE = "source"
    DESTINATION = "destination"
    ELSEWHERE = "elsewhere"
    UNDECIDED = "undecided"


class NoConvergence(Enum):
    """What to do when the rounds do not converge."""

    FORCE = "force"
    ABORT = "abort"


class Task(Enum):
    """What the caller has to do; one at a time, in order. The outcome of the last one is the next input."""

    PREPARE = "ask the destination to prepare and open the stream"
    SEND_ROUND = "send what is dirty"
    STOP_GUEST = "stop the guest"
    SEND_LAST_ROUND = "send what is dirty for the last time"
    SEND_END = "send the digest and wait until the destination is ready"
    SUBMIT_MOVE = "submit the change of owner to the register"
    SETTLE = "find out, or force a decision, who owns the guest"
    RELEASE_GUEST = "tell the destination, end the guest here and delete its image"
    AWAIT_RUNNING = "wait until the destination runs the guest"
    ABORT_DESTINATION = "tell the destination to throw its copy away"
    RESUME_GUEST = "let the guest go on here"
    END_GUEST = "end the guest here: the register names someone else"


class Verdict(Enum):
    """What the register says in the end of a hand-over."""

    MOVED = "moved"
    KEPT = "kept"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True)
class Policy:
    """When to stop the guest.

    Args:
        downtime_target_s: the rest is small enough when sending it is expected to take no longer than this.
        maximum_rounds: rounds with the guest running, before the policy decides.
        stalled_rounds: that many rounds in a row without less remaining than the best before, and the policy decides.
        no_convergence: force: stop the guest anyway; abort: leave it running at the source.

    Raises ConfigError for a value out of range.
    """

    downtime_target_s: float = 0.3
    maximum_rounds: int = 30
    stalled_rounds: int = 3
    no_convergence: NoConvergence = NoConvergence.FORCE

    def __post_init__(self) -> None:
        if not 0 < self.downtime_target_s <= 3600:
            raise ConfigError("the downtime target must be more than 0 and at most 3600 s")
        if not 1 <= self.maximum_rounds <= 1000:
            raise ConfigError("the maximum number of rounds must be between 1 and 1000")
        if not 1 <= self.stalled_rounds <= 1000:
            raise ConfigError("the number of rounds without progress must be between 1 and 1000")


@dataclass(frozen=True, slots=True)
class Prepared:
    """The destination takes the guest and the stream is open."""


@dataclass(frozen=True, slots=True)
class RoundFinished:
    """One pass over the memory is done, and all that it found is in place at the destination.

    Args:
        pages_scanned: pages looked at; the whole memory.
        pages_dirty: pages that differed from what the destination had.
        pages_zero: of those, the ones that are zero now and were sent without payload.
        pages_elided: pages that are zero and were never sent.
        bytes_sent: bytes of the stream.
        seconds: from the begin of the pass to the destination's acknowledgement.
        scan_seconds: what of it finding and copying took.
    """

    pages_scanned: int
    pages_dirty: int
    pages_zero: int
    pages_elided: int
    bytes_sent: int
    seconds: float
    scan_seconds: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """The guest writes nothing more."""


@dataclass(frozen=True, slots=True)
class Verified:
    """The destination has every byte, the same digest, and a paused guest that is ready."""


@dataclass(frozen=True, slots=True)
class MoveAccepted:
    """The register names the destination."""


@dataclass(frozen=True, slots=True)
class MoveRefused:
    """The register answered no."""

    reason: str


@dataclass(frozen=True, slots=True)
class MoveUnknown:
    """The register did not answer: the change may have been made, may yet be made, or may never be."""

    reason: str


@dataclass(frozen=True, slots=True)
class Settled:
    """The register has decided for good."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class DestinationRunning:
    """The destination says that it runs the guest."""


@dataclass(frozen=True, slots=True)
class TransferFailed:
    """The copy cannot be finished: the destination gave up, broke the rules, fell silent or was lost, the image
    cannot be read, or the source's daemon is shutting down."""

    reason: str


@dataclass(frozen=True, slots=True)
class GuestFailed:
    """The guest at the source ended, or did not do what it was told."""

    reason: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """The guest goes on at the source."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Someone wants the migration to end with the guest where it is."""

    reason: str = "cancelled on request"


Input = (
    Prepared
    | RoundFinished
    | Stopped
    | Verified
    | MoveAccepted
    | MoveRefused
    | MoveUnknown
    | Settled
    | DestinationRunning
    | TransferFailed
    | GuestFailed
    | Resumed
    | Cancel
)
Tasks = tuple[Task, ...]

TERMINAL: Final = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})
# Less than this part of the smallest rest so far counts as progress.
_PROGRESS: Final = 0.9
# Acknowledgement and hand-offs between threads, generously.
_ROUND_COST_S: Final = 0.05
_BEFORE_SUBMIT: Final = frozenset({State.SETUP, State.ROUND, State.STOPPING, State.LAST_ROUND, State.VERIFYING})


@dataclass(slots=True)
class Estimate:
    """What the rounds so far let expect."""

    throughput_bytes_per_s: float = 0.0
    dirty_bytes_per_s: float = 0.0
    remaining_bytes: int = 0
    downtime_s: float = float("inf")


@dataclass(slots=True)
class Precopy:
    """One migration of a memory of ``memory_bytes`` in pages of ``page_bytes``."""

    memory_bytes: int
    page_bytes: int
    policy: Policy = field(default_factory=Policy)
    state: State = State.SETUP
    owner: Owner = Owner.SOURCE
    round: int = 0
    last_round: int = 0
    rounds: list[RoundFinished] = field(default_factory=list)
    estimate: Estimate = field(default_factory=Estimate)
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    _best_remaining_bytes: int = 0
    _stalled: int = 0
    _end_state: State = State.FAILED

    def __post_init__(self) -> None:
        self.estimate.remaining_bytes = self._best_remaining_bytes = self.memory_bytes

    def begin(self) -> Tasks:
        """The first task."""
        return (Task.PREPARE,)

    def handle(self, event: Input) -> Tasks:
        """Take what happened, move on, and say what to do next; nothing when nothing changes or all is over.

        Raises TransitionError when the input has no row for the state.
        """
        row = TRANSITIONS.get((self.state, type(event)))
        if row is None:
            raise TransitionError(f"{type(event).__name__} is not an input of the state {self}")
        return row(self, event)

    @property
    def is_over(self) -> bool:
        """Whether this is an end."""
        return self.state in TERMINAL

    @property
    def is_cancellable(self) -> bool:
        """Whether it can still be called off: until the change of owner was submitted."""
        return self.state in _BEFORE_SUBMIT

    def __str__(self) -> str:
        return f"round {self.round}" if self.state is State.ROUND else self.state.value

    # The rest are the rows' actions. Each returns the tasks that follow.

    def _begin_rounds(self, _: Input) -> Tasks:
        self.state = State.ROUND
        self.round = 1
        return (Task.SEND_ROUND,)

    def _end_round(self, event: Input) -> Tasks:
        assert isinstance(event, RoundFinished)
        self._measure(event)
        if self.estimate.downtime_s <= self.policy.downtime_target_s:
            return self._stop_guest()
        if self.round >= self.policy.maximum_rounds:
            return self._not_converging(f"not converged after {self.round} rounds")
        if self._stalled >= self.policy.stalled_rounds:
            return self._not_converging(f"no progress in {self._stalled} rounds")
        self.round += 1
        return (Task.SEND_ROUND,)

    def _measure(self, result: RoundFinished) -> None:
        """Take a round's figures into the estimate."""
        estimate = self.estimate
        # The link is at least as fast as the whole round was, and at most as fast as the time without scanning and the
        # fixed costs of a round says: a round of few pages says little.
        lowest = result.bytes_sent / max(result.seconds, 1e-9)
        sending_s = result.seconds - result.scan_seconds - _ROUND_COST_S
        highest = result.bytes_sent / sending_s if result.bytes_sent and sending_s > 0 else float("inf")
        estimate.throughput_bytes_per_s = max(lowest, min(estimate.throughput_bytes_per_s, highest))
        if self.rounds:
            # A page that is dirty now was written since the round before looked at it: one length of that round ago.
            dirty_bytes = result.pages_dirty * self.page_bytes
            estimate.dirty_bytes_per_s = dirty_bytes / max(self.rounds[-1].seconds, 1e-9)
            estimate.remaining_bytes = min(int(estimate.dirty_bytes_per_s * result.seconds), self.memory_bytes)
            rest_s = estimate.remaining_bytes / max(estimate.throughput_bytes_per_s, 1.0)
            estimate.downtime_s = rest_s + result.scan_seconds
            if estimate.remaining_bytes < _PROGRESS * self._best_remaining_bytes:
                self._best_remaining_bytes = estimate.remaining_bytes
                self._stalled = 0
            else:
                self._stalled += 1
        else:
            # All is in place but what was written since, and of that nothing is known yet.
            estimate.remaining_bytes = 0
        self.rounds.append(result)

    def _not_converging(self, why: str) -> Tasks:
        if self.policy.no_convergence is NoConvergence.FORCE:
            self.notes.append(f"{why}: stopped the guest anyway, as the policy says")
            return self._stop_guest()
        return self._give_up(State.FAILED, f"{why}; the policy leaves the guest at the source")

    def _stop_guest(self) -> Tasks:
        self.state = State.STOPPING
        return (Task.STOP_GUEST,)

    def _send_last_round(self, _: Input) -> Tasks:
        self.state = State.LAST_ROUND
        self.round += 1
        self.last_round = self.round
        return (Task.SEND_LAST_ROUND,)

    def _end_last_round(self, event: Input) -> Tasks:
        assert isinstance(event, RoundFinished)
        self.rounds.append(event)
        self.estimate.remaining_bytes = 0
        self.state = State.VERIFYING
        return (Task.SEND_END,)

    def _submit(self, _: Input) -> Tasks:
        self.state = State.HANDING_OVER
        self.owner = Owner.UNDECIDED
        return (Task.SUBMIT_MOVE,)

    def _doubt(self, event: Input) -> Tasks:
        assert isinstance(event, MoveRefused | MoveUnknown)
        self.state = State.IN_DOUBT
        self.notes.append(
            f"the hand-over was {'refused' if isinstance(event, MoveRefused) else 'unknown'}: {event.reason}"
        )
        return (Task.SETTLE,)

    def _settle(self, event: Input) -> Tasks:
        assert isinstance(event, Settled)
        if event.verdict is Verdict.MOVED:
            return self._release(event)
        if event.verdict is Verdict.KEPT:
            return self._resume(State.FAILED, f"the guest was not handed over: {self.notes[-1]}")
        self.owner = Owner.ELSEWHERE
        self.state = State.FAILED
        self.reason = "the register names neither side of this migration as the guest's owner"
        return (Task.ABORT_DESTINATION, Task.END_GUEST)

    def _release(self, _: Input) -> Tasks:
        self.state = State.STARTING
        self.owner = Owner.DESTINATION
        return (Task.RELEASE_GUEST, Task.AWAIT_RUNNING)

    def _complete(self, _: Input) -> Tasks:
        self.state = State.COMPLETED
        return ()

    def _complete_unconfirmed(self, event: Input) -> Tasks:
        assert isinstance(event, TransferFailed)
        self.notes.append(f"the destination owns the guest, but has not said that it runs: {event.reason}")
        return self._complete(event)

    def _give_up_running(self, event: Input) -> Tasks:
        assert isinstance(event, TransferFailed | GuestFailed | Cancel)
        return self._give_up(_end_of(event), event.reason)

    def _give_up(self, end: State, reason: str) -> Tasks:
        self.state = end
        self.reason = reason
        return (Task.ABORT_DESTINATION,)

    def _give_up_stopped(self, event: Input) -> Tasks:
        assert isinstance(event, TransferFailed | GuestFailed | Cancel)
        return self._resume(_end_of(event), event.reason)

    def _resume(self, end: State, reason: str) -> Tasks:
        self.state = State.RESUMING
        self.owner = Owner.SOURCE
        self._end_state = end
        self.reason = reason
        return (Task.ABORT_DESTINATION, Task.RESUME_GUEST)

    def _resumed(self, _: Input) -> Tasks:
        self.state = self._end_state
        return ()

    def _not_resumed(self, event: Input) -> Tasks:
        assert isinstance(event, GuestFailed)
        self.notes.append(f"the guest did not go on at the source: {event.reason}")
        return self._resumed(event)

    def _too_late(self, event: Input) -> Tasks:
        assert isinstance(event, TransferFailed | GuestFailed | Cancel)
        self.notes.append(f"too late to change anything: {event.reason}")
        return ()


def _end_of(event: Input) -> State:
    return State.CANCELLED if isinstance(event, Cancel) else State.FAILED


Row = Callable[[Precopy, Input], Tasks]

TRANSITIONS: Final[Mapping[tuple[State, type[Input]], Row]] = {
    (State.SETUP, Prepared): Precopy._begin_rounds,
    (State.SETUP, TransferFailed): Precopy._give_up_running,
    (State.SETUP, GuestFailed): Precopy._give_up_running,
    (State.SETUP, Cancel): Precopy._give_up_running,
    (State.ROUND, RoundFinished): Precopy._end_round,
    (State.ROUND, TransferFailed): Precopy._give_up_running,
    (State.ROUND, GuestFailed): Precopy._give_up_running,
    (State.ROUND, Cancel): Precopy._give_up_running,
    (State.STOPPING, Stopped): Precopy._send_last_round,
    (State.STOPPING, TransferFailed): Precopy._give_up_stopped,
    # A stop that timed out may yet be obeyed: whoever gives up here has to tell the guest to go on.
    (State.STOPPING, GuestFailed): Precopy._give_up_stopped,
    (State.STOPPING, Cancel): Precopy._give_up_stopped,
    (State.LAST_ROUND, RoundFinished): Precopy._end_last_round,
    (State.LAST_ROUND, TransferFailed): Precopy._give_up_stopped,
    # The guest has written its last: its image is whole, and goes on at the destination even when its process died.
    (State.LAST_ROUND, GuestFailed): Precopy._too_late,
    (State.LAST_ROUND, Cancel): Precopy._give_up_stopped,
    (State.VERIFYING, Verified): Precopy._submit,
    (State.VERIFYING, TransferFailed): Precopy._give_up_stopped,
    (State.VERIFYING, GuestFailed): Precopy._too_late,
    (State.VERIFYING, Cancel): Precopy._give_up_stopped,
    # From the submit on, only the register says who owns the guest.
    (State.HANDING_OVER, MoveAccepted): Precopy._release,
    (State.HANDING_OVER, MoveRefused): Precopy._doubt,
    (State.HANDING_OVER, MoveUnknown): Precopy._doubt,
    (State.HANDING_OVER, TransferFailed): Precopy._too_late,
    (State.HANDING_OVER, GuestFailed): Precopy._too_late,
    (State.HANDING_OVER, Cancel): Precopy._too_late,
    (State.IN_DOUBT, Settled): Precopy._settle,
    (State.IN_DOUBT, TransferFailed): Precopy._too_late,
    (State.IN_DOUBT, GuestFailed): Precopy._too_late,
    (State.IN_DOUBT, Cancel): Precopy._too_late,
    (State.STARTING, DestinationRunning): Precopy._complete,
    (State.STARTING, TransferFailed): Precopy._complete_unconfirmed,
    (State.STARTING, GuestFailed): Precopy._too_late,
    (State.STARTING, Cancel): Precopy._too_late,
    (State.RESUMING, Resumed): Precopy._resumed,
    (State.RESUMING, GuestFailed): Precopy._not_resumed,
    (State.RESUMING, TransferFailed): Precopy._too_late,
    (State.RESUMING, Cancel): Precopy._too_late,
}
