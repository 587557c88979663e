"""What every program of csvd that serves needs around its own work: the reactor, signals, and the log on stderr.

Only entry points use this: ``csvd run``, ``csvd serve``, and programs of the tests.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TextIO, TypeAlias, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import (
    FilteringLogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    globalLogBeginner,
)
from twisted.python.failure import Failure

from csvd.errors import ConfigError, CsvdError

Stop: TypeAlias = Callable[[], Awaitable[None]]
T = TypeVar("T")
Start: TypeAlias = Callable[[Any], Awaitable[Stop]]

LEVELS: Final = ("debug", "info", "warn", "error", "critical")
EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130
MAX_EVENT_CHARACTERS: Final = 8192
"""What a line of the log may hold; a peer that sends much has it cut."""

# Priorities of sd-daemon(3): journald takes them off the head of a line and keeps them as the level.
_PRIORITIES: Final = {"debug": 7, "info": 6, "warn": 4, "error": 3, "critical": 2}
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {10: "\\n", 9: "\\t", 13: "\\r"}

_log: Final = Logger(namespace="csvd")


# The reactor


def install_reactor() -> Any:
    """Install Twisted's asyncio reactor, on uvloop's loop where that is installed; give the reactor.

    A second call gives the same reactor.

    Raises:
        RuntimeError: something else has installed another kind of reactor: a fault of the program.
    """
    from twisted.internet import asyncioreactor

    if "twisted.internet.reactor" not in sys.modules:
        try:
            import uvloop
        except ImportError:
            loop = asyncio.new_event_loop()
        else:
            loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        asyncioreactor.install(loop)  # type: ignore[no-untyped-call]
    reactor = sys.modules["twisted.internet.reactor"]
    if not isinstance(reactor, asyncioreactor.AsyncioSelectorReactor):
        raise RuntimeError(f"a reactor was installed before csvd's own: {reactor!r}")
    return reactor


MOST_DESCRIPTORS: Final = 65536


def raise_descriptor_limit() -> None:
    """Raise the limit on open files of this process as far as it may, up to 65,536: shells give 1,024, which is what
    the connections alone may take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# A life from start to signal


def run_until_signal(start: Start, *, program: str = "csvd") -> int:
    """Run ``stop = await start(reactor)``, wait for SIGINT or SIGTERM, run ``await stop()``; give the exit status.

    A CsvdError of ``start`` or ``stop`` is one line on stderr and status 1. A signal while ``start`` is at work cancels
    it: what it awaits fails with ``CancelledError``, and it undoes what it has done. A second signal ends the process
    at once, with status 130.
    """
    raise_descriptor_limit()
    return _Life(install_reactor(), start, program).run()


def run_to_end(work: Callable[[Any], Awaitable[T]]) -> T:
    """Run ``await work(reactor)`` to its end; give its result, or raise its error. Once in a process.

    Raises:
        KeyboardInterrupt: a signal came first.
    """
    reactor = install_reactor()
    results: list[T] = []
    failures: list[Failure] = []

    async def live() -> None:
        results.append(await work(reactor))

    def begin() -> None:
        Deferred.fromCoroutine(live()).addErrback(failures.append).addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    if failures:
        failures[0].raiseException()
    if not results:
        raise KeyboardInterrupt
    return results[0]


class _Life:
    """One run of the reactor."""

    def __init__(self, reactor: Any, start: Start, program: str) -> None:
        self._reactor = reactor
        self._start = start
        self._program = program
        self._signals = 0
        self._asked: Deferred[None] = Deferred()
        self._starting: Deferred[Stop] | None = None
        self._status = EXIT_FAILED

    def run(self) -> int:
        self._take_signals()
        self._reactor.callWhenRunning(self._begin)
        self._reactor.run(installSignalHandlers=False)
        return self._status

    def _take_signals(self) -> None:
        # Handlers of the signal module, not of the loop: a second signal must end even a process whose loop is stuck.
        # The one handler of the loop is there for its side effect, the wake-up descriptor, without which a signal that
        # comes just before the loop sleeps is seen only when something else wakes it. And Twisted's own SIGCHLD
        # handling is not used because its wake-up descriptor is lost to uvloop's: children would never be reaped.
        loop = asyncio.get_event_loop()
        loop.add_signal_handler(signal.SIGTERM, int)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._signalled)
        signal.signal(signal.SIGCHLD, self._child_changed)
        signal.siginterrupt(signal.SIGCHLD, False)

    def _signalled(self, number: int, _frame: object) -> None:
        self._signals += 1
        if self._signals > 1:
            os._exit(EXIT_INTERRUPTED)
        self._reactor.callFromThread(self._stop_asked, signal.Signals(number).name)

    def _child_changed(self, _number: int, _frame: object) -> None:
        from twisted.internet.process import reapAllProcesses

        self._reactor.callFromThread(reapAllProcesses)

    def _stop_asked(self, signal_name: str) -> None:
        _log.info("{signal}: stopping", signal=signal_name)
        self._asked.callback(None)
        if self._starting is not None:
            self._starting.cancel()

    def _begin(self) -> None:
        Deferred.fromCoroutine(self._live()).addErrback(self._broken).addBoth(lambda _: self._reactor.stop())

    async def _live(self) -> None:
        try:
            stop = await self._started()
            await self._asked
            if stop is not None:
                await stop()
        except CsvdError as error:
            sys.stderr.write(f"{self._program}: {one_line(str(error))}\n")
        else:
            self._status = 0

    async def _started(self) -> Stop | None:
        """What stops the work, or None: a signal came before there was any."""
        if self._is_asked():
            return None
        self._starting = Deferred.fromCoroutine(self._call_start())
        try:
            return await self._starting
        except CancelledError:
            if not self._is_asked():
                raise
            return None
        finally:
            self._starting = None

    def _is_asked(self) -> bool:
        return self._asked.called

    async def _call_start(self) -> Stop:
        return await self._start(self._reactor)

    def _broken(self, failure: Any) -> None:
        _log.failure("a fault of {program}", failure, program=self._program)
        sys.stderr.write(f"{self._program}: stopped by a fault of its own: {one_line(failure.getErrorMessage())}\n")


