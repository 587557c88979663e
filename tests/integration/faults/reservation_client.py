"""One initiator that uses the reservations of a logical unit at random, and tells what it saw; in the host of a node.

``python -m tests.integration.faults.reservation_client JSON``: it prints a line of JSON for each call that has ended,
with its times on CLOCK_MONOTONIC, the same in every process of the machine, until its stdin ends.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
import time
from typing import Any, Final

import initiator
from initiator import (
    AsyncioDisk,
    AttentionPending,
    IllegalRequest,
    InitiatorError,
    NotReady,
    ReservationConflict,
    ReservationType,
    SessionOptions,
)
from initiator.client import isid_of
from tests.linearizability.models import CONFLICT, GOOD, INVALID

KINDS: Final = (1, 5, 7)
CALL_S: Final = 20.0
PAUSE_S: Final = 0.05
OPTIONS: Final = SessionOptions(
    timeout_s=CALL_S,
    nop_interval_s=1,
    nop_timeout_s=2,
    command_timeout_s=18,
    first_backoff_s=0.05,
    last_backoff_s=0.2,
    login_timeout_s=2,
)

Call = tuple[Any, ...]


class Reserver:
    """The initiator.

    Args:
        name: what it is called in the history.
        keys: the keys that it and the others use, its own first.
        block: the one that it writes.
    """

    def __init__(self, disk: AsyncioDisk, name: str, keys: list[int], block: int) -> None:
        self._disk = disk
        self._name = name
        self._keys = keys
        self._block = block
        self._chance = random.Random(name)
        self._registered = False

    def choose(self) -> Call:
        """What to do next."""
        name, chance, own = self._name, self._chance, self._keys[0]
        if not self._registered:
            return chance.choice([("keys",), ("write", name), ("register", name, 0, own), ("register", name, 0, own)])
        kind = chance.choice(KINDS)
        return chance.choice(
            [
                ("keys",),
                ("reservation",),
                ("write", name),
                ("write", name),
                ("reserve", name, own, kind),
                ("reserve", name, own, kind),
                ("release", name, own, kind),
                ("preempt", name, own, chance.choice(self._keys[1:]), kind),
                ("register", name, own, 0),
                ("register and ignore", name, own),
            ]
        )

    async def do(self, call: Call) -> Any:
        """Do it; gives the answer as the model has it.

        Raises:
            InitiatorError: there was no answer that the model has.
        """
        try:
            return await self._ask(call)
        except ReservationConflict:
            return CONFLICT
        except AttentionPending:
            raise
        except IllegalRequest:
            return INVALID

    async def _ask(self, call: Call) -> Any:
        kept = self._disk.reservations
        match call:
            case ("keys",):
                return sorted((await kept.keys()).keys)
            case ("reservation",):
                found = await kept.reservation()
                return [found.key, found.kind] if found.held else None
            case ("write", _):
                await self._disk.write(self._block, bytes(512))
            case ("register", _, key, new):
                await kept.register(new, key=key, through_power_loss=True)
            case ("register and ignore", _, new):
                await kept.register(new, ignore_existing=True, through_power_loss=True)
            case ("reserve", _, key, kind):
                await kept.reserve(ReservationType(kind), key=key)
            case ("release", _, key, kind):
                await kept.release(ReservationType(kind), key=key)
            case ("preempt", _, key, victim, kind):
                await kept.preempt(victim, key=key, kind=ReservationType(kind))
        return GOOD

    async def step(self) -> None:
        """Do something, and tell of it."""
        call = self.choose()
        line: dict[str, Any] = {"client": self._name, "call": call, "begun_s": time.monotonic()}
        try:
            line["answer"] = await self.do(call)
            line["outcome"] = "ok"
        except InitiatorError as error:
            # A target that says that it is not ready, or has something to tell first, has not carried out the command.
            refused = isinstance(error, AttentionPending | NotReady)
            line["outcome"] = "fail" if refused or not getattr(error, "outcome_unknown", True) else "info"
            line["why"] = f"{type(error).__name__}: {error}"
        line["ended_s"] = time.monotonic()
        self._note(call, line)
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    def _note(self, call: Call, line: dict[str, Any]) -> None:
        """What it takes itself for: only a guess, for others may take its registration away."""
        if line["outcome"] != "ok":
            self._registered = True
        elif call[0] in ("register", "register and ignore"):
            self._registered = line["answer"] == GOOD and bool(call[-1])
        elif line["answer"] == CONFLICT and call[0] not in ("write", "reserve"):
            self._registered = False


async def work(plan: dict[str, Any]) -> None:
    """Work by a plan: `url`, `name`, `keys`, `block`."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait, daemon=True).start()
    name = plan["name"]
    async with initiator.connect(
        plan["url"], options=OPTIONS, initiator_name=f"iqn.2026-11.org.csvd:{name}", isid=isid_of(name)
    ) as disk:
        reserver = Reserver(disk, name, plan["keys"], plan["block"])
        while not ended.is_set():
            await reserver.step()
            await asyncio.sleep(PAUSE_S * random.random() * 2)


if __name__ == "__main__":
    asyncio.run(work(json.loads(sys.argv[1])))
