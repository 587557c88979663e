"""The order of writes when a node is fenced. ``python -m tests.integration.fence_order [ROUNDS [ENDING …]]`` prints it.

A writer writes as fast as it can, and comes to its end in one of the ways of `ENDINGS`. Its successor fences it, and
writes over all that it had written. A write of the first one that lands late would stand in the place of one of the
second's. All stamps are of CLOCK_BOOTTIME of one host.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any

from tests.integration.fenced_node import RECORD_BYTES, RECORDS

LEASE_S = 0.5
WRITES_S = 0.2
"""How long a writer writes before its end begins."""
WAIT_S = 60.0


@dataclass(frozen=True)
class Taking:
    """How one round went.

    Attributes:
        status: of the writer's process: the signal that ended it, negative; None: it had left, and lived.
        refused: how often the successor was told that nothing is proven.
        after_last_ms: from the last stamp of the writer to the proof.
        after_end_ms: from the beginning of the writer's end to the proof.
        late: records of the writer that stood there after the successor had written all over.
        ordered: whether the last stamp of the writer is before the proof, and that before the first of the successor.
    """

    status: int | None
    refused: int
    after_last_ms: float
    after_end_ms: float
    late: int
    ordered: bool


class Writer:
    """The writer's process, and what answers its heartbeats."""

    def __init__(self, path: Path, lease_s: float) -> None:
        self._process = _node("writer", path, lease_s)
        self._answers = True
        self._writes, self._refused = Event(), Event()
        self.lines: list[str] = []
        self._thread = Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("beat"):
                if self._answers:
                    self._say(f"ok {line.split()[1]}")
                continue
            self.lines.append(line)
            if line == "writing\n":
                self._writes.set()
            if line == "refused\n":
                self._refused.set()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def go(self) -> None:
        """Returns when it writes."""
        self._say("go")
        assert self._writes.wait(WAIT_S), self.lines

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def leave(self) -> None:
        self._say("leave")

    def cut_off(self) -> None:
        """Nobody hears of it any more."""
        self._answers = False

    def ended(self, lives: bool) -> int | None:
        """How it ended. One that has left must have been refused its writes, and live."""
        if lives:
            assert self._refused.wait(WAIT_S), self.lines
            assert self._process.poll() is None
            return None
        return self._process.wait(WAIT_S)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


ENDINGS: dict[str, tuple[Callable[[Writer], None], bool]] = {
    "kill -9": (Writer.kill, False),
    "SIGSTOP": (Writer.stop, False),
    "leave": (Writer.leave, True),
    "cut off": (Writer.cut_off, True),
}
"""How a writer ends, and whether it lives after that."""


def _node(what: str, path: Path, *more: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.integration.fenced_node", what, str(path), *map(str, more)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def run_rounds(folder: Path, ending: str, rounds: int, lease_s: float = LEASE_S) -> list[Taking]:
    """Let a writer end so many times, each time another one."""
    path = folder / "shared.img"
    with path.open("wb") as file:
        file.truncate(RECORDS * RECORD_BYTES)
    successor = _node("successor", path)
    # The next one starts while the one before is at it.
    writers = [Writer(path, lease_s)]
    try:
        takings = []
        for _ in range(rounds):
            writers.append(Writer(path, lease_s))
            takings.append(_round(writers[0], successor, *ENDINGS[ending]))
            writers.pop(0).close()
        return takings
    finally:
        for writer in writers:
            writer.close()
        successor.kill()
        successor.communicate()


def _round(writer: Writer, successor: subprocess.Popen[str], end: Callable[[Writer], None], lives: bool) -> Taking:
    assert successor.stdin is not None
    assert successor.stdout is not None
    assert successor.stdout.readline() == "ready\n"
    writer.go()
    time.sleep(WRITES_S)
    ending_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    end(writer)
    successor.stdin.write("fence\n")
    successor.stdin.flush()
    line = successor.stdout.readline()
    assert line.startswith("{"), line + successor.stdout.read()
    seen: dict[str, Any] = json.loads(line)
    status = writer.ended(lives)
    assert seen["records"], "the writer has written nothing"
    assert seen["own"] == RECORDS, "the successor has not written all over the file"
    return Taking(
        status,
        seen["refused"],
        (seen["granted_ns"] - seen["last_ns"]) / 1e6,
        (seen["granted_ns"] - ending_ns) / 1e6,
        seen["late"],
        seen["last_ns"] < seen["proven_ns"] <= seen["granted_ns"] <= seen["first_ns"],
    )


def table(takings: dict[str, list[Taking]]) -> str:
    """What it took, for docs/fencing.md."""
    rows = [
        "| End of the writer | Rounds | Late records | Last byte to proof, ms: least / median / most |"
        " Its end to proof, ms: least / median / most |",
        "|---|---|---|---|---|",
    ]
    for ending, found in takings.items():
        spans = [
            " / ".join(f"{pick(values):.1f}" for pick in (min, median, max))
            for values in ([each.after_last_ms for each in found], [each.after_end_ms for each in found])
        ]
        rows.append(f"| {ending} | {len(found)} | {sum(each.late for each in found)} | {' | '.join(spans)} |")
    return "\n".join(rows)


def main(rounds: int, endings: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        takings = {ending: run_rounds(Path(folder), ending, rounds) for ending in endings}
    sys.stdout.write(f"lease {LEASE_S} s\n{table(takings)}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, sys.argv[2:] or list(ENDINGS))
