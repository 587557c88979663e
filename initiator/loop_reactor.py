"""What the initiator needs of a reactor, on a running asyncio loop: no Twisted reactor is imported or installed.

The network side of this package asks a reactor for readers and writers, timers, the time and a thread for names. Here
a loop gives them: its own or uvloop, in ``asyncio.run`` or under whatever else runs it. Calls go to the loop directly,
without the logging context that Twisted's asyncio reactor makes around each.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.error import ConnectionLost as Lost
from twisted.python.failure import Failure


class DelayedCall:
    """A call to come, as IDelayedCall has it, as far as it is used."""

    __slots__ = ("_call", "_cancelled", "_handle")

    def __init__(self, loop: asyncio.AbstractEventLoop, delay_s: float, call: Callable[[], object]) -> None:
        self._call: Callable[[], object] | None = call
        self._cancelled = False
        self._handle = loop.call_later(delay_s, self._run) if delay_s > 0 else loop.call_soon(self._run)

    def active(self) -> bool:
        """Whether the call is still to come."""
        return self._call is not None

    def cancel(self) -> None:
        """Have it not come.

        Raises:
            AlreadyCalled, AlreadyCancelled: there is nothing to cancel.
        """
        if self._call is None:
            raise AlreadyCancelled if self._cancelled else AlreadyCalled
        self._call, self._cancelled = None, True
        self._handle.cancel()

    def _run(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


class LoopThreads:
    """The loop's threads, as a ThreadPool has them for deferToThreadPool."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def callInThreadWithCallback(  # noqa: N802 - the name of IThreadPool
        self, on_result: Callable[[bool, Any], object] | None, call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        """Run a call in a thread, and hand over there whether it succeeded, and its result or Failure."""

        def run() -> None:
            try:
                succeeded, result = True, call(*args, **kwargs)
            except BaseException:  # noqa: BLE001 - it goes to who waits
                succeeded, result = False, Failure()  # type: ignore[no-untyped-call]
            if on_result is not None and not self._loop.is_closed():
                on_result(succeeded, result)

        self._loop.run_in_executor(None, run)


class LoopReactor:
    """A loop as a reactor, by default the running one."""

    __slots__ = ("_threads", "loop", "seconds")

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop: Final = loop or asyncio.get_running_loop()
        self.seconds: Final = self.loop.time
        self._threads = LoopThreads(self.loop)

    # The names are those of IReactorFDSet, IReactorTime and IReactorThreads.

    def addReader(self, descriptor: Any) -> None:  # noqa: N802
        """Have doRead called whenever there is something to read."""
        self.loop.add_reader(descriptor.fileno(), _guarded, descriptor, descriptor.doRead)

    def addWriter(self, descriptor: Any) -> None:  # noqa: N802
        """Have doWrite called whenever there is room to write."""
        self.loop.add_writer(descriptor.fileno(), _guarded, descriptor, descriptor.doWrite)

    def removeReader(self, descriptor: Any) -> None:  # noqa: N802
        """Undo addReader, if it was done."""
        if (number := descriptor.fileno()) >= 0:
            self.loop.remove_reader(number)

    def removeWriter(self, descriptor: Any) -> None:  # noqa: N802
        """Undo addWriter, if it was done."""
        if (number := descriptor.fileno()) >= 0:
            self.loop.remove_writer(number)

    def callLater(self, delay_s: float, call: Callable[..., object], *args: Any, **kwargs: Any) -> DelayedCall:  # noqa: N802
        """Call something after so many seconds."""
        return DelayedCall(self.loop, delay_s, (lambda: call(*args, **kwargs)) if args or kwargs else call)

    def callFromThread(self, call: Callable[..., object], *args: Any, **kwargs: Any) -> None:  # noqa: N802
        """Have the loop call something; from any thread."""
        self.loop.call_soon_threadsafe(lambda: call(*args, **kwargs))

    def getThreadPool(self) -> LoopThreads:  # noqa: N802
        """Give the threads for what blocks."""
        return self._threads


def descriptors_of(reactor: Any) -> Any:
    """Give what watches descriptors for a reactor: of Twisted's asyncio reactor the running loop itself.

    The context that Twisted makes around each call of doRead costs as much as some READs of 4 KiB.
    """
    twisted_one = sys.modules.get("twisted.internet.asyncioreactor")  # not imported here for who has no use for it
    if twisted_one is not None and isinstance(reactor, twisted_one.AsyncioSelectorReactor):
        try:
            return LoopReactor()
        except RuntimeError:
            return reactor  # it does not run yet
    return reactor


def _guarded(descriptor: Any, work: Callable[[], object]) -> None:
    """Do the work of a descriptor; what it raises is the end of its connection, as with every reactor, and is told."""
    try:
        work()
    except Exception as fault:
        lost: Any = Failure(Lost(f"a fault of the initiator: {fault!r}"))  # type: ignore[no-untyped-call]
        descriptor.connectionLost(lost)
        raise
