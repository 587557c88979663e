"""The place of one worker: its process is started, brought to what it is to serve, watched, and started again."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from csvd.errors import CsvdError
from csvd.exports.serving import Plan
from csvd.iscsi.keepalive import Keepalive
from csvd.target.service import DRAIN_S, FAREWELL_S, Tell
from csvd.workers.channel import Channel
from csvd.workers.process import Launch, RunningWorker
from csvd.workers.protocol import (
    Begin,
    Behind,
    DropSession,
    Notice,
    Prepare,
    Report,
    Resize,
    Stop,
    UnitFaces,
    WorkerError,
    read_params,
    to_params,
)

BACKOFF_S: Final = 0.1
MOST_BACKOFF_S: Final = 5.0
STEADY_S: Final = 10.0
"""A process that was up for this long has its successor started without delay again."""
BEGIN_S: Final = 60.0
REPORT_S: Final = 3.0
SILENCE_S: Final = 60.0
"""A worker that has not reported for this long, though it was asked, is stuck, and ended."""
WAIT_S: Final = 15.0
"""How long a change waits for a worker that is being started again."""
CHANGE_S: Final = 2 * DRAIN_S + 30.0
"""How long a worker may take to let go of targets. One that takes longer is ended: no other may serve them before."""
CLOSE_S: Final = 20.0
"""How long disks may take to be flushed and closed at the end, beyond the draining."""

Json = dict[str, Any]
Place = tuple[int, str]
"""A portal: the tag of its group, and its address."""


@dataclass(slots=True)
class Heard:
    """What a worker said last.

    Args:
        units: the logical units that it serves, by target.
    """

    sessions: list[Json] = field(default_factory=list)
    units: dict[str, list[Json]] = field(default_factory=dict)
    resident_bytes: int = 0
    open_files: int = 0


class Slot:
    """One worker of a node, whichever process it is at the moment.

    Args:
        number: from 0.
        launch: starts a process.
        directory: the state directory of logical units, and a descriptor that holds it.
        tell: told what happens.
        counted: given the statistics of each report.
        ended: called when a process has ended.

    Attributes:
        sockets: where it accepts, by the portals behind which it does; they outlive its processes, so that initiators
            find their port again and wait in its queue meanwhile.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        number: int,
        *,
        launch: Launch,
        directory: tuple[str, int],
        keepalive: Keepalive,
        tell: Tell,
        counted: Callable[[Json], None],
        ended: Callable[[], None],
    ) -> None:
        self.number = number
        self._reactor = reactor
        self._launch = launch
        self._directory = directory
        self._keepalive = keepalive
        self._tell = tell
        self._counted = counted
        self._ended = ended
        self.sockets: dict[Place, socket.socket] = {}
        self.plan = Plan()
        self.heard = Heard()
        self.state = "new"
        self.restarts = 0
        self.last_end = ""
        self._process: RunningWorker | None = None
        self._channel: Channel | None = None
        self._is_prepared = False
        self._stopping = False
        self._silent_since_s: float | None = None
        self._accepted: dict[Place, socket.socket] = {}
        """The sockets that the process has."""
        self._life: Deferred[None] | None = None
        self._end_pause: Callable[[], None] = lambda: None
        self._wait_for_end: list[Deferred[str]] = []
        self._wait_for_up: list[Deferred[None]] = []

    @property
    def name(self) -> str:
        """How it is called in the log; people count from 1."""
        return f"worker {self.number + 1}"

    @property
    def is_up(self) -> bool:
        """Whether a process serves."""
        return self.state == "up"

    def face(self) -> Json:
        """As the control API shows it."""
        return {
            "worker": self.number + 1,
            "process_id": None if self._process is None else self._process.process_id,
            "state": "silent" if self.is_up and self._silent_since_s is not None else self.state,
            "restarts": self.restarts,
            "last_end": self.last_end,
            "targets": [section.name for section in self.plan.targets],
            "sessions": len(self.heard.sessions),
            "resident_bytes": self.heard.resident_bytes,
            "open_files": self.heard.open_files,
        }

    # A life of processes

    async def start(self, plan: Plan) -> None:
        """Start the first process, and have it serve a plan.

        Raises:
            CsvdError: it can not.
        """
        self.plan = plan
        self._spawn()
        try:
            await self._bring_up()
        except BaseException:
            self._stopping = True
            await self._kill()
            raise
        self._life = Deferred.fromCoroutine(self._live())

    def _spawn(self) -> None:
        """Start a process.

        Raises:
            WorkerError: it can not be started.
        """
        self.state = "starting"
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = self._launch(self.number + 1, theirs, self._process_ended)
            except BaseException:
                ours.close()
                raise
        self._channel = Channel(self._reactor, ours, notice=self._told, lost=self._channel_lost)

    def _told(self, notice: Notice) -> None:
        self._tell(notice.kind, notice.text, notice.subject)

    def _channel_lost(self, _why: str) -> None:
        if not self._stopping:
            self._kill_now()  # nobody steers it any more

    async def _bring_up(self) -> None:
        """Have a new process serve what this worker is to."""
        channel, plan = self._open_channel(), self.plan
        path, descriptor = self._directory
        begin = to_params(Begin(path, self._keepalive))
        await channel.ask("begin", begin, descriptors=[descriptor], timeout_s=BEGIN_S)
        await channel.ask("prepare", _prepare(plan))
        self._set_units(await channel.ask("commit"))
        await self._sync_sockets(channel)
        if self.plan is not plan:
            raise WorkerError("what it is to serve changed meanwhile", where=self.name)
        self.state = "up"
        self._wake_those_that_wait()

    async def _live(self) -> None:
        """Start the process again, whenever it has ended."""
        backoff_s = BACKOFF_S
        while not self._stopping:
            began_s = self._reactor.seconds()
            why = await self._when_ended()
            if self._reactor.seconds() - began_s >= STEADY_S:
                backoff_s = BACKOFF_S
            while not self._stopping:
                self._say(f"{self.name} ended ({why}); it is started again in {backoff_s:g} s")
                await self._pause(backoff_s)
                backoff_s = min(2 * backoff_s, MOST_BACKOFF_S)
                if await self._restarted():
                    break
                why = self.last_end

    async def _pause(self, pause_s: float) -> None:
        over: Deferred[None] = Deferred()
        timer = self._reactor.callLater(pause_s, over.callback, None)

        def end() -> None:
            if timer.active():
                timer.cancel()
                over.callback(None)

        self._end_pause = end
        await over

    async def _restarted(self) -> bool:
        """Try once; whether it serves."""
        if self._stopping:
            return False
        self.restarts += 1
        try:
            self._spawn()
            await self._bring_up()
        except CsvdError as error:
            if not self._stopping:
                self._say(f"{self.name} can not serve: {error}")
            await self._kill()
            return False
        self._say(f"{self.name} serves again")
        return True

    def _say(self, text: str) -> None:
        self.log.warn("{text}", text=text)
        self._tell("worker", text, self.name)

    def _process_ended(self, why: str) -> None:
        self.last_end = why
        self.state = "stopped" if self._stopping else "down"
        self._process = None
        self._is_prepared = False
        self._silent_since_s = None
        self._accepted = {}
        self.heard.sessions = []
        self.heard.resident_bytes = self.heard.open_files = 0
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        self._ended()
        waiting, self._wait_for_end = self._wait_for_end, []
        for one in waiting:
            one.callback(why)

    async def _when_ended(self) -> str:
        """Wait until there is no process; gives how it ended."""
        if self._process is None:
            return self.last_end
        ended: Deferred[str] = Deferred()
        self._wait_for_end.append(ended)
        return await ended

    def _kill_now(self) -> None:
        if self._process is not None:
            self._process.kill()

    async def _kill(self) -> None:
        """End the process, and wait until it is gone."""
        self._kill_now()
        await self._when_ended()

    def _open_channel(self) -> Channel:
        if self._channel is None:
            raise WorkerError("it has no process at the moment", where=self.name, why=self.last_end)
        return self._channel

    async def _when_up(self) -> Channel:
        """Wait for a process that serves.

        Raises:
            WorkerError: there is none in time.
        """
        if not self.is_up and not self._stopping:
            up: Deferred[None] = Deferred()
            self._wait_for_up.append(up)
            timer = self._reactor.callLater(WAIT_S, self._wake_those_that_wait)
            await up
            if timer.active():
                timer.cancel()
        if not self.is_up:
            raise WorkerError("it does not serve at the moment", where=self.name, hint="csvd event ls tells why")
        return self._open_channel()

    def _wake_those_that_wait(self) -> None:
        waiting, self._wait_for_up = self._wait_for_up, []
        for one in waiting:
            one.callback(None)

    # What it is asked

    async def prepare(self, plan: Plan, later: tuple[str, ...]) -> None:
        """Have it open what a plan takes; see `LocalServing.prepare`. Raises CsvdError."""
        channel = await self._when_up()
        await channel.ask("prepare", _prepare(plan, later))
        self._is_prepared = True

    async def commit(self, plan: Plan) -> None:
        """Serve the plan that was prepared. A process that does not is ended: the next one does."""
        self.plan = plan
        prepared, self._is_prepared = self._is_prepared, False
        if prepared and self._channel is not None:
            try:
                self._set_units(await self._channel.ask("commit", timeout_s=CHANGE_S))
            except CsvdError as error:
                self._say(f"{self.name} could not be changed: {error}")
            else:
                return
        await self._kill()

    async def abandon(self) -> None:
        """Forget the plan that was prepared."""
        if self._is_prepared and self._channel is not None:
            self._is_prepared = False
            try:
                await self._channel.ask("abandon", timeout_s=CHANGE_S)
            except CsvdError:
                self._kill_now()

    async def note(self, plan: Plan) -> None:
        """What it serves is said in other words by now."""
        self.plan = plan
        if self._channel is not None:
            try:
                await self._channel.ask("note", _prepare(plan), timeout_s=CHANGE_S)
            except CsvdError as error:
                self._say(f"{self.name} could not be changed: {error}")
                self._kill_now()

    async def set_sockets(self, wanted: Mapping[Place, socket.socket]) -> None:
        """Accept at these sockets, and at no others; those that are not wanted are closed."""
        for place, listening in list(self.sockets.items()):
            if wanted.get(place) is not listening:
                listening.close()
        self.sockets = dict(wanted)
        if self.is_up and self._channel is not None:
            try:
                await self._sync_sockets(self._channel)
            except CsvdError as error:
                self._say(f"{self.name} could not be changed: {error}")
                self._kill_now()

    async def _sync_sockets(self, channel: Channel) -> None:
        """Have the process accept where it is to; what that is may change meanwhile."""
        while self._accepted != self.sockets:
            for place in self._accepted.keys() - self.sockets.keys():
                del self._accepted[place]
                await channel.ask("refuse", _behind(place), timeout_s=CHANGE_S)
            for place, listening in list(self.sockets.items()):
                if self._accepted.get(place) is not listening and listening.fileno() >= 0:
                    self._accepted[place] = listening
                    descriptors = [listening.fileno()]
                    await channel.ask("accept", _behind(place), descriptors=descriptors, timeout_s=CHANGE_S)

    async def report(self) -> None:
        """Have it say what it is at; what it said before stays where it does not answer."""
        if not self.is_up or self._channel is None:
            return
        channel = self._channel
        try:
            report = read_params(await channel.ask("report", timeout_s=REPORT_S), Report)
        except CsvdError as error:
            if channel is self._channel:
                self._is_silent(error)
            return
        if channel is self._channel:
            self._silent_since_s = None
            self.heard.sessions = report.sessions
            self.heard.resident_bytes, self.heard.open_files = report.resident_bytes, report.open_files
            self._counted(report.statistics)

    def _is_silent(self, error: CsvdError) -> None:
        now_s = self._reactor.seconds()
        if self._silent_since_s is None:
            self._silent_since_s = now_s - REPORT_S
            self._say(f"{self.name} does not report: {error}")
        elif now_s - self._silent_since_s >= SILENCE_S:
            self._say(f"{self.name} has been silent for {SILENCE_S:g} s, and is ended")
            self._kill_now()

    async def resize(self, wanted: Resize) -> None:
        """Give a disk another size. Raises CsvdError."""
        channel = await self._when_up()
        self._set_units(await channel.ask("resize", to_params(wanted)))

    async def drop_session(self, wanted: DropSession) -> bool:
        """End a session; False where there is none. Raises CsvdError."""
        channel = await self._when_up()
        return bool(await channel.ask("drop_session", to_params(wanted), timeout_s=REPORT_S))

    def _set_units(self, answer: Any) -> None:
        self.heard.units = read_params(answer, UnitFaces).units

    # The end

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Have it answer what is under way and end; end it when it does not."""
        self._stopping = True
        self._end_pause()
        self._wake_those_that_wait()
        if self._channel is not None and self.is_up:
            self.state = "stopping"
            try:
                most_s = drain_s + FAREWELL_S + CLOSE_S
                await self._channel.ask("stop", to_params(Stop(drain_s)), timeout_s=most_s)
            except CsvdError as error:
                self._say(f"{self.name} did not end in good order: {error}")
                self._kill_now()
        else:
            self._kill_now()
        timer = self._reactor.callLater(CLOSE_S, self._kill_now)
        await self._when_ended()
        if timer.active():
            timer.cancel()
        self._end_pause()
        if self._life is not None:
            await self._life
        for listening in self.sockets.values():
            listening.close()
        self.sockets.clear()


def _prepare(plan: Plan, later: tuple[str, ...] = ()) -> Json:
    return to_params(Prepare(tuple(plan.targets), dict(plan.secrets), later))


def _behind(place: Place) -> Json:
    return to_params(Behind(*place))
