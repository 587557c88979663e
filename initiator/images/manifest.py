"""Digests of the ranges of an image: so that two images can be compared that no one host reaches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import Deferred

from initiator.errors import InitiatorError
from initiator.images.end import SourceEnd
from initiator.images.waiting import pages
from initiator.parallel import all_of, in_thread

VERSION: Final = 1
ALGORITHMS: Final = ("sha256", "sha512", "sha1", "blake2b", "sha3_256")
RANGE_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an image holds, by digests: of each ``range_bytes`` from the beginning on, the last one may be shorter."""

    algorithm: str
    length: int
    range_bytes: int
    digests: tuple[str, ...]

    def text(self) -> str:
        """Give it as JSON."""
        return json.dumps(
            {
                "version": VERSION,
                "algorithm": self.algorithm,
                "length_bytes": self.length,
                "range_bytes": self.range_bytes,
                "digests": self.digests,
            },
            indent=2,
        )

    def difference(self, other: Manifest) -> int | None:
        """The number of the first range in which another one of the same form differs; None: in none."""
        pairs = enumerate(zip(self.digests, other.digests, strict=True))
        return next((number for number, (ours, theirs) in pairs if ours != theirs), None)


def parse_manifest(text: str, where: str) -> Manifest:
    """Parse what :meth:`Manifest.text` gave.

    Raises:
        InitiatorError: it is something else.
    """
    try:
        found: dict[str, Any] = json.loads(text)
        if found["version"] != VERSION or found["algorithm"] not in ALGORITHMS:
            raise ValueError(f"version {found['version']}, algorithm {found['algorithm']}")
        length, range_bytes = found["length_bytes"], found["range_bytes"]
        if type(length) is not int or type(range_bytes) is not int or length < 0 or range_bytes <= 0:
            raise ValueError("a length that is none")
        digests = tuple(str(digest).lower() for digest in found["digests"])
        size = 2 * hashlib.new(found["algorithm"]).digest_size
        if len(digests) != -(-length // range_bytes) or any(len(digest) != size for digest in digests):
            raise ValueError("the digests are not those of the ranges")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InitiatorError("this is no manifest of an image", where=where, why=str(error)) from error
    return Manifest(found["algorithm"], length, range_bytes, digests)


class Digesting:
    """The digests of the ranges of one end, several ranges at once.

    Args:
        offset, length: what of the end; a range begins at the offset.
        lanes: ranges under way at once; each has a buffer of ``chunk``.
        progressed: is told the number of bytes that are dealt with.
    """

    def __init__(
        self,
        reactor: Any,
        end: SourceEnd,
        algorithm: str,
        *,
        offset: int,
        length: int,
        range_bytes: int,
        chunk: int,
        lanes: int,
        progressed: Callable[[int], None] | None = None,
    ) -> None:
        self._reactor = reactor
        self._end = end
        self._algorithm = algorithm
        self._offset = offset
        self._length = length
        self._range = range_bytes
        self._chunk = chunk
        self._lanes = lanes
        self._progressed = progressed
        self._digests: list[str] = [""] * -(-length // range_bytes)
        self._zeros = memoryview(bytes(chunk))
        self._next = 0
        self._done = 0

    async def run(self) -> Manifest:
        """Read everything that may not be zeros, and digest all.

        Raises:
            CsvdError, OSError: the end can not be read.
        """
        lanes = min(self._lanes, len(self._digests))
        running: list[Deferred[None]] = [Deferred.fromCoroutine(self._lane()) for _ in range(lanes)]
        await all_of(running)
        return Manifest(self._algorithm, self._length, self._range, tuple(self._digests))

    async def _lane(self) -> None:
        buffer = pages(self._chunk)
        try:
            while (number := self._next) < len(self._digests):
                self._next = number + 1
                begin = number * self._range
                self._digests[number] = await self._digest(begin, min(self._length, begin + self._range), buffer)
        except BaseException:
            self._next = len(self._digests)
            raise

    async def _digest(self, at: int, end: int, buffer: memoryview) -> str:
        digest = hashlib.new(self._algorithm)
        while at < end:
            for run in await self._end.runs(self._offset + at, end - at):
                upto = min(end, run.end - self._offset)
                while at < upto:
                    view = (self._zeros if run.zero else buffer)[: min(self._chunk, upto - at)]
                    if not run.zero:
                        await self._end.read_into(self._offset + at, view)
                    await in_thread(self._reactor, digest.update, view)
                    at += len(view)
                    self._tell(len(view))
        return digest.hexdigest()

    def _tell(self, count: int) -> None:
        self._done += count
        if self._progressed is not None:
            self._progressed(self._done)
