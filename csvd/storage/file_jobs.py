"""What a FileDisk hands to the pool: jobs, and those of them that can be done as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from csvd.storage.disk import Buffer
from csvd.storage.pool import Job


class FileJob(Job):
    """A job, and whether it must be durable before it is done."""

    __slots__ = ("durable", "work")

    def __init__(
        self, work: Callable[[], None], *, length_bytes: int = 0, durable: bool = False, holds_up: bool = False
    ) -> None:
        super().__init__(length_bytes, holds_up=holds_up)
        self.work = work
        self.durable = durable


class WriteJob(FileJob):
    """A job that only writes: those that follow one another in a batch may be made as one."""

    __slots__ = ("buffers", "offset_bytes")

    def __init__(
        self,
        work: Callable[[], None],
        buffers: Sequence[Buffer],
        offset_bytes: int,
        *,
        length_bytes: int,
        holds_up: bool,
    ) -> None:
        super().__init__(work, length_bytes=length_bytes, holds_up=holds_up)
        self.buffers = buffers
        self.offset_bytes = offset_bytes


def adjoining_writes(batch: Sequence[FileJob], at: int) -> list[WriteJob]:
    """The writes from there on of which each begins where the one before it ends; none where no write is there."""
    run: list[WriteJob] = []
    end = -1
    for index in range(at, len(batch)):
        job = batch[index]
        if not isinstance(job, WriteJob) or (run and job.offset_bytes != end):
            break
        run.append(job)
        end = job.offset_bytes + job.length_bytes
    return run
