"""The fence of a file or a block device: a lock of each member's process; see `csvd.storage.file_locks`."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from twisted.internet.defer import Deferred, fail, succeed

from csvd.shared_disk import FILE_LOCK, FenceProof, NotProven
from csvd.storage import file_locks
from csvd.storage.disk import StorageError
from csvd.storage.file_jobs import FileJob
from csvd.storage.pool import DiskPool, Manner

T = TypeVar("T")

_JOIN_TRIES: Final = 10
_JOIN_PAUSE_S: Final = 0.01
_NO_LOCKS: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class FileFence:
    """The place of this process on a file, and how it finds out about those of others.

    The lock is that of the open file description by which the disk is written, not of one beside it: a network file
    system whose server has dropped the lock refuses what is written by that description (NFSv4: RFC 8881 section
    8.2.3), and would take what comes by another one.

    A fence is the proof alone: the lock is let go at once, so that the node may join when it is started again.

    Args:
        fd: of the file, open for writing where anybody is to join by it.
        pool: where its calls block; they are not behind those that read and write.
        url: the disk's, for messages.
    """

    def __init__(self, fd: int, pool: DiskPool, url: str) -> None:
        self._fd = fd
        self._url = url
        self._lane = pool.lane(_run)
        self._node = ""
        self._number = 0
        self._holders: dict[int, int | None] = {}
        """Who was found to have the lock of a number, so that not every question looks through /proc."""

    @property
    def has_place(self) -> bool:
        """Whether this process has joined, and has not left."""
        return bool(self._number)

    def join(self, node: str, number: int) -> Deferred[None]:
        """Take a place; see `FencingDisk.join`."""
        if not file_locks.is_number(number):
            why = f"{node or 'the node'} has no number as a member of a cluster, and locks go by numbers"
            return fail(StorageError("join", errno.EINVAL, where=self._url, why=why))
        if self._number and (self._node, self._number) != (node, number):
            why = f"this process has joined as {self._node}, number {self._number}"
            return fail(StorageError("join", errno.EINVAL, where=self._url, why=why))
        return self._do("join", lambda: self._take_place(node, number))

    def fence(self, node: str, number: int) -> Deferred[FenceProof]:
        """Prove that a node has no place; see `FencingDisk.fence`."""
        if not self._number:
            why = "this process has not joined the disk"
        elif number == self._number or node == self._node:
            why = "a node does not fence itself"
        elif not file_locks.is_number(number):
            why = f"{node} has no number as a member of a cluster, and locks go by numbers"
        else:
            return self._do("fence", lambda: self._prove(node, number))
        return fail(StorageError("fence", errno.EINVAL, where=self._url, why=why))

    def is_gone(self, number: int) -> Deferred[bool]:
        """Whether nobody else has the place of a number."""
        if not file_locks.is_number(number):
            return succeed(True)
        return self._do("fence", lambda: not file_locks.is_taken(self._fd, number))

    def other_places(self) -> Deferred[list[int]]:
        """The numbers of others whose places are taken, as far as it can be told from here."""
        others = [number for number in range(1, file_locks.MOST_MEMBERS + 1) if number != self._number]
        return self._do("join", lambda: [number for number in others if file_locks.is_taken(self._fd, number)])

    def leave(self) -> Deferred[None]:
        """Give the place up; whoever calls has no write under way."""
        return self._do("leave", self._give_up) if self._number else succeed(None)

    def when_idle(self) -> Deferred[None]:
        """Fires when nothing of it is under way: the file can be closed."""
        return self._lane.when_idle()

    # In threads

    def _take_place(self, node: str, number: int) -> None:
        for _ in range(_JOIN_TRIES):
            if file_locks.take(self._fd, number):
                break
            # Perhaps somebody only looks, and lets it go at once.
            time.sleep(_JOIN_PAUSE_S)
        else:
            why = f"{self._told(number)} has the place of number {number}"
            raise StorageError("join", errno.EBUSY, where=self._url, why=why)
        self._node, self._number = node, number

    def _prove(self, node: str, number: int) -> FenceProof:
        if not file_locks.take(self._fd, number):
            raise NotProven(
                f"{node} can not be said to be off the disk: its lock is held",
                where=self._url,
                why=f"{self._told(number)} has it",
                hint="the lock is free when that process has ended",
            )
        at_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        file_locks.let_go(self._fd, number)
        self._holders.pop(number, None)
        return FenceProof(FILE_LOCK, node, f"the lock of number {number} was free and was taken", at_s)

    def _give_up(self) -> None:
        file_locks.let_go(self._fd, self._number)
        self._node, self._number = "", 0

    def _told(self, number: int) -> str:
        pid = self._holders.get(number)
        if number not in self._holders or (pid is not None and not os.path.exists(f"/proc/{pid}")):
            pid = self._holders[number] = file_locks.holder_of(self._fd, number)
        return "a process that is not to be seen from here" if pid is None else f"the process {pid}"

    # How

    def _do(self, operation: str, work: Callable[[], T]) -> Deferred[T]:
        found: list[T] = []

        def job() -> None:
            try:
                found.append(work())
            except OSError as error:
                number = error.errno or errno.EIO
                why = (
                    f"there are no locks by open file description: {os.strerror(number)}" if number in _NO_LOCKS else ""
                )
                raise StorageError(operation, number, where=self._url, why=why) from error

        return self._lane.submit(FileJob(job), Manner.SINGLE_FILE).addCallback(lambda _: found[0])


def _run(batch: Sequence[FileJob]) -> None:
    """In a thread."""
    for job in batch:
        try:
            job.work()
        except (StorageError, NotProven) as error:
            job.error = error
