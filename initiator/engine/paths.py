"""Which path the next command takes: a machine that is told what happens and when, and holds no clock and no socket.

A path is a way to one logical unit: through one portal, as an I_T nexus of its own. It is down, then logging in, then
checked, then up; up it is in the asymmetric access state of its target port group (SPC-4 section 5.15), which says
whether commands may take it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from initiator.scsi.target_ports import AccessState


class Policy(Enum):
    """How commands are spread over the paths whose access state lets them."""

    ALUA = "alua"
    """Round robin over the best group: active/optimized before active/non-optimized, preferred ports first."""
    LEAST_QUEUE_DEPTH = "least-queue-depth"
    """The path of the best group that has the fewest commands under way."""
    ROUND_ROBIN = "round-robin"
    """Round robin over all active paths, optimized or not."""
    FAILOVER = "failover"
    """The first path, in the order that they were named, that is active."""


class PathState(Enum):
    """How far a path is."""

    DOWN = "down"
    LOGGING_IN = "logging in"
    CHECKING = "checking"
    UP = "up"


class Due(Enum):
    """What is to be done for a path."""

    LOG_IN = "log in"
    CHECK = "check"


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSettings:
    """How paths are chosen, watched and tried again. Times are in seconds."""

    policy: Policy = Policy.ALUA
    turn_commands: int = 1
    """Commands that one path gets before the next has its turn."""
    retry_first_s: float = 0.2
    """A path that fails is tried again at once; where that fails, too, after so long, and then twice as long."""
    retry_last_s: float = 5.0
    """The longest pause between two tries."""
    steady_s: float = 10.0
    """A path that was up for less is not tried at once when it fails again: its pauses go on growing."""
    check_interval_s: float = 5.0
    """So often a path that is up is asked whether it still is, and for its access state."""
    transition_poll_s: float = 0.5
    """So often while its access state is transitioning."""


_RANKS: Final = {
    AccessState.ACTIVE_OPTIMIZED: 0,
    AccessState.LOGICAL_BLOCK_DEPENDENT: 2,
    AccessState.ACTIVE_NON_OPTIMIZED: 4,
}
"""Access states in which commands for the medium are taken, best first."""


class Path:
    """One path, as the machine sees it. Only the machine changes it."""

    __slots__ = (
        "access",
        "due_s",
        "failures",
        "in_flight",
        "index",
        "name",
        "preferred",
        "refused_s",
        "since_s",
        "state",
        "up_s",
        "why",
    )

    def __init__(self, index: int, name: str, now: float) -> None:
        self.index = index
        self.name = name
        self.state = PathState.DOWN
        self.access = AccessState.ACTIVE_OPTIMIZED
        self.preferred = False
        self.in_flight = 0
        """Commands under way on it."""
        self.since_s = now
        """When it came into its state."""
        self.why = "not tried yet"
        """Why it is down, or takes no commands; empty when it does."""
        self.failures = 0
        self.up_s = now
        self.refused_s = float("-inf")
        self.due_s: float | None = now
        """When something is to be done for it; None while that is under way."""

    @property
    def active(self) -> bool:
        """Whether commands may take it."""
        return self.state is PathState.UP and self.access in _RANKS

    @property
    def words(self) -> str:
        """The state, for people."""
        return self.access.words if self.state is PathState.UP else self.state.value

    def __repr__(self) -> str:
        why = f" ({self.why})" if self.why else ""
        return f"<Path {self.name} {self.words}{why} under way={self.in_flight}>"


class Paths:
    """The paths of a disk. Indices are the order in which they were named."""

    def __init__(self, names: Sequence[str], settings: PathSettings, now: float) -> None:
        self.settings = settings
        self._paths = [Path(index, name, now) for index, name in enumerate(names)]
        self._group: list[Path] = []
        self._turn = 0
        self._left = settings.turn_commands

    def __repr__(self) -> str:
        return f"<Paths {self.settings.policy.value}: {', '.join(map(repr, self._paths))}>"

    def __getitem__(self, index: int) -> Path:
        return self._paths[index]

    def __iter__(self) -> Iterator[Path]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def add(self, name: str, now: float) -> int:
        """Have one more path; give its index."""
        self._paths.append(Path(len(self._paths), name, now))
        return len(self._paths) - 1

    # --- the choice

    def choose(self) -> int | None:
        """Give the path of the next command; None where no path takes commands now. It counts as under way on it."""
        group = self._group
        if not group:
            return None
        if len(group) == 1:
            path = group[0]
        elif self.settings.policy is Policy.LEAST_QUEUE_DEPTH:
            path = min(group, key=_depth)
        else:
            if not self._left:
                self._turn, self._left = self._turn + 1, self.settings.turn_commands
            self._left -= 1
            path = group[self._turn % len(group)]
        path.in_flight += 1
        return path.index

    def ended(self, index: int) -> None:
        """A command is no longer under way on a path, whatever came of it."""
        self._paths[index].in_flight -= 1

    @property
    def any_active(self) -> bool:
        """Whether there is a path for commands."""
        return bool(self._group)

    @property
    def any_hope(self) -> bool:
        """Whether a path is up or on its way there: commands do well to wait."""
        return any(path.state is not PathState.DOWN for path in self._paths)

    # --- what happens

    def logging_in(self, index: int, now: float) -> None:
        """A path is dialled and logs in."""
        self._enter(self._paths[index], PathState.LOGGING_IN, now)

    def checking(self, index: int, now: float) -> None:
        """A path is logged in, and its disk is looked at."""
        self._enter(self._paths[index], PathState.CHECKING, now)

    def up(self, index: int, access: AccessState, preferred: bool, now: float, why: str = "") -> None:
        """A path leads to the disk: it may be used as its access state says. Told again after every check."""
        path = self._paths[index]
        if path.state is not PathState.UP:
            self._enter(path, PathState.UP, now)
            path.up_s = now
        path.access, path.preferred, path.why = access, preferred, why
        transition = access is AccessState.TRANSITIONING
        path.due_s = now + (self.settings.transition_poll_s if transition else self.settings.check_interval_s)
        self._regroup()

    def access_is(self, index: int, access: AccessState, now: float, why: str = "") -> None:
        """A command was refused for the access state of its path: that is its state until a check says another.

        The check comes at once; a moment later where a check had brought back a path that was refused just before.
        """
        path = self._paths[index]
        if path.state is PathState.UP:
            soon = access is AccessState.TRANSITIONING or now - path.refused_s < 2 * self.settings.transition_poll_s
            path.access, path.refused_s, path.why = access, now, why
            if path.due_s is not None:
                path.due_s = now + (self.settings.transition_poll_s if soon else 0.0)
            self._regroup()

    def suspect(self, index: int, now: float) -> None:
        """A path is to be checked now."""
        path = self._paths[index]
        if path.state is PathState.UP and path.due_s is not None:
            path.due_s = min(path.due_s, now)

    def failed(self, index: int, why: str, now: float) -> None:
        """A path is lost, or could not be had. It is tried again, by itself."""
        path = self._paths[index]
        if path.state is PathState.UP and now - path.up_s >= self.settings.steady_s:
            path.failures = 0
        self._enter(path, PathState.DOWN, now)
        path.why = why
        path.due_s = now + self._pause_s(path.failures)
        path.failures += 1
        self._regroup()

    # --- what is to be done

    def due(self, now: float) -> list[tuple[int, Due]]:
        """Give what is to be done for which path now; each is told once, until its outcome is told."""
        found: list[tuple[int, Due]] = []
        for path in self._paths:
            if path.due_s is not None and path.due_s <= now:
                path.due_s = None
                found.append((path.index, Due.CHECK if path.state is PathState.UP else Due.LOG_IN))
        return found

    def next_due_s(self) -> float | None:
        """When :meth:`due` has something."""
        return min((path.due_s for path in self._paths if path.due_s is not None), default=None)

    # --- how

    def _pause_s(self, failures: int) -> float:
        if not failures:
            return 0.0
        return min(self.settings.retry_first_s * 2.0 ** min(failures - 1, 30), self.settings.retry_last_s)

    def _enter(self, path: Path, state: PathState, now: float) -> None:
        path.state, path.since_s, path.due_s = state, now, None

    def _rank(self, path: Path) -> int:
        match self.settings.policy:
            case Policy.FAILOVER:
                return path.index
            case Policy.ROUND_ROBIN:
                return 0
            case _:
                return _RANKS[path.access] + (not path.preferred)

    def _regroup(self) -> None:
        active = [path for path in self._paths if path.active]
        best = min(map(self._rank, active), default=0)
        self._group = [path for path in active if self._rank(path) == best]


def _depth(path: Path) -> int:
    return path.in_flight
