"""The loop around one piece of work: start, signals, errors, exit status."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import click
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from csvd.errors import CsvdError
from initiator.loop_reactor import LoopReactor

INTERRUPTED: Final = 130
GARBAGE_THRESHOLD: Final = 20_000
"""Objects made, and not freed, before garbage is looked for: many times the commands under way."""
THREADS: Final = 10
"""What blocks at once: writes to a file past the page cache are the most."""
PROGRAM: Final = "csv-initiator"

_Result = TypeVar("_Result")
_Work = Callable[[Any], Coroutine[Deferred[Any], Any, _Result]]


class Failed(click.ClickException):
    """The work failed: one line on stderr, exit 1."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        """Print the line; what a target sent can put no control characters into it."""
        click.echo(f"{PROGRAM}: {printable(self.message)}", err=True)


def printable(text: str) -> str:
    """Give text with every character that a terminal might obey replaced by a question mark."""
    return "".join(c if c.isprintable() else "?" for c in text)


def run(work: _Work[_Result]) -> _Result:
    """Run ``work(reactor)`` on an asyncio loop, uvloop's where it is installed; give its result.

    SIGINT and SIGTERM cancel the work, and the process ends with status 130 once it has logged out; a second one ends
    it at once.

    Raises:
        Failed: the work raised a CsvdError or an OSError.
    """
    outcome = _Run(work).outcome()
    if not isinstance(outcome, Failure):
        result: _Result = outcome
        return result
    error: BaseException = outcome.value  # type: ignore[assignment]
    if isinstance(error, CsvdError):
        raise Failed(str(error)) from error
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        raise Failed(f"{name}{error.strerror or error}") from error
    raise error


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS))
    return loop


class _Run:
    """One run of the loop."""

    def __init__(self, work: Callable[[Any], Coroutine[Deferred[Any], Any, Any]]) -> None:
        self._work = work
        self._loop = _new_loop()
        self._running: Deferred[Any] | None = None
        self._outcome: Any = None
        self._signals = 0

    def outcome(self) -> Any:
        # What the program is made of stays to its end: looking through it again and again took a tenth of a READ.
        gc.freeze()
        gc.set_threshold(GARBAGE_THRESHOLD)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._signalled)
        self._loop.call_soon(self._begin)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        return self._outcome

    def _begin(self) -> None:
        # Not Twisted's reactor: to import that, with its TLS, takes as long as to copy 100 MiB.
        self._running = Deferred.fromCoroutine(self._work(LoopReactor(self._loop)))
        self._running.addBoth(self._ended)

    def _ended(self, outcome: Any) -> None:
        self._outcome = outcome
        if self._signals and isinstance(outcome, Failure) and isinstance(outcome.value, CancelledError):
            _exit_interrupted()  # a thread that waits on a pipe would keep the end of the threads waiting for ever
        self._loop.stop()

    def _signalled(self) -> None:
        self._signals += 1
        if self._signals > 1 or self._running is None:
            _exit_interrupted()
        else:
            self._running.cancel()


def _exit_interrupted() -> None:
    sys.stderr.write(f"\n{PROGRAM}: interrupted\n")
    sys.stderr.flush()
    os._exit(INTERRUPTED)
