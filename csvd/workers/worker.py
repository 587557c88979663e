"""The process of a worker: it serves what the daemon tells it to, and ends with it.

Started by `csvd.workers.process`, with one end of a socket pair as its only word to the outside.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from csvd import runtime
from csvd.api.footprint import open_files, resident_bytes
from csvd.errors import CsvdError
from csvd.exports.local import LocalServing
from csvd.exports.serving import NOBODY, Plan
from csvd.storage.pool import DiskPool
from csvd.target.kept_state import KeptState
from csvd.target.service import TargetService
from csvd.target.units import Units
from csvd.workers.channel import Channel
from csvd.workers.protocol import (
    Begin,
    Behind,
    DropSession,
    Notice,
    Prepare,
    Report,
    Request,
    Resize,
    Stop,
    UnitFaces,
    WorkerError,
    read_params,
    to_params,
)

ORPHAN_DRAIN_S: Final = 1.0
"""How long what is under way may take when the daemon is gone: another one may be waiting for the disks."""
ORPHAN_END_S: Final = 8
"""After this the kernel ends an orphan whose loop, or whose disk, is stuck."""

T = TypeVar("T")
Method = Callable[[dict[str, Any], Sequence[int]], Awaitable[Any]]


class Worker:
    """Serves for a daemon.

    Args:
        sock: its end of the socket pair.
        ended: called when there is nothing left to do.
    """

    log = Logger()

    def __init__(self, reactor: Any, sock: socket.socket, ended: Callable[[], None]) -> None:
        self._reactor = reactor
        self._ended = ended
        self._pool: DiskPool | None = None
        self._keeper: KeptState | None = None
        self._service: TargetService | None = None
        self._serving: LocalServing | None = None
        self._stopping = False
        self._methods: dict[str, Method] = {
            "begin": self._begin,
            "prepare": self._prepare,
            "commit": self._commit,
            "abandon": self._abandon,
            "note": self._note,
            "accept": self._accept,
            "refuse": self._refuse,
            "report": self._report,
            "resize": self._resize,
            "drop_session": self._drop_session,
            "stop": self._stop,
        }
        self._channel = Channel(reactor, sock, answer=self._answer, lost=self._daemon_gone)

    async def _answer(self, request: Request, descriptors: Sequence[int]) -> Any:
        left = list(descriptors)
        try:
            method = self._methods.get(request.method)
            if method is None:
                raise WorkerError(f"there is no method {request.method[:60]!r}", where="worker channel")
            if (self._serving is None) != (request.method == "begin"):
                raise WorkerError(f"{request.method} is out of order", where="worker channel")
            wanted = request.method in ("begin", "accept")
            if len(left) != wanted:
                raise WorkerError(f"{request.method} with {len(left)} descriptors", where="worker channel")
            taken, left = left, []
            return await method(request.params, taken)
        finally:
            for descriptor in left:
                os.close(descriptor)

    async def _begin(self, params: dict[str, Any], descriptors: Sequence[int]) -> None:
        begin = read_params(params, Begin)
        self._pool = DiskPool(self._reactor)
        self._keeper = KeptState(Path(begin.directory), self._pool, descriptor=descriptors[0])
        self._service = TargetService(
            self._reactor, [], discovery_access=NOBODY, keeper=self._keeper, keepalive=begin.keepalive, tell=self._tell
        )
        self._service.entity.stands_behind_a_portal = True
        self._serving = LocalServing(
            self._service, Units(self._pool), self._keeper, portals=None, run=self._run, tell=self._tell
        )
        await self._serving.start(Plan())

    def _run(self, job: Callable[[], T], /) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), job)

    def _tell(self, kind: str, text: str, subject: str) -> None:
        self._channel.tell(Notice(kind, text, subject))

    @property
    def _begun(self) -> LocalServing:
        assert self._serving is not None
        return self._serving

    async def _prepare(self, params: dict[str, Any], _: Sequence[int]) -> None:
        wanted = read_params(params, Prepare)
        await self._begun.prepare(Plan(wanted.targets, wanted.secrets), wanted.later)

    async def _commit(self, _params: dict[str, Any], _: Sequence[int]) -> Any:
        await self._begun.commit()
        return to_params(UnitFaces(self._begun.unit_faces()))

    async def _abandon(self, _params: dict[str, Any], _: Sequence[int]) -> None:
        await self._begun.abandon()

    async def _note(self, params: dict[str, Any], _: Sequence[int]) -> None:
        await self._begun.note(read_params(params, Prepare).targets)

    async def _accept(self, params: dict[str, Any], descriptors: Sequence[int]) -> None:
        listening = socket.socket(fileno=descriptors[0])
        try:
            behind = read_params(params, Behind)
            listening.setblocking(False)
            assert self._service is not None
            self._service.adopt_portal(behind.portal_group_tag, behind.portal, listening)
        except BaseException:
            listening.close()
            raise

    async def _refuse(self, params: dict[str, Any], _: Sequence[int]) -> None:
        behind = read_params(params, Behind)
        assert self._service is not None
        self._service.drop_portal(behind.portal_group_tag, behind.portal)

    async def _report(self, _params: dict[str, Any], _: Sequence[int]) -> Any:
        statistics = self._begun.statistics()
        del statistics["sessions"]
        return to_params(Report(self._begun.sessions(), statistics, resident_bytes(), open_files()))

    async def _resize(self, params: dict[str, Any], _: Sequence[int]) -> Any:
        wanted = read_params(params, Resize)
        await self._begun.resize(wanted.target, wanted.number, wanted.size_bytes, full=wanted.full)
        return to_params(UnitFaces(self._begun.unit_faces()))

    async def _drop_session(self, params: dict[str, Any], _: Sequence[int]) -> bool:
        wanted = read_params(params, DropSession)
        return await self._begun.drop_session(wanted.target, wanted.tsih, grace_s=wanted.grace_s)

    # The end

    async def _stop(self, params: dict[str, Any], _: Sequence[int]) -> None:
        if self._stopping:
            raise WorkerError("it is stopping already", where="worker channel")
        await self._end(read_params(params, Stop).drain_s)
        Deferred.fromCoroutine(self._end_when_answered())

    async def _end_when_answered(self) -> None:
        # The answer is queued when this coroutine's first turn comes.
        while True:
            await deferLater(self._reactor, 0.01)
            if self._channel.disconnected or self._channel.is_sent:
                self._ended()
                return

    async def _end(self, drain_s: float) -> None:
        """Answer what is under way, flush and close."""
        self._stopping = True
        if self._serving is None or self._pool is None or self._keeper is None:
            return
        await self._serving.stop(drain_s)
        await maybeDeferred(self._pool.stop)
        self._keeper.close()

    def _daemon_gone(self, why: str) -> None:
        """Nobody may serve what this process does until it is gone, so that is soon."""
        signal.alarm(ORPHAN_END_S)
        if self._stopping:
            return
        self.log.warn("the daemon is gone ({why}): ending", why=why)
        Deferred.fromCoroutine(self._end(ORPHAN_DRAIN_S)).addErrback(self._end_failed).addBoth(lambda _: self._ended())

    def _end_failed(self, failure: Any) -> None:
        self.log.failure("the end was not in good order", failure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker until its daemon says stop, or is gone; give the exit status."""
    parser = argparse.ArgumentParser(prog="csvd.workers.worker", description="Started by csvd run.")
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--log-level", required=True)
    options = parser.parse_args(arguments)
    # The daemon decides when it ends: a Ctrl-C, or a signal to all of a service, reaches both.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        runtime.start_logging(options.log_level, who=f"worker {options.number}:")
        runtime.raise_descriptor_limit()
        reactor = runtime.install_reactor()
        sock = socket.socket(fileno=options.channel)
        os.set_inheritable(sock.fileno(), False)
    except (CsvdError, OSError) as error:
        sys.stderr.write(f"csvd worker {options.number}: {error}\n")
        return 1
    Worker(reactor, sock, reactor.stop)
    reactor.run(installSignalHandlers=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
