"""An initiator that verifies, as a process: it writes and reads back until its stdin ends, then looks at everything
again through every node. Run in a host's namespace: ``python -m tests.integration.node_load JSON``.

It prints a line of JSON every quarter of a second, and a last one with ``"ended"``; exit status 1 and a line on stderr
where anything was not as it had been written.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater

from initiator import Disk, MultipathOptions, PathSettings, SessionOptions, StalePolicy, connect
from tests.integration.verify_load import VerifyLoad
from tests.own_reactor import run

TELL_S: Final = 0.25
CALL_S: Final = 60.0
OPTIONS: Final = SessionOptions(
    nop_interval_s=1, nop_timeout_s=2, command_timeout_s=20, first_backoff_s=0.05, last_backoff_s=0.3, login_timeout_s=2
)
PATHS: Final = PathSettings(check_interval_s=0.5, retry_first_s=0.05, retry_last_s=0.5, steady_s=0.5)
# Each load is the only writer of its blocks. A node that is gone writes nothing more when its lease is out, so nothing
# has to be proven by a LOGICAL UNIT RESET, by which the commands of all other initiators would end without an answer.
MULTIPATH: Final = MultipathOptions(
    paths=PATHS,
    check_timeout_s=1.5,
    login_timeout_s=1.5,
    discover=False,
    stale_writes=StalePolicy.HOLD_OVERLAPPING,
    unit_reset=False,
    forget_stale_after_s=8.0,
)


async def work(reactor: Any, plan: dict[str, Any]) -> None:
    """Work by a plan: `urls` of the disk's paths, `all` its urls, `first_block`, `blocks`, `workers`, `seed`."""
    urls = plan["urls"]
    multipath = MULTIPATH if len(urls) > 1 else False
    disk = await connect(urls if multipath else urls[0], reactor=reactor, options=OPTIONS, multipath=multipath)
    room = plan["blocks"] // plan["workers"]
    load = VerifyLoad(
        disk, plan["seed"], workers=plan["workers"], room_blocks=room, timeout_s=CALL_S, first_block=plan["first_block"]
    )
    telling = LoopingCall(tell, load)
    telling.clock = reactor
    threading.Thread(target=wait_for_end, args=(reactor, load), daemon=True).start()
    loading = Deferred.fromCoroutine(load.run())
    telling.start(TELL_S)
    await loading
    telling.stop()
    await load.verify_all()
    await disk.close()
    for url in plan["all"]:
        other = await reached(url, reactor)
        await load.verify_all(other)
        await other.close()
    print_line({"ended": True, **facts(load)})


async def reached(url: str, reactor: Any) -> Disk:
    """A road through one node, which may be coming back just now."""
    end_s = time.monotonic() + CALL_S
    while True:
        try:
            return await connect(url, reactor=reactor, options=OPTIONS)
        except Exception:
            if time.monotonic() > end_s:
                raise
        await deferLater(reactor, 0.2)


def wait_for_end(reactor: Any, load: VerifyLoad) -> None:
    sys.stdin.read()
    reactor.callFromThread(setattr, load, "stopping", True)


def facts(load: VerifyLoad) -> dict[str, Any]:
    return {"at_s": time.clock_gettime(time.CLOCK_BOOTTIME), "counts": load.counts, "longest_s": load.longest_s}


def tell(load: VerifyLoad) -> None:
    print_line(facts(load))


def print_line(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class NodeLoad:
    """One such process, as a test sees it.

    Args:
        prefix: by which it is started in a host.
        plan: see `work`.
    """

    def __init__(self, prefix: Sequence[str], plan: dict[str, Any]) -> None:
        self.plan = plan
        self.lines: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tests.integration.node_load", json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(json.loads(line))

    @property
    def done(self) -> int:
        """How many calls have ended well."""
        counts = self.lines[-1]["counts"] if self.lines else {}
        return int(sum(number for name, number in counts.items() if name in ("read", "write", "flush")))

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def goes_on(self, calls: int = 50, timeout_s: float = 60.0) -> float:
        """Wait until so many more calls have ended well; gives how long that took.

        Raises:
            AssertionError: they did not, or the load has found something wrong.
        """
        begun_s, goal = time.monotonic(), self.done + calls
        while self.done < goal:
            assert self.running, self.end()
            assert time.monotonic() < begun_s + timeout_s, f"{self.done} of {goal} calls: {self.lines[-1:]}"
            time.sleep(0.05)
        return time.monotonic() - begun_s

    def end(self, timeout_s: float = 90.0) -> dict[str, Any]:
        """Have it end, and look at everything; gives its last line.

        Raises:
            AssertionError: it has found something wrong.
        """
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        if not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            status = self._process.wait(timeout_s)
        finally:
            self.kill()
        self._reader.join(10)
        trouble = self._process.stderr.read()
        assert status == 0, f"{self.plan}: {trouble[-3000:]}"
        assert self.lines[-1]["ended"], self.lines[-1]
        return self.lines[-1]

    def kill(self) -> None:
        """End it, whatever it is at."""
        if self.running:
            self._process.kill()
            self._process.wait()


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    run(lambda reactor: work(reactor, asked))
