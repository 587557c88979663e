"""`python -m tests.bench.generator`: the bench's own client, for the loads that no tool at hand can put on a target.

Several sessions in one process, a fixed number of commands in flight on each, every command made once and patched for
each use, all that one `recv` brought answered by one `sendmsg`. Prints one line of JSON. It ends after `--seconds`, or
when its standard input ends; `--announce` prints `running` as soon as every session has had an answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import mmap
import os
import random
import select
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Final

from tests.bench.wire import (
    ANSWER,
    BHS_BYTES,
    DATA_IN,
    FINAL,
    FUA,
    IMMEDIATE,
    NO_TAG,
    NOP_IN,
    NOP_OUT,
    NOP_PDU,
    PATCH,
    PATCH_OFFSET,
    R2T,
    R2T_REST,
    READ_16,
    SCSI_RESPONSE,
    SECTOR_BYTES,
    STATUS,
    WRITE_16,
    Buffer,
    Place,
    WireFailed,
    data_out,
    digest,
    log_in,
    log_out,
    padded,
    read_command,
    receive_pdu,
    write_command,
)

CHOICES: Final = 1 << 14
"""Random addresses made ahead for each session; then they come again."""
BUFFER_BYTES: Final = 1 << 20
IOV_MAX: Final = 512
DRAIN_S: Final = 30.0
NOP_PAUSE_S: Final = 0.001
NOP_TAG: Final = 0x4E4F50
STDIN: Final = 0
RUNNING: Final = "running"


class Session:
    """One session with `depth` commands in flight.

    Args:
        reads: share of READs, 0 to 1; the rest are WRITEs.
        latencies: takes the seconds of every command, if there.
    """

    def __init__(
        self,
        place: Place,
        number: int,
        *,
        depth: int,
        block_bytes: int,
        disk_bytes: int,
        reads: float,
        fua: bool = False,
        digests: bool = False,
        latencies: list[float] | None = None,
    ) -> None:
        session = log_in(place, f"iqn.2026-11.test:bench{number}", digests=digests)
        self.sock, self.agreed = session.sock, session.agreed
        self.cmd_sn, self.stat_sn, self.max_cmd_sn = session.cmd_sn, session.stat_sn, session.max_cmd_sn
        self.sock.setblocking(False)
        self.done = 0
        self.counted = 0
        """Commands that were done when the time was up."""
        self.in_flight = 0
        self.stopping = False
        self._latencies = latencies
        self._lun_field = place.lun_field
        self._payload = memoryview(random.Random(number).randbytes(block_bytes))
        self._reads = [read_command(tag, place.lun_field, block_bytes) for tag in range(depth)]
        writes = depth if reads < 1 else 0
        self._writes = [write_command(tag, place.lun_field, self._payload, self.agreed) for tag in range(writes)]
        self._uses = _uses(number, block_bytes, disk_bytes, reads, fua=fua)
        self._started = [0.0] * depth
        self._idle = list(range(depth))
        self._unsent: deque[Buffer] = deque()
        self._view = memoryview(mmap.mmap(-1, BUFFER_BYTES))
        self._fill = 0
        self._skip = 0
        self._crc = 0
        self._after: int | None = None

    @property
    def blocked(self) -> bool:
        """Whether something waits for room in the socket."""
        return bool(self._unsent)

    def issue(self) -> None:
        """Send as many commands as depth and the window of the target let through, with all that waits."""
        idle, out, uses = self._idle, self._unsent, self._uses
        stat_sn, now_s = self.stat_sn, time.perf_counter()
        while idle and not self.stopping:
            if (self.max_cmd_sn - self.cmd_sn) & 0x80000000:
                break
            tag = idle.pop()
            code, lba = next(uses)
            image = (self._reads if code >> 8 == READ_16 else self._writes)[tag]
            PATCH.pack_into(image, PATCH_OFFSET, self.cmd_sn, stat_sn, code, lba)
            self.cmd_sn = (self.cmd_sn + 1) & 0xFFFFFFFF
            self.in_flight += 1
            self._started[tag] = now_s
            out.append(image)
        if out:
            self.send()

    def send(self) -> None:
        """Send what waits, as far as the socket takes it."""
        out = self._unsent
        while out:
            batch = list(out) if len(out) <= IOV_MAX else [out[index] for index in range(IOV_MAX)]
            try:
                sent = self.sock.sendmsg(batch)
            except (BlockingIOError, InterruptedError):
                return
            while out and sent >= len(out[0]):
                sent -= len(out.popleft())
            if sent:
                out[0] = memoryview(out[0])[sent:]
                return

    def receive(self) -> None:
        """Take what is there; issue again what is done.

        Raises:
            WireFailed: a command failed, a digest is wrong, or the target closed the connection.
        """
        try:
            count = self.sock.recv_into(self._view[self._fill :])
        except (BlockingIOError, InterruptedError):
            return
        if not count:
            raise WireFailed("the target closed the connection")
        self._parse(self._fill + count)
        self.issue()

    def _parse(self, end: int) -> None:
        view, offset = self._view, 0
        digests = self.agreed.data_digest
        while True:
            if self._skip:
                offset = self._pass_data(offset, end) if digests else offset + self._pass_over(end - offset)
                if self._skip:
                    break
            if self._after is not None:
                self._complete(self._after)
            if end - offset < BHS_BYTES:
                break
            opcode, flags, status, lengths, tag, stat_sn, _, self.max_cmd_sn = ANSWER.unpack_from(view, offset)
            length = lengths & 0xFFFFFF
            if opcode == DATA_IN and not flags & STATUS:
                status = 0
            elif opcode in (DATA_IN, SCSI_RESPONSE):
                if status:
                    raise WireFailed(f"a command failed with status {status:#x}")
                self._after, self.stat_sn = tag, (stat_sn + 1) & 0xFFFFFFFF
            elif opcode == R2T:
                transfer_tag, at, count = R2T_REST.unpack_from(view, offset + 20)
                self._unsent.extend(data_out(tag, self._lun_field, transfer_tag, self._payload, at, count, self.agreed))
            elif opcode == NOP_IN:
                self._answer_nop(bytes(view[offset : offset + BHS_BYTES]))
            else:
                raise WireFailed(f"opcode {opcode:#x} does not belong here")
            offset += BHS_BYTES
            if length:
                self._skip, self._crc = padded(length) + (4 if digests else 0), 0
        # What begins and does not end here is short: a header, or a digest.
        self._fill = end - offset
        view[: self._fill] = view[offset:end]

    def _pass_over(self, count: int) -> int:
        count = min(count, self._skip)
        self._skip -= count
        return count

    def _pass_data(self, offset: int, end: int) -> int:
        """Data with a digest behind it: read once for its CRC32C. Gives where it ended."""
        count = min(end - offset, self._skip - 4)
        self._crc = digest(self._view[offset : offset + count], self._crc)
        self._skip -= count
        offset += count
        if self._skip == 4 and end - offset >= 4:
            if self._crc.to_bytes(4, "little") != self._view[offset : offset + 4]:
                raise WireFailed("a data digest is wrong")
            self._skip = 0
            offset += 4
        return offset

    def _complete(self, tag: int) -> None:
        self._after = None
        self.done += 1
        self.in_flight -= 1
        self._idle.append(tag)
        if self._latencies is not None:
            self._latencies.append(time.perf_counter() - self._started[tag])

    def _answer_nop(self, header: bytes) -> None:
        transfer_tag = int.from_bytes(header[20:24], "big")
        if transfer_tag != NO_TAG:
            lun_field = int.from_bytes(header[8:16], "big")
            self._unsent.append(
                NOP_PDU.pack(NOP_OUT | IMMEDIATE, FINAL, 0, lun_field, NO_TAG, transfer_tag, self.cmd_sn, self.stat_sn)
            )

    def stop(self) -> None:
        """Issue no more; count what is done until now."""
        self.stopping = True
        self.counted = self.done

    def logout(self) -> None:
        """Log out and close; nothing may be in flight."""
        log_out(self.sock, self.cmd_sn, self.stat_sn)


def _uses(seed: int, block_bytes: int, disk_bytes: int, reads: float, *, fua: bool) -> Iterator[tuple[int, int]]:
    """For ever: the first two bytes of a CDB, and an LBA that is a multiple of the block."""
    chance = random.Random(seed)
    slots, sectors = disk_bytes // block_bytes, block_bytes // SECTOR_BYTES
    read, write = READ_16 << 8, WRITE_16 << 8 | (FUA if fua else 0)
    return cycle(
        [
            (read if chance.random() < reads else write, chance.randrange(slots) * sectors)
            for _ in range(max(CHOICES, min(4 * CHOICES, slots)))
        ]
    )


class Run:
    """A load of some sessions: from the first command until the time is up, or standard input ends."""

    def __init__(self, sessions: Sequence[Session], seconds: float, *, announce: bool = False) -> None:
        self._sessions = {session.sock.fileno(): session for session in sessions}
        self._seconds = seconds
        self._announce = announce
        self._blocked: set[int] = set()
        self._epoll = select.epoll()
        for fileno in self._sessions:
            self._epoll.register(fileno, select.EPOLLIN)
        self._stopped = False

    def run(self) -> float:
        """Load the target; then wait for what is in flight. Gives the seconds that `counted` of each session took.

        Raises:
            WireFailed: as Session.receive; or what was in flight was not answered.
        """
        begin_s = time.perf_counter()
        deadline_s, took_s = begin_s + self._seconds, 0.0
        for session in self._sessions.values():
            session.issue()
        if self._announce:
            self._epoll.register(STDIN, select.EPOLLIN | select.EPOLLHUP)
        while not took_s or any(session.in_flight for session in self._sessions.values()):
            for fileno, event in self._epoll.poll(1.0):
                self._serve(fileno, event)
            now_s = time.perf_counter()
            if self._announce and all(session.done for session in self._sessions.values()):
                self._announce = False
                print(RUNNING, flush=True)
            if not took_s and (self._stopped or now_s >= deadline_s):
                took_s = now_s - begin_s
                for session in self._sessions.values():
                    session.stop()
            if took_s and now_s > begin_s + took_s + DRAIN_S:
                raise WireFailed(f"what was in flight was not answered within {DRAIN_S:.0f} s")
        return took_s

    def _serve(self, fileno: int, event: int) -> None:
        if fileno == STDIN:
            if not os.read(STDIN, 4096):
                self._stopped = True
                self._epoll.unregister(STDIN)
            return
        session = self._sessions[fileno]
        if event & select.EPOLLOUT:
            session.send()
        if event & ~select.EPOLLOUT:
            session.receive()
        if session.blocked != (fileno in self._blocked):
            self._blocked ^= {fileno}
            self._epoll.modify(fileno, select.EPOLLIN | (select.EPOLLOUT if session.blocked else 0))


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that at least `share` of them do not exceed (the nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def load(options: argparse.Namespace) -> dict[str, float]:
    """Put the load on the target, and tell what came of it."""
    place = Place.of(options.url)
    latencies: list[float] | None = [] if options.latencies else None
    sessions = [
        Session(
            place,
            number,
            depth=options.depth,
            block_bytes=options.block,
            disk_bytes=options.disk_bytes,
            reads=options.reads / 100,
            fua=options.fua,
            digests=options.digests,
            latencies=latencies,
        )
        for number in range(options.sessions)
    ]
    seconds = Run(sessions, options.seconds, announce=options.announce).run()
    requests = sum(session.counted for session in sessions)
    for session in sessions:
        session.logout()
    figures = {"requests": float(requests), "seconds": seconds}
    if latencies:
        figures |= {f"p{share}_us": percentile(latencies, share / 100) * 1e6 for share in (50, 99)}
        figures["longest_us"] = max(latencies) * 1e6
    return figures


def ping(options: argparse.Namespace) -> dict[str, float]:
    """One NOP-Out after another, `NOP_PAUSE_S` between an answer and the next."""
    place = Place.of(options.url)
    session = log_in(place, "iqn.2026-11.test:bench-nop")
    trips: list[float] = []
    end_s = time.perf_counter() + options.seconds
    while (begin_s := time.perf_counter()) < end_s:
        session.sock.sendall(
            NOP_PDU.pack(NOP_OUT | IMMEDIATE, FINAL, 0, 0, NOP_TAG, NO_TAG, session.cmd_sn, session.stat_sn)
        )
        while (header := receive_pdu(session.sock)[0])[16:20] != NOP_TAG.to_bytes(4, "big"):
            if header[0] != NOP_IN:
                raise WireFailed(f"opcode {header[0]:#x} does not belong here")
        session.stat_sn = int.from_bytes(header[24:28], "big") + 1
        trips.append(time.perf_counter() - begin_s)
        time.sleep(NOP_PAUSE_S)
    log_out(session.sock, session.cmd_sn, session.stat_sn)
    return {"requests": float(len(trips)), "p99_us": percentile(trips, 0.99) * 1e6, "longest_us": max(trips) * 1e6}


def idle(options: argparse.Namespace) -> dict[str, float]:
    """Sessions that do nothing until standard input ends."""
    place = Place.of(options.url)
    sessions = [log_in(place, f"iqn.2026-11.test:bench-idle{number}") for number in range(options.sessions)]
    print(RUNNING, flush=True)
    sys.stdin.buffer.read()
    for session in sessions:
        log_out(session.sock, session.cmd_sn, session.stat_sn)
    return {"requests": 0.0}


WORK = {"load": load, "ping": ping, "idle": idle}


def be_prompt() -> None:
    """Take a processor from the target or from a busy client when it is needed, for some microseconds.

    Who sends one command and waits for it would else at times wait for the scheduler, for milliseconds, and seem to
    wait for the target. Only root may; who may not measures that, too.
    """
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    os.nice(options.nice)
    if options.prompt:
        be_prompt()
    try:
        figures = WORK[options.work](options)
    except (WireFailed, OSError) as failure:
        print(f"generator: {options.url}: {failure}", file=sys.stderr)
        return 1
    print(json.dumps(figures))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.generator", description=__doc__)
    parser.add_argument("url", help="iscsi://HOST:PORT/IQN/LUN")
    parser.add_argument("--work", choices=sorted(WORK), default="load")
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--depth", type=int, default=1, help="commands in flight on each session")
    parser.add_argument("--block", type=int, default=4096, metavar="BYTES")
    parser.add_argument("--reads", type=float, default=100, metavar="PERCENT", help="the rest are writes")
    parser.add_argument("--disk-bytes", type=int, default=1 << 28, help="the part of the disk that is used")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--fua", action="store_true", help="writes are durable when they are answered")
    parser.add_argument("--digests", action="store_true", help="CRC32C over data, made and checked")
    parser.add_argument("--latencies", action="store_true", help="percentiles of the time of a command")
    parser.add_argument("--nice", type=int, default=0, help="let others go before it on the processors")
    parser.add_argument("--prompt", action="store_true", help="go before others on the processors, where permitted")
    parser.add_argument("--announce", action="store_true", help="say when it runs; end when standard input does")
    return parser


if __name__ == "__main__":
    sys.exit(main())
