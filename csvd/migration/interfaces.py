"""What migration needs of the rest of the node: the cluster, streams between nodes, guests, threads, time.

`csvd.cluster` and `csvd.vm` have these shapes; nothing here imports them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview


class Timer(Protocol):
    """A call that is to come."""

    def active(self) -> bool:
        """Whether it has neither been made nor cancelled."""

    def cancel(self) -> None:
        """Do not make it."""


class Clock(Protocol):
    """The part of a reactor that tells time and makes later calls."""

    def seconds(self) -> float:
        """Seconds since some moment; only differences mean something."""

    def callLater(self, delay: float, callable: Callable[..., object], *args: object) -> Timer:  # noqa: A002, N802
        """Call ``callable`` after ``delay`` seconds."""


class RunInThread(Protocol):
    """Runs work that blocks outside the loop."""

    def __call__(self, job: Callable[[], T], /) -> Deferred[T]:
        """Fires on the loop with what ``job`` returned or raised."""


class GuestRecord(Protocol):
    """What the register says of a guest."""

    @property
    def owner(self) -> str:
        """The node that may run it."""

    @property
    def epoch(self) -> int:
        """The number of this ownership; one more with each change."""


class Register(Protocol):
    """The part of the register that this node has applied: what it says was so, and may be so no more."""

    def guest(self, name: str) -> GuestRecord | None:
        """The record of a guest, or None."""


class StreamTransport(Protocol):
    """What is under a stream: Twisted's producer and consumer methods."""

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802
        """Have ``producer`` paused while too much waits to be sent."""

    def unregisterProducer(self) -> None:  # noqa: N802
        """No producer any more."""

    def pauseProducing(self) -> None:  # noqa: N802
        """Read nothing from the peer for now."""

    def resumeProducing(self) -> None:  # noqa: N802
        """Read again."""


class StreamLink(Protocol):
    """One stream of bytes each way between two nodes. It is set once who takes the bytes and who hears of the end."""

    @property
    def transport(self) -> StreamTransport:
        """For flow control."""

    @property
    def on_data(self) -> Callable[[bytes], None] | None:
        """Called with each piece of bytes."""

    @on_data.setter
    def on_data(self, callback: Callable[[bytes], None]) -> None: ...

    @property
    def on_lost(self) -> Callable[[str], None] | None:
        """Called once with the reason when the stream has ended, after the last bytes."""

    @on_lost.setter
    def on_lost(self, callback: Callable[[str], None]) -> None: ...

    def write_sequence(self, buffers: Iterable[Buffer]) -> None:
        """Send pieces of bytes, in order."""

    def lose(self) -> None:
        """Send what waits, then end the stream."""


class Cluster(Protocol):
    """The cluster as this node sees it."""

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

    async def call(self, node: str, method: str, params: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Ask another node. Raises ClusterError."""

    def serve(self, method: str, handler: Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]) -> None:
        """Answer other nodes: ``handler(peer, params)``."""

    async def open_stream(self, node: str, kind: str, header: dict[str, Any]) -> StreamLink:
        """Open a stream to another node. Raises ClusterError."""

    def serve_stream(self, kind: str, handler: Callable[[str, dict[str, Any], StreamLink], None]) -> None:
        """Take streams of other nodes: ``handler(peer, header, link)``."""


class SourceGuest(Protocol):
    """A guest of this node that is about to leave. Its driver holds it for this migration alone."""

    @property
    def image_path(self) -> Path:
        """Its memory image."""

    @property
    def memory_bytes(self) -> int:
        """Size of its RAM."""

    @property
    def page_bytes(self) -> int:
        """Size of its pages."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """What it is made of, as the register has it."""

    @property
    def epoch(self) -> int:
        """The epoch of this node's ownership."""

    @property
    def process_id(self) -> int | None:
        """The process whose memory it is."""

    @property
    def is_running(self) -> bool:
        """Whether it executes; a paused guest is moved too, and stays paused."""

    def when_ended(self) -> Deferred[Any]:
        """Fires with the reason when its process has ended."""

    async def stop(self) -> int | None:
        """Have it write nothing more. Returns the CLOCK_BOOTTIME nanosecond of its last write, None if it never ran."""

    async def resume(self) -> None:
        """Let it go on as it did before ``stop``."""

    async def release(self) -> None:
        """It is another node's now: end its process and delete its image."""

    async def end(self) -> None:
        """It must not run here: end its process; the image stays."""

    def stay(self) -> None:
        """The migration is over and it stays here: anybody may use it again."""


class IncomingGuest(Protocol):
    """A guest on its way to this node, its paused process waiting."""

    @property
    def image_path(self) -> Path:
        """Its memory image: there, zero, and of the right size."""

    async def ready(self) -> None:
        """The image is complete: see that the process can run, and note that this copy may be the only one soon."""

    async def adopt(self) -> int | None:
        """It is this node's now: run it. Returns the CLOCK_BOOTTIME nanosecond of the start; None: it stays paused."""

    async def discard(self) -> None:
        """It stays elsewhere: end the process and delete the image."""


class GuestHost(Protocol):
    """The guests of this node."""

    def depart(self, name: str) -> SourceGuest:
        """Take hold of a guest that is to leave. Raises CsvdError when it is not here or busy."""

    async def arrive(
        self, name: str, *, spec: Mapping[str, Any], memory_bytes: int, source: str, epoch: int, is_running: bool
    ) -> IncomingGuest:
        """Make room for a guest, and start its paused process.

        Raises CsvdError when there is not enough space or memory, or a guest of that name stands against it.
        """
