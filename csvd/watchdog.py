"""The watchdog: the kernel ends this process when its lease is out and it has not given its disks up.

It is a POSIX timer on CLOCK_BOOTTIME whose signal is SIGKILL. That is up to the kernel alone: it takes no turn of the
loop and no thread of this process, so it comes through while the process is stopped, while a call holds the
interpreter, and at once after the host has slept. The lock of the process on a shared disk is free after that, and not
before the last of its writes has ended: what tells a successor.

A moment before that the kernel sends a signal at which Python writes into a file where each thread is (faulthandler,
which takes no lock of the interpreter). Where the file is not empty at the next start, the run before ended so. Only a
process that is stopped writes nothing.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
from pathlib import Path
from typing import Final

from csvd.errors import CsvdError

_CLOCK_BOOTTIME: Final = 7
_SIGEV_SIGNAL: Final = 0
_TIMER_ABSTIME: Final = 1
_SIGEVENT_BYTES: Final = 64
_NS: Final = 1_000_000_000
NOTICE_S: Final = 0.25
"""How long before the end the notice is written."""
_NOTICE_SIGNAL: Final = signal.SIGRTMIN + 6
MAXIMUM_NOTICE_BYTES: Final = 64 * 1024


class NoWatchdog(CsvdError):
    """The kernel does not watch over this process. Where it is stopped, only waiting keeps it off its disks."""


class _SignalEvent(ctypes.Structure):
    """struct sigevent (sigevent(3type)), as far as a signal needs it."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_byte * (_SIGEVENT_BYTES - ctypes.sizeof(ctypes.c_void_p) - 8)),
    )


class _Setting(ctypes.Structure):
    """struct itimerspec: an interval, which stays 0, and when it runs out."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Watchdog:
    """The timer of this process. It is not armed at first; what is forked has none.

    Args:
        notice: the file into which it is written what the process was at; it is emptied now. None for no notice. There
            is one watchdog with a notice in a process.

    Raises:
        NoWatchdog: the kernel has no such timer, or would not kill this process by it; or the file can not be written.
    """

    def __init__(self, notice: Path | None = None) -> None:
        if os.getpid() == 1:
            # A signal of the kernel's own making does not kill the first process of a PID namespace.
            raise NoWatchdog(
                "the kernel does not kill the first process of a container",
                why="it has the process number 1",
                hint="start csvd under an init (docker run --init, tini)",
            )
        # Since glibc 2.34 the calls are in libc itself, before in librt.
        library = ctypes.CDLL(None, use_errno=True)
        try:
            self._library = library if hasattr(library, "timer_create") else ctypes.CDLL("librt.so.1", use_errno=True)
            self._set = self._library.timer_settime
        except (OSError, AttributeError) as error:
            raise NoWatchdog("the C library has no POSIX timers", why=str(error)) from error
        self._set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Setting), ctypes.c_void_p)
        self._setting = _Setting()
        self._timer = self._make_timer(signal.SIGKILL)
        self._notice_timer: ctypes.c_void_p | None = None
        self._notice = -1
        if notice is not None:
            try:
                self._notice = os.open(notice, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            except OSError as error:
                self._library.timer_delete(self._timer)
                raise NoWatchdog("its notice can not be written", where=str(notice), why=_text(error)) from error
            faulthandler.register(_NOTICE_SIGNAL, file=self._notice, all_threads=True)
            self._notice_timer = self._make_timer(_NOTICE_SIGNAL)
        self._is_open = True

    def _make_timer(self, number: int) -> ctypes.c_void_p:
        event = _SignalEvent(signal=number, notify=_SIGEV_SIGNAL)
        timer = ctypes.c_void_p()
        if self._library.timer_create(_CLOCK_BOOTTIME, ctypes.byref(event), ctypes.byref(timer)):
            raise NoWatchdog("the kernel gives no timer that kills this process", why=_reason())
        return timer

    def arm(self, deadline_s: float) -> None:
        """Have this process killed at a time, and no sooner; in the place of any earlier one. A time that is over kills
        at once.

        Args:
            deadline_s: on CLOCK_BOOTTIME.

        Raises:
            NoWatchdog: it is not armed.
        """
        # Zero would disarm it.
        at_ns = max(1, int(deadline_s * _NS))
        self._start(self._timer, at_ns)
        if self._notice_timer is not None:
            self._start(self._notice_timer, max(1, at_ns - int(NOTICE_S * _NS)))
            self._take_back()

    def disarm(self) -> None:
        """Let this process live.

        Raises:
            NoWatchdog: the timer is lost.
        """
        self._start(self._timer, 0)
        if self._notice_timer is not None:
            self._start(self._notice_timer, 0)
            self._take_back()

    def close(self) -> None:
        """Give the timer back, disarmed. Closing twice is no error."""
        if self._is_open:
            self._is_open = False
            self._library.timer_delete(self._timer)
            if self._notice_timer is not None:
                self._library.timer_delete(self._notice_timer)
                # It may be under way yet: to have no handler any more would end the process.
                signal.signal(_NOTICE_SIGNAL, signal.SIG_IGN)
                os.ftruncate(self._notice, 0)
                os.close(self._notice)

    def _take_back(self) -> None:
        """It was in time after all."""
        if os.fstat(self._notice).st_size:
            os.ftruncate(self._notice, 0)

    def _start(self, timer: ctypes.c_void_p, at_ns: int) -> None:
        setting = self._setting
        setting.value_s, setting.value_ns = divmod(at_ns, _NS)
        if not self._is_open or self._set(timer, _TIMER_ABSTIME, setting, None):
            raise NoWatchdog("the watchdog could not be set", why=_reason() if self._is_open else "it is closed")


def take_notice(notice: Path, keep_as: Path) -> str | None:
    """What the run before this was at when its watchdog ended it; before a watchdog is made with this file.

    Args:
        keep_as: where it is kept for people.

    Returns:
        Where its main thread was, in one line; None where it was not ended so, or where that can not be read.
    """
    try:
        with notice.open("rb") as file:
            text = file.read(MAXIMUM_NOTICE_BYTES).decode("utf-8", "replace")
        if not text:
            return None
        notice.replace(keep_as)
    except OSError:
        return None
    # The thread that took the signal comes last; the main thread is the last of all.
    frames = text.rpartition("hread 0x")[2].splitlines()[1:]
    return "; ".join(frame.strip() for frame in frames[:3])


def _text(error: OSError) -> str:
    return error.strerror or str(error)


def _reason() -> str:
    return os.strerror(ctypes.get_errno())
