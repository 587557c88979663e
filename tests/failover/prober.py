"""What a survivor sees: changes and writes through one node, one after another, each with its times on CLOCK_BOOTTIME.

``python -m tests.failover.prober JSON`` in the host of a node; it prints a line for each that was acknowledged, until
its stdin ends.

- ``change``: a persistent reservation key is registered, to last over a power loss: the coordinator of the disk keeps
  it on the disk, and every node has it before it is acknowledged.
- ``write``: a block is written, and is on the disk when it is acknowledged (FUA).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import initiator
from initiator import InitiatorError, SessionOptions

PAUSE_S: Final = 0.02
CALL_S: Final = 30.0
OPTIONS: Final = SessionOptions(
    nop_interval_s=1, nop_timeout_s=2, command_timeout_s=25, first_backoff_s=0.05, last_backoff_s=0.2, login_timeout_s=2
)


def boot_s() -> float:
    """Seconds since the host was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def repeat(what: str, do: Callable[[int], Awaitable[None]]) -> None:
    """Do something again and again, and tell of each time that it was acknowledged."""
    for number in itertools.count(1):
        begun_s = boot_s()
        try:
            await do(number)
        except InitiatorError as error:
            print_line({"what": what, "begun_s": begun_s, "failed": f"{type(error).__name__}: {error}"})
        else:
            print_line({"what": what, "begun_s": begun_s, "ended_s": boot_s()})
        await asyncio.sleep(PAUSE_S)


def print_line(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def probe(url: str, block: int, key: int) -> None:
    """Probe through one node until stdin ends."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait, daemon=True).start()
    changing = await initiator.connect(url, options=OPTIONS)
    writing = await initiator.connect(url, options=OPTIONS)

    async def change(number: int) -> None:
        await changing.reservations.register(
            key << 32 | number, ignore_existing=True, through_power_loss=True, timeout_s=CALL_S
        )

    async def write(number: int) -> None:
        await writing.write(block, number.to_bytes(8) * 64, fua=True, timeout_s=CALL_S)

    tasks = [asyncio.ensure_future(repeat(what, do)) for what, do in (("change", change), ("write", write))]
    await ended.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await changing.close()
    await writing.close()


if __name__ == "__main__":
    plan = json.loads(sys.argv[1])
    asyncio.run(probe(plan["url"], plan["block"], plan["key"]))
