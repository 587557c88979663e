"""A process that its watchdog is to kill, or not: ``python -m tests.integration.watched_process WHAT``.

It tells on stdout when it is armed, with the deadline on CLOCK_BOOTTIME. WHAT is

* ``stop``: stops itself;
* ``hold``: waits in a call that holds the interpreter, for a minute;
* ``beat``: arms the watchdog anew ten times a deadline, for three of them, disarms it, waits out one more and tells;
* ``close``: gives the watchdog back, waits out the deadline and tells.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

from csvd.watchdog import Watchdog

DEADLINE_S = 0.5


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(what: str) -> None:
    watchdog = Watchdog()
    deadline_s = time.clock_gettime(time.CLOCK_BOOTTIME) + DEADLINE_S
    watchdog.arm(deadline_s)
    tell(f"armed {deadline_s}")
    if what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "hold":
        # PyDLL, and not CDLL: it keeps the lock of the interpreter over the call.
        ctypes.PyDLL(None).sleep(60)
    elif what == "beat":
        for _ in range(30):
            # A slow machine may be late once: it has twenty times the time that it sleeps.
            watchdog.arm(time.clock_gettime(time.CLOCK_BOOTTIME) + 2 * DEADLINE_S)
            time.sleep(DEADLINE_S / 10)
        watchdog.disarm()
        time.sleep(3 * DEADLINE_S)
    elif what == "close":
        watchdog.close()
        watchdog.close()
        time.sleep(2 * DEADLINE_S)
    tell("alive")


if __name__ == "__main__":
    main(sys.argv[1])
