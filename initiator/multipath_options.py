"""How several paths to a disk are used, and what is told of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from initiator.engine.paths import PathSettings, PathState
from initiator.scsi.target_ports import AccessState


class StalePolicy(Enum):
    """What is held for writes that were left behind without an answer (see :mod:`initiator.multipath`)."""

    PROVE = "prove"
    """They are not sent again, and nothing that overlaps them is sent, before they are proven over."""
    HOLD_OVERLAPPING = "hold-overlapping"
    """They are sent again at once; other writes that overlap them wait for the proof. For disks with one writer."""
    IGNORE = "ignore"
    """Nothing waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MultipathOptions:
    """How several paths to a disk are used. Times are in seconds."""

    paths: PathSettings = field(default_factory=PathSettings)
    """The policy, and how paths are watched and tried again."""
    discover: bool | None = None
    """Whether the portals that discovery names are paths, too; None: where only one URL is given."""
    stale_writes: StalePolicy = StalePolicy.PROVE
    forget_stale_after_s: float | None = None
    """After so long a write that was left behind is taken to be over without a proof; None never does so."""
    unit_reset: bool = True
    """Whether LOGICAL UNIT RESET may serve as a proof."""
    explicit_alua: bool = False
    """Whether a port group in standby is made active (SET TARGET PORT GROUPS) when no other takes commands."""
    queue_if_no_path: bool = True
    """Commands wait for a path up to their deadlines; else they fail when no path is up or on its way."""
    login_timeout_s: float = 5.0
    check_timeout_s: float = 5.0
    """A path that does not answer a check for so long is left."""
    settle_s: float = 2.0
    """How long the opening waits for further paths when the first is up."""


DEFAULT_OPTIONS: Final = MultipathOptions()


@dataclass(frozen=True, slots=True)
class PathStatus:
    """A path at one moment."""

    url: str
    state: PathState
    access: AccessState
    preferred: bool
    in_flight: int
    """Commands under way."""
    for_s: float
    """How long it has been in its state."""
    why: str
    """Why it takes no commands; empty when it does."""

    @property
    def words(self) -> str:
        """Its state, and where it is up its access state, in words."""
        return self.access.words if self.state is PathState.UP else self.state.value

    def __str__(self) -> str:
        return f"{self.url}: {self.words}" + (f" ({self.why})" if self.why else "")


PathListener = Callable[[PathStatus], None]