# The log


def start_logging(level: str = "info", *, stream: TextIO | None = None, who: str = "") -> None:
    """Write events of ``level`` (one of LEVELS) and above to stderr, one line an event; the logging module's, too.

    A line begins with the local time and the level; where stderr is the journal it begins with the priority of
    sd-daemon(3) instead, because the journal keeps the time itself.

    Args:
        who: named in every line, where several processes write to one stream.

    Raises:
        ConfigError: there is no such level.
    """
    if level not in LEVELS:
        raise ConfigError(f"there is no log level {level!r}", hint=f"levels: {', '.join(LEVELS)}")
    output = sys.stderr if stream is None else stream
    # Any: zope's interfaces are not types to mypy.
    observer: Any = _LineObserver(output, for_journal=_is_journal(output), who=who)
    predicate: Any = LogLevelFilterPredicate(defaultLogLevel=LogLevel.levelWithName(level))
    # Twisted tells at this level of every HTTP request and every factory that starts.
    for namespace in ("twisted.web", "twisted.internet", "log_legacy"):
        predicate.setLogLevelForNamespace(namespace, max(LogLevel.warn, LogLevel.levelWithName(level), key=_rank))
    filtered: Any = FilteringLogObserver(observer, [predicate])
    globalLogBeginner.beginLoggingTo([filtered], redirectStandardIO=False)
    logging.basicConfig(handlers=[_ToTwisted()], level=logging.getLevelName(level.upper()), force=True)


def _rank(level: Any) -> int:
    return LEVELS.index(level.name)


def _is_journal(output: TextIO) -> bool:
    """Whether ``output`` is the stream that systemd says is the journal's (systemd.exec(5), ``JOURNAL_STREAM``)."""
    try:
        status = os.fstat(output.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def one_line(text: str) -> str:
    """Give ``text`` with control characters escaped: what a peer sends must not make lines of its own."""
    if len(text) > MAX_EVENT_CHARACTERS:
        text = text[:MAX_EVENT_CHARACTERS] + "…"
    return text.translate(_CONTROL)


class _LineObserver:
    """Writes events as lines."""

    def __init__(self, output: TextIO, *, for_journal: bool, who: str = "") -> None:
        self._output = output
        self._who = f"{who} " if who else ""
        self._for_journal = for_journal

    def __call__(self, event: Any) -> None:
        level = event["log_level"].name
        subject = event.get("log_namespace", "").removeprefix("csvd.")
        text = formatEvent(event)
        failure = event.get("log_failure")
        if failure is not None:
            # Twisted's older calls put the traceback into the text, too.
            text = text.partition("\n")[0]
        lines = [one_line(text)]
        if failure is not None:
            # The traceback of a fault of ours: lines that all carry the head, so that none is read as another event.
            lines += [f"  {one_line(line)}" for line in failure.getTraceback().rstrip().splitlines()]
        head = self._head(level, event["log_time"])
        try:
            self._output.write("".join(f"{head}{self._who}{subject}: {line}\n" for line in lines))
            self._output.flush()
        except OSError:
            return  # stderr is gone; there is nowhere left to say so

    def _head(self, level: str, time_s: float) -> str:
        if self._for_journal:
            return f"<{_PRIORITIES[level]}>"
        local = time.localtime(time_s)
        return f"{time.strftime('%Y-%m-%d %H:%M:%S', local)}.{int(time_s % 1 * 1000):03d} {level:<5} "


class _ToTwisted(logging.Handler):
    """Hands records of the logging module (asyncio's, pysyncobj's) to Twisted's log."""

    def emit(self, record: logging.LogRecord) -> None:
        level = {"warning": "warn"}.get(record.levelname.lower(), record.levelname.lower())
        target = Logger(namespace=record.name)
        target.emit(
            LogLevel.levelWithName(level if level in LEVELS else "info"), "{message}", message=record.getMessage()
        )
