"""The threads of a disk pool, fed by one queue.

`twisted.python.threadpool` does the same with more care for callers that the pool does not have: its hand-off costs 20
to 40 µs more, a third of a 4 KiB write at queue depth 1.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias

from twisted.logger import Logger

_Call: TypeAlias = tuple[Callable[..., Any], tuple[object, ...]]

_log = Logger()


class WorkerThreads:
    """Threads that run calls in the order of their coming.

    They are daemon threads: one that hangs in a dead network file system does not keep the process from ending.

    Args:
        count: how many there are at first.
        name: what a debugger shows, with a number after it.
    """

    def __init__(self, count: int, name: str) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._count = count
        self._name = name
        self._threads: list[Thread] = []

    def start(self) -> None:
        """Start them."""
        self.have(self._count)

    def have(self, count: int) -> None:
        """Start more, where there are fewer than so many; they stay."""
        while len(self._threads) < count:
            thread = Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Let them end what was handed to them, and wait for that."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def callInThread(self, func: Callable[..., Any], *args: object) -> None:  # noqa: N802 - Twisted's name
        """Call it in one of the threads."""
        self._calls.put((func, args))

    def _run(self) -> None:
        take = self._calls.get
        while (call := take()) is not None:
            func, args = call
            try:
                func(*args)
            except Exception:  # noqa: BLE001 - a thread must live on; the pool has its own way to tell callers
                _log.failure("a fault in a storage thread")
