"""A guest that is a process whose RAM is a memory image: ``python -m csvd.vm.guest --image PATH …``.

It counts, and rewrites pages of its working set at a set rate in ticks of 10 ms. It is steered as QEMU is over QMP,
by lines of JSON on stdin and stdout: a greeting, ``{"execute": COMMAND, "id": ANY}`` answered by ``{"return": …,
"id": ANY}`` or ``{"error": {"class": …, "desc": …}, "id": ANY}``, and events. Commands: ``stop``, ``cont``,
``query-status``, ``verify``, ``quit``. Events: ``STOP`` and ``RESUME``, with the CLOCK_BOOTTIME nanosecond at which
the last write was done or the first may be. The run states are QEMU's: ``prelaunch`` (started paused; nothing of the
image was read yet), ``running``, ``paused``.

A guest started paused looks at its image at its first ``cont`` or ``verify``, so its process can be up and waiting
while a migration is still filling the image. The end of stdin, or the death of its parent, ends it at once: no guest
outlives the daemon that answers for it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import select
import signal
import sys
import time
from typing import Any, Final

from csvd.vm.layout import MINIMUM_PAGES, PAGE_BYTES, LayoutError, WorkingSet

TICK_S: Final = 0.01
# After the process was held up, it makes up for at most this much: a burst would not be the rate that was asked for.
_MAKE_UP_S: Final = 0.1
_FILL_PAGES_A_PASS: Final = 1024
_MAXIMUM_LINE_BYTES: Final = 64 * 1024
_PR_SET_PDEATHSIG: Final = 1


class GuestError(Exception):
    """A reason for which the guest cannot do what it was told; its text goes to the one who asked."""


class Guest:
    """The running state of the guest and the commands on it; output lines are handed to ``send``."""

    def __init__(self, fd: int, memory_bytes: int, working_set_pages: int, pages_per_s: float) -> None:
        self._fd = fd
        memory = mmap.mmap(fd, memory_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._pages = WorkingSet(memory, fd)
        self._is_loaded = False
        self._working_set_pages = working_set_pages
        self._pages_per_s = pages_per_s
        self._due_pages = 0.0
        self._ticked_s = 0.0
        self.status = "prelaunch"
        self.quitting = False

    def _load(self) -> None:
        if self._is_loaded:
            return
        try:
            self._pages.load(self._working_set_pages)
            if not self._pages.is_filled:
                # Without the blocks, a full file system would end this process by SIGBUS in the middle of a write.
                os.posix_fallocate(self._fd, 0, (self._pages.header.working_set_pages + 1) * PAGE_BYTES)
        except LayoutError as error:
            raise GuestError(str(error)) from error
        except OSError as error:
            raise GuestError(f"no space for the working set: {error.strerror}") from error
        self._is_loaded = True

    def tick(self) -> None:
        """Do the writes that are due: fill the working set first, then rewrite at the set rate."""
        pages = self._pages
        now_s = time.monotonic()
        if not pages.is_filled:
            pages.fill(_FILL_PAGES_A_PASS)
        else:
            self._due_pages += min(now_s - self._ticked_s, _MAKE_UP_S) * self._pages_per_s
            whole_pages = int(self._due_pages)
            self._due_pages -= whole_pages
            pages.rewrite(whole_pages)
        self._ticked_s = now_s
        pages.header.counter += 1
        pages.store_header()

    def wait_s(self) -> float | None:
        """Seconds until the next tick; None while nothing is to be done."""
        if self.status != "running":
            return None
        if not self._pages.is_filled:
            return 0.0
        return max(0.0, self._ticked_s + TICK_S - time.monotonic())

    def cont(self) -> dict[str, Any] | None:
        """Run. Returns the event, or None when it runs already."""
        if self.status == "running":
            return None
        self._load()
        self.status = "running"
        self._ticked_s = time.monotonic()
        return _event("RESUME")

    def stop(self) -> dict[str, Any] | None:
        """Write nothing more. Returns the event, or None when it writes nothing already."""
        if self.status == "paused":
            return None
        self.status = "paused"
        return _event("STOP")

    def query_status(self) -> dict[str, Any]:
        """The run state and the registers; these are null before the image was looked at."""
        header = self._pages.header if self._is_loaded else None
        return {
            "status": self.status,
            "running": self.status == "running",
            "counter": header.counter if header else None,
            "pages-rewritten": header.pages_rewritten if header else None,
            "filled-pages": header.filled_pages if header else None,
            "working-set-pages": header.working_set_pages if header else None,
        }

    def verify(self) -> dict[str, Any]:
        """Check every page."""
        self._load()
        found = self._pages.verify()
        return {
            "pages-checked": found.pages_checked,
            "pages-bad": found.pages_bad,
            "missing-rewrites": found.missing_rewrites,
            "stray-pages": found.stray_pages,
            "counter": found.counter,
        }

    def execute(self, line: bytes) -> list[dict[str, Any]]:
        """Carry out one line of control input. Returns the lines to answer with: events first, then the reply."""
        request: Any = None
        try:
            request = json.loads(line)
            command = request["execute"]
        except (ValueError, TypeError, KeyError):
            return [_error("GenericError", 'a command is a JSON object with "execute"', request)]
        event: dict[str, Any] | None = None
        answer: dict[str, Any] = {}
        try:
            if command == "cont":
                event = self.cont()
            elif command == "stop":
                event = self.stop()
            elif command == "query-status":
                answer = self.query_status()
            elif command == "verify":
                answer = self.verify()
            elif command == "quit":
                self.quitting = True
            else:
                return [_error("CommandNotFound", f"the command {command!r} does not exist", request)]
        except GuestError as error:
            return [_error("GenericError", str(error), request)]
        reply: dict[str, Any] = {"return": answer}
        if "id" in request:
            reply["id"] = request["id"]
        return [event, reply] if event else [reply]


def _event(name: str) -> dict[str, Any]:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return {
        "event": name,
        "data": {"boottime-ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME)},
        "timestamp": {"seconds": seconds, "microseconds": nanoseconds // 1000},
    }


def _error(kind: str, description: str, request: Any) -> dict[str, Any]:
    reply: dict[str, Any] = {"error": {"class": kind, "desc": description}}
    if isinstance(request, dict) and "id" in request:
        reply["id"] = request["id"]
    return reply


def _send(lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def _serve(guest: Guest) -> int:
    """Take commands and tick, until ``quit`` (exit status 0) or the end of stdin (also 0: there is no one to tell)."""
    control = sys.stdin.fileno()
    pending = b""
    while not guest.quitting:
        readable, _, _ = select.select([control], [], [], guest.wait_s())
        if readable:
            data = os.read(control, 65536)
            if not data:
                return 0
            *lines, pending = (pending + data).split(b"\n")
            if len(pending) > _MAXIMUM_LINE_BYTES:
                raise GuestError(f"a control line is longer than {_MAXIMUM_LINE_BYTES} bytes")
            for line in lines:
                _send(guest.execute(line))
        if guest.wait_s() == 0.0 and not guest.quitting:
            guest.tick()
    return 0


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, even when something else holds its stdin open."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise GuestError(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")


def _open_image(path: str, memory_bytes: int) -> int:
    """A descriptor of the image, which gets its size here when it is new or empty."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size_bytes = os.fstat(fd).st_size
        if size_bytes == 0:
            os.ftruncate(fd, memory_bytes)
            size_bytes = memory_bytes
    except OSError as error:
        raise GuestError(f"{path}: {error.strerror}") from error
    if size_bytes != memory_bytes:
        os.close(fd)
        raise GuestError(f"{path}: the image has {size_bytes} bytes, the guest {memory_bytes}")
    return fd


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m csvd.vm.guest", description="a guest whose RAM is a memory image")
    parser.add_argument("--image", required=True, help="the memory image; made when it does not exist")
    parser.add_argument(
        "--memory-bytes", required=True, type=int, help="its RAM, a whole number of pages of 4096 bytes"
    )
    parser.add_argument("--pages-per-s", required=True, type=float, help="pages that it rewrites each second")
    parser.add_argument("--working-set-bytes", type=int, help="what it writes to; half of its RAM by default")
    parser.add_argument("--paused", action="store_true", help="wait for cont before it looks at its image")
    arguments = parser.parse_args(argv)
    if arguments.memory_bytes % PAGE_BYTES or arguments.memory_bytes < MINIMUM_PAGES * PAGE_BYTES:
        parser.error(f"--memory-bytes must be a multiple of {PAGE_BYTES}, at least {MINIMUM_PAGES * PAGE_BYTES}")
    if arguments.working_set_bytes is None:
        arguments.working_set_bytes = arguments.memory_bytes // 2
    pages = arguments.working_set_bytes // PAGE_BYTES
    if not 1 <= pages <= arguments.memory_bytes // PAGE_BYTES - 1:
        parser.error("--working-set-bytes must leave room for the header page, and hold one page at least")
    if not 0 <= arguments.pages_per_s <= 1_000_000:
        parser.error("--pages-per-s must be between 0 and 1,000,000")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Run the guest. Returns the exit status: 0 after quit or the end of stdin, 1 with a line on stderr otherwise."""
    arguments = _arguments(argv)
    # A Ctrl-C in a terminal goes to every process of the foreground; the daemon decides when its guests end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _die_with_parent()
        fd = _open_image(arguments.image, arguments.memory_bytes)
        guest = Guest(fd, arguments.memory_bytes, arguments.working_set_bytes // PAGE_BYTES, arguments.pages_per_s)
        _send([{"QMP": {"version": {"package": "csvd guest 1"}, "capabilities": []}}])
        if not arguments.paused:
            event = guest.cont()
            _send([event] if event else [])
        return _serve(guest)
    except GuestError as error:
        sys.stderr.write(f"csvd guest: {error}\n")
    except BrokenPipeError:
        # Its daemon is gone: nobody is left to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


if __name__ == "__main__":
    sys.exit(main())
