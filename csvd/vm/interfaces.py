"""What the VM role needs of the rest: a reactor, the cluster, threads; and what it asks of a hypervisor's driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol

from csvd.vm.errors import GuestEnded

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GuestStatus:
    """What a guest says of itself. The registers are None before it looked at its image."""

    status: str
    counter: int | None
    pages_rewritten: int | None
    filled_pages: int | None
    working_set_pages: int | None

    @property
    def is_running(self) -> bool:
        """Whether it executes."""
        return self.status == "running"


@dataclass(frozen=True, slots=True)
class GuestVerification:
    """What a guest found when it checked every page of its working set."""

    pages_checked: int
    pages_bad: int
    missing_rewrites: int
    stray_pages: int
    counter: int

    @property
    def is_intact(self) -> bool:
        """Whether every page is the one that was written last."""
        return not (self.pages_bad or self.missing_rewrites or self.stray_pages)


class Timer(Protocol):
    """A call that is to come."""

    def active(self) -> bool:
        """Whether it has neither been made nor cancelled."""

    def cancel(self) -> None:
        """Do not make it."""


class Clock(Protocol):
    """The part of a reactor that makes later calls."""

    def callLater(self, delay: float, callable: Callable[..., object], *args: object) -> Timer:  # noqa: A002, N802
        """Call ``callable`` after ``delay`` seconds."""


class SpawningReactor(Clock, Protocol):
    """What the driver of a process needs of a reactor."""

    def spawnProcess(  # noqa: N802
        self,
        processProtocol: ProcessProtocol,  # noqa: N803
        executable: str,
        args: Sequence[str],
        env: Mapping[str, str] | None = None,
    ) -> Any:
        """Start a process that talks to ``processProtocol``."""


class RunInThread(Protocol):
    """Runs work that blocks outside the loop."""

    def __call__(self, job: Callable[[], T], /) -> Deferred[T]:
        """Fires on the loop with what ``job`` returned or raised."""


class GuestRecord(Protocol):
    """What the register says of a guest."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def owner(self) -> str:
        """The node that may run it."""

    @property
    def epoch(self) -> int:
        """The number of this ownership; one more with each change."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """What it is made of."""

    @property
    def state(self) -> str:
        """What its owner reported last."""


class Register(Protocol):
    """The part of the register that this node has applied: what it says was so, and may be so no more."""

    @property
    def guests(self) -> Mapping[str, GuestRecord]:
        """All records by name."""

    def guest(self, name: str) -> GuestRecord | None:
        """The record of a guest, or None."""


class Cluster(Protocol):
    """The cluster as the VM role of a node sees it."""

    @property
    def node(self) -> str:
        """This node's name."""

    @property
    def register(self) -> Register:
        """The applied register."""

    def on_change(self, callback: Callable[..., None]) -> Callable[[], object]:
        """Call back after each change of the register; returns what ends that."""

    async def submit(self, command: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Have the register carry out a command. Raises CommandRefused (certainly not done) or OutcomeUnknown."""


class GuestDriver(Protocol):
    """One run of one guest under some hypervisor. See GuestProcess, which is one."""

    @property
    def is_alive(self) -> bool:
        """Whether its process is there."""

    @property
    def process_id(self) -> int | None:
        """Its process while it lives."""

    async def start(self, *, paused: bool) -> None:
        """Bring the process up."""

    async def stop(self) -> int | None:
        """Have it write nothing more. Returns the CLOCK_BOOTTIME nanosecond of its last write."""

    async def cont(self) -> int | None:
        """Have it run. Returns the CLOCK_BOOTTIME nanosecond at which it began to."""

    async def query_status(self) -> GuestStatus:
        """Ask for its run state and counters."""

    async def verify(self) -> GuestVerification:
        """Have it check its memory."""

    async def quit(self) -> None:
        """End it in good order, or kill it."""

    async def kill(self) -> None:
        """End it at once; when this returns, nothing writes to the image."""

    def when_ended(self) -> Deferred[GuestEnded]:
        """Fires with the reason when its process is gone."""
