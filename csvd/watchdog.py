"""The watchdog: the kernel ends this process when its lease is out and it has not given its disks up.

It is a POSIX timer on CLOCK_BOOTTIME whose signal is SIGKILL. That is up to the kernel alone: it takes no turn of the
loop and no thread of this process, so it comes through while the process is stopped, while a call holds the
interpreter, and at once after the host has slept. The lock of the process on a shared disk is free after that, and not
before the last of its writes has ended: what tells a successor.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

from csvd.errors import CsvdError

_CLOCK_BOOTTIME: Final = 7
_SIGEV_SIGNAL: Final = 0
_TIMER_ABSTIME: Final = 1
_SIGEVENT_BYTES: Final = 64
_NS: Final = 1_000_000_000


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

    Raises:
        NoWatchdog: the kernel has no such timer, or would not kill this process by it.
    """

    def __init__(self) -> None:
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
        event = _SignalEvent(signal=signal.SIGKILL, notify=_SIGEV_SIGNAL)
        timer = ctypes.c_void_p()
        if self._library.timer_create(_CLOCK_BOOTTIME, ctypes.byref(event), ctypes.byref(timer)):
            raise NoWatchdog("the kernel gives no timer that kills this process", why=_reason())
        self._timer = timer
        self._is_open = True
        self._setting = _Setting()
        self._set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Setting), ctypes.c_void_p)

    def arm(self, deadline_s: float) -> None:
        """Have this process killed at a time, and no sooner; in the place of any earlier one. A time that is over kills
        at once.

        Args:
            deadline_s: on CLOCK_BOOTTIME.

        Raises:
            NoWatchdog: it is not armed.
        """
        # Zero would disarm it.
        self._start(max(1, int(deadline_s * _NS)))

    def disarm(self) -> None:
        """Let this process live.

        Raises:
            NoWatchdog: the timer is lost.
        """
        self._start(0)

    def close(self) -> None:
        """Give the timer back, disarmed. Closing twice is no error."""
        if self._is_open:
            self._is_open = False
            self._library.timer_delete(self._timer)

    def _start(self, at_ns: int) -> None:
        setting = self._setting
        setting.value_s, setting.value_ns = divmod(at_ns, _NS)
        if not self._is_open or self._set(self._timer, _TIMER_ABSTIME, setting, None):
            raise NoWatchdog("the watchdog could not be set", why=_reason() if self._is_open else "it is closed")


def _reason() -> str:
    return os.strerror(ctypes.get_errno())
