"""When a write to the page cache may be made in the loop: only while nothing says that it could have to wait.

Where the kernel can be asked not to wait (RWF_NOWAIT, as XFS and btrfs can) nobody needs this. ext4, tmpfs and block
devices refuse that for buffered writes (EOPNOTSUPP in Linux 6.18). A buffered write there is a copy of 3 to 8 µs for
4 KiB, and a thread and back cost 130 to 360 µs; but it waits

- while the kernel throttles writers: half-way between its two limits on dirty pages (`dirty_freerun_ceiling`), so never
  below the lower one, which is the rule here;
- for the journal, and for a device that has to read the rest of a block first. The caller knows of its own flushes and
  of blocks in part. What others do to the file system shows in the time that a write takes, and in nothing else: so
  every write is timed, and after long ones writes are not made in the loop for a while.

A write is long, too, when its thread lost the processor to another one: on a busy machine that is the rule (beside one
busy process some 60 a second, of 1 to 18 ms, were seen with no wait among them). The kernel counts both apart: a thread
that waits switches voluntarily. To ask costs a third of a write, so it is asked for a while after a long one only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from mmap import PAGESIZE
from resource import RUSAGE_THREAD, getrusage
from time import perf_counter_ns
from typing import Final

_LOOK_NS: Final = 100_000_000
_LOOK_BYTES: Final = 16 << 20
"""How long, and for how many bytes, a look at the dirty pages holds. A look takes 40 µs. Between the limit used here
and the one at which the kernel throttles there is a twentieth of the memory that could be dirty."""

_LONG_NS: Final = 1_000_000
"""A write that takes longer counts. A 4 KiB one takes 3 to 8 µs, 256 KiB 40 to 70."""
_MOST_LONG_NS: Final = 10_000_000
"""So much waiting is too much."""
_LOST_NS: Final = 40_000_000
"""A write that takes this long counts whatever the reason; the first long one of less is not known to have waited."""
_WATCH_NS: Final = 1_000_000_000
"""How long the switches of the thread are asked for after a long write."""
_FORGIVEN: Final = 16
"""For each 16 ns that pass, one ns of a long write is forgiven."""

_SHORTEST_PAUSE_NS: Final = 1_000_000_000
_LONGEST_PAUSE_NS: Final = 30_000_000_000

_VMSTAT: Final = re.compile(
    rb"^nr_dirty (\d+)\n.*^nr_writeback (\d+)\n.*^nr_dirty_background_threshold (\d+)$", re.MULTILINE | re.DOTALL
)


def dirty_room_bytes() -> int:
    """How much can be written before the kernel begins to write dirty pages back; 0 where nobody can tell."""
    try:
        with open("/proc/vmstat", "rb", buffering=0) as file:
            return room_in(file.read(1 << 16))
    except OSError:
        return 0


def room_in(vmstat: bytes) -> int:
    """The same from the text of /proc/vmstat, in bytes, never negative."""
    found = _VMSTAT.search(vmstat)
    if found is None:
        return 0
    dirty, writeback, threshold = map(int, found.groups())
    return max(0, threshold - dirty - writeback) * PAGESIZE


def voluntary_switches() -> int:
    """How often this thread has waited for anything."""
    return getrusage(RUSAGE_THREAD).ru_nvcsw


class Calm:
    """Whether writes of one disk may be made in the loop.

    Args:
        clock_ns: a clock that only grows.
        room_bytes: how much more the system takes before it could throttle.
        switches: how often the thread has waited until now.
    """

    __slots__ = (
        "_clock_ns",
        "_is_calm",
        "_left_bytes",
        "_long_ns",
        "_long_seen_ns",
        "_look_ns",
        "_pause_ns",
        "_resume_ns",
        "_room_bytes",
        "_switches",
        "_switches_before",
        "_watch_ns",
    )

    def __init__(
        self,
        *,
        clock_ns: Callable[[], int] = perf_counter_ns,
        room_bytes: Callable[[], int] = dirty_room_bytes,
        switches: Callable[[], int] = voluntary_switches,
    ) -> None:
        self._clock_ns = clock_ns
        self._room_bytes = room_bytes
        self._switches = switches
        self._switches_before: int | None = None
        self._watch_ns = 0
        self._is_calm = True
        self._look_ns = 0
        self._left_bytes = 0
        self._long_ns = 0
        self._long_seen_ns = 0
        self._pause_ns = 0
        self._resume_ns = 0

    def begin(self, length_bytes: int) -> int:
        """Ask for a write of at most 16 MiB.

        Returns:
            When it begins, for `end`; 0 when it must not.
        """
        now_ns = self._clock_ns()
        if now_ns >= self._look_ns or (self._is_calm and length_bytes > self._left_bytes):
            self._look(now_ns)
        if not self._is_calm:
            return 0
        self._left_bytes -= length_bytes
        if now_ns < self._watch_ns:
            self._switches_before = self._switches()
        return now_ns

    def end(self, began_ns: int) -> None:
        """A write is over, well or not."""
        now_ns = self._clock_ns()
        if now_ns - began_ns > _LONG_NS:
            self._was_long(began_ns, now_ns)

    def _look(self, now_ns: int) -> None:
        self._look_ns = now_ns + _LOOK_NS
        self._left_bytes = _LOOK_BYTES
        self._is_calm = self._room_bytes() >= _LOOK_BYTES

    def _was_long(self, began_ns: int, now_ns: int) -> None:
        before = self._switches_before
        self._watch_ns, self._switches_before = now_ns + _WATCH_NS, None
        if now_ns - began_ns < _LOST_NS and (before is None or self._switches() == before):
            return
        forgiven_ns = (began_ns - self._long_seen_ns) // _FORGIVEN
        self._long_ns = max(0, self._long_ns - forgiven_ns) + now_ns - began_ns
        self._long_seen_ns = now_ns
        if self._long_ns > _MOST_LONG_NS:
            self._pause(now_ns)

    def _pause(self, now_ns: int) -> None:
        """Twice as long as the last one, which counts for half after each time of its length that went well."""
        if self._pause_ns:
            calm_times = max(0, now_ns - self._resume_ns) // self._pause_ns
            self._pause_ns = (2 * self._pause_ns) >> min(calm_times, 8)
        self._pause_ns = min(max(self._pause_ns, _SHORTEST_PAUSE_NS), _LONGEST_PAUSE_NS)
        self._resume_ns = now_ns + self._pause_ns
        self._watch_ns = self._resume_ns + _WATCH_NS
        self._long_ns = 0
        self._is_calm = False
        self._look_ns = self._resume_ns
