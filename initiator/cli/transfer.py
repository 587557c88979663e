"""What read and write share: windows of a disk, moved while the file side works in a thread."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click
from twisted.internet.defer import Deferred

from initiator.cli import options

WINDOW_BYTES: Final = 16 << 20
"""The disk moves one window, in parallel commands, while the file moves another."""

_Result = TypeVar("_Result")


async def both(
    disk_side: Coroutine[Deferred[Any], Any, None], file_side: Coroutine[Deferred[Any], Any, _Result]
) -> _Result:
    """Run the two at the same time; give the result of the second. A failure is raised when both have ended."""
    first, second = Deferred.fromCoroutine(disk_side), Deferred.fromCoroutine(file_side)
    try:
        result = await second
    except BaseException:
        first.addErrback(lambda _: None)
        first.cancel()
        await first
        raise
    await first
    return result


@dataclass(frozen=True, slots=True)
class Report:
    """What was moved, and how fast."""

    url: str
    offset_bytes: int
    length_bytes: int
    time_s: float

    def show(self, as_json: bool) -> None:
        """Print it: as JSON on stdout, else as a line on stderr."""
        rate = self.length_bytes / self.time_s if self.time_s else 0.0
        if as_json:
            options.echo_json(
                {
                    "url": self.url,
                    "offset_bytes": self.offset_bytes,
                    "length_bytes": self.length_bytes,
                    "time_s": round(self.time_s, 6),
                    "bytes_per_s": round(rate),
                }
            )
            return
        amount = options.size_text(self.length_bytes)
        click.echo(f"{amount} in {self.time_s:.2f} s, {options.size_text(rate)}/s", err=True)


def progress(length_bytes: int, label: str) -> AbstractContextManager[Any]:
    """Give a progress bar on stderr where that is a terminal, else what only looks like one."""
    if not sys.stderr.isatty():
        return nullcontext(_NoBar())
    return click.progressbar(length=length_bytes, label=label, file=sys.stderr)


class _NoBar:
    """A bar that nobody sees."""

    def update(self, _steps: int) -> None:
        """Take note of nothing."""
