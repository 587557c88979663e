"""Putting a stream into a memory image: decoding, checking, writing and digesting, off the loop and within bounds.

Bytes wait here until a thread takes all that wait as one batch; while too many wait, the transport is told to read no
more. So little more than twice the limit is in memory, however fast the source sends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from csvd.errors import CsvdError
from csvd.migration.chunks import Abort, End, HandedOver, Opening, RawPiece, RoundEnd, ZeroRange
from csvd.migration.decoder import SourceStreamDecoder
from csvd.migration.errors import MigrationError, StreamError
from csvd.migration.image import MemoryImage, PageDigests
from csvd.migration.interfaces import RunInThread, StreamTransport

QUEUE_LIMIT_BYTES: Final = 8 << 20
_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Complete:
    """The source has sent everything: the digest of its image, and that of this one."""

    expected: bytes
    found: bytes


Notice = RoundEnd | Complete | HandedOver | Abort


class ImageWriter:
    """The part that blocks: takes bytes of the stream, puts memory in place, keeps the digests of what is there.

    The digests are of what is read back from the image, not of what was received.

    Args:
        expected: what the opening of the stream has to say.
    """

    def __init__(self, image: MemoryImage, expected: Opening) -> None:
        self._image = image
        self._expected = expected
        self._decoder = SourceStreamDecoder()
        self._digests = PageDigests(image.memory_bytes, expected.page_bytes, expected.digest_seed)
        self._touched = bytearray(image.memory_bytes // expected.page_bytes)
        self._buffer = memoryview(bytearray(max(_READ_BYTES, expected.page_bytes)))

    def take(self, batch: Sequence[bytes]) -> list[Notice]:
        """Put a batch into the image. Returns what the source said besides memory; all before it is in place.

        Raises StreamError when the bytes are not the stream that was agreed on, ImageError when they cannot be written.
        """
        notices: list[Notice] = []
        for data in batch:
            for event in self._decoder.feed(data):
                match event:
                    case RawPiece(offset_bytes, piece):
                        self._image.write(piece, offset_bytes)
                        self._touch(offset_bytes, len(piece))
                    case ZeroRange(offset_bytes, length_bytes):
                        self._image.write_zeroes(offset_bytes, length_bytes)
                        self._touch(offset_bytes, length_bytes)
                    case Opening():
                        self._check_opening(event)
                    case End(digest):
                        self._digest_touched()
                        notices.append(Complete(digest, self._digests.of_image()))
                    case _:
                        notices.append(event)
        self._digest_touched()
        return notices

    def _check_opening(self, opening: Opening) -> None:
        if opening != self._expected:
            raise StreamError("the stream is not the one that was agreed on", where=f"guest {opening.guest!r}")

    def _touch(self, offset_bytes: int, length_bytes: int) -> None:
        # Pieces begin and end anywhere in a page; a page that is not complete yet is digested again with its rest.
        first = offset_bytes // self._expected.page_bytes
        end = -(-(offset_bytes + length_bytes) // self._expected.page_bytes)
        self._touched[first:end] = b"\x01" * (end - first)

    def _digest_touched(self) -> None:
        page_bytes = self._expected.page_bytes
        longest = len(self._buffer) // page_bytes
        for first, end in self._touched_runs():
            for start in range(first, end, longest):
                pages = min(longest, end - start)
                part = self._buffer[: pages * page_bytes]
                self._image.read_into(part, start * page_bytes)
                self._digests.put(start, b"".join(self._digests.of_pages(part)))
            self._touched[first:end] = bytes(end - first)

    def _touched_runs(self) -> Iterator[tuple[int, int]]:
        first = self._touched.find(1)
        while first >= 0:
            end = self._touched.find(0, first)
            end = end if end >= 0 else len(self._touched)
            yield first, end
            first = self._touched.find(1, end)


class Receiver:
    """The loop's side: queues what comes, and tells in order what the source said.

    Args:
        transport: paused while more than ``limit_bytes`` wait.
        on_notice: called with each Notice, when all memory that was sent before it is in place.
        on_failed: called once, with a MigrationError; nothing is taken after that.
    """

    def __init__(
        self,
        writer: ImageWriter,
        transport: StreamTransport,
        run_in_thread: RunInThread,
        *,
        on_notice: Callable[[Notice], None],
        on_failed: Callable[[CsvdError], None],
        limit_bytes: int = QUEUE_LIMIT_BYTES,
    ) -> None:
        self._writer = writer
        self._transport = transport
        self._run_in_thread = run_in_thread
        self._on_notice = on_notice
        self._on_failed = on_failed
        self._limit_bytes = limit_bytes
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._is_working = False
        self._is_paused = False
        self._is_closed = False
        self._idle_watchers: list[Deferred[None]] = []

    def data_received(self, data: bytes) -> None:
        """Bytes of the stream came."""
        if self._is_closed:
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > self._limit_bytes and not self._is_paused:
            self._is_paused = True
            self._transport.pauseProducing()
        if not self._is_working:
            self._work()

    def _work(self) -> None:
        batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
        self._is_working = True
        self._run_in_thread(lambda: self._writer.take(batch)).addCallbacks(self._done, self._failed)
        if self._is_paused:
            # The limit holds for what waits; this batch is the thread's.
            self._is_paused = False
            self._transport.resumeProducing()

    def _done(self, notices: list[Notice]) -> None:
        self._is_working = False
        for notice in notices:
            if not self._is_closed:
                self._on_notice(notice)
        self._go_on()

    def _failed(self, failure: Failure) -> None:
        self._is_working = False
        error = failure.value
        if not isinstance(error, CsvdError):
            error = MigrationError("taking the stream failed", why=f"{type(error).__name__}: {error}")
        if not self._is_closed:
            self._is_closed = True
            self._on_failed(error)
        self._go_on()

    def _go_on(self) -> None:
        if self._is_closed:
            self._waiting.clear()
        if self._waiting and not self._is_working:
            self._work()
        if not self._is_working:
            watchers, self._idle_watchers = self._idle_watchers, []
            for watcher in watchers:
                watcher.callback(None)

    def close(self) -> Deferred[None]:
        """Take nothing more. Fires when no thread uses the image any longer."""
        self._is_closed = True
        self._waiting.clear()
        return self.when_idle()

    def when_idle(self) -> Deferred[None]:
        """Fires when all that came is in place."""
        idle: Deferred[None] = Deferred()
        if self._is_working:
            self._idle_watchers.append(idle)
        else:
            idle.callback(None)
        return idle
